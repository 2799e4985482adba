"""Transcript: attribute and key access agree, and JSON loses nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twostage_asr.engine import Segment, Transcript, TranscriptWarning, Word

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
)


@given(TRANSCRIPTS)
def test_json_round_trip(transcript: Transcript) -> None:
    assert Transcript.from_json(transcript.to_json()) == transcript


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


def test_a_channel_is_written_where_there_is_one() -> None:
    words = (Word("a", 0.0, 1.0, 0.5, channel=1), Word("b", 1.0, 2.0, 0.5))
    transcript = Transcript("k", "a b", words=words)
    assert [("channel" in word) for word in transcript.to_dict()["words"]] == [True, False]
    assert Transcript.from_json(transcript.to_json()) == transcript
