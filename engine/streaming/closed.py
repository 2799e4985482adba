"""A segment of live audio that waits for its final.

The audio of a final is known before silence has closed the segment: what follows its speech is left out. So it is
decoded a little earlier, and the final is there at once. If somebody goes on speaking meanwhile, the answer is dropped.
"""

from concurrent.futures import Future
from dataclasses import dataclass

from ..audio.waveform import Waveform
from ..errors import QueueFullError
from ..speakers.model import Embeddings
from ..transcript import Transcript
from ..vad import SpeechSpan


@dataclass(slots=True, eq=False)
class Closed:
    """A segment that is closed, or that silence is about to close."""

    span: SpeechSpan
    audio: Waveform
    future: Future[Transcript] | None = None  # None until the service has taken it
    voices: Future[Embeddings] | None = None  # None unless somebody asks for speakers

    @property
    def is_asked_for(self) -> bool:
        """Whether the service has taken it. A service in another process says late that it is too busy."""
        future = self.future
        return future is not None and not (future.done() and isinstance(future.exception(), QueueFullError))

    def drop(self) -> None:
        """Drop what is being computed of it."""
        for future in (self.future, self.voices):
            if future is not None:
                future.cancel()
