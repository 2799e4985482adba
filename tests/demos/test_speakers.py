"""The diarization scorer agrees with cases worked by hand, and meetings are laid together as asked."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.append(str(Path(__file__).parents[2] / "demos" / "speakers"))

import compare
from error_rate import Turn, concatenated_error_rate, error_rate, main, read_rttm, read_stm, read_words, write_rttm
from meetings import lay, speech_of

REFERENCE = [Turn(0.0, 5.0, "a"), Turn(5.0, 10.0, "b")]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([Turn(0.0, 5.0, "x"), Turn(5.0, 10.0, "y")], 0.0),
        ([], 1.0),  # all missed
        ([Turn(0.0, 10.0, "x")], 0.5),  # one of two confused
        ([Turn(0.0, 5.0, "x"), Turn(5.0, 12.0, "y")], 0.2),  # 2 s of false alarm
        ([Turn(0.0, 6.0, "x"), Turn(6.0, 10.0, "y")], 0.1),  # 1 s confused
        ([Turn(0.0, 5.0, "x"), Turn(4.0, 10.0, "y")], 0.1),  # 1 s of a second voice that is none
    ],
)
def test_rates_worked_by_hand(found: list[Turn], expected: float) -> None:
    assert error_rate(REFERENCE, found).rate == pytest.approx(expected)


def test_overlap_counts_once_per_speaker() -> None:
    reference = [Turn(0.0, 6.0, "a"), Turn(4.0, 10.0, "b")]
    result = error_rate(reference, [Turn(0.0, 5.0, "x"), Turn(5.0, 10.0, "y")])
    assert (result.speech_s, result.missed_s, result.confused_s) == pytest.approx((12.0, 2.0, 0.0))


def test_a_collar_leaves_out_boundaries_only() -> None:
    found = [Turn(0.0, 5.2, "x"), Turn(5.2, 10.0, "y")]
    result = error_rate(REFERENCE, found, collar=0.25)
    assert (result.rate, result.speech_s) == pytest.approx((0.0, 9.0))


def test_speakers_are_matched_for_the_greatest_time() -> None:
    found = [Turn(0.0, 3.0, "b"), Turn(3.0, 5.0, "a"), Turn(5.0, 10.0, "a")]
    assert error_rate(REFERENCE, found).rate == pytest.approx(0.2)


def test_two_turns_of_one_speaker_at_once_count_once() -> None:
    assert error_rate([Turn(0.0, 5.0, "a"), Turn(4.0, 6.0, "a")], [Turn(0.0, 6.0, "x")]).speech_s == pytest.approx(6.0)


def test_rttm_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_rttm(tmp_path / "m.rttm", REFERENCE)
    assert read_rttm(tmp_path / "m.rttm") == REFERENCE


SAID = {"a": "one two three", "b": "four five"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"x": "Four, five.", "y": "one two three"}, 0.0),  # names and punctuation do not count
        ({}, 1.0),
        ({"x": "one two three four five"}, 0.8),  # two words inserted for "a", two missed of "b"
        ({"x": "four six", "y": "one three", "z": "two"}, 0.6),  # one substituted, one deleted, one inserted
        ({"x": "four two three", "y": "one five"}, 0.4),  # the first words of both have the other's name
    ],
)
def test_concatenated_error_rates_worked_by_hand(found: dict[str, str], expected: float) -> None:
    assert concatenated_error_rate(SAID, found) == pytest.approx(expected)


def test_stm_and_ctm_say_who_says_what_in_order_of_time(tmp_path: Path) -> None:
    (tmp_path / "m.stm").write_text(
        "m 1 b 3.0 4.0 four five\nm 1 a 2.0 3.0 three\nm 1 a 0.0 2.0 <o,f0,female> one two\n"
    )
    words = (("one", 0.0, "a"), ("two", 1.0, "a"), ("four", 3.0, "b"), ("three", 2.0, "a"), ("five", 3.5, "b"))
    lines = [f"m 1 {start:.3f} 0.500 {word} 0.900 lex {name}\n" for word, start, name in words]
    (tmp_path / "m.ctm").write_text(";; warning: a remark\n" + "".join(lines))
    assert read_words(tmp_path / "m.stm") == read_words(tmp_path / "m.ctm") == SAID
    assert [text for _, text in read_stm(tmp_path / "m.stm")] == ["four", "five", "three", "one", "two"]


def test_the_command_prints_both_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("reference", "found"):
        (tmp_path / name).mkdir()
        write_rttm(tmp_path / name / "m.1.rttm", REFERENCE)
    (tmp_path / "reference/m.1.stm").write_text("m 1 a 0.0 5.0 one two\n")
    (tmp_path / "found/m.1.ctm").write_text("m 1 0.0 1.0 one 0.9 lex SPK0\n")
    monkeypatch.setattr(sys, "argv", ["error_rate.py", str(tmp_path / "reference"), str(tmp_path / "found")])
    main()
    assert capsys.readouterr().out == "m.1\tDER 0.0%\tspeakers 2, found 2\tcpWER 50.0%\n"


def test_the_files_of_a_comparison_differ_in_speakers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rttm(tmp_path / "m.rttm", [Turn(0.0, 4.0, "a"), Turn(4.0, 6.0, "b"), Turn(5.2, 6.0, "a")])  # 17 words
    monkeypatch.setattr(compare, "ours", lambda stretches: [Turn(0.0, 4.0, "x"), Turn(4.0, 6.0, "y")])
    monkeypatch.setattr(compare, "funasr", lambda stretches: [Turn(0.0, 6.0, "z")])
    compare.line_of(tmp_path / "m.rttm", "oracle", [], tmp_path / "out")
    # two words of "a" are y's; all words are z's
    for who, rate in {"reference": "0.0%", "ours": "23.5%", "funasr": "58.8%"}.items():
        folder = tmp_path / "out" / "oracle"
        monkeypatch.setattr(sys, "argv", ["error_rate.py", str(folder / "reference"), str(folder / who)])
        main()
        assert capsys.readouterr().out.endswith(f"cpWER {rate}\n")


def test_the_reference_of_a_clip_leaves_out_its_silence() -> None:
    tone = np.sin(np.arange(16_000, dtype=np.float32))
    clip = np.concatenate([np.zeros(8000, np.float32), tone, np.zeros(16_000, np.float32), tone])
    assert speech_of(clip) == [(0.5, 1.5), (2.5, 3.5)]


@pytest.mark.parametrize("overlap", [0.0, 0.2])
def test_a_meeting_has_its_length_its_speakers_and_its_overlap(tmp_path: Path, overlap: float) -> None:
    chance = np.random.default_rng(0)
    clips = {}
    for name in ("anna", "ben", "carl"):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * chance.standard_normal(20 * 16_000), 16_000)
        clips[name] = [tmp_path / f"{name}.wav"]
    meeting = lay(clips, 120.0, overlap, random.Random(1))
    assert 120.0 <= meeting.end <= 140.0
    assert len(meeting.samples) == round(meeting.end * 16_000)
    assert {turn.speaker for turn in meeting.turns} == set(clips)
    assert meeting.overlapped / meeting.speech == pytest.approx(overlap, abs=0.06)
    assert json.loads(json.dumps(meeting.turns))  # plain numbers and names
