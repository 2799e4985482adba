"""Make the pictures of demos/page.md: the web page in headless Chromium, with the micro checkpoint and its clips.

python -m tests.engine.server.page_pictures demos/page
"""

import argparse
import asyncio
import base64
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import soundfile

from tests.engine.server.browser import Page, open_page
from tests.engine.server.conftest import Running, running
from tests.paths import CHECKPOINTS, CONVERSIONS, ROOT
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.server.page_content import ModelNote, PageContent, find_samples

CLIPS = ROOT / "demos" / "micro" / "clips"
DESK, PHONE = (1280, 800), (390, 844)
DONE = "[...document.querySelectorAll('#queue li')].every(row => ['done', 'failed'].includes(row.dataset.state))"
LISTEN_S = 9.0  # of the microphone's clip


async def _keep(page: Page, path: Path) -> None:
    answer = await page.call("Page.captureScreenshot", {"format": "webp", "quality": 85})
    path.write_bytes(base64.b64decode(answer["result"]["data"]))


async def _add(page: Page, *names: str) -> None:
    files = {name: (CLIPS / name).read_bytes() if (CLIPS / name).exists() else b"no audio" * 99 for name in names}
    await page.choose(files)
    await page.wait_for(f"document.querySelectorAll('#queue li').length >= {len(names)} && {DONE}")


async def _take(page: Page, directory: Path) -> None:
    await page.look(*DESK)
    await page.run("document.getElementById('options').open = true")
    await _keep(page, directory / "start.webp")
    await page.run("document.getElementById('options').open = false")
    await _add(page, "en_long.flac", "zh_hours.flac", "broken.mp3", "en_weather.flac")
    await page.run("document.querySelectorAll('#text .w')[9].click()")
    await asyncio.sleep(0.6)
    await page.run("document.getElementById('play').click()")
    await _keep(page, directory / "transcript.webp")
    await page.run("document.querySelectorAll('.pick')[2].click()")
    await _keep(page, directory / "error.webp")
    await page.look(*PHONE, is_dark=True)
    await page.run("document.querySelectorAll('.pick')[0].click()")
    await asyncio.sleep(0.3)
    await _keep(page, directory / "phone.webp")
    await page.look(*DESK, is_dark=True)
    await page.run("document.getElementById('mic').click()")
    await asyncio.sleep(LISTEN_S)
    await page.run("document.getElementById('full').click()")
    await asyncio.sleep(0.8)
    await _keep(page, directory / "live.webp")


@asynccontextmanager
async def _opened(server: Running, directory: Path) -> AsyncIterator[Page]:
    microphone = directory / "speech.wav"
    samples, rate = soundfile.read(CLIPS / "en_long.flac")
    soundfile.write(microphone, samples, rate, subtype="PCM_16")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    async with open_page(chromium, f"{server.http}/", microphone, directory) as page:
        await page.wait_for("'ready' in document.documentElement.dataset")
        yield page


async def _visit(server: Running, working: Path, directory: Path) -> None:
    async with _opened(server, working) as page:
        await _take(page, directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as working:  # Chromium still writes
        checkpoint = Path(working) / "checkpoint"
        shutil.copytree(CHECKPOINTS["low_frame_rate"], checkpoint, ignore=CONVERSIONS)
        content = PageContent(ModelNote.of(str(checkpoint)), find_samples(CLIPS))
        with (
            AutoModelVLLM(model=str(checkpoint), backend="torch", device="cpu", dtype="fp32") as model,
            running(model, page=content, model_name="micro") as server,
        ):
            asyncio.run(_visit(server, Path(working), directory))


if __name__ == "__main__":
    main()
