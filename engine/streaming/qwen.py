"""qwen-asr's streaming interface over live sessions.

The names and their meaning are the package's, but the cost is not. The package decodes all audio again at each chunk,
which takes quadratic time. Here speech is cut into segments, and only the open one is decoded again.
"""

import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ConfigError, UnsupportedAudioError
from ..run_options import transcribe_options
from ..service import TranscriptionService
from ..transcriber import Transcriber
from ..vad import load_vad
from .events import Event, TextSoFar
from .session import LiveOptions, StreamingSession


@dataclass(slots=True, eq=False, weakref_slot=True)
class ASRStreamingState:
    """One stream, and its text so far."""

    session: StreamingSession | None  # None once the stream is finished
    language: str = ""  # the latest one that was detected; "" before that
    text: str = ""  # all text so far; its end may change
    so_far: TextSoFar = field(default_factory=TextSoFar)

    def add(self, events: list[Event]) -> None:
        self.so_far.add(events)
        self.text = self.so_far.text
        if events:
            self.language = events[-1].language or self.language


class QwenStreams:
    """The streams of one model, which share its service while any of them is open.

    A stream is open until it is finished, or until its state is garbage collected, after which nobody can finish it.
    """

    def __init__(self, transcriber: Transcriber, *, max_new_tokens: int) -> None:
        self._transcriber = transcriber
        self._max_new_tokens = max_new_tokens
        self._lock = threading.RLock()  # guards the two below: streams may be opened and finished in many threads
        self._service: TranscriptionService | None = None
        self._open: weakref.WeakSet[ASRStreamingState] = weakref.WeakSet()

    def start(
        self,
        *,
        context: str,
        language: str | None,
        unfixed_chunk_num: int,
        unfixed_token_num: int,
        chunk_size_sec: float,
    ) -> ASRStreamingState:
        """Open a stream. Raises ConfigError for a number out of range or an unknown language."""
        live = LiveOptions(
            vad=load_vad(),
            chunk_ms=1000 * chunk_size_sec,
            rollback_chars=0,
            rollback_tokens=unfixed_token_num,
            agreeing_partials=2,
            unfixed_partials=unfixed_chunk_num,
        )
        options = transcribe_options(
            language=language, context=context, timestamps=False, max_new_tokens=self._max_new_tokens
        )
        self._transcriber.family.prompt_text(options.request)
        with self._lock:
            if self._service is None:
                self._service = TranscriptionService(self._transcriber)
            state = ASRStreamingState(StreamingSession(self._service, options, live))
            self._open.add(state)
        return state

    def hear(self, pcm16k: Any, state: ASRStreamingState) -> None:
        """Push more audio: 16 kHz mono, any number of int16 samples or floats in [-1, 1]."""
        pcm = np.asarray(pcm16k)
        if pcm.dtype != np.int16 and pcm.dtype.kind != "f":
            raise UnsupportedAudioError(f"live audio is an array of int16 or floats, got {type(pcm16k).__name__}")
        pcm = pcm.reshape(-1)
        state.add(_session_of(state).push(pcm if pcm.dtype == np.int16 else pcm.astype(np.float32)))

    def finish(self, state: ASRStreamingState) -> None:
        """Add the rest of the text to the state. After the last open stream, `transcribe` can use the model again."""
        state.add(_session_of(state).finish())
        state.session = None
        with self._lock:
            self._open.discard(state)
            if not self._open:
                self.close()

    def require_none(self) -> None:
        """Free the model for `transcribe`. Raises ConfigError while a stream is open, because it uses the model."""
        with self._lock:
            if self._open:
                message = f"{len(self._open)} stream(s) are open; call finish_streaming_transcribe for each first"
                raise ConfigError(message)
            self.close()

    def close(self) -> None:
        """Drop all streams; idempotent."""
        with self._lock:
            self._open.clear()
            service, self._service = self._service, None
            if service is not None:
                service.close()


def _session_of(state: ASRStreamingState) -> StreamingSession:
    if state.session is None:
        raise ConfigError("this stream is finished; init_streaming_state gives a new one")
    return state.session
