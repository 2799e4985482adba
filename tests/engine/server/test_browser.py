"""The web page and client_mic.html in headless Chromium: the right text on the page, from a file and a microphone."""

import asyncio
import base64
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.audio_clips import encode
from tests.engine.server.browser import Page, open_page
from tests.engine.server.conftest import Running, running
from tests.engine.server.requests_of_clients import wav, waveform
from tests.fake_model import fake_transcriber, samples
from tests.fake_voices import FakeVoices
from tests.paths import ROOT
from tests.pipeline import Clip
from twostage_asr.engine import AutoModelVLLM

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

DROP = """
(() => {{
  const bytes = Uint8Array.from(atob("{content}"), c => c.charCodeAt(0)), files = new DataTransfer();
  files.items.add(new File([bytes], "a.wav", {{ type: "audio/wav" }}));
  document.getElementById("file").files = files.files;
  document.getElementById("file").onchange();
}})()
"""
SAVED = """
(async () => {
  let saved;
  URL.createObjectURL = blob => { saved = blob; return "#"; };
  saveSrt();
  return await saved.text();
})()
"""


@pytest.fixture(scope="module")
def server(vllm_model: AutoModelVLLM) -> Iterator[Running]:
    """Pages from the disk may connect to it. Its speaker model hears one voice in everything."""
    speakers: Any = FakeVoices(lambda waveform: 0)
    model = SimpleNamespace(transcriber=replace(vllm_model.transcriber, speakers=speakers))
    with running(model, cors_origins=("null",)) as server:
        yield server


@pytest.fixture(scope="module")
def clip(clips: list[Clip]) -> Clip:
    return next(clip for clip in clips if clip["key"] == "en_07")


@pytest.fixture
def microphone(clip: Clip, tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    path.write_bytes(wav(clip))
    return path


async def listen(page: Page, clip: Clip, stop: str) -> None:
    """Press the microphone's button, let the clip be spoken, and press stop."""
    await page.run("document.getElementById('mic').click()")
    await asyncio.sleep(len(waveform(clip)) / 16_000 + 2.0)
    await page.run(f"document.getElementById('{stop}').click()")


def test_a_file_on_the_page(server: Running, clip: Clip, microphone: Path, tmp_path: Path) -> None:
    async def drop() -> None:
        assert CHROMIUM is not None
        async with open_page(CHROMIUM, f"{server.http}/", microphone, tmp_path) as page:
            await page.run(DROP.format(content=base64.b64encode(wav(clip)).decode()))
            await page.wait_for("!document.getElementById('srt').disabled")
            assert (await page.run("document.getElementById('text').innerText")).strip() == clip["text"]
            assert await page.run("document.querySelectorAll('#text span').length") == len(clip["text"].split())
            assert await page.run("samples.length > 16000 && shown.words.every(w => w.end > w.start)")

    asyncio.run(drop())


def test_speakers_on_the_page_can_be_renamed_with_the_keyboard(tmp_path: Path, microphone: Path) -> None:
    """The new name stands in the text and in the file that is saved; Escape keeps the old one."""
    talk = np.concatenate([samples(number, 4.0) for number in (5, 9)])
    content = base64.b64encode(encode(talk, 16_000, "WAV", "PCM_16")).decode()
    shown = "[...document.querySelectorAll('.turn button')].map(button => button.innerText)"
    colours = "new Set([...document.querySelectorAll('.turn button')].map(each => getComputedStyle(each).color)).size"

    async def rename(server: Running) -> None:
        assert CHROMIUM is not None
        async with open_page(CHROMIUM, f"{server.http}/", microphone, tmp_path) as page:
            await page.run("document.getElementById('who').click()")
            await page.run(DROP.format(content=content))
            await page.wait_for("document.querySelectorAll('.turn').length === 2")
            assert await page.run(shown) == ["SPK0", "SPK1"] and await page.run(colours) == 2
            await page.run("document.querySelector('.turn button').focus()")
            await page.press("Enter")
            await page.write("Ana")
            await page.press("Enter")
            assert await page.run(shown) == ["Ana", "SPK1"]
            assert await page.run("document.activeElement.innerText") == "Ana"
            await page.press("Enter")
            await page.write("Ben")
            await page.press("Escape")
            assert await page.run(shown) == ["Ana", "SPK1"]
            written = await page.run(SAVED)
            assert "\nAna: " in written and "\nSPK1: " in written and "SPK0" not in written

    with running(SimpleNamespace(transcriber=fake_transcriber(tmp_path))) as server:
        asyncio.run(rename(server))


def test_the_microphone_on_the_page(server: Running, clip: Clip, microphone: Path, tmp_path: Path) -> None:
    async def speak() -> None:
        assert CHROMIUM is not None
        async with open_page(CHROMIUM, f"{server.http}/", microphone, tmp_path) as page:
            await page.run("document.getElementById('who').click()")
            await listen(page, clip, "mic")
            await page.wait_for("document.getElementById('status').innerText === 'done'")
            assert (await page.run("document.getElementById('text').innerText")).split() == [
                "SPK0",
                *clip["text"].split(),
            ]

    asyncio.run(speak())


def test_client_mic(server: Running, clip: Clip, microphone: Path, tmp_path: Path) -> None:
    async def speak() -> None:
        assert CHROMIUM is not None
        url = (ROOT / "demos" / "client_mic.html").as_uri()
        async with open_page(CHROMIUM, url, microphone, tmp_path) as page:
            await page.run(f"document.getElementById('server').value = '{server.ws}'")
            await listen(page, clip, "stop")
            await page.wait_for("document.getElementById('status').innerText === 'stopped'")
            items = "[...document.querySelectorAll('#sentences li')].map(item => item.innerText)"
            assert " ".join(await page.run(items)) == clip["text"]

    asyncio.run(speak())
