"""Word times of real clips against the synthesizer's own, on both checkpoints."""

from typing import Any

import numpy as np
import pytest

from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.inputs import expand_inputs, load

MEDIAN_S, P95_S = 0.060, 0.150  # what a subtitle editor can work with


@pytest.mark.parametrize("checkpoint", ["low_frame_rate", "full_rate"])
def test_word_starts_are_where_the_words_were_spoken(
    torch_models: dict[str, AutoModelVLLM], clips: list[Clip], checkpoint: str
) -> None:
    transcriber: Any = torch_models[checkpoint].transcriber
    waveforms = [load(item) for item in expand_inputs([clip["source"] for clip in clips])]
    hidden = [utterance.ctc_hidden for utterance in transcriber.acoustic.encode(waveforms, with_ctc=True).utterances()]
    durations = [len(waveform) / 16_000 for waveform in waveforms]
    alignments = transcriber.aligner.align(hidden, [clip["spoken"] for clip in clips], durations)
    errors = []
    for clip, alignment in zip(clips, alignments, strict=True):
        assert [word.text for word in alignment.words] == [text for text, _, _ in clip["words"]]
        errors += [abs(word.start - start) for word, (_, start, _) in zip(alignment.words, clip["words"], strict=True)]
    assert len(errors) > 100
    assert np.median(errors) <= MEDIAN_S
    assert np.percentile(errors, 95) <= P95_S
