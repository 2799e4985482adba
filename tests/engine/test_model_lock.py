"""Who may run a model: one user at a time, nobody who would wait for himself, and no process that was forked."""

import asyncio
import gc
import json
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny_models
from tests.pipeline import Clip
from tests.processes import wait_until
from twostage_asr.engine import (
    AudioError,
    AutoModelVLLM,
    ConfigError,
    LiveOptions,
    Qwen3ForcedAligner,
    ServiceClosedError,
    StreamingSession,
    TranscriptionService,
    load_vad,
    transcribe_options,
)
from twostage_asr.engine import service as service_module
from twostage_asr.engine.audio.decode import AudioLimits
from twostage_asr.engine.model_lock import ModelLock
from twostage_asr.engine.server.recognizer import Recognizer
from twostage_asr.engine.server.settings import ServerSettings
from twostage_asr.engine.worker_process import receive, send, start_child


@pytest.fixture
def model(engine_dirs: dict[str, Path]) -> Iterator[AutoModelVLLM]:
    with AutoModelVLLM(engine_dirs["low_frame_rate"], backend="torch", dtype="fp32") as model:
        yield model


def counting(lock: ModelLock) -> Iterator[int]:
    """What an iterator of results does with the lock."""
    with lock.running():
        for number in range(3):
            with lock.suspended():
                yield number


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run this, and put what it returns or raises into the list."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except ConfigError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_a_model_that_nobody_holds_any_more_is_freed(engine_dirs: dict[str, Path], clips: list[Clip]) -> None:
    """`del model`, as in a notebook; nothing that it has started may hold it."""
    before = set(threading.enumerate())

    def readers() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each not in before and each.name.startswith("read-audio")]

    model = AutoModelVLLM(engine_dirs["low_frame_rate"], backend="torch", dtype="fp32")
    assert model.generate(clips[0]["source"])[0].status == "ok"
    assert readers()
    lock = weakref.ref(model.transcriber.lock)
    del model
    gc.collect()
    assert lock() is None
    wait_until(lambda: not readers(), 60)


# --- one user at a time


def test_an_unfinished_iterator_of_the_same_thread_is_an_error_at_once() -> None:
    lock = ModelLock()
    first = counting(lock)
    next(first)
    with pytest.raises(ConfigError, match="unfinished generate_iter"):
        next(counting(lock))
    assert list(first) == [1, 2]
    assert list(counting(lock)) == [0, 1, 2]


def test_other_threads_wait_for_their_turn() -> None:
    lock = ModelLock()
    first = counting(lock)
    next(first)
    thread, outcome = in_thread(lambda: list(counting(lock)))
    thread.join(0.05)
    assert thread.is_alive()
    assert list(first) == [1, 2]
    thread.join(60)
    assert outcome == [[0, 1, 2]]


def test_the_thread_that_takes_the_results_is_the_one_that_uses_the_model() -> None:
    lock = ModelLock()
    first = counting(lock)
    next(first)
    thread, _ = in_thread(lambda: next(first))
    thread.join(60)
    second, outcome = in_thread(lambda: list(counting(lock)))  # waits, and so would this thread
    assert list(first) == [2]
    second.join(60)
    assert outcome == [[0, 1, 2]]


def test_closing_the_iterator_frees_the_model() -> None:
    lock = ModelLock()
    first = counting(lock)
    next(first)
    first.close()  # type: ignore[attr-defined]
    assert list(counting(lock)) == [0, 1, 2]


def test_a_closed_model_ends_its_iterator_with_an_error_and_refuses_those_that_waited() -> None:
    lock = ModelLock()
    first = counting(lock)
    next(first)
    thread, outcome = in_thread(lambda: list(counting(lock)))
    assert lock.close()
    assert not lock.close()
    with pytest.raises(ConfigError, match="closed before all results had been taken"):
        next(first)
    thread.join(60)
    assert "this model is closed" in str(outcome[0])
    with pytest.raises(ConfigError, match="this model is closed"):
        lock.require_open()


def test_closing_ends_the_wait_for_an_iterator_that_nobody_takes_further() -> None:
    lock = ModelLock()
    abandoned = counting(lock)
    next(abandoned)
    threads = [in_thread(lambda: list(counting(lock))) for _ in range(2)]
    assert lock.close()
    for thread, outcome in threads:
        thread.join(60)
        assert "this model is closed" in str(outcome[0])
    abandoned.close()  # type: ignore[attr-defined]


def test_closing_waits_for_the_thread_that_is_running_the_model() -> None:
    lock = ModelLock()
    is_running, may_go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[int]:
        with lock.running():
            is_running.set()
            assert may_go_on.wait(60)
            with lock.suspended():
                yield 0

    thread, outcome = in_thread(lambda: list(slow()))
    assert is_running.wait(60)
    closing, closed = in_thread(lock.close)
    closing.join(0.05)
    assert closing.is_alive()
    may_go_on.set()
    closing.join(60)
    thread.join(60)
    assert closed == [True]
    assert "closed before" in str(outcome[0])


# --- the model itself


def test_generate_beside_an_open_iterator(model: AutoModelVLLM, clips: list[Clip]) -> None:
    sources = [clip["source"] for clip in clips[:3]]
    results = model.generate_iter(sources)
    first = next(results)
    with pytest.raises(ConfigError, match="take all of its results or close"):
        model.generate(sources)
    assert [first, *results] == model.generate(sources)


def test_generate_beside_a_service(model: AutoModelVLLM, clips: list[Clip]) -> None:
    service = TranscriptionService(model.transcriber)
    with pytest.raises(ConfigError, match="or a service, of the same thread"):
        model.generate(clips[0]["source"])
    service.close()
    assert model.generate(clips[0]["source"])[0].status == "ok"


def test_inputs_that_use_the_model_themselves(model: AutoModelVLLM, clips: list[Clip]) -> None:
    """They would wait for whoever waits for them."""
    nested = (model.generate(clip["source"]) and clip["source"] for clip in clips)
    with pytest.raises(ConfigError, match="at work for an unfinished"):
        model.generate(nested)
    assert model.generate(clips[0]["source"])[0].status == "ok"


def test_closing_with_an_open_iterator(model: AutoModelVLLM, clips: list[Clip]) -> None:
    results = model.generate_iter([clip["source"] for clip in clips], batch_size=1)
    next(results)
    model.close()
    with pytest.raises(ConfigError, match="closed before all results had been taken; the rest is lost"):
        next(results)
    assert list(results) == []


def test_inputs_that_close_the_model(model: AutoModelVLLM, clips: list[Clip]) -> None:
    closing = (model.close() or clip["source"] for clip in clips)  # type: ignore[func-returns-value]
    with pytest.raises(ConfigError, match="close it after them"):
        model.generate(closing)
    assert model.generate(clips[0]["source"])[0].status == "ok"


def test_closing_with_an_open_service_closes_that(
    model: AutoModelVLLM, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "FEW_JOBS", 0)  # a single job waits for others
    transcriber = model.transcriber
    service = TranscriptionService(transcriber, batch_wait_s=60)
    future = service.submit(np.zeros(16_000, np.float32), transcribe_options())
    model.close()
    with pytest.raises(ServiceClosedError):
        future.result(60)
    with pytest.raises(ConfigError, match="this model is closed"):
        TranscriptionService(transcriber)
    with pytest.raises(ConfigError, match="this model is closed"):
        transcriber.run([], transcribe_options())


def test_a_model_is_not_sent_to_another_process(model: AutoModelVLLM, clips: list[Clip]) -> None:
    with pytest.raises(ConfigError, match=r"AutoModelVLLM holds .* make one in the process that uses it"):
        pickle.dumps(model.generate)
    results = model.generate(clips[0]["source"])
    assert pickle.loads(pickle.dumps(results)) == results


# --- processes that were forked


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory) -> Qwen3ForcedAligner:
    directory = tmp_path_factory.mktemp("aligner")
    tiny_models.qwen3_forced_aligner(directory)
    return Qwen3ForcedAligner.from_pretrained(directory, device="cpu", dtype="fp32")


def said_in_a_fork(work: dict[str, Callable[[], object]]) -> dict[str, str]:
    """What each of these raises in a process that is forked now."""
    reading, writing = os.pipe()
    process_id = os.fork()
    if process_id == 0:
        try:
            said = {}
            for name, one in work.items():
                try:
                    said[name] = repr(one())
                except ConfigError as error:
                    said[name] = str(error)
            os.write(writing, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        told = json.load(pipe)
    os.waitpid(process_id, 0)
    return told | {"process": str(process_id)}


def test_a_forked_process_is_refused_at_once(model: AutoModelVLLM, aligner: Qwen3ForcedAligner) -> None:
    samples = np.zeros(16_000, np.float32)
    options = transcribe_options()
    unfinished = model.generate_iter(samples)
    outside = {
        "generate": lambda: model.generate(samples),
        "generate_iter": lambda: next(unfinished),
        "service": lambda: TranscriptionService(model.transcriber),
        "aligner": lambda: aligner.align((samples, 16_000), "hello", "English"),
        "close": model.close,
    }
    said = said_in_a_fork(outside)
    recognizer = Recognizer.of(model.transcriber, ServerSettings(), vad=load_vad())
    session = StreamingSession(recognizer.service, options, LiveOptions(vad=load_vad()))
    inside = {
        "submit": lambda: recognizer.service.submit(samples, options),
        "session": lambda: session.push(samples),
        "server": lambda: asyncio.run(recognizer.read(samples)),
    }
    said_of_services = said_in_a_fork(inside)
    recognizer.close()
    for told, names in ((said, outside), (said_of_services, inside)):
        expected = f"this model was loaded in process {os.getpid()}, used in {told['process']}, which was made by fork"
        assert {name: told[name][: len(expected)] for name in names if name != "close"} == dict.fromkeys(
            [name for name in names if name != "close"], expected
        )
    assert said["close"] == "None"
    assert [result.status for result in unfinished] == ["ok"]  # the parent's model is as it was


def test_a_forked_process_drops_nothing_of_its_parents(
    model: AutoModelVLLM, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a program forks within its loop over results and the child ends by sys.exit."""
    cancelled = list[object]()
    monkeypatch.setattr(model.transcriber.decoder, "cancel", lambda *_: cancelled.append(None))
    results = model.generate_iter([clip["source"] for clip in clips], batch_size=1, ordered=False)
    next(results)
    child = start_child("twostage_asr.engine.audio.worker")
    said = said_in_a_fork({"iterator": results.close, "child": child.close, "dropped": lambda: cancelled})  # type: ignore[attr-defined]
    assert said["dropped"] == "[]"
    send(child.socket, (b"", {"limits": AudioLimits(), "name": "nothing"}, None))
    assert isinstance(receive(child.socket), AudioError)
    child.close()
    results.close()  # type: ignore[attr-defined]
    assert cancelled
