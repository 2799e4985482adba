"""Transcript -> HTML for notebooks: the audio, words that seek in it, speakers and warnings.

The piece of HTML stands alone: it has no script, loads nothing from anywhere, and all text in it is escaped.
"""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ..transcript import Segment, Transcript, Word

MAX_AUDIO_BYTES = 4 << 20  # larger files would make notebooks slow to load and save
MAX_SEGMENTS = 300  # that are shown
LOW_CONFIDENCE = 0.5  # words below it are marked
# What browsers play.
_TYPES = {
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".mp4": "audio/mp4",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".webm": "audio/webm",
}
# A click on anything that has a time plays from there.
_SEEK = (
    "const at=event.target.closest('[data-at]'),audio=this.querySelector('audio');"
    "if(at&&audio){audio.currentTime=+at.dataset.at;audio.play()}"
)
_MARK = "text-decoration:underline dotted"


def transcript_html(transcript: Transcript) -> str:
    """A `<div>` that shows the transcript."""
    return f'<div onclick="{escape(_SEEK)}" style="max-width:60em;line-height:1.6">{"".join(_parts(transcript))}</div>'


def _parts(transcript: Transcript) -> Iterator[str]:
    facts = [f"{transcript.duration:.2f} s", transcript.language]
    if transcript.confidence is not None:
        facts.append(f"confidence {transcript.confidence:.2f}")
    yield f"<div><b>{escape(transcript.key)}</b> <small>{escape(' · '.join(filter(None, facts)))}</small></div>"
    if transcript.status == "error":
        yield f"<div>⛔ {escape(transcript.error or '')}</div>"
        return
    yield _audio(transcript.source)
    yield from map(_segment, transcript.segments[:MAX_SEGMENTS])
    if not transcript.segments:
        yield f"<p>{escape(transcript.text) or '<i>no speech</i>'}</p>"
    if (num_left := len(transcript.segments) - MAX_SEGMENTS) > 0:
        yield f"<p><i>{num_left} more segments are not shown; the transcript has them</i></p>"
    for warning in transcript.warnings:
        yield f"<div>⚠️ {escape(warning.code)}: {escape(warning.message)}</div>"


def _audio(source: Path | None) -> str:
    """A player with the file inside; why there is none, if the file cannot be played; nothing if there is no file."""
    kind = None if source is None else _TYPES.get(source.suffix.lower())
    if source is None:
        return ""
    try:
        size = source.stat().st_size
        if kind is None or size > MAX_AUDIO_BYTES:
            reason = f"{size / 1e6:.1f} MB" if kind else "browsers do not play it"
            return f"<div><small>{escape(str(source))} is not shown: {reason}</small></div>"
        content = base64.b64encode(source.read_bytes()).decode()
    except OSError as error:
        return f"<div><small>{escape(str(source))} is not shown: {escape(str(error.strerror))}</small></div>"
    return f'<audio controls preload="metadata" style="width:100%" src="data:{kind};base64,{content}"></audio>'


def _segment(segment: Segment) -> str:
    speaker = "" if segment.speaker is None else f"<b>{escape(segment.speaker)}:</b> "
    time = f'<button data-at="{segment.start:.3f}" title="play from here">{_clock(segment.start)}</button>'
    return f"<p>{time} {speaker}{''.join(_marked(segment.text, segment.words or ()))}</p>"


def _marked(text: str, words: Sequence[Word]) -> Iterator[str]:
    """The text, in which each word that has a time can be clicked. A word that the text does not show is left out."""
    place = 0
    for word in words:
        found = text.find(word.text, place) if word.text else -1
        if found < 0:
            continue
        yield escape(text[place:found])
        place = found + len(word.text)
        title = f"{word.start:.2f} to {word.end:.2f} s, confidence {word.confidence:.2f}"
        mark = f";{_MARK}" if word.confidence < LOW_CONFIDENCE else ""
        yield (
            f'<span data-at="{word.start:.3f}" title="{title}" style="cursor:pointer{mark}">{escape(word.text)}</span>'
        )
    yield escape(text[place:])


def _clock(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}" if minutes >= 60 else f"{minutes}:{s:02d}"
