"""Clips find back to the inputs that they come from, in whatever order they are read and done."""

import random

import numpy as np
import pytest

from twostage_asr.engine.errors import UnsupportedAudioError
from twostage_asr.engine.inputs import AudioInput
from twostage_asr.engine.recordings import Recordings
from twostage_asr.engine.segments import Cut, Piece
from twostage_asr.engine.transcript import Segment, Transcript

SAMPLES = np.zeros(16_000, np.float32)
ITEMS = [AudioInput(key=key, source=SAMPLES) for key in "abcd"]


def piece(*starts: float, until: float, is_last: bool = False) -> Piece:
    return Piece([Cut(start, SAMPLES) for start in starts], until, is_last)


def said(number: int) -> Transcript:
    return Transcript("", str(number), segments=(Segment(0.0, 1.0, str(number), None, None),), duration=1.0)


@pytest.mark.parametrize("seed", range(5))
def test_every_input_gets_its_own_clips(seed: int) -> None:
    recordings = Recordings(language="en")
    read = [
        (0, piece(1.0, 3.0, until=5.0)), (1, SAMPLES), (2, piece(until=9.0, is_last=True)), (0, piece(until=7.0)),
        (3, piece(2.0, until=4.0, is_last=True)), (0, piece(8.0, until=9.5, is_last=True)),
    ]  # fmt: skip
    clips = [clip for index, audio in read for clip in recordings.add(index, ITEMS[index], audio)]
    assert [number for number, _, _ in clips] == [0, 1, 2, 3, 4]
    assert [item.key for _, item, _ in clips] == ["a", "a", "b", "d", "a"]
    results = recordings.take()
    assert [index for index, _ in results] == [2]  # nobody speaks in it
    random.Random(seed).shuffle(clips)
    for number, _, _ in clips:
        recordings.finish(number, said(number))
        results += recordings.take()
    found = dict(results)
    assert len(results) == len(found) == 4
    assert [(found[i].text, found[i].duration) for i in range(4)] == [("0 1 4", 9.5), ("2", 1.0), ("", 9.0), ("3", 4.0)]
    assert [segment.start for segment in found[0].segments] == [1.0, 3.0, 8.0]
    assert found[2].language == "en"


def test_an_error_after_some_pieces_is_the_result() -> None:
    recordings = Recordings(language=None)
    ((number, _, _),) = recordings.add(0, ITEMS[0], piece(1.0, until=5.0))
    assert recordings.add(0, ITEMS[0], UnsupportedAudioError("truncated")) == []
    recordings.finish(number, said(number))
    ((index, transcript),) = recordings.take()
    assert (index, transcript.status, transcript.error, transcript.duration) == (0, "error", "truncated", 5.0)
