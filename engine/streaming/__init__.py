"""Live audio -> text while it is spoken.

session.py has the sessions and their rules; events.py what they say; audio.py what they take; text.py what of a text is
confirmed; sdk.py FunASR's streaming SDK over them.
"""

from .audio import PCM, PCMReader, samples_of
from .events import Event, Final, Partial, TextSoFar
from .session import AsyncStreamingSession, LiveOptions, StreamingSession

__all__ = [
    "PCM",
    "AsyncStreamingSession",
    "Event",
    "Final",
    "LiveOptions",
    "PCMReader",
    "Partial",
    "StreamingSession",
    "TextSoFar",
    "samples_of",
]
