"""A known text is aligned with a recording of any length: in windows that change nothing, and bound memory."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.pipeline import Clip
from twostage_asr.encoders.fbank import num_lfr_frames
from twostage_asr.engine.audio.decode import SAMPLE_RATE, Waveform, decode_audio
from twostage_asr.engine.cli import known_text, main
from twostage_asr.engine.cli.known_text import AT_ONCE, CONTEXT_S, WINDOW_S, _hidden, _Stage, _windows, align_known_text
from twostage_asr.engine.cli.progress import AudioProgress
from twostage_asr.engine.errors import ConfigError
from twostage_asr.engine.manifest import EngineManifest
from twostage_asr.engine.words.forced_aligner import FAMILY

FRAME_S = 0.06
HOP = 960  # samples between two frames
LONGEST = round((WINDOW_S + 2 * CONTEXT_S) / FRAME_S)  # frames that a window hears


class Recording(NamedTuple):
    """Clips of speech, one after the other."""

    waveform: Waveform
    text: str


@pytest.fixture(scope="module")
def recording(clips: list[Clip]) -> Recording:
    """80 s: all clips with words."""
    spoken = [clip for clip in clips if clip["words"]]
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    parts = [part for clip in spoken for part in (decode_audio(Path(clip["source"])), pause)]
    return Recording(np.concatenate(parts), " ".join(clip["text"] for clip in spoken))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The frames of the clips of each batch that stage 1 gets from then on."""
    batches: list[list[int]] = []
    load = known_text._loaded

    class Watched:
        def __init__(self, stage: _Stage) -> None:
            self._acoustic = stage.acoustic
            self.num_frames = stage.acoustic.num_frames

        def encode(self, waveforms: Sequence[Waveform], *, with_ctc: bool) -> Any:
            batches.append([self.num_frames(len(waveform)) for waveform in waveforms])
            return self._acoustic.encode(waveforms, with_ctc=with_ctc)

    def watched(engine_dir: Path, device: str) -> _Stage:
        stage = load(engine_dir, device)
        return stage._replace(acoustic=Watched(stage))  # type: ignore[arg-type]

    monkeypatch.setattr(known_text, "_loaded", watched)
    return batches


def test_windows_give_the_times_of_the_whole_within_a_frame(
    engine_dirs: dict[str, Path], recording: Recording, encoded: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def aligned() -> Any:
        told: list[float] = []
        model = engine_dirs["low_frame_rate"]
        found = align_known_text(model, recording.waveform, recording.text, key="a", device="cpu", tell=told.append)
        duration = len(recording.waveform) / SAMPLE_RATE
        assert told == sorted(told) and told[0] == 0.0 and told[-1] == pytest.approx(duration, abs=FRAME_S)
        assert found.words and not found.warnings
        return found

    in_windows = aligned()
    assert max(map(max, encoded)) <= LONGEST and max(map(len, encoded)) <= AT_ONCE
    encoded.clear()
    monkeypatch.setattr(known_text, "WINDOW_S", 3600.0)
    whole = aligned()
    assert encoded == [[num_lfr_frames(len(recording.waveform))]]
    assert [word.text for word in in_windows.words] == [word.text for word in whole.words]
    differences = np.array(
        [
            (abs(word.start - other.start), abs(word.end - other.end))
            for word, other in zip(in_windows.words, whole.words, strict=True)
        ]
    )
    # The encoder attends to all that it hears, so a word may be heard a frame earlier or later.
    assert (differences <= FRAME_S).mean() > 0.99
    assert differences.max() < 2.5 * FRAME_S


class LocalModel:
    """Stage 1 whose frames depend on the samples of 11 frames around them alone, and hold the first of their own."""

    num_frames = staticmethod(num_lfr_frames)

    def encode(self, waveforms: Sequence[Waveform], *, with_ctc: bool) -> Any:
        assert with_ctc
        return SimpleNamespace(utterances=lambda: [SimpleNamespace(ctc_hidden=self._hidden(one)) for one in waveforms])

    def _hidden(self, waveform: Waveform) -> Tensor:
        frames = np.zeros((self.num_frames(len(waveform)), HOP), np.float32)
        frames.flat[: len(waveform)] = waveform[: frames.size]
        around = np.lib.stride_tricks.sliding_window_view(np.pad(frames.sum(1), 5), 11)
        return torch.from_numpy(np.column_stack([frames[:, 0], around]))


@pytest.mark.parametrize("seconds", [0.01, 29.9, 31.0, 100.0, 301.37])
def test_windows_put_each_frame_where_it_is_in_the_whole(seconds: float) -> None:
    """Samples are whole numbers, so that sums of them are exact in any order."""
    samples = np.random.default_rng(0).integers(-50, 50, round(seconds * SAMPLE_RATE)).astype(np.float32)
    model = LocalModel()
    stage = _Stage(model, None, FRAME_S)  # type: ignore[arg-type]
    assert torch.equal(_hidden(stage, samples, lambda _: None), model._hidden(samples))


@given(st.integers(1, 5000))
def test_windows_keep_each_frame_once_and_hear_what_is_around_it(num_frames: int) -> None:
    windows = _windows(num_frames, FRAME_S)
    assert [i for window in windows for i in range(num_frames)[window.kept]] == list(range(num_frames))
    context = round(CONTEXT_S / FRAME_S)
    for window in windows:
        assert window.heard.stop - window.heard.start <= LONGEST
        assert window.heard.start == max(window.kept.start - context, 0) or len(windows) == 1
        assert window.heard.stop == min(window.kept.stop + context, num_frames)
    lengths = [window.kept.stop - window.kept.start for window in windows]
    assert max(lengths) - min(lengths) <= 1


@pytest.fixture
def command(engine_dirs: dict[str, Path], recording: Recording, tmp_path: Path) -> list[str]:
    """The command that aligns the recording and writes times.ctm, as far as its text."""
    soundfile.write(tmp_path / "talk.wav", recording.waveform, SAMPLE_RATE, subtype="PCM_16")
    (tmp_path / "talk.txt").write_text(recording.text, encoding="utf-8")
    model = ["--model", str(engine_dirs["low_frame_rate"]), "--device", "cpu"]
    return ["align", *model, "--output", str(tmp_path / "times.ctm"), str(tmp_path / "talk.wav")]


def test_a_text_that_a_long_recording_does_not_hold_is_told(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "今天北京的天气怎么样 nothing of this is said there at all " * 20]) == 1
    assert "does not hear this text" in capsys.readouterr().err
    assert (tmp_path / "times.ctm").read_text(encoding="utf-8").startswith(";; warning: no_word_times: ")


def test_an_interrupt_ends_at_once_and_writes_nothing(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = itertools.count()

    def show(self: AudioProgress, done_s: float) -> None:
        if next(calls):
            raise KeyboardInterrupt

    monkeypatch.setattr(AudioProgress, "show", show)
    assert main([*command, str(tmp_path / "talk.txt")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "twostage-asr: interrupted"
    assert next(calls) == 2 and not (tmp_path / "times.ctm").exists()


def test_a_forced_aligner_is_refused_with_its_limit(engine_dirs: dict[str, Path], tmp_path: Path) -> None:
    EngineManifest.read(engine_dirs["low_frame_rate"]).model_copy(update={"family": FAMILY}).write(tmp_path)
    with pytest.raises(ConfigError, match="a forced aligner takes up to 300 s"):
        align_known_text(tmp_path, np.zeros(16_000, np.float32), "a", key="a", device="cpu", tell=lambda _: None)
