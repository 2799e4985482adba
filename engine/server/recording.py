"""A recording through the service: its segments a few at a time, and its text while they are written.

What a recording is and how its segments are joined is the offline loop's (engine/recordings.py). Only the pace is the
server's own: the offline loop reads no further than both stages have room, while a request has been read when it is
transcribed, must wait without blocking the event loop, and shares the service with others.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from ..model import ClipService
from ..recordings import Recording
from ..run_options import TranscribeOptions
from ..segments import Part, join_texts
from ..service import OnText
from ..transcript import Transcript
from ..vad.splitting import Cut, Piece
from .pace import Pace
from .speakers import RecordingSpeakers, offered

OnPart: TypeAlias = Callable[[tuple[int, Part]], None]  # the number of a segment, and its transcript

SEGMENTS_AT_ONCE = 32  # of one recording, so that others have their turn


class GrowingText:
    """The partial text of a recording whose segments are decoded in parallel.

    It ends with the partial text of the first unfinished segment, so that segments appear in order.
    """

    def __init__(self, num_segments: int, on_text: OnText | None) -> None:
        self._texts = [""] * num_segments
        self._num_finished = 0  # finished segments from the first on, without a gap
        self._is_finished = [False] * num_segments
        self._on_text = on_text
        self._loop = asyncio.get_running_loop()

    def listener(self, number: int) -> OnText | None:
        """The on_text callback for this segment, which the service calls in its own thread."""
        if self._on_text is None:
            return None

        def tell(text: str) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has been closed
                self._loop.call_soon_threadsafe(self._hear, number, text)

        return tell

    def finish(self, number: int, text: str) -> None:
        self._is_finished[number] = True
        self._hear(number, text)

    def _hear(self, number: int, text: str) -> None:
        self._texts[number] = text
        while self._num_finished < len(self._texts) and self._is_finished[self._num_finished]:
            self._num_finished += 1
        if self._on_text is not None and number <= self._num_finished:
            self._on_text(join_texts(self._texts[: self._num_finished + 1]))


async def transcribe_recording(
    service: ClipService,
    pace: Pace,
    audio: Piece,
    options: TranscribeOptions,
    on_text: OnText | None = None,
    speakers: RecordingSpeakers | None = None,
    on_part: OnPart | None = None,
) -> Transcript:
    """Transcribe the piece that is all of a recording; `on_text` is called on this event loop with the text so far.
    `on_part` is called there with each segment that is done, in any order.

    With `speakers`, the transcript says who speaks: segments are embedded while they are decoded.

    Cancelling the wait drops the work in both stages.
    """
    recording = Recording("audio", options.request.language)
    recording.add(audio)
    so_far = GrowingText(len(audio.cuts), on_text)
    room = asyncio.Semaphore(SEGMENTS_AT_ONCE)
    submit = partial(service.submit, options=replace(options, speakers=None), is_speech=not audio.is_whole)

    async def transcribe(number: int, cut: Cut) -> None:
        async with room:
            text = offered(
                lambda: submit(cut.waveform, on_text=so_far.listener(number)),
                waits=number > 0,  # before the first, nothing has been done yet: the client may come again
            )
            if speakers is None:
                transcript = await text
            else:
                transcript, _ = await asyncio.gather(text, speakers.hear(cut))
        await pace.turn()
        so_far.finish(number, transcript.text)
        part = Part(cut.start, transcript, cut.channel)
        recording.finish(part)
        if on_part is not None:
            on_part((number, part))

    tasks = [asyncio.create_task(transcribe(number, cut)) for number, cut in enumerate(audio.cuts)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    transcript = recording.transcript()
    return transcript if speakers is None else await speakers.named(transcript)
