"""Text files of users: UTF-8, and UTF-16 and UTF-32 with a mark; anything else is one line that names the byte."""

import codecs
from pathlib import Path

import pytest

from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.cli.error_rates import read_texts
from twostage_asr.engine.errors import ConfigError
from twostage_asr.engine.text_files import read_lines, read_text

TEXT = "张三\r\nÄpfel\n\n\U0001f600 a\u2028b \rlast"
ENCODED = {
    "utf-8": TEXT.encode(),
    "utf-8-sig": TEXT.encode("utf-8-sig"),
    "utf-16": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "utf-16-be": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-32": codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_marks_tell_the_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(ENCODED[encoding])
    assert read_text(path) == TEXT
    assert read_lines(path) == ["张三", "Äpfel", "", "\U0001f600 a\u2028b", "last"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("热词\n张三".encode("gbk"), r"words\.txt, line 1: not UTF-8: byte 0 is 0xc8; save the file as UTF-8"),
        (b"one\ntwo\n\xe5\xbc\xa0\xff", r"line 3: not UTF-8: byte 11 is 0xff"),
        (codecs.BOM_UTF16_LE + "ab\n".encode("utf-16-le") + b"\x00\xdc", r"line 2: not UTF-16-LE: byte 8 is 0x00"),
    ],
)
def test_what_cannot_be_decoded_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_text(path)
    assert "\n" not in str(caught.value)


def test_lists_and_references_are_read_so(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("utt1 张.wav\n", encoding="utf-16")
    (item,) = expand_inputs(tmp_path / "wav.scp")
    assert (item.key, item.source) == ("utt1", tmp_path / "张.wav")
    (tmp_path / "list.jsonl").write_text('{"source": "a.wav", "channels": 1}\n', encoding="utf-8-sig")
    assert expand_inputs(tmp_path / "list.jsonl")[0].channels == 1
    (tmp_path / "ref.txt").write_text("utt1 some words\n", encoding="utf-16")
    assert read_texts(tmp_path / "ref.txt") == {"utt1": "some words"}
    (tmp_path / "ref.txt").write_bytes("utt1 热词".encode("gbk"))
    with pytest.raises(ConfigError, match=r"ref\.txt, line 1: not UTF-8: byte 5"):
        read_texts(tmp_path / "ref.txt")
