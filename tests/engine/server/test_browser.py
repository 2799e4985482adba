"""The web page and client_mic.html in headless Chromium: what is shown, heard, corrected and saved."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
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
from tests.pipeline import Clip, read_manifest
from twostage_asr.engine import AutoModelVLLM

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

Visit = Callable[[str, Callable[[Page], Awaitable[None]]], None]

STATES = "[...document.querySelectorAll('#queue li')].map(row => row.dataset.state)"
TEXT = "document.querySelector('#text').textContent"
NAMES = "[...document.querySelectorAll('.name')].map(button => button.textContent)"
SAVED = """
(async () => {{
  const saved = new Promise(resolve => {{ URL.createObjectURL = blob => {{ resolve(blob); return "#"; }}; }});
  document.querySelector('[data-format="{format}"]').click();
  return await (await saved).text();
}})()
"""


def speech(*numbers: int, seconds: float = 4.0) -> bytes:
    """A WAV file for the fake model, which hears one voice in each of these parts."""
    return encode(np.concatenate([samples(number, seconds) for number in numbers]), 16_000, "WAV", "PCM_16")


@pytest.fixture(scope="module")
def server(vllm_model: AutoModelVLLM) -> Iterator[Running]:
    """Pages from the disk may connect to it. Its speaker model hears one voice in everything."""
    speakers: Any = FakeVoices(lambda waveform: 0)
    model = SimpleNamespace(transcriber=replace(vllm_model.transcriber, speakers=speakers))
    with running(model, cors_origins=("null",)) as server:
        yield server


@pytest.fixture(scope="module")
def clip() -> Clip:
    """A natural voice's."""
    clips = read_manifest(ROOT / "demos" / "micro" / "clips" / "manifest.jsonl")
    return next(clip for clip in clips if clip["key"] == "en_natural")


@pytest.fixture(scope="module")
def visit(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """Opens a page and lets a reader use it. All pages share one browser, whose microphone hears the clip."""
    assert CHROMIUM is not None
    directory = tmp_path_factory.mktemp("browser")
    microphone = directory / "speech.wav"
    microphone.write_bytes(wav(clip))
    with asyncio.Runner() as runner:
        opening = open_page(CHROMIUM, "about:blank", microphone, directory)
        page = runner.run(opening.__aenter__())

        async def use(url: str, reader: Callable[[Page], Awaitable[None]]) -> None:
            await page.open(url)
            await page.look(1280)
            if url.startswith("http"):
                await page.wait_for("'ready' in document.documentElement.dataset")
            try:
                await reader(page)
            finally:
                if url.startswith("http"):
                    await page.run("localStorage.clear()")  # the next reader finds the options as they are at first

        yield lambda url, reader: runner.run(use(url, reader))
        runner.run(opening.__aexit__(None, None, None))


async def add(page: Page, files: dict[str, bytes]) -> None:
    """Choose files, and wait until each is done or has failed."""
    await page.choose(files)
    await page.wait_for(f"{STATES}.length >= {len(files)} && {STATES}.every(s => ['done', 'failed'].includes(s))")


async def listen(page: Page, clip: Clip, stop: str) -> None:
    """Press the microphone's button, let the clip be spoken, and press stop."""
    await page.run("document.getElementById('mic').click()")
    await asyncio.sleep(len(waveform(clip)) / 16_000 + 2.0)
    await page.run(f"document.getElementById('{stop}').click()")


def test_a_file_on_the_page(server: Running, clip: Clip, visit: Visit) -> None:
    async def read(page: Page) -> None:
        await add(page, {"a.wav": wav(clip)})
        assert (await page.run("document.querySelector('#text p').textContent")).strip() == clip["text"]
        assert await page.run("document.querySelectorAll('#text .w').length") == len(clip["text"].split())
        srt = await page.run(SAVED.format(format="srt"))
        lines = [line for cue in srt.split("\n\n") for line in cue.splitlines()[2:]]
        assert " --> " in srt and " ".join(lines) == clip["text"]

    visit(f"{server.http}/", read)


def test_several_files_each_have_their_own_text_or_error(faked: Running, visit: Visit) -> None:
    """A bad file shows its error in words, and leaves nothing of another file's text, player or exports."""
    hidden = "['text', 'player', 'save', 'copy', 'finder', 'trouble'].map(id => document.getElementById(id).hidden)"

    async def read(page: Page) -> None:
        await add(page, {"five.wav": speech(5), "bad.mp3": b"no audio" * 99, "nine.wav": speech(9)})
        assert await page.run(STATES) == ["done", "failed", "done"]
        assert "clip 5." in await page.run(TEXT)
        assert await page.run(hidden) == [False, False, False, False, False, True]
        await page.run("document.querySelectorAll('.pick')[1].click()")
        assert await page.run(hidden) == [True, True, True, True, True, False]
        assert "not audio" in await page.run("document.getElementById('trouble').innerText")
        assert "clip" not in await page.run("document.querySelector('#text').textContent")
        await page.run("document.querySelectorAll('.pick')[2].click()")
        assert "clip 9." in await page.run(TEXT)
        await page.run("document.querySelectorAll('#queue .quiet').forEach(button => button.click())")
        assert await page.run(STATES) == [] and not await page.run("document.getElementById('empty').hidden")

    visit(f"{faked.http}/", read)


def test_every_file_that_is_too_large_is_named_and_a_live_server_takes_none(tmp_path: Path, visit: Visit) -> None:
    said = "document.getElementById('trouble-adding').innerText"

    async def read(page: Page) -> None:
        await page.choose({"one.wav": b"x" * 2_000, "two.wav": b"x" * 3_000})
        told = await page.run(said)
        assert "one.wav has 1 MB" in told and "two.wav has 1 MB" in told and await page.run(STATES) == []

    async def drop(page: Page) -> None:
        await page.choose({"one.wav": b"x"})
        assert "takes no files" in await page.run(said) and await page.run(STATES) == []

    model: Any = SimpleNamespace(transcriber=fake_transcriber(tmp_path))
    with running(model, max_body_bytes=1_000) as server:
        visit(f"{server.http}/", read)
    with running(model, offline=False) as server:
        visit(f"{server.http}/", drop)


def test_a_key_that_cannot_be_sent_live_is_said_and_the_microphone_is_let_go(faked: Running, visit: Visit) -> None:
    async def speak(page: Page) -> None:
        await page.run("document.getElementById('key').value = 'a/b='")
        for _ in range(2):
            await page.run("document.getElementById('trouble-adding').textContent = ''")
            await page.run("document.getElementById('mic').click()")
            await page.wait_for("!document.getElementById('mic').disabled")
            assert "letters, digits" in await page.run("document.getElementById('trouble-adding').innerText")
            assert await page.run("document.getElementById('mic').textContent") == "● Speak"

    visit(f"{faked.http}/", speak)


def test_names_and_texts_never_become_markup(faked: Running, visit: Visit) -> None:
    """Of a file, its error, a speaker and a word: they are shown as they are."""
    markup = "<img src=x onerror=alert(1)>"

    async def read(page: Page) -> None:
        await page.run("document.getElementById('who').click()")
        await add(page, {f"{markup}.mp3": b"no audio" * 99, f"{markup}.wav": speech(5)})
        assert markup in await page.run("document.getElementById('view').innerText")
        await page.run("document.querySelectorAll('.pick')[1].click()")
        for element, key in (("#text .w", "F2"), (".name", "Enter")):
            await page.run(f"document.querySelector('{element}').focus()")
            await page.press(key)
            await page.write(markup)
            await page.press("Enter")
        assert await page.run(NAMES) == [markup] and (await page.run(TEXT)).count(markup) == 2
        tags = ", ".join(f"#{place} {tag}" for place in ("files", "view", "status") for tag in ("img", "script"))
        assert await page.run(f"document.querySelectorAll('{tags}').length") == 0

    visit(f"{faked.http}/", read)


def test_a_word_seeks_the_audio_and_the_word_that_is_heard_is_lit(faked: Running, visit: Visit) -> None:
    async def read(page: Page) -> None:
        await add(page, {"five.wav": speech(5)})
        await page.run("document.querySelectorAll('#text .w')[1].click()")
        assert 2.0 <= await page.run("document.getElementById('audio').currentTime") < 3.0
        assert not await page.run("document.getElementById('audio').paused")
        assert await page.run("document.querySelector('.now').textContent") == "5"
        await page.run("document.getElementById('play').click()")
        await page.run("document.getElementById('wave').focus()")
        for key in ("Home", "ArrowRight"):
            await page.press(key)
        assert await page.run("document.getElementById('audio').currentTime") == 4.0
        assert await page.run("document.getElementById('wave').getAttribute('aria-valuetext')") == "0:04 of 0:04"
        await page.run("document.getElementById('zoom-in').click()")
        assert not await page.run("document.getElementById('pan').hidden")

    visit(f"{faked.http}/", read)


def test_a_corrected_word_is_in_every_file_that_is_saved(faked: Running, visit: Visit) -> None:
    """With the keyboard alone. Escape keeps the old word; search finds the new one."""

    async def read(page: Page) -> None:
        await add(page, {"talk.wav": speech(5)})
        await page.run("document.querySelector('#text .w').focus()")
        for key in ("F2", "Escape", "ArrowRight", "F2"):
            await page.press(key)
        await page.write("fünf")
        await page.press("Enter")
        assert "clip fünf." in await page.run(TEXT)
        assert await page.run("document.activeElement.textContent") == "fünf"
        for form in ("txt", "srt", "vtt", "ass", "json", "ctm", "TextGrid"):
            assert "fünf" in await page.run(SAVED.format(format=form)), form
        saved = json.loads(await page.run(SAVED.format(format="json")))
        assert saved["text"] == "clip fünf." and [word["text"] for word in saved["words"]] == ["clip", "fünf"]
        await page.run("document.getElementById('search').focus()")
        await page.write("FÜNF")
        await page.press("Enter")
        assert await page.run("document.getElementById('found').innerText") == "1 of 1"

    visit(f"{faked.http}/", read)


def test_a_double_click_corrects_the_word_that_was_clicked(faked: Running, visit: Visit) -> None:
    """The first click plays the word, and must not move the text from under the second."""

    async def read(page: Page) -> None:
        await add(page, {"talk.wav": speech(5)})
        await page.double_click("document.querySelector('#text .w')")
        assert await page.run("document.getElementById('audio').paused")
        await page.write("Clap")
        await page.press("Enter")
        assert "Clap 5." in await page.run(TEXT)

    visit(f"{faked.http}/", read)


def test_speakers_on_the_page_can_be_renamed_with_the_keyboard(faked: Running, visit: Visit) -> None:
    """The new name stands in the text and in the file that is saved; Escape keeps the old one."""
    colours = "new Set([...document.querySelectorAll('.name')].map(each => getComputedStyle(each).color)).size"

    async def read(page: Page) -> None:
        await page.run("document.getElementById('who').click()")
        await add(page, {"talk.wav": speech(5, 9)})
        assert await page.run(NAMES) == ["SPK0", "SPK1"] and await page.run(colours) == 2
        await page.run("document.querySelector('.name').focus()")
        await page.press("Enter")
        await page.write("Ana")
        await page.press("Enter")
        assert await page.run(NAMES) == ["Ana", "SPK1"] and await page.run(colours) == 2
        assert await page.run("document.activeElement.textContent") == "Ana"
        await page.press("Enter")
        await page.write("Ben")
        await page.press("Escape")
        assert await page.run(NAMES) == ["Ana", "SPK1"]
        written = await page.run(SAVED.format(format="srt"))
        assert "\nAna: " in written and "\nSPK1: " in written and "SPK0" not in written
        assert "SPK0" not in await page.run(SAVED.format(format="rttm"))

    visit(f"{faked.http}/", read)


def test_a_server_with_keys_says_that_it_needs_one_and_takes_it(tmp_path: Path, visit: Visit) -> None:
    async def read(page: Page) -> None:
        assert "needs an API key" in await page.run("document.getElementById('trouble-adding').innerText")
        await page.run("document.getElementById('key').value = 'secret'")
        await page.run("document.getElementById('key').dispatchEvent(new Event('change'))")
        await page.wait_for("document.getElementById('language').options.length === 3")
        assert await page.run("document.getElementById('trouble-adding').hidden")
        await add(page, {"talk.wav": speech(5)})
        assert "clip 5." in await page.run(TEXT)

    with running(SimpleNamespace(transcriber=fake_transcriber(tmp_path)), api_keys=("secret",)) as server:
        visit(f"{server.http}/", read)


@pytest.mark.parametrize("is_dark", [False, True])
def test_nothing_is_wider_than_a_phone_and_the_colours_are_those_that_the_reader_likes(
    faked: Running, visit: Visit, is_dark: bool
) -> None:
    async def read(page: Page) -> None:
        await page.look(390, 844, is_dark=is_dark)
        fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert await page.run(fits)
        await page.run("document.getElementById('who').checked = true")
        await add(page, {"a_rather_long_name_of_a_recording_of_a_meeting.wav": speech(5, 9), "bad.mp3": b"no audio"})
        assert await page.run(fits)
        await page.run("document.querySelectorAll('.pick')[1].click()")
        assert await page.run(fits)
        await page.wait_for(f"document.documentElement.dataset.theme === '{'dark' if is_dark else 'light'}'")

    visit(f"{faked.http}/", read)


def test_live_captions_become_a_recording_that_can_be_heard(server: Running, clip: Clip, visit: Visit) -> None:
    async def speak(page: Page) -> None:
        await page.run("document.getElementById('who').click()")
        await listen(page, clip, "stop")
        await page.wait_for("document.querySelector('#queue li')?.dataset.state === 'done'")
        words = (await page.run("document.querySelector('#text p').textContent")).split()
        assert words == clip["text"].split() and await page.run(NAMES) == ["SPK0"]
        await page.wait_for("document.getElementById('audio').duration > 1.0")  # which the browser finds out later
        assert clip["text"].split()[0] in await page.run(SAVED.format(format="vtt"))

    visit(f"{server.http}/", speak)


def test_client_mic(server: Running, clip: Clip, visit: Visit) -> None:
    async def speak(page: Page) -> None:
        await page.run(f"document.getElementById('server').value = '{server.ws}'")
        await listen(page, clip, "stop")
        await page.wait_for("document.getElementById('status').innerText === 'stopped'")
        items = "[...document.querySelectorAll('#sentences li')].map(item => item.innerText)"
        assert " ".join(await page.run(items)) == clip["text"]

    visit((ROOT / "demos" / "client_mic.html").as_uri(), speak)
