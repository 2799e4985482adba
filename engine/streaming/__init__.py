"""Live audio -> text while it is spoken.

In: chunks of PCM. Out: Partial and Final events. Read session.py first: it has the sessions and their rules. events.py
defines the events, audio.py the input, text.py where a text may be cut, and speakers.py who speaks. sdk.py is FunASR's
streaming SDK over the sessions, and qwen.py is qwen-asr's streaming interface.
"""

from ..speakers.labelling import relabelled
from .audio import PCM, PCMReader, samples_of
from .events import Event, Final, Partial, TextSoFar
from .session import AsyncStreamingSession, LiveOptions, StreamingSession
from .speakers import LiveSpeakers

__all__ = [
    "PCM",
    "AsyncStreamingSession",
    "Event",
    "Final",
    "LiveOptions",
    "LiveSpeakers",
    "PCMReader",
    "Partial",
    "StreamingSession",
    "TextSoFar",
    "relabelled",
    "samples_of",
]
