"""PCMReader: wherever a stream of bytes is cut, its samples are the same."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine import UnsupportedAudioError
from twostage_asr.engine.streaming import PCMReader
from twostage_asr.engine.streaming.audio import PCM16_FULL_SCALE

SAMPLES = np.arange(-50, 50, dtype="<i2")


@given(st.lists(st.integers(0, 2 * len(SAMPLES))))
def test_bytes_may_be_cut_anywhere(edges: list[int]) -> None:
    content = SAMPLES.tobytes()
    reader = PCMReader()
    pieces = [content[a:b] for a, b in pairwise([0, *sorted(edges), len(content)])]
    heard = np.concatenate([reader.samples(piece) for piece in pieces])
    assert np.array_equal(heard, SAMPLES.astype(np.float32) / PCM16_FULL_SCALE)
    assert reader.finish() is None


def test_half_a_sample_at_the_end_is_a_warning() -> None:
    reader = PCMReader()
    assert len(reader.samples(SAMPLES.tobytes() + b"x")) == len(SAMPLES)
    warning = reader.finish()
    assert warning is not None and warning.code == "stray_byte"
    assert reader.finish() is None


def test_an_array_cannot_go_on_from_half_a_sample() -> None:
    reader = PCMReader()
    reader.samples(b"x")
    with pytest.raises(UnsupportedAudioError, match="middle of a sample"):
        reader.samples(SAMPLES.astype(np.int16))
