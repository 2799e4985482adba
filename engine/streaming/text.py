"""Cut a live text where one of its tokens ends, and make transcripts keep to confirmed text.

What is confirmed is decided in session.py.
"""

from dataclasses import replace

from ..segments import shifted, shifted_word
from ..text import LLMTokenizer
from ..transcript import Segment, Transcript, TranscriptWarning
from ..words.split import split_words

_SENTENCE_ENDS = (".", "?", "!", "。", "？", "！", "؟", "।")
_AFTER_A_SENTENCE = " \n\"'”’»)）」』"  # space, closing quotation marks and brackets


def token_prefix(tokenizer: LLMTokenizer, text: str, max_chars: int, *, drop_tokens: int = 0) -> str:
    """The longest prefix of `text` that an LLM can continue as if it had written the prefix itself.

    It has at most `max_chars` characters and lacks at least the last `drop_tokens` tokens of the text. It ends where a
    token of the text ends, and its own tokenisation is a prefix of the text's.
    """
    token_ids = tokenizer.encode(text)
    for count in range(len(token_ids) - drop_tokens, 0, -1):
        prefix = tokenizer.decode(token_ids[:count])
        is_beginning = len(prefix) <= max_chars and text.startswith(prefix) and not prefix[-1:].isspace()
        if is_beginning and tokenizer.encode(prefix) == token_ids[:count]:
            return prefix
    return ""


def ends_sentence(text: str) -> bool:
    """Whether the text ends with a mark that ends sentences. Dots of omission are none: the speech goes on."""
    text = text.rstrip(_AFTER_A_SENTENCE)
    return text.endswith(_SENTENCE_ENDS) and not text.endswith("..")


def is_unspaced(text: str) -> bool:
    """Whether the last letter of the text is Chinese or Japanese, which have no spaces between words."""
    last = next((character for character in reversed(text) if character.isalpha()), "")
    return "\u2e80" <= last < "\uac00" or last >= "\U00020000"  # Korean, which has spaces, begins at \uac00


def split_after(text: str, num_words: int) -> tuple[str, str]:
    """The first `num_words` words of a text, and the rest of it."""
    words = split_words(text)
    if num_words >= len(words):
        return text, ""
    place = words[num_words].start
    return text[:place].rstrip(), text[place:]


def with_text(transcript: Transcript, text: str) -> Transcript:
    """The transcript with a confirmed text in place of its own; word times stay if they fit that text."""
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
    """The transcript of a segment that begins at `start` (s), with times from the start of the stream."""
    words = transcript.words and tuple(shifted_word(word, start) for word in transcript.words)
    return replace(transcript, words=words, segments=tuple(shifted(segment, start) for segment in transcript.segments))
