"""Turns and words become speakers: only who says something has a number, and only turns with words are kept."""

import numpy as np

from twostage_asr.engine import Segment, Transcript, Word
from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.speakers.clustering import SpeakerCount
from twostage_asr.engine.speakers.diarize import stretch_of, windows_of
from twostage_asr.engine.speakers.enrolment import KnownSpeakers
from twostage_asr.engine.speakers.labelling import speakers_of, with_speakers
from twostage_asr.engine.speakers.stage import named
from twostage_asr.engine.transcript import SpeakerTurn

LAUGH, TALK, COUGH = SpeakerTurn(0.0, 2.0, "x"), SpeakerTurn(2.0, 5.0, "y"), SpeakerTurn(5.0, 6.0, "y", overlap=True)


def said(start: float, end: float) -> Transcript:
    """Two words from `start` to `end`, in a segment of 6 s."""
    middle = (start + end) / 2
    words = (Word("good", start, middle, 0.9), Word("morning", middle, end, 0.9))
    segment = Segment(0.0, 6.0, "good morning.", words, 0.9)
    return Transcript("a", segment.text, "en", words, (segment,), 6.0)


def test_turns_without_a_word_are_left_out() -> None:
    labelled = with_speakers(said(2.2, 4.0), [LAUGH, TALK, COUGH])
    assert (labelled.turns, speakers_of(labelled)) == ((TALK,), ["y"])


def test_a_word_across_turns_of_one_speaker_keeps_them_all() -> None:
    assert with_speakers(said(2.2, 5.5), [LAUGH, TALK, COUGH]).turns == (TALK, COUGH)


def test_a_word_outside_of_all_turns_keeps_the_nearest() -> None:
    labelled = with_speakers(said(2.2, 2.6), [LAUGH, SpeakerTurn(4.0, 6.0, "y")])
    assert (labelled.turns, {word.speaker for word in labelled.words or ()}) == ((LAUGH,), {"x"})


def test_without_word_times_all_turns_of_a_text_are_kept() -> None:
    untimed = Transcript("a", "morning", segments=(Segment(0.0, 6.0, "morning", None, None),))
    labelled = with_speakers(untimed, [LAUGH, TALK])
    assert (labelled.turns, speakers_of(labelled)) == ((LAUGH, TALK), ["y", "x"])  # "y" has the text


def test_a_segment_without_text_is_nobodys() -> None:
    (segment,) = with_speakers(Transcript("a", segments=(Segment(0.0, 6.0, "", (), None),)), [LAUGH]).segments
    assert segment.speaker is None


def test_the_first_who_says_something_is_the_first_speaker() -> None:
    """The voice of a laugh before the first word has no number, and takes no name."""
    num_windows = len(windows_of(6 * SAMPLE_RATE))
    rows = np.eye(8, dtype=np.float32)[[0] * 3 + [1] * (num_windows - 3)]
    stretch = stretch_of(0.0, 6 * SAMPLE_RATE, rows)
    both = SpeakerCount(exact=2)
    labelled = named(said(3.5, 5.0), [stretch], both, None)
    assert (
        {turn.speaker for turn in labelled.turns or ()} == {word.speaker for word in labelled.words or ()} == {"SPK0"}
    )
    known = KnownSpeakers(("Ana",), np.eye(8, dtype=np.float32)[:1])
    assert speakers_of(named(said(3.5, 5.0), [stretch], both, known)) == ["SPK0"]


def test_a_number_that_is_somebodys_name_is_not_given_again() -> None:
    num_windows = len(windows_of(6 * SAMPLE_RATE))
    rows = np.eye(8, dtype=np.float32)[[0] * 4 + [1] * (num_windows - 4)]
    known = KnownSpeakers(("SPK0",), np.eye(8, dtype=np.float32)[1:2])
    labelled = named(said(0.0, 6.0), [stretch_of(0.0, 6 * SAMPLE_RATE, rows)], SpeakerCount(exact=2), known)
    assert speakers_of(labelled) == ["SPK1", "SPK0"]
