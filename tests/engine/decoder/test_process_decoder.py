"""vLLM in processes of its own: the same answers, and no process that outlives its parent or its failure."""

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pipeline import GREEDY, Clip, decode, prompt_embeds, token_ids
from tests.processes import is_running, wait_until
from twostage_asr.engine import (
    AutoModelVLLM,
    ConfigError,
    DecodeError,
    TranscriptionService,
    transcribe_options,
    worker_process,
)
from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.decoder import backlog, engine_process
from twostage_asr.engine.decoder.base import DecodeParams, Hypothesis, LLMSource
from twostage_asr.engine.decoder.engine_process import EngineProcess
from twostage_asr.engine.decoder.process_decoder import (
    WORKSPACE_BYTES,
    ProcessDecoder,
    engines_that_fit,
    share_of_gpu,
)
from twostage_asr.engine.decoder.prompt_memory import PromptMemory
from twostage_asr.engine.decoder.vllm_decoder import VLLMOptions
from twostage_asr.engine.manifest import LLMInfo


@pytest.fixture(scope="module")
def model(engine_dirs: dict[str, Path]) -> Iterator[AutoModelVLLM]:
    with AutoModelVLLM(
        engine_dirs["low_frame_rate"], backend="vllm", dtype="fp32", encoder_dtype="fp32", decoder_processes=2
    ) as model:
        yield model


@pytest.fixture(scope="module")
def decoder(model: AutoModelVLLM) -> ProcessDecoder:
    decoder = model.transcriber.decoder
    assert isinstance(decoder, ProcessDecoder)
    return decoder


@pytest.fixture(scope="module")
def prompts(torch_models: dict[str, AutoModelVLLM], clips: list[Clip]) -> list[Tensor]:
    return prompt_embeds(torch_models["low_frame_rate"].transcriber, clips)


def test_two_processes_write_what_one_engine_here_writes(
    decoder: ProcessDecoder, vllm_model: AutoModelVLLM, prompts: list[Tensor]
) -> None:
    ours, theirs = decode(decoder, prompts), decode(vllm_model.transcriber.decoder, prompts)
    assert token_ids(ours) == token_ids(theirs)
    assert [h.finish_reason for h in ours] == [h.finish_reason for h in theirs]


def test_prompts_are_shared_out_evenly(decoder: ProcessDecoder, prompts: list[Tensor]) -> None:
    for prompt in prompts:
        decoder.submit(prompt, GREEDY)
    assert sorted(len(engine.pending) for engine in decoder._engines) == [len(prompts) // 2, -(-len(prompts) // 2)]
    decoder.cancel()


def test_cancelled_answers_that_still_arrive_are_nobodys(decoder: ProcessDecoder, prompts: list[Tensor]) -> None:
    expected = token_ids(decode(decoder, prompts[:4]))
    for prompt in prompts:
        decoder.submit(prompt, DecodeParams(max_new_tokens=1))
    decoder.poll(wait_s=0)  # sends them
    time.sleep(1)  # and they finish
    decoder.cancel()
    assert decoder.num_pending == 0
    assert token_ids(decode(decoder, prompts[:4])) == expected


def test_more_than_the_sockets_hold_in_both_directions(
    decoder: ProcessDecoder, prompts: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the shared memory is full, both ends write megabytes at the same time; neither waits for the other."""
    monkeypatch.setattr(PromptMemory, "write", lambda *_: None)
    long = max(prompts, key=len)
    params = DecodeParams(max_new_tokens=3)
    assert len(decode(decoder, [torch.cat([long] * 6)] * 600, params)) == 600


def test_prompts_are_the_same_from_memory_and_from_the_socket(
    decoder: ProcessDecoder, prompts: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = token_ids(decode(decoder, prompts))
    assert all(not engine.memory.arena._blocks.num_taken for engine in decoder._engines)  # nothing is held for ever
    monkeypatch.setattr(PromptMemory, "write", lambda *_: None)
    assert token_ids(decode(decoder, prompts)) == expected


def test_a_dead_engine_is_an_error_and_not_a_wait(engine_dirs: dict[str, Path], clips: list[Clip]) -> None:
    """Also to a service, which watched and dropped answers in that process, and has nothing to do when it dies."""
    waveform = decode_audio(Path(clips[0]["source"]))
    options = transcribe_options(language=clips[0]["language"])
    endless = replace(options, params=DecodeParams(max_new_tokens=2000, ignore_eos=True))
    with AutoModelVLLM(engine_dirs["full_rate"], dtype="fp32", decoder_processes=1) as model:
        decoder: Any = model.transcriber.decoder
        service = TranscriptionService(model.transcriber)
        seen: list[str] = []
        whole = service.submit(waveform, options, on_text=seen.append).result(60)
        assert len(seen) > 3
        assert all(whole.text.startswith(text) for text in seen)
        is_decoding = threading.Event()
        dropped = service.submit(waveform, endless, on_text=lambda _: is_decoding.set())
        assert is_decoding.wait(60)
        assert dropped.cancel()
        assert service.submit(waveform, options).result(60).text == whole.text
        assert decoder.num_pending == 0
        os.kill(decoder._engines[0].child.process.pid, signal.SIGKILL)
        wait_until(lambda: service.failed, "nobody notices that the engine is dead")
        with pytest.raises(DecodeError, match="has failed"):
            service.submit(waveform, options)
        service.close()
        with pytest.raises(DecodeError, match="exit status -9"):
            model.generate(clips[0]["source"])


def test_what_an_engine_refuses_is_the_callers_error(engine_dirs: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="no such engine argument"):
        AutoModelVLLM(engine_dirs["full_rate"], vllm={"max_num_seq": 4}, decoder_processes=1)
    with pytest.raises(ConfigError, match="must be 0 or more"):
        AutoModelVLLM(engine_dirs["full_rate"], decoder_processes=-1)


UNGUARDED = """
from twostage_asr.engine import AutoModelVLLM
model = AutoModelVLLM({path!r}, dtype="fp32", decoder_processes=1)
print("engine:", model.transcriber.decoder._engines[0].child.process.pid)
print("text:", model.generate({clip!r})[0].text)
{end}
"""


@pytest.mark.parametrize("end", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_script_needs_no_main_guard_and_leaves_no_process(
    vllm_model: AutoModelVLLM, engine_dirs: dict[str, Path], clips: list[Clip], tmp_path: Path, end: str
) -> None:
    (expected,) = vllm_model.generate(clips[0]["source"])
    script = tmp_path / "unguarded.py"
    path, clip = str(engine_dirs["low_frame_rate"]), clips[0]["source"]
    script.write_text(UNGUARDED.format(path=path, clip=clip, end=end))
    done = subprocess.run([sys.executable, "-u", script], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == (-signal.SIGKILL if end else 0), done.stderr[-3000:]
    assert f"text: {expected.text}" in done.stdout
    assert "Traceback" not in done.stderr
    engine = int(done.stdout.split("engine: ")[1].split()[0])
    wait_until(lambda: not Path(f"/proc/{engine}").exists(), "the engine's process outlives its parent")


def test_engines_that_share_a_gpu_are_told_the_size_of_their_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Properties:
        total_memory = 100 << 30

    class Source:
        directory = tmp_path

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    (tmp_path / "model.safetensors").write_bytes(bytes(1 << 20))
    options = VLLMOptions(device=torch.device("cuda"), gpu_memory_utilization=0.8, engine={"max_num_seqs": 7})
    share = share_of_gpu(Source, options, 2)  # type: ignore[arg-type]
    assert share.gpu_memory_utilization == 0.4
    assert share.engine == {"max_num_seqs": 7, "kv_cache_memory_bytes": (40 << 30) - WORKSPACE_BYTES - (1 << 20)}
    with pytest.raises(ConfigError, match="40 engines do not fit into 80% of this GPU's 100 GiB"):
        share_of_gpu(Source, options, 40)  # type: ignore[arg-type]


STAND_IN = """
import multiprocessing, time
from twostage_asr.engine.worker_process import connect, end_with_any, send
from twostage_asr.engine.errors import DecodeError
parent = connect()
parent.recv(1 << 20)  # which model
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), name="VllmWorker-1")
worker.start()
end_with_any(lambda which: send(parent, DecodeError(which)))
send(parent, worker.pid)  # as the number of prompts that keep it busy
"""
StandIn = Callable[..., ProcessDecoder]
PROMPT = torch.ones(3, 8)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Engines that do what a few lines say, once they are ready."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(engine_process, "WORKER", "stand_in_engine")
    info = LLMInfo(hidden_size=8, vocab_size=8, max_position_embeddings=1 << 20, eos_token_ids=(0,), tied=True)
    started: list[ProcessDecoder] = []

    def start(
        lines: str, *, stall_timeout_s: float, num_processes: int = 1, max_processes: int | None = None
    ) -> ProcessDecoder:
        (tmp_path / "stand_in_engine.py").write_text(STAND_IN + lines)
        source, options = LLMSource(tmp_path, info, torch.float32, 1 << 20), VLLMOptions(device=torch.device("cpu"))
        decoder = ProcessDecoder(
            source, options, num_processes=num_processes, max_processes=max_processes, stall_timeout_s=stall_timeout_s
        )
        started.append(decoder)
        if num_processes:
            decoder.wait_until_ready()
        return decoder

    yield start
    for decoder in started:
        decoder.close()


def failure(decoder: ProcessDecoder) -> str:
    """What the decoder says when it fails, and goes on saying; none of its processes is left."""
    with pytest.raises(DecodeError) as caught:
        wait_until(lambda: decoder.poll() and False)
    with pytest.raises(DecodeError) as again:
        decoder.poll()
    assert str(again.value) == str(caught.value)
    assert decoder._engines[0].child.process.returncode is not None
    wait_until(lambda: not is_running(decoder.max_pending))
    return str(caught.value)


def test_an_engine_that_stands_still_is_given_up_and_the_error_says_what_it_had_to_do(stand_in: StandIn) -> None:
    decoder = stand_in("time.sleep(600)", stall_timeout_s=0.3)
    for _ in range(2):
        decoder.submit(PROMPT, GREEDY)
    pid = decoder._engines[0].child.process.pid
    message = failure(decoder)
    assert re.search(rf"process {pid}\) has written no token for \d+\.\d s and was ended", message)
    assert re.search(r"wait for it: 2, the oldest for \d+\.\d s.*stall_timeout_s, now 0\.3$", message)


def test_an_engine_that_reads_nothing_is_given_up(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptMemory, "write", lambda *_: None)
    decoder = stand_in("time.sleep(600)", stall_timeout_s=0.3)
    decoder.submit(torch.ones(200_000, 8), GREEDY)
    assert "has written no token" in failure(decoder)


class Clock:
    """The time of engine_process.py, which a test lets pass."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.passed_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(engine_process, "time", clock)
    return clock


def test_an_engine_that_writes_is_waited_for(stand_in: StandIn, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it says why it ends, for longer than it may stand still."""
    news = EngineProcess.news

    def news_and_a_while(engine: EngineProcess) -> list[tuple[int, Hypothesis]]:
        found = news(engine)
        clock.passed_s += 60.0
        engine.check_progress()  # as the next poll does, if it comes before the next message
        return found

    monkeypatch.setattr(EngineProcess, "news", news_and_a_while)
    lines = "for _ in range(8):\n  time.sleep(0.05)\n  send(parent, ([], []))\nsend(parent, DecodeError('the end'))"
    decoder = stand_in(lines, stall_timeout_s=120.0)
    decoder.submit(PROMPT, GREEDY)
    assert failure(decoder) == "the end"
    assert clock.passed_s == 8 * 60.0


def test_the_end_of_a_process_of_vllms_is_an_error_that_names_it(stand_in: StandIn) -> None:
    decoder = stand_in("time.sleep(600)", stall_timeout_s=60.0)
    decoder.submit(PROMPT, GREEDY)
    decoder.poll(wait_s=0)
    os.kill(decoder.max_pending, signal.SIGKILL)
    wait_until(lambda: decoder._engines[0].child.process.poll() is not None)
    decoder.submit(PROMPT, GREEDY)  # which can no longer be sent
    assert failure(decoder) == f"VllmWorker-1 (process {decoder.max_pending}) has ended, exit status -9"


def test_an_engine_that_dies_takes_vllms_processes_with_it(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "STOP_TIMEOUT_S", 0.5)
    decoder = stand_in("time.sleep(600)", stall_timeout_s=60.0)
    decoder.submit(PROMPT, GREEDY)
    os.kill(decoder._engines[0].child.process.pid, signal.SIGKILL)
    assert "exit status -9" in failure(decoder)


def test_file_descriptors_above_1023_are_waited_for(stand_in: StandIn) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        decoder = stand_in("send(parent, DecodeError('the end'))", stall_timeout_s=60.0)
        assert decoder._engines[0].fileno() > 1023
        assert failure(decoder) == "the end"
    finally:
        for number in files:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Two classes take the place of those of base.py, whose import takes seconds.
ANSWERS = """
import os, sys, types
base = sys.modules["twostage_asr.engine.decoder.base"] = types.ModuleType("twostage_asr.engine.decoder.base")
class DecodeParams:
  def __setstate__(self, state): pass
class Hypothesis:
  def __reduce__(self): return Hypothesis, ((0,), (0.0,), "stop")
for each in (DecodeParams, Hypothesis):
  each.__module__ = base.__name__
  setattr(base, each.__name__, each)
from twostage_asr.engine.worker_process import receive
while True:
  message = receive(parent)
  time.sleep(0.05)
  send(parent, ([(i, Hypothesis()) for i in message[0]], []))
"""


def answered(decoder: ProcessDecoder, *, num_prompts: int) -> None:
    """Submit prompts, and poll until all of them are answered."""
    left = {decoder.submit(PROMPT, GREEDY) for _ in range(num_prompts)}
    wait_until(lambda: left.difference_update(i for i, _ in decoder.poll()) or not left)


def test_further_engines_start_when_prompts_have_to_wait(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "BACKLOG_S", 0.0)
    decoder = stand_in(ANSWERS, stall_timeout_s=10.0, max_processes=3)
    decoder._engines[0].max_pending = 8
    answered(decoder, num_prompts=4)  # as many as one engine decodes at once
    assert (len(decoder._engines), len(decoder._loading)) == (1, 0)
    wait_until(lambda: answered(decoder, num_prompts=5) or len(decoder._engines) == 3)
    assert decoder.max_pending > 8
    answered(decoder, num_prompts=3)


def test_an_engine_that_cannot_be_added_is_done_without(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backlog, "BACKLOG_S", 0.0)
    decoder = stand_in(ANSWERS, stall_timeout_s=10.0, max_processes=2)
    decoder._engines[0].max_pending = 1
    monkeypatch.setattr(engine_process, "WORKER", "no_such_engine")
    wait_until(lambda: answered(decoder, num_prompts=3) or "did not load" in caplog.text)
    assert "a further vLLM engine did not load, 1 go on" in caplog.text
    answered(decoder, num_prompts=3)


def test_an_engine_that_cannot_be_started_is_done_without(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise OSError("no memory for a process")

    monkeypatch.setattr(backlog, "BACKLOG_S", 0.0)
    decoder = stand_in(ANSWERS, stall_timeout_s=10.0, max_processes=3)
    decoder._engines[0].max_pending = 1
    monkeypatch.setattr(engine_process, "start_child", no_memory)
    answered(decoder, num_prompts=3)
    answered(decoder, num_prompts=3)
    assert caplog.text.count("did not start, 1 go on: no memory for a process") == 2
    assert not decoder._loading


# The first engine that gets a prompt does something else than to answer; FIRST is a file that it makes.
ENDS_FIRST = """
import os, socket
parent.recv(1, socket.MSG_PEEK)
try:
  os.close(os.open({first!r}, os.O_CREAT | os.O_EXCL))
  {ends}
except FileExistsError:
  pass
"""


@pytest.mark.parametrize(
    ("ends", "reason"), [("os._exit(3)", "exit status 3"), ("time.sleep(600)", "has written no token for")]
)
def test_the_prompts_of_an_engine_that_fails_go_to_the_others(
    stand_in: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    clock: Clock,
    ends: str,
    reason: str,
) -> None:
    """Also to one that had nothing to do for longer than an engine may stand still."""
    monkeypatch.setattr(worker_process, "STOP_TIMEOUT_S", 0.1)
    lines = ENDS_FIRST.format(first=str(tmp_path / "first"), ends=ends) + ANSWERS
    decoder = stand_in(lines, stall_timeout_s=60.0, num_processes=2)
    prompt, done = decoder.submit(PROMPT, GREEDY), list[int]()

    def poll() -> None:
        done.extend(i for i, _ in decoder.poll())

    wait_until(lambda: poll() or (tmp_path / "first").exists())
    clock.passed_s = 60.0
    wait_until(lambda: poll() or done == [prompt])
    assert "a vLLM engine failed, 1 go on with its 1 prompts" in caplog.text and reason in caplog.text
    assert len(decoder._engines) == 1
    answered(decoder, num_prompts=3)


def test_a_prompt_that_ends_two_engines_is_given_up(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third engine is spared, and answers the others' prompts."""
    monkeypatch.setattr(worker_process, "STOP_TIMEOUT_S", 0.1)
    lines = ANSWERS.replace("  time.sleep(0.05)", "  if 5 in message[1]: os._exit(3)\n  time.sleep(0.05)")
    decoder = stand_in(lines, stall_timeout_s=10.0, num_processes=3)
    bad, good = decoder.submit(torch.ones(5, 8), GREEDY), decoder.submit(PROMPT, GREEDY)
    done: dict[int, str | None] = {}
    wait_until(lambda: done.update({i: each.error for i, each in decoder.poll()}) or len(done) == 2)
    assert (done[bad] or "").startswith("two engines failed over it: a process of vLLM's engine ended")
    assert done[good] is None
    assert len(decoder._engines) == 1 and decoder.num_pending == 0


def test_an_engine_that_never_loads_is_done_without(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backlog, "BACKLOG_S", 0.0)
    decoder = stand_in(ANSWERS, stall_timeout_s=10.0, max_processes=2)
    decoder._engines[0].max_pending = 1
    (tmp_path / "hanging_engine.py").write_text("import time\ntime.sleep(600)")
    monkeypatch.setattr(engine_process, "WORKER", "hanging_engine")
    monkeypatch.setattr(engine_process, "LOAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(worker_process, "STOP_TIMEOUT_S", 0.1)
    wait_until(lambda: answered(decoder, num_prompts=3) or "did not load" in caplog.text)
    assert "did not load, 1 go on: vLLM's engine has not loaded within 0 s" in caplog.text
    assert not decoder._loading
    answered(decoder, num_prompts=3)


def test_the_first_engine_may_start_late(stand_in: StandIn) -> None:
    decoder = stand_in(ANSWERS, stall_timeout_s=10.0, num_processes=0, max_processes=1)
    assert decoder.poll() == [] and decoder.max_pending == 0
    decoder.wait_until_ready()
    answered(decoder, num_prompts=3)
    assert not decoder._num_spare


def test_a_decoder_that_was_closed_starts_no_engine(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "STOP_TIMEOUT_S", 0.1)
    decoder = stand_in(ANSWERS, stall_timeout_s=10.0, num_processes=0, max_processes=1)
    decoder.close()
    with pytest.raises(DecodeError, match="was closed while it was loading"):
        decoder.wait_until_ready()
    assert not decoder._engines


def test_an_engine_ends_at_once_while_it_imports_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch is a module here whose import takes ten minutes."""
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'begun')!r}, 'w')\nimport time\ntime.sleep(600)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(worker_process, "STOP_TIMEOUT_S", 300.0)
    child = worker_process.start_child(engine_process.WORKER)
    wait_until((tmp_path / "begun").exists)
    started = time.monotonic()
    child.close()
    assert time.monotonic() - started < 60.0


@pytest.mark.parametrize(("gigabytes", "cores", "expected"), [(141, 16, 4), (141, 8, 2), (24, 16, 2), (8, 64, 1)])
def test_as_many_engines_as_memory_and_cores_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: int, cores: int, expected: int
) -> None:
    class Properties:
        total_memory = gigabytes << 30

    class Source:
        directory = tmp_path

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(1_200_000_000)
    options = VLLMOptions(device=torch.device("cuda"), gpu_memory_utilization=0.8)
    assert engines_that_fit(Source, options) == expected  # type: ignore[arg-type]
