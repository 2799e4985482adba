"""Front ends: the same answers as without them, limits over all of them, and what a death or SIGTERM does."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from tests.audio_clips import encode
from tests.engine.server.conftest import Running
from tests.fake_model import fake_transcriber, samples, text_of
from tests.processes import wait_until
from twostage_asr.engine.server.channel import Arena
from twostage_asr.engine.server.front_ends import FrontEnds, Setup
from twostage_asr.engine.server.ledger import SharedLedger
from twostage_asr.engine.server.process import Address, bind
from twostage_asr.engine.server.settings import ServerSettings

PATH = "/v1/audio/transcriptions"
KEYS = ("first", "second")


class Served:
    """A server with two front ends, whose engine's loop runs in a thread of the tests."""

    def __init__(self, directory: Path) -> None:
        (taken,) = bind(Address(port=0))
        settings = ServerSettings(api_keys=KEYS, max_requests_per_client=2, drain_s=5.0)
        self.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        self.front_ends = FrontEnds(
            Setup(settings=settings, address=Address(), chunk_ms=480, num_front_ends=2), [taken]
        )
        self.model = fake_transcriber(directory)
        self.codes: list[int] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.front_ends.readiness == "ok" and len(self.front_ends._ready) == 2, 60)

    def _run(self) -> None:
        self.codes.append(self.front_ends.serve(self.model))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("front_ends"))
    yield served
    served.front_ends.close()
    served.model.close()


def ask(url: str, number: int = 7, key: str = "first", **fields: Any) -> requests.Response:
    file = {"file": ("a.wav", encode(samples(number), 16_000, "WAV", "PCM_16"))}
    return requests.post(url + PATH, files=file, data=fields, headers={"Authorization": f"Bearer {key}"}, timeout=20)


def stalled_upload(url: str, key: str) -> socket.socket:
    """A request that counts, because its body never ends."""
    host, port = url.removeprefix("http://").split(":")
    upload = socket.create_connection((host, int(port)))
    head = f"POST /asr HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    upload.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100\r\n\r\n".encode())
    return upload


@pytest.mark.parametrize("shape", ["json", "verbose_json", "text", "srt", "vtt"])
def test_the_answers_are_those_of_a_server_without_front_ends(served: Served, faked: Running, shape: str) -> None:
    there, here = (ask(url, 9, response_format=shape) for url in (served.url, faked.http))
    assert (there.status_code, there.content) == (here.status_code, here.content)


def test_an_error_of_one_clip_keeps_its_code(served: Served, faked: Running) -> None:
    there, here = (ask(url, language="xx") for url in (served.url, faked.http))
    assert (there.status_code, there.json()) == (here.status_code, here.json())
    assert there.status_code == 400


def test_many_requests_get_their_own_texts(served: Served) -> None:
    with ThreadPoolExecutor(2) as callers:
        answers = list(callers.map(lambda number: ask(served.url, number), range(1, 41)))
    assert [answer.json()["text"] for answer in answers] == [text_of(number) for number in range(1, 41)]


def test_a_quota_holds_for_all_front_ends_together(served: Served) -> None:
    uploads = [stalled_upload(served.url, "second") for _ in range(2)]
    wait_until(lambda: served.front_ends._ledger.total("requests") == 2)
    codes = {ask(served.url, key="second").status_code for _ in range(8)}  # each on a connection of its own
    assert codes == {429}
    assert ask(served.url).status_code == 200
    for upload in uploads:
        upload.close()
    wait_until(lambda: not served.front_ends._ledger.total("requests"))
    assert ask(served.url, key="second").status_code == 200


def test_metrics_count_the_requests_of_all_front_ends(served: Served) -> None:
    def num_answers() -> float:
        text = served.front_ends.metrics_text().decode()
        name = f'twostage_requests_total{{path="{PATH}",status="200"}} '
        return sum(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))

    before = num_answers()
    for _ in range(6):
        assert ask(served.url).status_code == 200
    wait_until(lambda: num_answers() == before + 6)


def test_a_killed_front_end_is_replaced_and_its_quota_is_given_back(served: Served) -> None:
    fronts = list(served.front_ends._fronts.values())
    upload = stalled_upload(served.url, "second")
    wait_until(lambda: served.front_ends._ledger.total("requests") == 1)
    holder = next(front for front in fronts if served.front_ends._ledger._counters[front.number, 0])
    os.kill(holder.child.process.pid, signal.SIGKILL)
    wait_until(lambda: not served.front_ends._ledger.total("requests"))
    assert {ask(served.url).status_code for _ in range(4)} == {200}  # the other one answers meanwhile
    wait_until(lambda: len(served.front_ends._ready) == 2, 60)
    assert ask(served.url, key="second").status_code == 200
    upload.close()


def test_what_is_under_way_is_finished_when_the_server_leaves(served: Served) -> None:
    decoder: Any = served.model.decoder
    decoder.hold()
    with ThreadPoolExecutor(2) as callers:
        asked = [callers.submit(ask, served.url, number) for number in (3, 4)]
        wait_until(lambda: decoder.num_pending == 2)
        served.front_ends.leave()
        assert served.front_ends.readiness == "shutting down"
        decoder.release()
        assert [each.result().json()["text"] for each in asked] == [text_of(3), text_of(4)]
    served.thread.join(20)
    assert served.codes == [0]


def test_places_in_the_arena_are_used_again() -> None:
    arena = Arena(Arena.create())
    lengths = (100, 5, 3000, 1)
    places = [arena.put(np.full(n, n, np.float32)) for n in lengths]
    assert [set(arena.waveform(place, n)) for place, n in zip(places, lengths, strict=True)] == [{n} for n in lengths]
    for index in (2, 0, 3, 1):
        arena.free(places[index], lengths[index])
    assert arena.put(np.zeros(5000, np.float32)) == 0


def test_a_ledger_counts_the_rows_of_all_processes() -> None:
    file = SharedLedger.create(2, 8)
    one, two = SharedLedger(file, 2, 0), SharedLedger(file, 2, 1)
    assert [each.take(("requests", "key a"), 2) for each in (one, two, one)] == [True, True, False]
    assert [each.take("sessions", 1) for each in (one, two)] == [True, False]
    one.clear_row(1)
    assert one.take(("requests", "key a"), 2)
    assert not two.take("sessions", 1)
