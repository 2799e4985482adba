"""What of a live text may be confirmed, and transcripts that keep to it."""

from dataclasses import replace

from ..text import LLMTokenizer
from ..transcript import Segment, Transcript, TranscriptWarning, Word
from ..words import split_words


def token_prefix(tokenizer: LLMTokenizer, text: str, max_chars: int, *, drop_tokens: int = 0) -> str:
    """The longest beginning of `text`, of at most `max_chars` characters, that ends where one of its tokens ends.

    At least its last `drop_tokens` tokens are left out.

    Its own tokens are the first of the text's, so that an LLM can go on from it as it would have written the text.
    """
    token_ids = tokenizer.encode(text)
    for count in range(len(token_ids) - drop_tokens, 0, -1):
        prefix = tokenizer.decode(token_ids[:count])
        is_beginning = len(prefix) <= max_chars and text.startswith(prefix) and not prefix[-1:].isspace()
        if is_beginning and tokenizer.encode(prefix) == token_ids[:count]:
            return prefix
    return ""


def split_after(text: str, num_words: int) -> tuple[str, str]:
    """The text up to its word of this number, and the rest, which is empty if it has no more words."""
    words = split_words(text)
    if num_words >= len(words):
        return text, ""
    place = words[num_words].start
    return text[:place].rstrip(), text[place:]


def with_text(transcript: Transcript, text: str) -> Transcript:
    """The transcript with a text that was confirmed in place of its own, and its word times if they fit that."""
    words, warnings = transcript.words, transcript.warnings
    if words is not None and [word.text for word in words] != [word.text for word in split_words(text)]:
        words = None
        warnings += (TranscriptWarning("no_word_times", "the text was confirmed before all of it had been heard"),)
    start, end = (words[0].start, words[-1].end) if words else (0.0, transcript.duration)
    segments = (Segment(start, end, text, words, transcript.confidence),) if text else ()
    return replace(transcript, text=text, words=words, segments=segments, warnings=warnings)


def shifted(transcript: Transcript, seconds: float) -> Transcript:
    """With times that count from the start of the stream."""
    segments = tuple(
        replace(s, start=round(s.start + seconds, 3), end=round(s.end + seconds, 3), words=_later(s.words, seconds))
        for s in transcript.segments
    )
    return replace(transcript, words=_later(transcript.words, seconds), segments=segments)


def _later(words: tuple[Word, ...] | None, seconds: float) -> tuple[Word, ...] | None:
    if words is None:
        return None
    return tuple(replace(w, start=round(w.start + seconds, 3), end=round(w.end + seconds, 3)) for w in words)
