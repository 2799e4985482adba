"""Embeddings become speakers: sensible for any number of windows, and in bounded memory."""

import numpy as np
import pytest
from scipy.cluster import hierarchy

from twostage_asr.engine import ConfigError
from twostage_asr.engine.speakers import clustering
from twostage_asr.engine.speakers.clustering import SpeakerCount, cluster
from twostage_asr.engine.speakers.model import Embeddings

ANY = SpeakerCount()


def voices(turns: list[int], noise: float = 0.05, size: int = 64) -> Embeddings:
    """An embedding for each turn's speaker, whose voices are at right angles."""
    rng = np.random.default_rng(0)
    points = np.eye(size, dtype=np.float32)[turns] + noise * rng.standard_normal((len(turns), size)).astype(np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("turns", [[0], [0, 0], [0] * 30, [0] * 5 + [1] * 5, [3] * 4 + [1] * 4 + [3] * 4])
def test_speakers_are_numbered_in_the_order_in_which_they_are_heard(turns: list[int]) -> None:
    order = list(dict.fromkeys(turns))
    assert cluster(voices(turns), None, ANY).tolist() == [order.index(turn) for turn in turns]


def test_nothing_has_no_speakers() -> None:
    assert len(cluster(np.zeros((0, 64), np.float32), None, ANY)) == 0


def test_twenty_speakers_are_told_apart() -> None:
    turns = [speaker for speaker in range(20) for _ in range(6)]
    assert cluster(voices(turns), None, ANY).tolist() == turns


@pytest.mark.parametrize("exact", [1, 2, 3, 5])
def test_a_given_number_of_speakers_is_kept(exact: int) -> None:
    turns = [0] * 10 + [1] * 10 + [2] * 10
    assert len(set(cluster(voices(turns), None, SpeakerCount(exact)).tolist())) == exact


def test_bounds_hold() -> None:
    turns = [speaker for speaker in range(6) for _ in range(6)]
    assert len(set(cluster(voices(turns), None, SpeakerCount(most=3)).tolist())) == 3
    assert len(set(cluster(voices([0] * 20), None, SpeakerCount(least=2)).tolist())) == 2


def test_more_speakers_than_windows_is_a_speaker_each() -> None:
    assert cluster(voices([0, 1]), None, SpeakerCount(5)).tolist() == [0, 1]


def test_a_long_recording_is_grouped_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    whole = hierarchy.linkage

    def watched(distances: np.ndarray, method: str) -> np.ndarray:
        nonlocal largest
        largest = max(largest, len(distances))
        return whole(distances, method)

    monkeypatch.setattr(clustering, "MAX_POINTS", 50)
    monkeypatch.setattr(hierarchy, "linkage", watched)
    turns = [(turn // 7) % 4 for turn in range(2000)]
    assert cluster(voices(turns), None, ANY).tolist() == turns
    assert largest <= 50 * 49 // 2


@pytest.mark.parametrize("bounds", [{"exact": 0}, {"least": 0}, {"least": 3, "most": 2}])
def test_contradictory_counts_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        SpeakerCount(**bounds)


def test_speakers_are_as_alike_as_the_variants_of_one_voice_that_are_each_too_short() -> None:
    """The cosine similarity of two speakers with enough speech is 0.4, and so is that of a third one's variants."""
    alike, own = np.sqrt(0.4), np.sqrt(0.6)
    points = np.zeros((40, 64), np.float32)
    points[:20, 0], points[20:36, 1] = alike, alike
    points[np.arange(36), 2 + np.r_[np.arange(20) // 10, 2 + np.arange(16) // 2]] = own
    points[36:, 1], points[36:, 10] = alike, own
    assert cluster(points, [0.75] * 40, ANY).tolist() == [0] * 10 + [1] * 10 + [2] * 20


@pytest.mark.parametrize(("first", "speakers"), [(20, 2), (34, 1)])
def test_two_alike_speakers_stay_apart_if_both_have_much_speech(first: int, speakers: int) -> None:
    """Windows of one voice have a cosine similarity of 0.62, and of two voices 0.35: their centres have about 0.55."""
    points = np.zeros((40, 64), np.float32)
    points[:, 0] = np.sqrt(0.35)
    points[:first, 1] = points[first:, 2] = np.sqrt(0.27)
    points[np.arange(40), 3 + np.arange(40)] = np.sqrt(0.38)
    assert len(set(cluster(points, [0.75] * 40, ANY).tolist())) == speakers
