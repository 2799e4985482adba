"""Headless Chromium, driven over its debugging protocol; its microphone hears a WAV file."""

import asyncio
import base64
import json
import re
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import websockets

CHOOSE = """
(() => {{
  const chosen = new DataTransfer(), field = document.getElementById("file");
  for (const [name, content] of Object.entries({files}))
    chosen.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name));
  field.files = chosen.files;
  field.dispatchEvent(new Event("change"));
}})()
"""


class Page:
    """One open page."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._number = 0

    async def run(self, script: str) -> Any:
        """The value of an expression, awaited. Raises RuntimeError for an exception in the page."""
        parameters = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = await self.call("Runtime.evaluate", parameters)
        if problem := answer["result"].get("exceptionDetails"):
            raise RuntimeError(problem.get("exception", {}).get("description", problem["text"]))
        return answer["result"]["result"].get("value")

    async def press(self, key: str) -> None:
        """Press and release a key, such as Enter, where the focus is."""
        code = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowRight": 39, "F2": 113, "Home": 36}[key]
        text = {"text": "\r"} if key == "Enter" else {}  # what makes it press a button
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, **text}
            await self.call("Input.dispatchKeyEvent", event)

    async def double_click(self, element: str) -> None:
        """Click twice on the middle of what an expression gives, where it was before the first click."""
        box = f"{element}.getBoundingClientRect()"
        where = {
            axis: await self.run(f"{box}.{axis} + {box}.{size} / 2") for axis, size in (("x", "width"), ("y", "height"))
        }
        for count in (1, 2):
            for kind in ("mousePressed", "mouseReleased"):
                event = {"type": kind, "button": "left", "clickCount": count, **where}
                await self.call("Input.dispatchMouseEvent", event)

    async def write(self, text: str) -> None:
        """Type a text in place of what is selected."""
        await self.call("Input.insertText", {"text": text})

    async def look(self, width: int, height: int = 900, *, is_dark: bool = False) -> None:
        """Give the page another size, and the reader's wish for light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.call("Emulation.setEmulatedMedia", {"features": [scheme]})

    async def open(self, url: str) -> None:
        """Go to another page."""
        await self.call("Page.navigate", {"url": url})
        await self.wait_for(f"location.href === '{url}' && document.readyState === 'complete'")

    async def choose(self, files: Mapping[str, bytes]) -> None:
        """Choose files of these names and contents in the page's field for files."""
        given = {name: base64.b64encode(content).decode() for name, content in files.items()}
        await self.run(CHOOSE.format(files=json.dumps(given)))

    async def call(self, method: str, parameters: dict[str, Any]) -> Any:
        """Send a command and wait for its answer. A question whether the page may be left is answered with yes."""
        number = await self._send(method, parameters)
        while (answer := json.loads(await asyncio.wait_for(self._socket.recv(), 60))).get("id") != number:
            if answer.get("method") == "Page.javascriptDialogOpening":
                await self._send("Page.handleJavaScriptDialog", {"accept": True})
        return answer

    async def _send(self, method: str, parameters: dict[str, Any]) -> int:
        self._number += 1
        await self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        return self._number

    async def wait_for(self, condition: str, seconds: float = 20.0) -> None:
        """Until an expression is true."""
        for _ in range(int(seconds / 0.05)):
            if await self.run(condition):
                return
            await asyncio.sleep(0.05)
        seen = await self.run("document.body.innerText")
        raise AssertionError(f"{condition} does not become true; the page says {seen!r}")


@asynccontextmanager
async def open_page(chromium: str, url: str, microphone: Path, directory: Path) -> AsyncIterator[Page]:
    """A browser with nothing but this page."""
    command = [
        *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"),
        *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
        *(f"--use-file-for-fake-audio-capture={microphone}%noloop", f"--user-data-dir={directory / 'profile'}", url),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            port = next(found[1] for line in process.stderr if (found := re.search(r"ws://127\.0\.0\.1:(\d+)", line)))
            async with httpx.AsyncClient() as http:
                for _ in range(100):
                    targets = (await http.get(f"http://127.0.0.1:{port}/json")).json()
                    pages = [target for target in targets if target["type"] == "page" and target["url"] == url]
                    if pages:
                        break
                    await asyncio.sleep(0.05)
            async with websockets.connect(
                pages[0]["webSocketDebuggerUrl"], max_size=None, ping_interval=None
            ) as socket:
                page = Page(socket)
                await page.call("Page.enable", {})
                await page.wait_for(f"location.href === '{url}' && document.readyState === 'complete'")
                yield page
        finally:
            process.terminate()
