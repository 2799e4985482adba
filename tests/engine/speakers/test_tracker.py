"""Live speakers: a returning voice keeps its name, and memory stays bounded."""

import numpy as np
import pytest

from twostage_asr.engine.speakers.clustering import SpeakerCount
from twostage_asr.engine.speakers.enrolment import KnownSpeakers
from twostage_asr.engine.speakers.model import Embeddings
from twostage_asr.engine.speakers.tracker import MAX_KEPT, SpeakerTracker

VOICES = np.eye(8, dtype=np.float32)
FINALS = 5000  # of four hours, with 2.9 s each


def unit(rows: Embeddings) -> Embeddings:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def between(share: float) -> Embeddings:
    """A voice between the first and the second."""
    return unit((1 - share) * VOICES[0] + share * VOICES[1])


def scattered(speakers: np.ndarray, *, seed: int = 0) -> Embeddings:
    """(N, 192) for the speaker of each stretch. Two stretches of one voice have a cosine of about 0.6."""
    chance = np.random.default_rng(seed)
    voices = unit(chance.standard_normal((speakers.max() + 1, 192)).astype(np.float32))
    return unit(voices[speakers] + 0.8 * unit(chance.standard_normal((len(speakers), 192)).astype(np.float32)))


def test_a_returning_speaker_keeps_the_name() -> None:
    tracker = SpeakerTracker()
    assert [tracker.assign(VOICES[voice], 2.0) for voice in (3, 1, 3, 1)] == ["SPK0", "SPK1", "SPK0", "SPK1"]


def test_a_known_speaker_is_named() -> None:
    tracker = SpeakerTracker(known=KnownSpeakers(("Ana",), VOICES[:1]))
    assert [tracker.assign(VOICES[voice], 2.0) for voice in (1, 0)] == ["SPK0", "Ana"]
    assert tracker.relabel() == {"Ana": "Ana", "SPK0": "SPK0"}


def test_a_number_that_is_somebodys_name_is_not_given_again() -> None:
    tracker = SpeakerTracker(known=KnownSpeakers(("SPK0",), VOICES[:1]))
    assert [tracker.assign(VOICES[voice], 2.0) for voice in (1, 0)] == ["SPK1", "SPK0"]


def test_a_short_sound_founds_no_speaker() -> None:
    tracker = SpeakerTracker()
    lengths = ((0, 0.4), (1, 0.4), (1, 3.0))
    assert [tracker.assign(VOICES[voice], seconds) for voice, seconds in lengths] == ["SPK0", "SPK0", "SPK1"]


def test_the_number_of_speakers_is_bounded() -> None:
    tracker = SpeakerTracker(count=SpeakerCount(exact=2))
    assert {tracker.assign(voice, 3.0) for voice in VOICES} == {"SPK0", "SPK1"}


def test_names_of_one_voice_become_the_first_and_it_alone_is_given_from_then_on() -> None:
    tracker = SpeakerTracker()
    names = [tracker.assign(between(share), 2.0) for share in (0.0, 0.75, 0.5, 0.5, 0.5)]
    assert set(names) == {"SPK0", "SPK1"}
    assert tracker.relabel() == {"SPK0": "SPK0", "SPK1": "SPK0"}
    assert tracker.assign(between(0.75), 2.0) == "SPK0" and tracker.assign(VOICES[5], 2.0) == "SPK2"


@pytest.mark.parametrize("known", [(), ("Ana",), ("Ana", "Ben")])
def test_a_known_name_stands_for_what_joins_it_and_never_becomes_another(known: tuple[str, ...]) -> None:
    tracker = SpeakerTracker(known=KnownSpeakers(known, VOICES[: len(known)]))
    given = {tracker.assign(voice, 3.0) for voice in VOICES[:3]}
    tracker.count = SpeakerCount(exact=1)
    assert tracker.relabel() == {name: name if name in known else (known or ("SPK0",))[0] for name in given}


def test_four_hours_keep_their_names_in_bounded_memory() -> None:
    speakers = np.random.default_rng(1).integers(0, 6, FINALS)
    speakers[:12], speakers[12:-12][speakers[12:-12] == 5] = [0, 1, 2, 3, 4, 5] * 2, 4  # the last returns at the end
    tracker, most = SpeakerTracker(), 0
    names = []
    for embedding in scattered(speakers):
        names.append(tracker.assign(embedding, 2.9))
        most = max(most, len(tracker._kept))
    assert most <= MAX_KEPT and len(tracker._sums) == 6
    assert names == [f"SPK{speaker}" for speaker in speakers]
    assert tracker.relabel() == {f"SPK{n}": f"SPK{n}" for n in range(6)}


def test_what_is_joined_weighs_as_much_as_before() -> None:
    tracker = SpeakerTracker()
    for turn in range(3 * MAX_KEPT):
        tracker.assign(VOICES[turn % 3], 2.0)
    assert sum(stretch.seconds for stretch in tracker._kept) == pytest.approx(6.0 * MAX_KEPT)
