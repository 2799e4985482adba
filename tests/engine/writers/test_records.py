"""JSON and JSON lines hold whole transcripts, text and tables a line a segment; files appear whole or not at all."""

import json
from pathlib import Path

import pytest

from twostage_asr.engine import ConfigError, Segment, Transcript, TranscriptWarning, Word
from twostage_asr.engine.writers import WRITERS, JsonlWriter, write_file, write_jsonl

WARNING = TranscriptWarning("unfinished", "it\nstops")
SPOKEN = Transcript(
    key="k",
    text="你好，world.",
    segments=(
        Segment(0.5, 1.25, "你好，", (Word("你", 0.5, 0.7, 1.0),), 0.5),
        Segment(2.0, 3.0004, "a\tb\nc", None, None),
    ),
    warnings=(WARNING,),
)
FAILED = Transcript(key="k", status="error", error="no\nsuch file")


def test_jsonl_comes_back(tmp_path: Path) -> None:
    given_transcripts = [SPOKEN, Transcript(key="b", status="error", error="a\nb\u2028c")]
    write_jsonl(iter(given_transcripts), tmp_path / "out.jsonl")
    content = (tmp_path / "out.jsonl").read_bytes()
    lines = content.split(b"\n")
    assert lines.pop() == b"" and b"\r" not in content
    assert [Transcript.from_json(line.decode()) for line in lines] == given_transcripts
    assert "你好，world." in lines[0].decode()


def test_jsonl_lines_are_there_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("from an earlier run\n")
    with pytest.raises(KeyboardInterrupt), JsonlWriter(path) as writer:
        for number in range(3):
            writer.write(Transcript(key=str(number)))
            assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == list("012")[: number + 1]
        raise KeyboardInterrupt
    assert len(path.read_text().splitlines()) == 3


def test_jsonl_takes_keys_of_files_that_are_not_utf8(tmp_path: Path) -> None:
    odd = Transcript(key=Path(b"\xff.wav".decode("utf-8", "surrogateescape")).stem)
    write_jsonl([odd], tmp_path / "out.jsonl")
    assert Transcript.from_json((tmp_path / "out.jsonl").read_text(encoding="utf-8")) == odd


def test_json_comes_back() -> None:
    assert Transcript.from_json(WRITERS["json"](SPOKEN)) == SPOKEN
    assert "你好" in WRITERS["json"](SPOKEN)


def test_text_is_a_line_a_segment() -> None:
    assert WRITERS["txt"](SPOKEN) == "你好，\na b c\n"


def test_the_table_is_in_milliseconds() -> None:
    assert WRITERS["tsv"](SPOKEN) == "start\tend\ttext\n500\t1250\t你好，\n2000\t3000\ta b c\n"


@pytest.mark.parametrize("name", ["json", "jsonl", "vtt", "ass", "ctm", "TextGrid", "rttm"])
@pytest.mark.parametrize("transcript", [SPOKEN, FAILED], ids=["warning", "error"])
def test_formats_that_can_hold_warnings_and_errors_do(name: str, transcript: Transcript) -> None:
    shown = WRITERS[name](transcript).replace("\\n", " ")
    assert ("it stops" if transcript.warnings else "no such file") in shown


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.b.txt"
    write_file(SPOKEN, path)
    before = path.read_text(encoding="utf-8")

    def stop(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_file(FAILED, path)
    assert path.read_text(encoding="utf-8") == before


def test_a_suffix_that_is_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.doc: the suffix names no format; allowed: txt, json"):
        write_file(SPOKEN, tmp_path / "a.doc")
