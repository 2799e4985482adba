"""Live speakers: a returning voice keeps its name, and memory stays bounded."""

import numpy as np

from twostage_asr.engine.speakers import tracker as tracker_module
from twostage_asr.engine.speakers.enrolment import KnownSpeakers
from twostage_asr.engine.speakers.tracker import SpeakerTracker

VOICES = np.eye(8, dtype=np.float32)


def test_a_returning_speaker_keeps_the_label() -> None:
    tracker = SpeakerTracker()
    assert [tracker.assign(VOICES[voice], 2.0) for voice in (3, 1, 3, 1)] == ["SPK0", "SPK1", "SPK0", "SPK1"]


def test_a_known_speaker_is_named() -> None:
    tracker = SpeakerTracker(known=KnownSpeakers(("Ana",), VOICES[:1]))
    assert [tracker.assign(VOICES[voice], 2.0) for voice in (0, 1)] == ["Ana", "SPK0"]
    assert tracker.relabel() == {"Ana": "Ana", "SPK0": "SPK0"}


def test_two_labels_of_one_voice_become_one() -> None:
    tracker = SpeakerTracker()
    leaning = (0.4 * VOICES[0] + 0.92 * VOICES[1]).astype(np.float32)
    between = (0.75 * VOICES[0] + 0.66 * VOICES[1]).astype(np.float32)
    labels = [tracker.assign(one / np.linalg.norm(one), 2.0) for one in (VOICES[0], leaning, between, between, between)]
    assert len(set(labels)) == 2
    assert set(tracker.relabel().values()) == {"SPK0"}


def test_memory_is_bounded() -> None:
    tracker = SpeakerTracker()
    for turn in range(3 * tracker_module._MAX_KEPT):
        tracker.assign(VOICES[turn % 3], 2.0)
    assert len(tracker._kept) <= tracker_module._MAX_KEPT
    assert tracker.relabel() == {f"SPK{n}": f"SPK{n}" for n in range(3)}
