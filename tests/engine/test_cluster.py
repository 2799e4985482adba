"""A Ray cluster of two nodes on this machine: what one process would write, whatever dies. Skipped without ray."""

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import soundfile

from tests.engine.ray_model import load
from tests.fake_model import samples, text_of
from tests.paths import ROOT
from tests.processes import is_running, wait_until
from twostage_asr.engine import ConfigError, DecodeError, Transcript
from twostage_asr.engine.cli import main
from twostage_asr.engine.jobs import JobFolder, JobRun, JobSpec, job_status
from twostage_asr.engine.run_options import transcribe_options

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'twostage-asr[ray]'")
NUM_FILES = 2600  # more than twice what a process takes ahead
FEW = 120
PORT = 18_213
URL = f"ws://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "twostage_asr.engine.ray_proxy.middlewares")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
        cluster.connect()
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(NUM_FILES):
        soundfile.write(folder / f"{number:04d}.wav", samples(number % 900, 0.1), 16_000)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "pids").mkdir()
    return {"pids": str(tmp_path / "pids"), "delay_s": 0.002}


def opened(output: Path, clips: Path) -> JobFolder:
    spec = JobSpec(inputs=(str(clips),), model={}, options={}, shard_size=100)
    folder = JobFolder.open(output, spec)
    assert folder is not None
    return folder


def pids(model: dict[str, Any]) -> list[int]:
    return [int(path.name) for path in Path(model["pids"]).iterdir() if path.is_file()]


def shards(output: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((output / "transcripts").iterdir())]


def test_a_job_survives_the_death_of_a_worker_and_of_a_node(
    cluster: Any, clips: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    from twostage_asr.engine.cluster import run_job

    whole = opened(tmp_path / "whole", clips)
    with JobRun(whole) as job:
        list(job.run(partial(load(model | {"delay_s": 0}).run, options=transcribe_options(batch_size=4))))
    local = set(pids(model))
    node = cluster.add_node(num_cpus=1)
    output = opened(tmp_path / "out", clips).directory

    def disturb() -> None:
        wait_until(lambda: job_status(output).done > 300)
        os.kill(min(set(pids(model)) - local), signal.SIGKILL)
        wait_until(lambda: job_status(output).done > 1200)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=disturb)
    thread.start()
    run_job(output, model, {"batch_size": 4}, num_workers=2, num_gpus=0, load=load)
    thread.join()
    assert shards(output) == shards(tmp_path / "whole")
    assert len(set(pids(model)) - local) >= 3


def test_no_actor_outlives_a_job_that_fails(cluster: Any, tmp_path: Path, model: dict[str, Any]) -> None:
    from twostage_asr.engine.cluster import run_job

    with pytest.raises(ConfigError, match="holds no job") as kept:  # and with it the frame that has the actors
        run_job(tmp_path / "nowhere", model, {}, num_workers=2, num_gpus=0, load=load)
    wait_until(lambda: not any(map(is_running, pids(model))))
    assert kept.traceback


def test_a_dataset_gets_the_columns_of_its_transcripts(cluster: Any, clips: Path, model: dict[str, Any]) -> None:
    from twostage_asr.engine.cluster import transcribe_dataset

    rows = [{"audio": str(path)} for path in sorted(clips.iterdir())[:FEW]] + [{"audio": "none.wav"}]
    found = transcribe_dataset(
        ray.data.from_items(rows), model="rules", num_gpus=0, batch_size=40, load=load, **model
    ).take_all()
    texts = {Path(row["audio"]).stem: row["text"] for row in found}
    assert texts == {f"{number:04d}": text_of(number) for number in range(FEW)} | {"none": ""}
    assert Counter(row["status"] for row in found) == {"ok": FEW, "error": 1}
    assert Transcript.from_json(found[0]["transcript"]).text == found[0]["text"]


def test_a_server_loses_only_what_a_dead_replica_had_in_hand(cluster: Any, clips: Path, model: dict[str, Any]) -> None:
    import openai
    from ray import serve

    from twostage_asr.engine.cluster import serve_app, start_serving

    model["delay_s"] = 0.2
    start_serving(serve_app(model, replicas=(2, 2), num_gpus=0, load=load), port=PORT)
    answers: list[str] = []

    def ask(number: int) -> None:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", max_retries=0)
        try:
            answer = client.audio.transcriptions.create(model="m", file=clips / f"{number:04d}.wav")
            answers.append("right" if answer.text == text_of(number) else f"wrong: {answer.text}")
        except openai.APIStatusError as error:
            answers.append(str(error.status_code))

    wait_until(lambda: len(pids(model)) == 2)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for number, thread in enumerate(threads):
        thread.start()
        time.sleep(0.05)
        if number == 20:
            os.kill(min(pids(model)), signal.SIGKILL)
    for thread in threads:
        thread.join()
    serve.shutdown()
    counts = Counter(answers)
    assert set(counts) <= {"right", "503"} and counts["right"] >= 20, counts


class Sessions:
    """WebSocket sessions that have sent half of their audio, and send the rest once `is_over`."""

    def __init__(self, numbers: range) -> None:
        self.is_over = threading.Event()
        self.outcomes: list[tuple[str, int | None]] = []  # whether text came and was right, and the close code
        begun = threading.Barrier(len(numbers) + 1)
        self._threads = [threading.Thread(target=self._talk, args=(number, begun)) for number in numbers]
        for thread in self._threads:
            thread.start()
        begun.wait(60)

    def end(self) -> Counter[tuple[str, int | None]]:
        self.is_over.set()
        for thread in self._threads:
            thread.join()
        return Counter(self.outcomes)

    def _talk(self, number: int, begun: threading.Barrier) -> None:
        import websockets.sync.client

        half = (32_767 * samples(number, 0.5)).astype("<i2").tobytes()
        said = "nothing"
        with websockets.sync.client.connect(URL, ping_interval=None) as session:
            try:
                session.send(json.dumps({"mode": "offline", "wav_name": str(number), "is_speaking": True}))
                session.send(half)
                begun.wait(60)
                rest = [half, json.dumps({"is_speaking": False})]
                while True:
                    with contextlib.suppress(TimeoutError):
                        text = json.loads(session.recv(0.05)).get("text")
                        said = "right" if text == text_of(number) else f"wrong: {text}"
                    if said == "right" and not rest:
                        break
                    if self.is_over.is_set() and rest:
                        session.send(rest.pop(0))
            except websockets.exceptions.ConnectionClosed:
                pass
        self.outcomes.append((said, session.protocol.close_code))


class Requests:
    """Clients that ask for one transcript after the other, until they are told to stop."""

    def __init__(self, clips: Path, count: int) -> None:
        self.answers: Counter[str | int] = Counter()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(clips, number)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def end(self) -> Counter[str | int]:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        return self.answers

    def _ask(self, clips: Path, number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as client:
            while not self._is_over.is_set():
                file = {"file": (clips / f"{number:04d}.wav").read_bytes()}
                answer = client.post("/v1/audio/transcriptions", files=file)
                is_right = answer.status_code == 200 and answer.json()["text"] == text_of(number)
                self.answers["right" if is_right else answer.text] += 1


def states() -> dict[str, int]:
    """The number of replicas in each state."""
    from ray import serve

    return dict(serve.status().applications["twostage-asr"].deployments["twostage-asr"].replica_states)


def start(model: dict[str, Any], replicas: tuple[int, int], **arguments: Any) -> None:
    from twostage_asr.engine.cluster import serve_app, start_serving

    application = serve_app(model, replicas=replicas, num_gpus=0, load=load, **arguments)
    start_serving(application, port=PORT)
    wait_until(lambda: states() == {"RUNNING": replicas[0]})


def test_a_websocket_session_stays_with_its_replica(cluster: Any, model: dict[str, Any]) -> None:
    """Half of their audio is sent, then a replica is killed: its sessions are closed, the others are answered."""
    from ray import serve

    start(model, (2, 2))
    sessions = Sessions(range(101, 109))
    os.kill(min(pids(model)), signal.SIGKILL)
    outcomes = sessions.end()
    serve.shutdown()
    assert set(outcomes) == {("right", 1000), ("nothing", 1012)} and outcomes.total() == 8, outcomes


def test_replicas_come_and_go_with_the_requests(cluster: Any, clips: Path, model: dict[str, Any]) -> None:
    """No request is lost; a session whose replica goes away gets the text of what it has sent, and code 1012."""
    from ray import serve

    quick = {"upscale_delay_s": 0.5, "downscale_delay_s": 2.0, "look_back_period_s": 1.0}
    settings = {"drain_delay_s": 1.0}
    start(model | {"delay_s": 0.1}, (1, 2), target_requests=4, settings=settings, autoscaling=quick)
    many = Requests(clips, 8)
    wait_until(lambda: states() == {"RUNNING": 2})
    groups = [Sessions(range(number, number + 1)) for number in range(101, 104)]
    few = Requests(clips, 1)
    answers = many.end()
    wait_until(lambda: states() == {"RUNNING": 1})
    answers += few.end()
    outcomes = sum((sessions.end() for sessions in groups), Counter())
    serve.shutdown()
    assert set(answers) == {"right"}, answers
    assert set(outcomes) <= {("right", 1000), ("right", 1012)} and outcomes.total() == 3, outcomes


def test_a_rollout_loses_no_request_and_ends_sessions_with_their_text(
    cluster: Any, clips: Path, model: dict[str, Any]
) -> None:
    from ray import serve

    start(model, (1, 1), settings={"drain_delay_s": 1.0})
    sessions, requests = Sessions(range(101, 103)), Requests(clips, 2)
    start(model | {"delay_s": 0.001}, (1, 1), settings={"drain_delay_s": 1.0})
    answers, outcomes = requests.end(), sessions.end()
    serve.shutdown()
    assert set(answers) == {"right"}, answers
    assert outcomes == {("right", 1012): 2}, outcomes


def test_ray_is_told_that_an_engine_has_failed() -> None:
    from twostage_asr.engine.ray_replica import ReplicaState

    recognizer: Any = SimpleNamespace(service=SimpleNamespace(failed=True))
    with pytest.raises(DecodeError, match="has failed"):
        asyncio.run(ReplicaState(recognizer).check())


def test_the_command_line_runs_a_job_on_the_cluster(
    cluster: Any, clips: Path, tmp_path: Path, engine_dirs: dict[str, Path]
) -> None:
    names = tmp_path / "wav.scp"
    names.write_text("".join(f"{number} {clips / f'{number:04d}.wav'}\n" for number in range(3)))
    job = ["batch", str(names), "--model", str(engine_dirs["low_frame_rate"]), "--backend", "torch", "--dtype", "fp32"]
    here, there = tmp_path / "here", tmp_path / "there"
    assert main([*job, "--output", str(here)]) == 0
    assert main([*job, "--output", str(there), "--engine", "ray", "--gpus-per-worker", "0"]) == 0
    assert shards(there) == shards(here)
