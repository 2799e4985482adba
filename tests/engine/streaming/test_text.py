"""What of a live text may be confirmed, without a model."""

import pytest

from twostage_asr.engine.errors import UnsupportedAudioError
from twostage_asr.engine.streaming.text import ends_sentence, is_unspaced, on_stream_time, split_after, with_text
from twostage_asr.engine.transcript import Segment, Transcript, Word

WORDS = (Word("one", 0.1, 0.4, 0.9), Word("two", 0.5, 0.8, 0.7))
HEARD = Transcript(
    "k", "one, two", words=WORDS, segments=(Segment(0.1, 0.8, "one, two", WORDS, 0.8),), duration=1.0, confidence=0.8
)


@pytest.mark.parametrize(
    ("num_words", "parts"),
    [
        (0, ("", "one, two. 三")),
        (1, ("one,", "two. 三")),
        (2, ("one, two.", "三")),
        (3, ("one, two. 三", "")),
        (4, ("one, two. 三", "")),
    ],
)
def test_a_text_is_split_behind_a_word_and_its_marks(num_words: int, parts: tuple[str, str]) -> None:
    assert split_after("one, two. 三", num_words) == parts


@pytest.mark.parametrize("text", ["One.", "One? ", "一。", "一！", 'He said "one."', "（一。）"])
def test_a_sentence_ends_with_a_mark_that_quotation_marks_may_follow(text: str) -> None:
    assert ends_sentence(text)


@pytest.mark.parametrize("text", ["", "One", "One, two,", "One...", "One…", "一，", "1.5"])
def test_a_text_without_such_a_mark_stops_within_a_sentence(text: str) -> None:
    assert not ends_sentence(text)


def test_a_text_of_the_same_words_keeps_their_times() -> None:
    confirmed = with_text(HEARD, "one two.")
    assert (confirmed.text, confirmed.words, confirmed.warnings) == ("one two.", WORDS, ())
    assert confirmed.segments == (Segment(0.1, 0.8, "one two.", WORDS, 0.8),)


def test_a_text_of_other_words_has_no_times_and_says_so() -> None:
    confirmed = with_text(HEARD, "one too")
    assert (confirmed.text, confirmed.words) == ("one too", None)
    assert [warning.code for warning in confirmed.warnings] == ["no_word_times"]
    assert confirmed.segments == (Segment(0.0, 1.0, "one too", None, 0.8),)


def test_what_was_confirmed_outlives_an_error() -> None:
    failed = Transcript.failed("k", UnsupportedAudioError("broken"), duration=1.0)
    confirmed = with_text(failed, "one")
    assert (confirmed.status, confirmed.error, confirmed.error_code, confirmed.text) == ("ok", None, None, "one")
    (warning,) = confirmed.warnings
    assert (warning.code, warning.message) == ("segment_failed", "only what was confirmed is known: broken")
    assert with_text(failed, "").segments == ()


def test_times_count_from_the_start_of_the_stream() -> None:
    later = on_stream_time(HEARD, 60.0004)
    moved = (Word("one", 60.1, 60.4, 0.9), Word("two", 60.5, 60.8, 0.7))
    assert later.words == moved and later.segments == (Segment(60.1, 60.8, "one, two", moved, 0.8),)
    assert on_stream_time(Transcript("k"), 60.0).words is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two.", False),
        ("二。", True),
        ("カナ!", True),
        ("𠮷", True),
        ("한국어.", False),
        ("OK 好 3.", True),
        ("", False),
    ],
)
def test_chinese_and_japanese_have_no_spaces(text: str, expected: bool) -> None:
    assert is_unspaced(text) is expected
