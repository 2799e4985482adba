"""Stretches of speech become turns: sensible for any number of speakers, and for ten hours."""

import itertools
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.cluster import hierarchy

from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.speakers.clustering import MAX_SPEAKERS, SpeakerCount, cluster
from twostage_asr.engine.speakers.diarize import Diarized, Stretch, diarize, stretch_of, windows_of
from twostage_asr.engine.speakers.model import Embeddings

ANY = SpeakerCount()
SIZE = 64


def normalised(rows: np.ndarray) -> Embeddings:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def voices(speakers: Sequence[int], seed: int = 0) -> Embeddings:
    """Windows of these speakers, as alike within one as published models' windows of 1.5 s: 0.6 on average."""
    noise = np.random.default_rng(seed).standard_normal((len(speakers), SIZE)) * 0.8 / SIZE**0.5
    return normalised(np.eye(SIZE)[list(speakers)] + noise)


def spoken(start: float, seconds: float, embeddings: Embeddings) -> Stretch:
    return stretch_of(start, round(seconds * SAMPLE_RATE), embeddings)


def one_voice(start: float, seconds: float, speaker: int) -> Stretch:
    num_windows = len(windows_of(round(seconds * SAMPLE_RATE)))
    return spoken(start, seconds, voices([speaker] * num_windows, seed=round(10 * start)))


def names(diarized: Diarized) -> list[str]:
    return [turn.speaker for turn in diarized.turns]


def test_the_weights_of_a_stretch_are_its_seconds() -> None:
    assert sum(one_voice(3.0, 7.3, 0).weights) == pytest.approx(7.3)


@pytest.mark.parametrize("seconds", [0.1, 0.3, 2.0, 30.0])
def test_one_speaker_is_one_turn(seconds: float) -> None:
    (turn,) = diarize([one_voice(5.0, seconds, 0)], ANY).turns
    assert (turn.start, turn.end, turn.speaker) == (5.0, pytest.approx(5.0 + seconds), "SPK0")


def test_nothing_said_has_no_turns() -> None:
    empty = Stretch(0.0, 1.0, np.zeros((0, 2)), np.zeros((0, 0), np.float32), error="broken")
    assert diarize([], ANY).turns == diarize([empty], ANY).turns == ()


def test_turns_leave_out_the_pauses_between_stretches() -> None:
    found = diarize([one_voice(0.0, 3.0, 0), one_voice(3.4, 3.0, 0)], ANY)
    assert [(turn.start, turn.end) for turn in found.turns] == [(0.0, 3.0), (3.4, 6.4)]


def test_two_speakers_meet_between_their_windows() -> None:
    found = diarize([spoken(0.0, 9.0, voices([0] * 6 + [1] * 5))], ANY)
    assert names(found) == ["SPK0", "SPK1"]
    assert found.turns[0].end == found.turns[1].start == pytest.approx(4.875, abs=0.01)


def test_a_speaker_changes_sooner_the_less_the_window_across_the_change_is_like_the_first() -> None:
    changes = []
    for share in (0.6, 0.8, 1.0):  # of the first speaker in the window whose middle is at 4.5 s; the next is at 5.25 s
        rows = voices([0] * 6 + [1] * 5)
        rows[5] = normalised((share * rows[0] + (1.0 - share) * rows[8])[None])[0]
        first, second = diarize([spoken(0.0, 9.0, rows)], ANY).turns
        assert first.end == second.start
        changes.append(first.end)
    assert 4.5 < changes[0] < 4.75 < changes[1] < 4.85 < changes[2] < 4.9


def test_one_doubtful_window_does_not_interrupt_a_turn() -> None:
    rows = voices([0] * 24 + [1] * 24)
    rows[2] = normalised((0.54 * rows[2] + 0.46 * rows[26])[None])[0]
    found = diarize([spoken(0.0, 36.75, rows)], ANY)
    assert [name for name, _ in itertools.groupby(names(found))] == ["SPK0", "SPK1"]


@pytest.mark.parametrize(("seconds", "speaker"), [(0.2, "SPK1"), (1.5, "SPK0")])
def test_a_short_window_says_less_about_the_speaker_than_a_long_one(seconds: float, speaker: str) -> None:
    """SPK1 has just spoken, and what follows sounds a little more like SPK0."""
    row = normalised(0.4 * voices([1], 5) + 0.6 * voices([0], 6))
    found = diarize([one_voice(0.0, 15.0, 0), one_voice(16.0, 15.0, 1), spoken(31.2, seconds, row)], ANY)
    assert names(found) == ["SPK0", "SPK1", speaker]


def test_who_speaks_first_is_the_first_on_whichever_channel() -> None:
    early, late = one_voice(0.0, 15.0, 1), one_voice(5.0, 15.0, 0)
    found = diarize([replace(late, channel=0), replace(early, channel=1)], ANY)
    assert [(turn.speaker, turn.channel) for turn in found.turns] == [("SPK0", 1), ("SPK1", 0)]


def test_a_word_of_an_unlike_sound_is_no_speaker_of_its_own() -> None:
    found = diarize([one_voice(0.0, 30.0, 0), one_voice(31.0, 0.6, 1), one_voice(40.0, 20.0, 2)], ANY)
    assert set(names(found)) == {"SPK0", "SPK1"}


def test_twenty_speakers_are_told_apart() -> None:
    found = diarize([one_voice(10.0 * place, 6.0, place % 20) for place in range(60)], ANY)
    assert names(found) == [f"SPK{place % 20}" for place in range(60)]


@pytest.mark.parametrize("seconds", [2.0, 30.0, 300.0])
def test_two_voices_at_once_all_the_time_are_at_most_two_speakers(seconds: float) -> None:
    num_windows = len(windows_of(round(seconds * SAMPLE_RATE)))
    both = normalised(voices([0] * num_windows, 1) + voices([1] * num_windows, 2))
    assert 1 <= len(set(names(diarize([spoken(0.0, seconds, both)], ANY)))) <= 2


def test_windows_that_are_all_unlike_each_other_are_bounded() -> None:
    num_windows = len(windows_of(600 * SAMPLE_RATE))
    rows = normalised(np.random.default_rng(0).standard_normal((num_windows, SIZE)))
    assert 1 <= len(set(names(diarize([spoken(0.0, 600.0, rows)], ANY)))) <= MAX_SPEAKERS


def test_equal_windows_and_silent_ones_are_one_speaker() -> None:
    for row in (np.eye(SIZE, dtype=np.float32)[0], np.zeros(SIZE, np.float32)):
        assert set(names(diarize([spoken(0.0, 6.0, np.tile(row, (7, 1)))], ANY))) == {"SPK0"}


def ten_hours(hours: float) -> tuple[Embeddings, np.ndarray]:
    """Four speakers by turns of 30 s, a window each 0.75 s."""
    truth = (np.arange(round(hours * 4800)) // 40) % 4
    return voices(truth.tolist()), truth


def test_ten_hours_take_bounded_memory_and_linear_work(monkeypatch: pytest.MonkeyPatch) -> None:
    work: list[int] = []
    whole = hierarchy.linkage

    def counted(distances: np.ndarray, method: str) -> np.ndarray:
        work.append(len(distances))
        return whole(distances, method)

    monkeypatch.setattr(hierarchy, "linkage", counted)
    done = {}
    for hours in (5.0, 10.0):
        rows, truth = ten_hours(hours)
        work.clear()
        tracemalloc.start()
        labels = cluster(rows, np.full(len(rows), 0.75, np.float32), ANY)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert labels.tolist() == truth.tolist()
        assert peak < 200e6  # all pairs of ten hours would take 9 GB
        done[hours] = sum(work)
    assert done[10.0] <= 2.2 * done[5.0]
