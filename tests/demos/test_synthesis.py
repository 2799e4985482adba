"""Sentences, their readings, and the times of their words; espeak-ng itself is not needed."""

import random

import numpy as np
import pytest
from english import ENGLISH, number_words, year_words
from espeak import EspeakError, Speech
from evaluate import without_punctuation
from grammar import Unit, compose
from hypothesis import given
from hypothesis import strategies as st
from mandarin import MANDARIN, number_characters, read_characters
from render import add_noise, trim_end, word_edges

SEEDS = st.integers(0, 10**6)


@pytest.mark.parametrize(
    ("value", "words", "characters"),
    [
        (0, "zero", "零"),
        (10, "ten", "十"),
        (15, "fifteen", "十五"),
        (25, "twenty five", "二十五"),
        (305, "three hundred five", "三百零五"),
        (110, "one hundred ten", "一百一十"),
        (4000, "four thousand", "四千"),
        (4005, "four thousand five", "四千零五"),
        (9270, "nine thousand two hundred seventy", "九千二百七十"),
    ],
)
def test_numbers_are_read_as_people_do(value: int, words: str, characters: str) -> None:
    assert number_words(value) == words
    assert number_characters(value) == characters


@pytest.mark.parametrize(
    ("year", "words"), [(1987, "nineteen eighty seven"), (2005, "two thousand five"), (2015, "twenty fifteen")]
)
def test_years_are_read_as_people_do(year: int, words: str) -> None:
    assert year_words(year) == words


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_different_numbers_are_read_differently(a: int, b: int) -> None:
    assert (number_words(a) == number_words(b)) == (a == b)
    assert (number_characters(a) == number_characters(b)) == (a == b)


@given(SEEDS)
def test_sentences_without_normalisation_are_written_as_they_are_spoken(seed: int) -> None:
    for grammar in (ENGLISH, MANDARIN):
        sentence = grammar.draw(random.Random(seed))
        joiner = " " if grammar is ENGLISH else ""
        spoken = joiner.join(sentence.words)
        assert without_punctuation(sentence.text(itn=False)) == without_punctuation(spoken)
        assert sentence == grammar.draw(random.Random(seed))


@given(SEEDS)
def test_every_character_of_a_mandarin_sentence_has_a_reading(seed: int) -> None:
    words = MANDARIN.draw(random.Random(seed)).words
    syllables = read_characters("".join(words))
    assert len(syllables) == len(words)
    assert all(syllable[:-1].isalpha() and syllable[-1] in "12345" for syllable in syllables)


def test_words_with_another_reading_than_their_characters_are_known() -> None:
    assert read_characters("银行行") == ("yin2", "hang2", "xing2")
    with pytest.raises(ValueError, match="鑫"):
        read_characters("鑫")


def test_the_second_spelling_is_written_only_when_asked_for() -> None:
    name = Unit(spoken="john smith", written="John Smith", plain="John Smith", alternative="John Smyth")
    sentence = compose("英文", "call {}.", [name])
    assert sentence.text(itn=True) == "Call John Smith."
    assert sentence.text(itn=True, use_alternative=True) == "Call John Smyth."
    assert sentence.words == ("call", "john", "smith")


def test_words_that_espeak_runs_together_share_their_stretch() -> None:
    speech = Speech(waveform=np.zeros(0, np.float32), word_starts=((0, 0.0), (5, 0.4), (12, 0.9)))
    edges = word_edges(["turn", "in", "the", "room"], speech, 1.5)
    assert edges == [(0.0, 0.4), (0.4, pytest.approx(0.6)), (pytest.approx(0.6), 0.9), (0.9, 1.5)]


@pytest.mark.parametrize("starts", [((5, 0.4),), ((0, 0.0), (3, 0.2)), ()])
def test_word_events_that_fit_no_word_are_refused(starts: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(EspeakError, match="turn in"):
        word_edges(["turn", "in"], Speech(waveform=np.zeros(0, np.float32), word_starts=starts), 1.0)


def test_only_the_pause_at_the_end_is_cut() -> None:
    waveform = np.array([0, 0.5, 0, -1, 0.002, 0.0005, 0], np.float32)
    assert trim_end(waveform).tolist() == waveform[:5].tolist()


@given(st.floats(0, 30), SEEDS)
def test_noise_has_the_asked_power_and_depends_on_the_seed_alone(snr_db: float, seed: int) -> None:
    speech = 0.1 * np.sin(np.arange(1, 16_001, dtype=np.float32))
    noisy = add_noise(speech, snr_db, seed=seed)
    noise = noisy - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.3)
    assert np.array_equal(noisy, add_noise(speech, snr_db, seed=seed))
    assert noisy.dtype == np.float32
