"""A Ray cluster of two nodes on this machine: what one process would write, whatever dies. Skipped without ray."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.engine.ray_model import load
from tests.fake_model import samples, text_of
from tests.paths import ROOT
from tests.processes import wait_until
from twostage_asr.engine import Transcript
from twostage_asr.engine.cli import main
from twostage_asr.engine.jobs import JobFolder, JobRun, JobSpec, job_status
from twostage_asr.engine.run_options import transcribe_options

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'twostage-asr[ray]'")
NUM_FILES = 2600  # more than twice what a process takes ahead
FEW = 120


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
        wait_until(lambda: job_status(output).done > 300, 60)
        os.kill(min(set(pids(model)) - local), signal.SIGKILL)
        wait_until(lambda: job_status(output).done > 1200, 60)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=disturb)
    thread.start()
    run_job(output, model, {"batch_size": 4}, num_workers=2, num_gpus=0, load=load)
    thread.join()
    assert shards(output) == shards(tmp_path / "whole")
    assert len(set(pids(model)) - local) >= 3


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
    start_serving(serve_app(model, replicas=(2, 2), num_gpus=0, load=load), port=18_213)
    answers: list[str] = []

    def ask(number: int) -> None:
        client = openai.OpenAI(base_url="http://127.0.0.1:18213/v1", api_key="none", max_retries=0)
        try:
            answer = client.audio.transcriptions.create(model="m", file=clips / f"{number:04d}.wav")
            answers.append("right" if answer.text == text_of(number) else f"wrong: {answer.text}")
        except openai.APIStatusError as error:
            answers.append(str(error.status_code))

    wait_until(lambda: len(pids(model)) == 2, 60)
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


def test_a_websocket_session_stays_with_its_replica(cluster: Any, model: dict[str, Any]) -> None:
    """Each sends half of its audio, then a replica is killed: its sessions are closed, the others are answered."""
    import websockets.sync.client
    from ray import serve

    from twostage_asr.engine.cluster import serve_app, start_serving

    start_serving(serve_app(model, replicas=(2, 2), num_gpus=0, load=load), port=18_213)
    wait_until(lambda: len(pids(model)) == 2, 60)
    is_killed, begun = threading.Event(), threading.Barrier(9)
    outcomes: list[str] = []

    def talk(number: int) -> None:
        half = (32_767 * samples(number, 0.5)).astype("<i2").tobytes()
        try:
            with websockets.sync.client.connect("ws://127.0.0.1:18213", ping_interval=None) as session:
                session.send(json.dumps({"mode": "offline", "wav_name": str(number), "is_speaking": True}))
                session.send(half)
                begun.wait(60)
                is_killed.wait(60)
                session.send(half)
                session.send(json.dumps({"is_speaking": False}))
                answer = json.loads(session.recv(30))
                outcomes.append("right" if answer.get("text") == text_of(number) else f"wrong: {answer}")
        except websockets.exceptions.ConnectionClosed:
            outcomes.append("closed")

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(101, 109)]
    for thread in threads:
        thread.start()
    begun.wait(60)
    os.kill(min(pids(model)), signal.SIGKILL)
    is_killed.set()
    for thread in threads:
        thread.join()
    serve.shutdown()
    counts = Counter(outcomes)
    assert set(counts) == {"right", "closed"} and len(outcomes) == 8, counts


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
