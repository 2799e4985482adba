"""A server over the fake model: every protocol in milliseconds, with texts that grow as the audio does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from tests.engine.server.conftest import Running, running
from tests.engine.streaming.scripted import LoudIsSpeech
from tests.fake_decoder import FakeDecoder
from tests.fake_model import FRAME_SAMPLES, HIDDEN_SIZE, fake_transcriber
from twostage_asr.engine.errors import QueueFullError
from twostage_asr.engine.server import commands
from twostage_asr.engine.streaming import AsyncStreamingSession, Event

SUFFIX_ROWS = 1  # of the fake family's prompt, behind the audio
TOKEN_SAMPLES = 8 * FRAME_SAMPLES  # of audio, to which the model writes a word


def words_of(num_samples: int) -> str:
    """What the model writes to so much speech at 16 kHz: a word for each of its tokens."""
    return " ".join(f"w{i}" for i in range(-(-num_samples // TOKEN_SAMPLES)))


def count_words(prompt: Tensor) -> list[int]:
    """The decoder's rule; what follows the suffix is the beginning of the answer, which it goes on from."""
    is_audio = prompt.abs().sum(1) != 0
    text = " ".join(f"w{i}" for i in range(int(is_audio.sum())))
    given = len(prompt) - 1 - int(is_audio.nonzero().max()) - SUFFIX_ROWS
    return list(text.encode())[given:]


def pcm(*seconds: float, rate: int = 16_000) -> bytes:
    """16-bit PCM of speech, silence, speech, ... of these lengths."""
    parts = [np.full(round(s * rate), 3276 * (1 - i % 2), "<i2") for i, s in enumerate(seconds)]
    return np.concatenate(parts).tobytes()


@contextmanager
def fake_running(directory: Path, **settings: Any) -> Iterator[Running]:
    """Its live sessions confirm each partial, and take what is not silent for speech."""
    decoder = FakeDecoder(count_words, hidden_size=HIDDEN_SIZE)
    model: Any = SimpleNamespace(transcriber=fake_transcriber(directory, decoder=decoder))
    with running(model, **settings) as server:
        live = server.recognizer.live
        server.recognizer.live = replace(live, vad=LoudIsSpeech(), rollback_chars=0, agreeing_partials=1)
        yield server
    model.transcriber.close()


@contextmanager
def full_until_the_end(server: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The service takes nothing until a live stream has been finished in vain."""
    service, is_full = server.recognizer.service, True
    submit, finish = service.submit, AsyncStreamingSession.finish

    def refusing(*args: Any, **options: Any) -> Any:
        if is_full:
            raise QueueFullError("many clips are waiting already")
        return submit(*args, **options)

    async def finish_in_vain(stream: AsyncStreamingSession) -> list[Event]:
        nonlocal is_full
        try:
            return await finish(stream)
        finally:
            is_full = False

    with monkeypatch.context() as patch:
        patch.setattr(service, "submit", refusing)
        patch.setattr(AsyncStreamingSession, "finish", finish_in_vain)
        patch.setattr(commands, "BUSY_WAIT_S", 0.01)
        yield
    assert not is_full
