"""In each turn of the event loop, one step of one request: whoever asks for /health waits for no more of them."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from tests.audio_clips import encode
from tests.fake_model import fake_transcriber, samples
from twostage_asr.engine.server.app import create_app
from twostage_asr.engine.server.pace import Pace
from twostage_asr.engine.server.recognizer import Recognizer
from twostage_asr.engine.server.settings import ServerSettings
from twostage_asr.engine.transcript import Transcript
from twostage_asr.engine.vad import load_vad

NUM_REQUESTS = 20
MOST_BETWEEN = 2  # steps from the moment when /health is asked to its answer: of the turn that runs, and of the next
BODY = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    + encode(samples(7), 16_000, "WAV", "PCM_16")
    + b"\r\n--b--\r\n"
)


def test_at_most_one_step_in_each_turn_of_the_loop() -> None:
    happened: list[str] = []

    async def work(pace: Pace) -> None:
        for _ in range(3):
            await pace.turn()
            happened.append("step")

    async def count_turns() -> None:
        while happened.count("step") < 3 * NUM_REQUESTS:
            happened.append("turn")
            await asyncio.sleep(0)

    async def run() -> None:
        pace = Pace()
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(count_turns())
            for _ in range(NUM_REQUESTS):
                tasks.create_task(work(pace))

    asyncio.run(run())
    steps_of_turns = "".join(each[0] for each in happened).split("t")
    assert max(steps_of_turns, key=len) == "s"
    assert happened.count("turn") <= 3 * NUM_REQUESTS + 2  # no turn is lost while somebody waits


def test_turns_are_given_in_order_and_none_to_those_that_were_cancelled() -> None:
    done: list[int] = []

    async def work(pace: Pace, number: int) -> None:
        await pace.turn()
        done.append(number)

    async def run() -> None:
        pace = Pace()
        tasks = [asyncio.create_task(work(pace, number)) for number in range(5)]
        await asyncio.sleep(0)
        for number in (1, 2, 4):
            tasks[number].cancel()
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks, return_exceptions=True)
            await work(pace, 5)
            await work(pace, 6)

    asyncio.run(run())
    assert done == [0, 3, 5, 6]


class Requests:
    """Many requests at once, driven without a server; each step of one, and the answer to /health, is noted."""

    def __init__(self, recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = create_app(recognizer)
        self.happened: list[str] = []
        self.futures: list[Future[Transcript]] = []
        self.has_body = asyncio.Event()
        self._asked: asyncio.Task[None] | None = None
        monkeypatch.setattr(recognizer.service, "submit", self._submit)

    async def together(self, what: str, num_steps: int = NUM_REQUESTS) -> list[str]:
        """What happens until so many of these steps are done. /health is asked at the first."""
        async with asyncio.timeout(60):
            while self.happened.count(what) < num_steps or "health" not in self.happened:
                await asyncio.sleep(0)
        happened, self.happened, self._asked = self.happened, [], None
        return happened

    async def transcribe(self) -> None:
        head = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=b")]
        parts = [{"type": "http.request", "body": BODY}]

        async def receive() -> Message:
            if not parts:
                await asyncio.get_running_loop().create_future()  # the client stays
            self._note("begin")
            await self.has_body.wait()
            return parts.pop()

        await self._ask("POST", "/v1/audio/transcriptions", head, receive, "answer")

    async def _health(self) -> None:
        await self._ask("GET", "/health", [(b"host", b"localhost")], self.has_body.wait, "health")

    def _submit(self, *_: object, **__: object) -> Future[Transcript]:
        self._note("submit")
        self.futures.append(future := Future())
        return future

    def _note(self, what: str) -> None:
        self.happened.append(what)
        if self._asked is None and what != "health":
            self._asked = asyncio.create_task(self._health())

    async def _ask(self, method: str, path: str, head: list[tuple[bytes, bytes]], receive: Any, answer: str) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                assert message["status"] == 200
                self._note(answer)

        scope = {"type": "http", "http_version": "1.1", "method": method, "path": path, "headers": head}
        await self.app(scope | {"query_string": b"", "root_path": "", "scheme": "http"}, receive, send)


@pytest.fixture
def recognizer(tmp_path: Path) -> Iterator[Recognizer]:
    recognizer = Recognizer.of(fake_transcriber(tmp_path), ServerSettings(), vad=load_vad())
    yield recognizer
    recognizer.close()


def test_health_does_not_wait_for_requests_whose_steps_are_due_at_once(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        requests = Requests(recognizer, monkeypatch)
        tasks = [asyncio.create_task(requests.transcribe()) for _ in range(NUM_REQUESTS)]
        for what, others in (("begin", "submit"), ("submit", "answer"), ("answer", "")):
            happened = await requests.together(what)
            assert happened.count(what) == NUM_REQUESTS and others not in happened
            assert happened.index("health") - happened.index(what) <= MOST_BETWEEN + 1, what
            if what == "begin":
                requests.has_body.set()
            elif what == "submit":
                for future in requests.futures:
                    future.set_result(Transcript("audio", "clip 7.", "en", None, (), 1.0))
        await asyncio.gather(*tasks)

    asyncio.run(run())
