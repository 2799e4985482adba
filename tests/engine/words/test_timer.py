"""Word times of real clips against the synthesizer's own, on both checkpoints."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.audio.inputs import expand_inputs
from twostage_asr.engine.audio.loading import load


class Bounds(NamedTuple):
    """Of absolute errors, in milliseconds: about a fifth more than is measured here, and on hundreds of other clips."""

    start_median: float
    start_p95: float
    end_median: float
    end_p95: float


# Measured: Mandarin 36, 83, 38, 84; English, with an earlier checkpoint: 25, 80, 29, 112.
BOUNDS = {"en": Bounds(30, 95, 35, 130), "zh": Bounds(43, 100, 46, 101)}


@pytest.mark.parametrize("language", BOUNDS)
@pytest.mark.parametrize("checkpoint", ["low_frame_rate", "full_rate"])
def test_words_begin_and_end_where_they_were_spoken(
    torch_models: dict[str, AutoModelVLLM], clips: list[Clip], checkpoint: str, language: str
) -> None:
    transcriber: Any = torch_models[checkpoint].transcriber
    own = [clip for clip in clips if clip["key"].startswith(language)]
    waveforms = [load(item) for item in expand_inputs([clip["source"] for clip in own])]
    hidden = [utterance.ctc_hidden for utterance in transcriber.acoustic.encode(waveforms, with_ctc=True).utterances()]
    durations = [len(waveform) / 16_000 for waveform in waveforms]
    alignments = transcriber.aligner.align(hidden, [clip["spoken"] for clip in own], durations)
    errors = []
    for clip, alignment in zip(own, alignments, strict=True):
        assert [word.text for word in alignment.words] == [text for text, _, _ in clip["words"]]
        for word, (_, start, end) in zip(alignment.words, clip["words"], strict=True):
            errors.append((abs(word.start - start), abs(word.end - end)))
    assert len(errors) > 80
    starts, ends = 1000 * np.array(errors).T
    found = Bounds(np.median(starts), np.percentile(starts, 95), np.median(ends), np.percentile(ends, 95))
    assert all(error <= bound for error, bound in zip(found, BOUNDS[language], strict=True)), found
