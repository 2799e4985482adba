"""Clips find back to the inputs that they come from, in whatever order they are read and done."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from twostage_asr.engine.audio.inputs import AudioInput
from twostage_asr.engine.errors import UnsupportedAudioError
from twostage_asr.engine.recordings import Recordings
from twostage_asr.engine.transcript import Segment, Transcript, TranscriptWarning, Word
from twostage_asr.engine.vad.splitting import Cut, Piece

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
        (0, piece(1.0, 3.0, until=5.0)), (1, Piece.whole(SAMPLES)), (2, piece(until=9.0, is_last=True)),
        (0, piece(until=7.0)), (3, piece(2.0, until=4.0, is_last=True)), (0, piece(8.0, until=9.5, is_last=True)),
    ]  # fmt: skip
    clips = [clip for index, audio in read for clip in recordings.add(index, ITEMS[index], audio)]
    assert [number for number, *_ in clips] == [0, 1, 2, 3, 4]
    assert [clip.item.key for clip in clips] == ["a", "a", "b", "d", "a"]
    results = recordings.take()
    assert [index for index, _ in results] == [2]  # nobody speaks in it
    random.Random(seed).shuffle(clips)
    for number, *_ in clips:
        recordings.finish(number, said(number))
        results += recordings.take()
    found = dict(results)
    assert len(results) == len(found) == 4
    assert [(found[i].text, found[i].duration) for i in range(4)] == [("0 1 4", 9.5), ("2", 1.0), ("", 9.0), ("3", 4.0)]
    assert [segment.start for segment in found[0].segments] == [1.0, 3.0, 8.0]
    assert found[2].language == "en"


def test_channels_that_begin_together_stand_in_their_order_whichever_is_done_first() -> None:
    both = Piece([Cut(0.0, SAMPLES, channel=0), Cut(0.0, SAMPLES, channel=1)], 1.0, is_last=True)
    recordings = Recordings(language=None)
    for clip in reversed(recordings.add(0, ITEMS[0], both)):
        recordings.finish(clip.number, said(clip.number))
    ((_, transcript),) = recordings.take()
    assert transcript.text == "0 1"


def test_an_error_after_some_pieces_is_the_result() -> None:
    recordings = Recordings(language=None)
    ((number, *_),) = recordings.add(0, ITEMS[0], piece(1.0, until=5.0))
    assert recordings.add(0, ITEMS[0], UnsupportedAudioError("truncated")) == []
    recordings.finish(number, said(number))
    ((index, transcript),) = recordings.take()
    assert (index, transcript.status, transcript.error, transcript.duration) == (0, "error", "truncated", 5.0)


def test_a_transcript_knows_the_file_that_it_is_of() -> None:
    recordings = Recordings(language=None)
    file = AudioInput(key="a", source=Path("a.wav"))
    for index, (item, audio) in enumerate(
        [(file, Piece.whole(SAMPLES)), (file, piece(0.0, until=1.0, is_last=True)), (ITEMS[0], Piece.whole(SAMPLES))]
    ):
        for clip in recordings.add(index, item, audio):
            recordings.finish(clip.number, said(clip.number))
    assert [transcript.source for _, transcript in recordings.take()] == [Path("a.wav"), Path("a.wav"), None]


FILLED = TranscriptWarning("filled_gap", "the file has no audio at 1.00 to 2.00 s")


def test_what_happened_while_it_was_read_is_in_the_transcript() -> None:
    """Of an input that stays whole, of one that is cut, and of one in which nobody speaks."""
    recordings = Recordings(language=None)
    last = piece(5.0, until=9.0, is_last=True)
    silent = Piece([], 9.0, is_last=True, warnings=(FILLED,))
    for index, audio in enumerate([Piece.whole(SAMPLES, (FILLED,)), replace(last, warnings=(FILLED,)), silent]):
        for number, *_ in recordings.add(index, ITEMS[index], audio):
            own = replace(said(number), warnings=(TranscriptWarning("unfinished", "stops"),))
            recordings.finish(number, own)
    warnings = {index: [warning.code for warning in t.warnings] for index, t in recordings.take()}
    assert warnings == {0: ["filled_gap", "unfinished"], 1: ["filled_gap", "unfinished"], 2: ["filled_gap"]}


def test_channels_that_are_split_come_together_in_the_order_of_time() -> None:
    recordings = Recordings(language=None)
    cuts = [Cut(0.0, SAMPLES, 0), Cut(1.5, SAMPLES, 1), Cut(4.0, SAMPLES, 0)]
    clips = recordings.add(0, ITEMS[0], Piece(cuts, 6.0, is_last=True))
    assert all(clip.is_speech for clip in clips)
    for number, *_ in reversed(clips):
        word = Word(str(number), 0.0, 0.5, 0.9)
        segment = Segment(0.0, 1.0, str(number), (word,), None)
        recordings.finish(number, replace(said(number), segments=(segment,), words=(word,)))
    ((_, transcript),) = recordings.take()
    assert transcript.text == "0 1 2"
    assert [(s.start, s.channel) for s in transcript.segments] == [(0.0, 0), (1.5, 1), (4.0, 0)]
    assert [(w.start, w.channel) for w in transcript.words or ()] == [(0.0, 0), (1.5, 1), (4.0, 0)]
    assert Transcript.from_json(transcript.to_json()) == transcript


def test_channels_that_stay_whole_are_no_speech_that_a_vad_has_heard() -> None:
    recordings = Recordings(language=None)
    clips = recordings.add(0, ITEMS[0], Piece.whole(np.zeros((16_000, 2), np.float32)))
    assert [len(clip.audio) for clip in clips if isinstance(clip.audio, np.ndarray)] == [16_000, 16_000]
    assert not any(clip.is_speech for clip in clips)
    for number, *_ in clips:
        recordings.finish(number, said(number))
    ((_, transcript),) = recordings.take()
    assert [(s.text, s.channel) for s in transcript.segments] == [("0", 0), ("1", 1)]
