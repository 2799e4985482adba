"""Uploads that are on the disk are used from there."""

from collections.abc import Iterator

import pytest
import requests
from starlette.datastructures import UploadFile

from tests.audio_clips import encode
from tests.engine.server.conftest import Running
from tests.engine.server.fakes import fake_running, pcm
from twostage_asr.engine.streaming import samples_of

MIB = 1 << 20
SPEECH = pcm(3.0, 12.0, 3.0, rate=48_000)  # 1.7 MB
WAV = encode(samples_of(SPEECH), 48_000, "WAV", "PCM_16")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with fake_running(tmp_path_factory.mktemp("model")) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "part", "content", "description", "expected"),
    [
        ("/asr?output=json", "audio_file", WAV, None, "w0 w1"),
        ("/detect-language", "audio_file", WAV, None, '"language_code"'),
        ("/asr?output=json&encode=false", "audio_file", SPEECH + b"\0", None, '"duration": 54.0'),
        ("/detect-language?encode=false", "audio_file", SPEECH, None, '"language_code"'),
        ("/asr/predict", "audio", SPEECH, '{"media_type": "raw", "sample_rate": 24000, "channels": 2}', "w0 w1"),
    ],
)
def test_a_long_upload_is_never_read_as_a_whole(
    server: Running,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    part: str,
    content: bytes,
    description: str | None,
    expected: str,
) -> None:
    async def read(upload: UploadFile, size: int = -1) -> bytes:
        raise AssertionError(f"{upload.size:,} bytes are read at once")

    monkeypatch.setattr(UploadFile, "read", read)
    fields = {} if description is None else {"json": description}
    assert len(content) > MIB
    answer = requests.post(server.http + path, files={part: ("a.wav", content)}, data=fields, timeout=60)
    assert answer.status_code == 200, answer.text
    assert expected in answer.text
