"""What of a live text may be confirmed, and transcripts that keep to it."""

from dataclasses import replace

from ..segments import shifted, shifted_word
from ..text import LLMTokenizer
from ..transcript import Segment, Transcript, TranscriptWarning
from ..words.split import split_words


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
    if transcript.status == "error":
        warnings += (TranscriptWarning("segment_failed", f"only what was confirmed is known: {transcript.error}"),)
    elif words is not None and [word.text for word in words] != [word.text for word in split_words(text)]:
        words = None
        warnings += (TranscriptWarning("no_word_times", "the text was confirmed before all of it had been heard"),)
    start, end = (words[0].start, words[-1].end) if words else (0.0, transcript.duration)
    segments = (Segment(start, end, text, words, transcript.confidence),) if text else ()
    fine = replace(transcript, status="ok", error=None, error_code=None)
    return replace(fine, text=text, words=words, segments=segments, warnings=warnings)


def on_stream_time(transcript: Transcript, start: float) -> Transcript:
    """The transcript of a segment, with times that count from the start of the stream."""
    words = transcript.words and tuple(shifted_word(word, start) for word in transcript.words)
    return replace(transcript, words=words, segments=tuple(shifted(segment, start) for segment in transcript.segments))
