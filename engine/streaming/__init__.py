"""Live audio -> text while it is spoken.

In: chunks of PCM. Out: Partial and Final events. Read session.py first: it has the sessions and their rules. events.py
defines the events, audio.py the input, and text.py where a text may be cut. sdk.py is FunASR's streaming
SDK over the sessions, and qwen.py is qwen-asr's streaming interface.
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
