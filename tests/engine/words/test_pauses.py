"""Word edges and pauses, with noise bursts for words."""

import numpy as np
import pytest

from twostage_asr.engine.audio.waveform import Waveform
from twostage_asr.engine.transcript import Word
from twostage_asr.engine.words import pauses
from twostage_asr.engine.words.pauses import PIECE_S, edges_at_sound


def sound(*runs: tuple[float, float]) -> Waveform:
    """(seconds, dB) runs of noise."""
    rng = np.random.default_rng(0)
    parts = [10 ** (level / 20) * rng.standard_normal(round(s * 16_000)) for s, level in runs]
    return np.concatenate(parts).astype(np.float32)


def times(waveform: Waveform, *words: tuple[float, float]) -> list[tuple[float, float]]:
    found = edges_at_sound([Word("a", start, end, 0.5) for start, end in words], waveform)
    return [(word.start, word.end) for word in found]


LOUD, QUIET = -20.0, -60.0
TWO_WORDS = sound((0.5, QUIET), (0.5, LOUD), (0.3, QUIET), (0.5, LOUD), (0.5, QUIET))


def test_edges_in_pauses_move_to_the_sound_of_their_words() -> None:
    (first, second) = times(TWO_WORDS, (0.4, 1.2), (1.2, 1.95))
    assert first == pytest.approx((0.5, 1.0), abs=0.0101)
    assert second == pytest.approx((1.3, 1.8), abs=0.0101)


def test_edges_between_words_of_one_sound_stay() -> None:
    words = [(0.55, 0.75), (0.75, 0.95), (1.4, 1.5), (1.5, 1.7)]
    assert times(TWO_WORDS, *words) == words


def test_a_word_that_is_alone_lasts_as_long_as_its_sound() -> None:
    assert times(TWO_WORDS, (0.6, 0.9), (1.4, 1.7)) == [
        pytest.approx((0.5, 1.0), abs=0.0101),
        pytest.approx((1.3, 1.8), abs=0.0101),
    ]


def test_a_word_gets_no_sound_of_more_than_twice_its_length() -> None:
    assert times(TWO_WORDS, (0.6, 0.83), (1.4, 1.63)) == [(0.6, 0.83), (1.4, 1.63)]


def test_no_word_reaches_into_the_sound_of_its_neighbour() -> None:
    (first, second) = times(TWO_WORDS, (0.5, 1.4), (1.4, 1.8))
    assert first == pytest.approx((0.5, 1.0), abs=0.0101)
    assert second == pytest.approx((1.3, 1.8), abs=0.0101)


def test_an_edge_within_a_sound_of_several_words_stays() -> None:
    words = times(TWO_WORDS, (0.6, 1.35), (1.35, 1.55), (1.55, 1.75))
    assert words == [pytest.approx((0.5, 1.35), abs=0.0101), (1.35, 1.55), (1.55, 1.75)]


def test_a_word_in_the_sound_of_its_neighbour_gets_the_sound_that_has_no_word() -> None:
    assert times(TWO_WORDS, (0.5, 0.7), (0.7, 1.0)) == [(0.5, 0.7), pytest.approx((1.3, 1.8), abs=0.0101)]


def test_no_word_moves_to_a_cough() -> None:
    cough = sound((0.5, QUIET), (0.5, LOUD), (0.3, QUIET), (0.1, LOUD), (0.5, QUIET))
    assert times(cough, (0.5, 0.7), (0.7, 1.0)) == [(0.5, 0.7), (0.7, 1.0)]


def test_no_word_moves_to_a_sound_far_away() -> None:
    far = sound((0.5, QUIET), (0.5, LOUD), (0.5, QUIET), (0.5, LOUD), (0.5, QUIET))
    assert times(far, (0.5, 0.7), (0.7, 1.0)) == [(0.5, 0.7), (0.7, 1.0)]


def test_a_pause_within_a_word_stays_in_it() -> None:
    assert times(TWO_WORDS, (0.45, 1.85)) == [pytest.approx((0.5, 1.8), abs=0.0101)]


def test_a_word_that_lies_in_a_pause_stays() -> None:
    assert times(TWO_WORDS, (1.05, 1.25)) == [(1.05, 1.25)]


def test_a_closure_is_no_pause() -> None:
    closure = sound((0.5, LOUD), (0.09, QUIET), (0.5, LOUD))
    assert times(closure, (0.1, 0.55), (0.55, 1.0)) == [(0.1, 0.55), (0.55, 1.0)]


def test_a_bang_does_not_make_quiet_words_pauses() -> None:
    waveform = sound((0.5, -40), (0.3, -80), (0.5, -40), (0.01, 0), (0.5, -40))
    (first, second) = times(waveform, (0.0, 0.65), (0.65, 1.3))
    assert first == pytest.approx((0.0, 0.5), abs=0.0101)
    assert second == pytest.approx((0.8, 1.3), abs=0.0101)


@pytest.mark.parametrize("waveform", [np.zeros(0, np.float32), np.zeros(16_000, np.float32), sound((1.0, LOUD))])
def test_without_pauses_or_sound_every_word_stays(waveform: Waveform) -> None:
    assert times(waveform, (0.2, 0.8)) == [(0.2, 0.8)]


def long_recording(seconds: float) -> tuple[Waveform, list[tuple[float, float]]]:
    """TWO_WORDS again and again, and words that reach into the pauses."""
    length = len(TWO_WORDS) / 16_000
    count = round(seconds / length)
    words = [(i * length + start, i * length + end) for i in range(count) for start, end in ((0.4, 1.2), (1.2, 1.95))]
    return np.tile(TWO_WORDS, count), words


def test_words_of_a_long_recording_move_as_those_of_a_short_one() -> None:
    waveform, words = long_recording(10 * PIECE_S)
    length = len(TWO_WORDS) / 16_000
    edges = times(TWO_WORDS, *words[:2])
    expected = [(i * length + start, i * length + end) for i in range(len(words) // 2) for start, end in edges]
    assert np.allclose(times(waveform, *words), expected, atol=0.0101)


def test_the_search_of_a_long_recording_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    search = pauses._own_sounds

    def watched(middles: np.ndarray, sounds: pauses._Sounds) -> list[int]:
        sizes.append((len(middles), len(sounds.starts), sounds.piece_end - sounds.piece_start))
        return search(middles, sounds)

    monkeypatch.setattr(pauses, "_own_sounds", watched)
    waveform, words = long_recording(10 * PIECE_S)
    times(waveform, *words)
    assert sum(size[0] for size in sizes) == len(words)
    assert max(size[2] for size in sizes) <= 2 * PIECE_S
    assert sum(size[2] for size in sizes) == pytest.approx(len(waveform) / 16_000)


def test_a_recording_is_cut_in_its_widest_pause() -> None:
    words = [Word("a", float(i), i + (0.5 if i == 77 else 0.9), 0.5) for i in range(200)]
    first = next(pauses._pieces(words))
    assert first == (slice(0, 78), slice(0, round((77.5 + 78) / 2 * 200)))
    far = [Word("a", 1.0, 2.0, 0.5), Word("a", 500.0, 500.5, 0.5), Word("a", 501.0, 502.0, 0.5)]
    assert [words for words, _ in pauses._pieces(far)] == [slice(0, 2), slice(2, None)]
