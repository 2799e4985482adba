"""What clients send: clips as WAV files and as PCM, and a clip of the fake model."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import requests

from tests.audio_clips import encode
from tests.fake_model import samples
from tests.pipeline import Clip
from twostage_asr.engine.audio.decode import Waveform, decode_audio

if TYPE_CHECKING:
    from tests.engine.server.conftest import Running

CHUNK = 1600  # samples: 100 ms
FAKE_WAV = encode(samples(7), 16_000, "WAV", "PCM_16")  # clip 7
FAKE_BASE64 = base64.b64encode(FAKE_WAV).decode()


def plain(clips: list[Clip]) -> list[Clip]:
    """Clips whose text needs neither hotwords nor spoken numbers."""
    return [clip for clip in clips if clip["itn"] and not clip["hotwords"] and clip["text"]]


def waveform(clip: Clip) -> Waveform:
    return decode_audio(Path(clip["source"]))


def wav(clip: Clip) -> bytes:
    return encode(waveform(clip), 16_000, "WAV", "PCM_16")


def pcm16(clip: Clip) -> bytes:
    samples: np.ndarray = np.clip(waveform(clip) * 32768, -32768, 32767).astype("<i2")
    return samples.tobytes()


def transcribe_fake(server: "Running", path: str = "/v1/audio/transcriptions", /, **fields: Any) -> requests.Response:
    """Send clip 7 with these fields of the form."""
    return requests.post(server.http + path, files={"file": ("a.wav", FAKE_WAV)}, data=fields, timeout=60)
