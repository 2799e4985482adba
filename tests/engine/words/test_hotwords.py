"""Which hotwords of a long list a clip's CTC head hears, by frames that the tests choose."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine.words.hotwords import (
    MAX_HOTWORDS_IN_PROMPT,
    UNHEARD,
    HeardFrames,
    HotwordList,
    HotwordLists,
    most_picked,
)
from twostage_asr.engine.words.tokenizer import CTCTokenizer

TOKENIZER = CTCTokenizer([bytes([byte]) for byte in range(256)])
WORDS = st.text("abc", min_size=1, max_size=4)
BLANK_FRAME: Mapping[str, float] = {}


def frames_of(listed: HotwordList, frames: Sequence[Mapping[str, float]]) -> HeardFrames:
    """Frames by the log-ratios of the characters (of one byte) that are heard in each; blank where there is none."""
    token_of = {token: place for place, token in enumerate(listed.token_ids.tolist())}
    tokens = np.full((len(frames), len(token_of)), -100.0, np.float32)
    blank = np.array([-100.0 if frame else 0.0 for frame in frames], np.float32)
    for row, frame in zip(tokens, frames, strict=True):
        for character, ratio in frame.items():
            if ord(character) in token_of:
                row[token_of[ord(character)]] = ratio
    return HeardFrames(tokens, blank)


def heard(hotwords: Sequence[str], frames: Sequence[Mapping[str, float]], most: int = 20) -> tuple[str, ...]:
    listed = HotwordList(hotwords, TOKENIZER)
    return listed.heard(frames_of(listed, frames), most)


def saying(text: str) -> list[Mapping[str, float]]:
    """Each character in a frame of its own, blank after it."""
    return [frame for character in text for frame in ({character: 0.0}, BLANK_FRAME)]


@given(WORDS, st.lists(WORDS, max_size=40), st.text("abc ", max_size=5))
def test_what_is_said_as_it_is_written_is_picked_from_any_list(word: str, others: list[str], before: str) -> None:
    listed = [*others, word]
    assert word in heard(listed, saying(f"{before} {word}"), most=len(listed))


@given(WORDS, st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(-30, 0), max_size=3), min_size=1, max_size=6))
def test_the_score_is_that_of_the_best_of_all_paths(word: str, frames: list[Mapping[str, float]]) -> None:
    listed = HotwordList([word], TOKENIZER)
    given_frames = frames_of(listed, frames)
    tokens, gaps = given_frames.tokens.clip(min=UNHEARD), given_frames.blank.clip(min=UNHEARD)
    columns = [int(np.flatnonzero(listed.token_ids == ord(character))[0]) for character in word]

    def score(places: tuple[int, ...]) -> float:
        pairs = list(zip(places, columns, strict=True))
        if any(c == d and q == p + 1 for (p, c), (q, d) in itertools.pairwise(pairs)):
            return -np.inf  # CTC reads one token there
        between = set(range(places[0], places[-1])) - set(places)
        return float(sum(tokens[place, column] for place, column in pairs) + sum(gaps[place] for place in between))

    paths = itertools.combinations(range(len(frames)), len(word))
    best = max(map(score, paths), default=-np.inf) / len(word)
    _, without_space = listed._search(tokens, gaps, np.arange(2))
    assert without_space == pytest.approx(best, abs=1e-4)


def test_a_spelling_that_sounds_like_what_is_heard_is_picked() -> None:
    frames = [{"s": 0.0}, {"m": 0.0}, {"i": 0.0, "y": -5.0}, {"t": 0.0}, {"h": 0.0}]
    assert heard(["Baker", "Smyth", "Smooth", "Thy"], frames, most=1) == ("Smyth",)


def test_a_letter_said_once_is_not_heard_twice() -> None:
    once, twice = saying("a"), saying("aa")
    assert heard(["aa"], [{"a": 0.0}, {"a": 0.0}]) == ()
    assert heard(["aa", "a"], once, most=1) == ("a",)
    assert heard(["aa"], twice) == ("aa",)


def test_one_half_that_is_heard_well_does_not_outweigh_a_whole_that_is_heard_badly() -> None:
    frames = [{character: -4.0, other: 0.0} for character, other in zip("geof", "jeff", strict=True)]
    assert heard(["jeff" + "lees", "geof"], frames, most=1) == ("geof",)


def test_nothing_is_picked_where_nothing_is_said() -> None:
    assert heard(["abc", "a"], []) == heard(["abc", "a"], [BLANK_FRAME] * 9) == ()


def test_words_that_are_not_heard_are_not_picked_to_fill_the_prompt() -> None:
    assert heard(["abc", "xyz", "cba", "abz"], saying("abc")) == ("abc", "abz")


@given(st.lists(WORDS, min_size=1, max_size=60), st.integers(1, 5))
def test_those_picked_are_distinct_in_the_order_of_the_list_and_few(listed: list[str], most: int) -> None:
    picked = heard(listed, saying("abcabcab"), most)
    assert len(picked) <= most
    assert list(picked) == [word for word in dict.fromkeys(listed) if word in picked]


def test_a_word_that_begins_the_clip_has_no_space_before_it() -> None:
    assert heard(["Smith"], saying("smith")) == heard(["Smith"], saying(" smith")) == ("Smith",)


def test_numerals_do_not_hide_the_words_beside_them() -> None:
    assert heard(["2048 ab"], saying("two thousand ab")) == ("2048 ab",)


def test_what_holds_no_word_is_never_picked() -> None:
    assert heard(["!?", "…"], saying("abc")) == ()


def test_a_phrase_of_any_length_is_known_by_its_beginning() -> None:
    phrase = "abc" * 40
    assert heard([phrase], saying(phrase[:60])) == (phrase,)


def test_a_list_is_tokenised_once() -> None:
    lists = HotwordLists(TOKENIZER)
    first = lists["a", "b"]
    assert lists["a", "b"] is first
    for number in range(100):
        lists[str(number), "b"]
    assert lists["a", "b"] is not first  # lists that are used no more are not kept


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 4), (2.3, 6), (10.0, 14), (16.0, 20), (3600.0, 20)])
def test_a_longer_clip_may_hold_more_names(seconds: float, most: int) -> None:
    assert most_picked(seconds) == most <= MAX_HOTWORDS_IN_PROMPT
