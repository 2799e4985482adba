"""Long recordings: cut the same way whatever the blocks, and joined to the times of the recording."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM, ConfigError
from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load_blocks
from twostage_asr.engine.audio.notes import Notes
from twostage_asr.engine.segments import Part, join_parts, join_texts, shifted
from twostage_asr.engine.transcript import Segment, Transcript, TranscriptWarning, Word
from twostage_asr.engine.vad import SegmentRules
from twostage_asr.engine.vad.splitting import Cut, Cutting, Piece, Segmentation, cut_audio

RULES = SegmentRules(max_segment_s=4.0, silence_schedule=((float("inf"), 300),))
CUTTING = Cutting(vad="silero", rules=RULES, whole_s=5.0, piece_s=3.0)
PAUSE = np.zeros(12_000, np.float32)


@pytest.fixture(scope="module")
def recording(clips: list[Clip]) -> np.ndarray:
    """20 s: clips with pauses of 0.75 s between them."""
    spoken = [decode_audio(Path(clip["source"])) for clip in clips if clip["text"]]
    return np.concatenate([part for waveform in spoken for part in (PAUSE, waveform)])[: 20 * 16_000]


def cuts_of(pieces: Sequence[Piece]) -> list[tuple[float, bytes]]:
    assert not any(piece.is_whole for piece in pieces)
    cuts: list[Cut] = [cut for piece in pieces for cut in piece.cuts]
    return [(cut.start, cut.waveform.tobytes()) for cut in cuts]


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(1, 100_000), min_size=1))
def test_blocks_do_not_change_the_segments(recording: np.ndarray, sizes: list[int]) -> None:
    edges = np.cumsum(sizes)
    pieces = list(cut_audio(iter(np.split(recording, edges[edges < len(recording)])), CUTTING, Notes()))
    cuts = cuts_of(pieces)
    assert cuts == cuts_of(list(cut_audio(iter([recording]), CUTTING, Notes())))
    assert len(cuts) > 4
    for start, waveform in cuts:
        first = round(start * 16_000)
        assert waveform == recording[first : first + len(waveform) // 4].tobytes()
    last = pieces[-1]
    assert last.is_last and last.duration == pytest.approx(len(recording) / 16_000)


def test_what_is_short_stays_whole_and_is_not_copied(recording: np.ndarray) -> None:
    whole = recording[: 5 * 16_000]
    (found,) = cut_audio(iter([whole]), CUTTING, Notes())
    assert found.is_whole and found.is_last and found.cuts[0].waveform is whole
    (joined,) = cut_audio(iter(np.array_split(whole, 3)), CUTTING, Notes())
    assert joined.is_whole and np.array_equal(joined.cuts[0].waveform, whole)


def test_a_recording_is_not_read_before_it_is_needed(recording: np.ndarray) -> None:
    num_taken = 0

    def blocks() -> object:
        nonlocal num_taken
        for block in np.array_split(recording, 100):
            num_taken += 1
            yield block

    pieces = cut_audio(blocks(), CUTTING, Notes())  # type: ignore[arg-type]
    next(pieces)
    assert num_taken <= 27  # 5 s that decide, or the first piece


def test_split_channels_are_cut_as_each_is_alone(recording: np.ndarray) -> None:
    """However short they are, so that turns of a talk find their places."""
    left, right = recording[: 16_000 * 12].copy(), recording[16_000 * 4 : 16_000 * 16].copy()
    stereo = np.stack([left, right], axis=1)
    pieces = list(cut_audio(iter(np.array_split(stereo, 7)), CUTTING, Notes()))
    for channel, alone in enumerate((left, right)):
        own = [replace(cut, channel=None) for piece in pieces for cut in piece.cuts if cut.channel == channel]
        expected = list(cut_audio(iter([alone]), CUTTING, Notes()))
        assert cuts_of([Piece(own, 12.0, is_last=True)]) == cuts_of(expected)
    short = list(cut_audio(iter([stereo[: 16_000 * 4]]), CUTTING, Notes()))
    assert {cut.channel for piece in short for cut in piece.cuts} == {0, 1}
    assert not any(piece.is_whole for piece in short)
    (uncut,) = cut_audio(iter([stereo]), None, Notes())
    assert uncut.is_whole and [cut.channel for cut in uncut.cuts] == [0, 1]


# --- joined again


def part(start: float, text: str, *, language: str | None = "en", **changes: Any) -> Part:
    """2 s in which each word begins half a second after a full one."""
    words = tuple(Word(word, 0.5 + i, 1.0 + i, 0.9) for i, word in enumerate(text.split()))
    segments = (Segment(0.5, 1.5, text, words, 0.5),) if text else ()
    transcript = Transcript("x", text, language, words, segments, 2.0, 0.5, finish_reason="stop")
    return Part(start, replace(transcript, **changes))


def test_times_are_those_of_the_recording() -> None:
    joined = join_parts("a", [part(10, "two words"), part(0, "One.")], duration=20.0, language=None)
    assert joined.text == "One. two words"
    assert [(w.text, w.start, w.end) for w in joined.words or ()] == [
        ("One.", 0.5, 1.0), ("two", 10.5, 11.0), ("words", 11.5, 12.0)
    ]  # fmt: skip
    assert [(s.start, s.end, s.text) for s in joined.segments] == [(0.5, 1.5, "One."), (10.5, 11.5, "two words")]
    assert (joined.key, joined.duration, joined.language, joined.status) == ("a", 20.0, "en", "ok")
    assert joined.confidence == pytest.approx(0.5)
    assert Transcript.from_json(joined.to_json()) == joined


def test_times_are_whole_milliseconds() -> None:
    words = (Word("a", 0.1234, 0.4567, 1.0),)
    moved = shifted(Segment(0.1234, 0.4567, "a", words, 1.0), 1.0)
    assert (moved.start, moved.end, moved.words) == (1.123, 1.457, (Word("a", 1.123, 1.457, 1.0),))


def test_a_long_text_counts_for_more_than_a_short_one() -> None:
    long, short = part(0, "a text of 24 characters."), part(10, "12 are here.")
    sure = replace(short.transcript.segments[0], confidence=0.8)
    parts = [long, Part(10.0, replace(short.transcript, segments=(sure,)))]
    assert [len(each.transcript.text) for each in parts] == [24, 12]
    assert join_parts("a", parts, duration=20.0, language=None).confidence == pytest.approx(0.6)


def test_what_is_said_on_one_channel_stands_between_what_is_said_on_another() -> None:
    left, right = part(0, "a"), part(0, "b")
    later = replace(left.transcript.segments[0], start=5.0, end=6.0, text="c")
    left = Part(0, replace(left.transcript, segments=(*left.transcript.segments, later)), channel=0)
    joined = join_parts("a", [left, Part(2.0, right.transcript, channel=1)], duration=9.0, language=None)
    assert joined.text == "a b c" and [segment.channel for segment in joined.segments] == [0, 1, 0]


def test_nobody_speaks() -> None:
    joined = join_parts("a", [], duration=20.0, language="en")
    assert joined == Transcript("a", "", "en", (), (), 20.0, None, "ok", "stop")


def test_the_language_is_the_one_of_most_text() -> None:
    parts = [part(0, "short", language="en"), part(3, "much longer text", language="de"), part(6, "", language=None)]
    assert join_parts("a", parts, duration=9.0, language="fr").language == "de"


def test_warnings_say_where_unless_they_are_about_all_of_it() -> None:
    shared, own = TranscriptWarning("no_word_times", "no CTC"), TranscriptWarning("unfinished", "stops")
    parts = [part(0, "a", warnings=(shared,)), part(5, "b", warnings=(shared, own), finish_reason="length")]
    joined = join_parts("a", parts, duration=9.0, language=None)
    assert joined.warnings == (shared, TranscriptWarning("unfinished", "5.00 to 7.00 s: stops"))
    assert joined.finish_reason == "length"


def test_a_failed_segment_is_a_warning_and_only_failures_are_an_error() -> None:
    failed = Part(5.0, Transcript("x", duration=2.0, status="error", error="NaN", error_code="bad_audio"))
    joined = join_parts("a", [part(0, "a"), failed], duration=9.0, language=None)
    assert (joined.status, joined.text) == ("ok", "a")
    assert joined.warnings == (TranscriptWarning("segment_failed", "5.00 to 7.00 s: no text: NaN"),)
    whole = join_parts("a", [failed], duration=9.0, language=None)
    assert (whole.key, whole.duration, whole.error, whole.error_code) == ("a", 9.0, "NaN", "bad_audio")


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["Hello.", "World"], "Hello. World"),
        (["你好。", "世界"], "你好。世界"),
        (["你好。", "World", "再见"], "你好。World再见"),
        (["안녕", "세계"], "안녕 세계"),
        (["a", "", "b"], "a b"),
        ([], ""),
    ],
)
def test_texts_are_joined_as_their_scripts_are_written(texts: list[str], joined: str) -> None:
    assert join_texts(texts) == joined


# --- what users say


def test_what_is_cut() -> None:
    assert Segmentation(vad=None).cutting(30.0) is None
    auto = Segmentation().cutting(30.0)
    assert auto is not None and (auto.vad, auto.whole_s, auto.rules.max_segment_s) == ("silero", 30.0, 30.0)
    shorter = Segmentation(max_segment_s=10.0).cutting(30.0)
    assert shorter is not None and (shorter.whole_s, shorter.rules.max_segment_s) == (10.0, 10.0)
    everything = Segmentation(vad="silero").cutting(30.0)
    assert everything is not None and everything.whole_s == 0.0


@pytest.mark.parametrize("change", [{"vad": "webrtc"}, {"max_segment_s": 1.0}])
def test_what_cannot_work_is_refused_at_once(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        Segmentation(**change)  # type: ignore[arg-type]


# --- with the model


@pytest.fixture(scope="module")
def files(recording: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("long")
    lengths = [20.0, 2.0, 12.0, 17.0]
    for i, length in enumerate(lengths):
        soundfile.write(folder / f"{i}.wav", recording[: round(length * 16_000)], 16_000, subtype="FLOAT")
    return [folder / f"{i}.wav" for i in range(len(lengths))]


def test_a_recording_is_its_segments_transcribed_one_by_one(vllm_model: AutoModelVLLM, files: list[Path]) -> None:
    (whole,) = vllm_model.generate(files[0], max_segment_s=4.0)
    cutting = Segmentation(max_segment_s=4.0).cutting(30.0)
    assert cutting is not None
    (item,) = expand_inputs(files[0])
    cuts = [cut for piece in cut_audio(load_blocks(item), cutting, Notes()) for cut in piece.cuts]
    alone = vllm_model.generate([cut.waveform for cut in cuts])
    parts = [Part(cut.start, transcript) for cut, transcript in zip(cuts, alone, strict=True)]
    assert len(parts) > 3
    assert whole == join_parts("0", parts, duration=20.0, language=None)


@pytest.mark.parametrize("process_bytes", [0, 1 << 60])
def test_nothing_depends_on_who_reads_or_on_what_is_read_beside(
    vllm_model: AutoModelVLLM, files: list[Path], process_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twostage_asr.engine.audio.readers.PROCESS_BYTES", process_bytes)
    alone = [vllm_model.generate(file, max_segment_s=4.0)[0] for file in files]
    together = vllm_model.generate([*files, files[0].read_bytes()], max_segment_s=4.0)[:4]
    for ours, theirs in zip(together, alone, strict=True):
        assert _without_confidence(ours) == _without_confidence(theirs)
        # Padding adds nothing to a sum but changes its order.
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-4)


def _without_confidence(value: object) -> object:
    if isinstance(value, Transcript | Segment | Word | TranscriptWarning):
        return {key: _without_confidence(value[key]) for key in value if key != "confidence"}
    return [_without_confidence(each) for each in value] if isinstance(value, tuple) else value


def test_a_file_that_breaks_off_is_one_error(vllm_model: AutoModelVLLM, files: list[Path], tmp_path: Path) -> None:
    content = files[0].read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    broken, whole = vllm_model.generate([tmp_path / "cut.wav", files[1]], max_segment_s=4.0)
    assert broken.status == "error" and "truncated" in str(broken.error)
    assert whole.status == "ok" and whole.text


def test_a_model_may_look_for_speech_in_everything(vllm_model: AutoModelVLLM, files: list[Path]) -> None:
    silence = np.zeros(2 * 16_000, np.float32)
    silent, spoken = vllm_model.generate([silence, files[1]], vad="silero")
    assert (silent.text, silent.words, silent.duration, silent.status) == ("", (), 2.0, "ok")
    assert spoken.text == vllm_model.generate(files[1])[0].text
