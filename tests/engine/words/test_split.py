"""Words of written text, in many scripts."""

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine.words.split import split_words, spoken_form

TEXTS = {
    "": [],
    "。，!? …": [],
    "Set the volume to 25.": ["Set", "the", "volume", "to", "25"],
    "把音量调到25%，好吗？": ["把", "音", "量", "调", "到", "25%", "好", "吗"],
    "上午9点30分，3.50元": ["上", "午", "9", "点", "30", "分", "3.50", "元"],
    "我用iPhone15打电话": ["我", "用", "iPhone15", "打", "电", "话"],
    "これはペンです。": ["こ", "れ", "は", "ペ", "ン", "で", "す"],
    "ラーメン、人々": ["ラ", "ー", "メ", "ン", "人", "々"],
    "か\u3099く": ["か\u3099", "く"],  # base and combining mark
    "ｶﾞｷ": ["ｶﾞ", "ｷ"],
    "ㄅㄆ": ["ㄅ", "ㄆ"],
    "𠮷野家": ["𠮷", "野", "家"],
    "안녕하세요, 9시 30분입니다.": ["안녕하세요", "9시", "30분입니다"],
    "สวัสดีครับ ไทย": ["สวัสดีครับ", "ไทย"],  # a phrase without spaces is one word
    "नमस्ते दुनिया।": ["नमस्ते", "दुनिया"],
    "می‌خواهم بروم؟": ["می‌خواهم", "بروم"],
    "Привет, мир!": ["Привет", "мир"],
    "café cafe\u0301": ["café", "cafe\u0301"],
    "ＡＢＣ１２３，９：３０": ["ＡＢＣ１２３", "９：３０"],
    "don't, l’été; rock 'n' roll, the players' game": [
        *["don't", "l’été", "rock", "n", "roll", "the", "players", "game"],
    ],
    "“Hello,” she said": ["Hello", "she", "said"],
    "a well-known e-mail -- yes": ["a", "well-known", "e-mail", "yes"],
    "at 10:30, 1,000,000 or 3.14; 2010–2012; 1/2": ["at", "10:30", "1,000,000", "or", "3.14", "2010–2012", "1/2"],
    "one,two:three": ["one", "two", "three"],
    "$3.50 and €20, 20%, 5°C": ["$3.50", "and", "€20", "20%", "5°C"],
    "-5 to −7, 第3章-5节": ["-5", "to", "−7", "第", "3", "章", "5", "节"],
    "3 + 4 = 7": ["3", "+", "4", "=", "7"],
    "R&D, Tom & Jerry, C++, a@b.com, U.S.": ["R&D", "Tom", "&", "Jerry", "C++", "a@b.com", "U.S"],
    "甲&乙": ["甲", "&", "乙"],
    "カ\uff9e-A": ["カ\uff9e", "A"],
    "hi 🙂 1️⃣ x² ½": ["hi", "1️⃣", "x²", "½"],
    "<|zh|>text<|0.00|>": ["zh", "text", "0.00"],
    "\ufffd\x00a\ud800": ["a"],
}


@pytest.mark.parametrize(("text", "words"), TEXTS.items())
def test_words_of_written_text(text: str, words: list[str]) -> None:
    assert [word.text for word in split_words(text)] == words


@given(st.one_of(st.text(), st.text("ab1 2.,'-:%$第か\u3099ー&한नम\u094d")))
def test_the_text_is_its_words_and_what_is_not_spoken(text: str) -> None:
    words = split_words(text)
    rebuilt, position = "", 0
    for word in words:
        between = text[position : word.start]
        assert not any(unicodedata.category(c)[0] in "LN" or c in "%$&" for c in between)
        rebuilt += between + word.text
        position = word.end
    assert not any(unicodedata.category(c)[0] in "LN" for c in text[position:])
    assert rebuilt + text[position:] == text


def test_every_letter_of_a_script_without_spaces_is_a_word() -> None:
    """Kana of both widths, bopomofo and Chinese characters, by Unicode's names; the marks of U+FF9E modify a kana."""
    scripts = ("HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "CJK", "IDEOGRAPHIC")
    letters = [c for c in map(chr, range(0x3041, 0x323B0)) if unicodedata.name(c, "").startswith(scripts)]
    known = {c for c in letters if unicodedata.category(c)[0] == "L" and c not in "\uff9e\uff9f"}
    edges = sorted(c for c in known if not {chr(ord(c) - 1), chr(ord(c) + 1)} <= known)  # of each block
    assert len(known) > 90_000 and len(edges) > 20
    assert [word.text for word in split_words("".join(2 * c for c in edges))] == [c for c in edges for _ in range(2)]


@given(st.text())
def test_a_word_split_again_is_itself(text: str) -> None:
    assert all([w.text for w in split_words(word.text)] == [word.text] for word in split_words(text))


SPOKEN = {
    "Set the volume to 25.": "set the volume to 25",
    "把音量调到25%，好吗？": "把音量调到25好吗",
    "北京，上海 广州": "北京上海 广州",
    "Yes,no;maybe": "yes no maybe",
    "l’été don't 'n'": "l'été don't n",
    "$3.50 10:30 e-mail R&D": "3 50 10 30 e mail r d",
    "1,000,000 20000 000 1000.": "100 200 000 10",
    "3 + 4": "3 + 4",
    "ＡＢＣ　ｶﾞ": "abc ガ",
    "。": "",
}


@pytest.mark.parametrize(("text", "spoken"), SPOKEN.items())
def test_spoken_form_of_written_text(text: str, spoken: str) -> None:
    assert spoken_form(text, split_words(text))[0] == spoken


@given(st.text())
def test_words_have_places_in_order_in_the_spoken_form(text: str) -> None:
    words = split_words(text)
    spoken, places = spoken_form(text, words)
    edges = [edge for place in places for edge in place]
    assert edges == sorted(edges)
    assert len(places) == len(words)
    for (start, end), word in zip(places, words, strict=True):
        piece = spoken.encode()[start:end].decode()
        assert piece.strip() == piece != ""
        assert spoken_form(word.text, split_words(word.text))[0] == piece
    between = [spoken.encode()[a[1] : b[0]] for a, b in itertools.pairwise(places)]
    assert set(between) <= {b"", b" "}
