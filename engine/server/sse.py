"""Stream the text while it is decoded, as server-sent events."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from typing import Any, Protocol, TypeVar

from starlette.responses import StreamingResponse

from ..errors import ASRError
from ..run_options import TranscribeOptions
from ..transcript import Transcript
from ..vad.splitting import Piece
from . import formats
from .failures import refusal_of
from .recognizer import Recognizer

News = TypeVar("News")


class EventForm(Protocol):
    """How a protocol writes its events."""

    def first(self) -> list[dict[str, Any]]:
        """The events before any text."""

    def delta(self, new_text: str) -> dict[str, Any]: ...

    def done(self, transcript: Transcript) -> list[dict[str, Any]]:
        """The events after the last delta."""


class TextStream:
    """OpenAI's transcript.text.delta and transcript.text.done, with the `choices` that clients of vLLM read."""

    def first(self) -> list[dict[str, Any]]:
        return []

    def delta(self, new_text: str) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"content": new_text}, "finish_reason": None}
        return {"type": "transcript.text.delta", "delta": new_text, "choices": [choice]}

    def done(self, transcript: Transcript) -> list[dict[str, Any]]:
        return [{"type": "transcript.text.done", **formats.plain(transcript), "choices": []}]


class DiarizedStream(TextStream):
    """The same, with a transcript.text.segment for each segment before the end, when all voices have been heard."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = known

    def done(self, transcript: Transcript) -> list[dict[str, Any]]:
        return [*formats.diarized_segments(transcript, known=self._known), *super().done(transcript)]


def event_stream(
    recognizer: Recognizer, form: EventForm, recording: Piece, options: TranscribeOptions
) -> StreamingResponse:
    """The streaming response. Its deltas, joined, are the text, unless a text that loops is decoded once more."""
    return StreamingResponse(
        _events(recognizer, form, recording, options),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache"},
    )


def texts(recognizer: Recognizer, recording: Piece, options: TranscribeOptions) -> AsyncIterator[str | Transcript]:
    """The text so far whenever it has grown, and at the end the transcript. Raises ASRError.

    While a client does not read, the texts between are left out: together they can be larger than the memory.
    """
    return followed(lambda tell: recognizer.transcribe(recording, options, on_text=tell), only_newest=True)


async def followed(
    start: Callable[[Callable[[News], None]], Coroutine[Any, Any, Transcript]], *, only_newest: bool = False
) -> AsyncIterator[News | Transcript]:
    """What a transcription tells while it goes on, and at the end the transcript. Raises ASRError.

    With `only_newest`, what is told replaces what was told before and has not been taken yet.
    """
    untaken: deque[News] = deque(maxlen=1 if only_newest else None)
    changed = asyncio.Event()

    def tell(news: News) -> None:
        untaken.append(news)
        changed.set()

    task = asyncio.create_task(start(tell))
    task.add_done_callback(lambda _: changed.set())
    try:
        while untaken or not task.done():
            if untaken:
                yield untaken.popleft()
            else:
                changed.clear()
                await changed.wait()
        yield await task
    finally:
        task.cancel()  # has an effect only if the client has disconnected


async def _events(
    recognizer: Recognizer, form: EventForm, recording: Piece, options: TranscribeOptions
) -> AsyncIterator[bytes]:
    sent = ""
    for event in form.first():
        yield _event(event)
    try:
        async for news in texts(recognizer, recording, options):
            text = news.text if isinstance(news, Transcript) else news
            if text.startswith(sent) and len(text) > len(sent):
                yield _event(form.delta(text[len(sent) :]))
                sent = text
            if isinstance(news, Transcript):
                for event in form.done(news):
                    yield _event(event)
    except ASRError as error:
        yield _event({"type": "error", **refusal_of(error).body})
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
