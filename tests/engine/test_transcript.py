"""Transcript: attribute and key access agree, JSON loses nothing, and an error keeps its kind."""

import copy
import itertools
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine import (
    ASRError,
    ErrorCode,
    PromptTooLongError,
    Segment,
    Transcript,
    TranscriptWarning,
    Word,
    errors,
)

SECONDS = st.floats(0, 1e5)
SHARE = st.floats(0, 1)
WORDS = st.none() | st.lists(st.builds(Word, st.text(), SECONDS, SECONDS, SHARE), max_size=3).map(tuple)
SEGMENTS = st.lists(st.builds(Segment, SECONDS, SECONDS, st.text(), WORDS, st.none() | SHARE), max_size=2).map(tuple)
WARNINGS = st.lists(
    st.builds(TranscriptWarning, st.sampled_from(["no_word_times", "long_audio", "unfinished"]), st.text()), max_size=2
).map(tuple)
TRANSCRIPTS = st.builds(
    Transcript,
    key=st.text(),
    text=st.text(),
    language=st.none() | st.text(),
    words=WORDS,
    segments=SEGMENTS,
    duration=SECONDS,
    confidence=st.none() | SHARE,
    status=st.sampled_from(["ok", "error"]),
    finish_reason=st.sampled_from([None, "stop", "length"]),
    warnings=WARNINGS,
    error=st.none() | st.text(),
    error_code=st.none() | st.sampled_from(get_args(ErrorCode)),
)


@given(TRANSCRIPTS)
def test_json_round_trip(transcript: Transcript) -> None:
    assert Transcript.from_json(transcript.to_json()) == transcript


@given(TRANSCRIPTS)
def test_pickling_loses_nothing(transcript: Transcript) -> None:
    whole = replace(transcript, words=tuple(itertools.chain(*(each.words or () for each in transcript.segments))))
    for each in (transcript, whole, *transcript.segments):
        assert pickle.loads(pickle.dumps(each)) == each
    assert copy.deepcopy(whole) == whole


def test_words_are_pickled_once_with_all_of_their_fields() -> None:
    """They are the largest part of what the process of a device sends."""
    first, second = Word("A", 0.5, 1.0, 0.75, channel=1), Word("B", 1.5, 2.0, 0.5, speaker="SPK0")
    segments = (Segment(0.5, 1.0, "A", (first,), 0.75), Segment(1.5, 2.0, "B", (second,), 0.5))
    whole = Transcript("a", "A B", words=(first, second), segments=segments)
    copied = pickle.loads(pickle.dumps(whole))
    assert copied == whole
    assert [each.words[0] is word for each, word in zip(copied.segments, copied.words, strict=True)] == [True] * 2
    alone = pickle.loads(pickle.dumps(replace(whole, segments=segments[:1])))
    assert (alone.words, alone.segments) == ((first, second), segments[:1])


@given(TRANSCRIPTS)
def test_json_is_one_line(transcript: Transcript) -> None:
    assert "\n" not in transcript.to_json()


def test_keys_are_the_attributes() -> None:
    transcript = Transcript("a", text="b")
    assert dict(transcript) == {key: getattr(transcript, key) for key in transcript}
    assert {"key", "text", "words", "warnings"} < set(transcript)
    assert transcript.get("text") == "b"
    assert transcript.get("speaker", "nobody") == "nobody"


def test_an_unknown_key_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no 'timestamp'; it has key, text"):
        Transcript("a")["timestamp"]


def test_every_kind_of_error_has_a_code_of_its_own_that_gives_it_back() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ASRError)]
    assert {kind.code for kind in kinds} == set(get_args(ErrorCode))
    for kind in kinds:
        found = Transcript.from_json(Transcript.failed("a", kind("why")).to_json()).exception()
        assert (type(found), str(found)) == (kind, "why")
        assert re.search(rf"{kind.__name__} +{kind.code} ", errors.__doc__ or "")


def test_a_code_that_is_not_known_is_some_error() -> None:
    later = Transcript.from_dict({"key": "a", "status": "error", "error": "why", "error_code": "too_green"})
    assert type(later.exception()) is ASRError
    assert type(Transcript("a", status="error").exception()) is ASRError
    assert Transcript("a").exception() is None


def test_its_repr_is_one_short_line() -> None:
    assert repr(Transcript("a", text="Hi.")) == "Transcript(key='a', text='Hi.', status='ok')"
    failed = Transcript.failed("a\nb", PromptTooLongError("x" * 500))
    assert repr(failed) == f"Transcript(key='a\\nb', text='', status='error', error='{'x' * 59}…')"
    long = Transcript("k", text="x" * 10_000, words=(Word("x", 0.0, 1.0, 0.1234567890123456),) * 100)
    assert len(repr(long)) < 120


def test_the_repr_of_a_segment_is_one_short_line() -> None:
    words = (Word("Hi", 1 / 3, 2 / 3, 0.123456789),) * 100
    assert repr(Segment(1 / 3, 2.0, "Hi.", words, None)) == "Segment(0.33-2.00 s, 'Hi.', 100 words)"
    assert (
        repr(Segment(0.0, 2.0, "Hi.", None, None, speaker="Ana")) == "Segment(0.00-2.00 s, 'Ana', 'Hi.', no word times)"
    )


def test_the_file_is_in_no_json_and_makes_no_difference() -> None:
    transcript = Transcript("a", source=Path("secret/a.wav"))
    assert "secret" not in transcript.to_json()
    assert Transcript.from_json(transcript.to_json()) == transcript


def test_a_channel_is_written_where_there_is_one() -> None:
    words = (Word("a", 0.0, 1.0, 0.5, channel=1), Word("b", 1.0, 2.0, 0.5))
    transcript = Transcript("k", "a b", words=words)
    assert [("channel" in word) for word in transcript.to_dict()["words"]] == [True, False]
    assert Transcript.from_json(transcript.to_json()) == transcript
