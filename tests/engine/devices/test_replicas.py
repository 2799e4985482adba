"""Engines in several processes give what one gives, whatever ends one of them, and leave nothing behind."""

import io
import itertools
import logging
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from tests.engine.devices import slow_engine
from tests.engine.devices.models import BROKEN, DEADLY, load, load_broken, load_growing
from tests.fake_model import FakeFamily, fake_transcriber, samples, text_of
from tests.processes import is_running, processes
from twostage_asr.engine import CheckpointError, ConfigError, DecodeError, transcribe_options
from twostage_asr.engine.audio.inputs import AudioInput, expand_inputs
from twostage_asr.engine.cores import shares_of_cores
from twostage_asr.engine.devices import replica
from twostage_asr.engine.devices.replicas import Replicas

FAMILY: Any = FakeFamily()
NUM_CLIPS = 900
SMALL = transcribe_options(batch_size=4, timestamps=False)


def replicas(pids: Path, count: int = 2, **arguments: Any) -> Replicas:
    return Replicas(FAMILY, [(f"cuda:{number}", partial(load, pids, **arguments)) for number in range(count)])


def ids(pids: Path) -> list[int]:
    return sorted(int(path.name) for path in pids.iterdir() if path.is_file())


@pytest.fixture(scope="module")
def pids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pids")


@pytest.fixture(scope="module")
def pair(pids: Path) -> Iterator[Replicas]:
    """With memory for 160 clips of 0.1 s each, so that they have to wait for room."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica, "ARENA_BYTES", 1 << 20)
        model = replicas(pids)
    with model:
        yield model


def clips(count: int, seconds: float = 0.1) -> list[AudioInput]:
    return expand_inputs([(samples(number, seconds), 16_000) for number in range(count)])


def texts(model: Replicas, items: list[AudioInput]) -> list[str]:
    results = list(model.run(items, SMALL))
    assert Counter(place for place, _ in results) == Counter(range(len(items)))
    return [transcript.text for _, transcript in sorted(results, key=lambda result: result[0])]


def test_two_processes_write_what_one_writes(pair: Replicas, tmp_path: Path) -> None:
    files = []
    for number in range(40):
        soundfile.write(tmp_path / f"{number}.wav", samples(number, 0.2), 16_000)
        files.append(tmp_path / f"{number}.wav")
    content = files[7].read_bytes()
    items = expand_inputs(
        [
            *files,
            tmp_path / "none.wav",
            content,
            io.BytesIO(content),
            torch.from_numpy(samples(11)),
            (samples(12).astype(np.float64), 16_000),
            ("resampled", samples(13, 2.0), 8_000),
            np.zeros(0, np.float32),
            b"not audio",
            io.StringIO("text"),
            3,
            *[(samples(number, 0.3), 16_000) for number in range(100, 160)],
        ]
    )
    alone = fake_transcriber(tmp_path)
    with closing(alone):
        one = dict(alone.run([item for item in items if not isinstance(item.source, io.IOBase)], SMALL))
    two = [transcript for _, transcript in sorted(pair.run(items, SMALL), key=lambda result: result[0])]
    by_key = {transcript.key: transcript for transcript in one.values()}
    assert [transcript.key for transcript in two] == [item.key for item in items]
    assert {transcript.key: transcript for transcript in two if transcript.key in by_key} == by_key
    assert [two[i].text for i in (41, 42)] == [text_of(7)] * 2
    assert two[48].status == "error" and "not bytes" in (two[48].error or "")
    assert sum(transcript.status == "error" for transcript in two) == 5


def test_each_process_sees_its_own_gpu_from_its_start(pair: Replicas, pids: Path) -> None:
    environments = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in ids(pids)]
    assert {b"CUDA_VISIBLE_DEVICES=0", b"CUDA_VISIBLE_DEVICES=1"} <= {line for lines in environments for line in lines}


def test_each_process_runs_on_its_share_of_the_cores(pair: Replicas, pids: Path) -> None:
    """So that every library there counts as many as it would in a process of its own; this one keeps all."""
    shares = [sorted(os.sched_getaffinity(pid)) for pid in ids(pids)]
    assert sorted(shares) == sorted(shares_of_cores(2))
    assert sorted(os.sched_getaffinity(0)) == sorted({core for share in shares for core in share})


def test_both_processes_work(pair: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine one of them may do little."""
    handed: Counter[str] = Counter()
    add = replica.Replica.add

    def add_and_count(one: replica.Replica, *entry: Any) -> bool:
        is_taken = add(one, *entry)
        handed[one.device] += is_taken
        return is_taken

    monkeypatch.setattr(replica.Replica, "add", add_and_count)
    assert texts(pair, clips(NUM_CLIPS)) == [text_of(number) for number in range(NUM_CLIPS)]
    assert handed.keys() == set(pair.devices) and min(handed.values()) > 0


def test_a_list_is_taken_a_little_ahead_and_an_unfinished_one_is_dropped(pair: Replicas) -> None:
    num_taken = 0

    def endless() -> Iterator[AudioInput]:
        nonlocal num_taken
        while True:
            num_taken += 1
            yield AudioInput(key=f"{num_taken}", source=samples(num_taken % 900, 0.1))

    results = pair.run(endless(), SMALL)
    for _ in range(50):
        next(results)
    taken = num_taken
    time.sleep(0.2)  # the processes take up what they have been given
    assert num_taken == taken < 5000
    results.close()
    assert texts(pair, clips(5)) == [text_of(number) for number in range(5)]


def test_many_short_lists_leave_room_for_others(pair: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "AHEAD", 4)
    for _ in range(10):
        assert texts(pair, clips(3)) == [text_of(number) for number in range(3)]
    assert all(one.has_room for one in pair._replicas)


def test_a_process_without_room_for_a_waveform_keeps_none_from_another(
    pair: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one, which has the fewest, takes nothing, as if its memory were full of long clips."""
    monkeypatch.setattr(pair._replicas[0]._arena, "take", lambda num_samples: None)
    assert texts(pair, clips(40)) == [text_of(number) for number in range(40)]


def test_a_process_says_how_long_it_has_waited(pair: Replicas) -> None:
    before = [over for _, over in pair.spent]

    def slow() -> Iterator[AudioInput]:
        for item in clips(2):
            yield item
            time.sleep(1.0)

    list(pair.run(slow(), SMALL))
    waited = [over.starved_s - earlier.starved_s for (_, over), earlier in zip(pair.spent, before, strict=True)]
    worked = [over.busy_s - earlier.busy_s for (_, over), earlier in zip(pair.spent, before, strict=True)]
    assert max(waited) > 0.2 and max(worked) > 0.0
    assert [device for device, _ in pair.spent] == ["cuda:0", "cuda:1"]


def test_samples_that_cannot_be_sent_fail_alone(pair: Replicas) -> None:
    nothing = np.array([lambda: None], dtype=object)
    results = dict(pair.run(expand_inputs([nothing, samples(1)]), SMALL))
    assert (results[0].status, results[1].text) == ("error", text_of(1))
    assert len(pair.devices) == 2


def test_a_list_goes_on_after_one_whose_end_was_interrupted(pair: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    results = pair.run(clips(NUM_CLIPS), SMALL)
    next(results)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(replica.Replica, "receive", interrupted)
        results.close()
    assert texts(pair, clips(5)) == [text_of(number) for number in range(5)]


def test_a_list_that_is_dropped_at_its_very_end_leaves_nothing_to_the_next(pair: Replicas) -> None:
    """A process may have said that its list is over when it is asked to drop it; it answers to both."""
    for _ in range(30):
        with closing(pair.run(clips(2), SMALL)) as results:
            assert len(list(itertools.islice(results, 2))) == 2
    assert texts(pair, clips(5)) == [text_of(number) for number in range(5)]


def interrupted(_: object) -> None:
    raise KeyboardInterrupt


def test_a_forked_process_leaves_its_parents_list_alone(pair: Replicas) -> None:
    results = pair.run(clips(60), SMALL)
    first = next(results)
    if (child := os.fork()) == 0:
        try:
            results.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert {transcript.text for _, transcript in (first, *results)} == {text_of(number) for number in range(60)}


def test_an_exception_of_the_inputs_is_raised_and_ends_the_list(pair: Replicas) -> None:
    def failing() -> Iterator[AudioInput]:
        yield from clips(3)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(pair.run(failing(), SMALL))
    assert texts(pair, clips(5)) == [text_of(number) for number in range(5)]


def test_inputs_that_come_slowly_are_not_kept_waiting_for_a_batch(pair: Replicas) -> None:
    """Others must come before all of a batch has: more inputs follow only after the first result."""
    arrived = []

    def slow() -> Iterator[AudioInput]:
        yield from clips(64)
        begun = time.monotonic()
        while not arrived and time.monotonic() < begun + 0.05:
            time.sleep(0.001)
            yield AudioInput(key="more", source=samples(1, 0.1))

    for result in pair.run(slow(), SMALL):
        arrived.append(result)
    assert len(arrived) >= 64


def test_what_no_device_can_do_is_raised_as_it_is(pair: Replicas) -> None:
    with pytest.raises(ConfigError, match="language 'xx'"):
        pair.run(clips(1), transcribe_options(language="xx"))
    known = transcribe_options(speakers=True, known_speakers={"Ann": np.zeros(10, np.float32)})
    with pytest.raises(Exception, match="'Ann'"):
        list(pair.run(clips(1), known))
    assert texts(pair, clips(5)) == [text_of(number) for number in range(5)]


def test_devices_that_fail_cost_nothing_until_none_is_left(tmp_path: Path) -> None:
    """The first is killed, the engine of the second fails, and then the third is killed."""
    with replicas(tmp_path, count=3, delay_s=0.002) as model:
        first, second, third = ids(tmp_path)
        found: dict[int, str] = {}
        for place, transcript in model.run(clips(NUM_CLIPS), SMALL):
            if len(found) == 100:
                os.kill(first, signal.SIGKILL)
            if len(found) == 300:
                (tmp_path / str(second)).unlink()
            assert place not in found
            found[place] = transcript.text
        assert found == {number: text_of(number) for number in range(NUM_CLIPS)}
        assert len(model.devices) == 1
        (tmp_path / BROKEN).mkdir()
        with pytest.raises(DecodeError, match=r"all devices have failed.*exit status -9.*anew failed: .*is missing"):
            for number, _ in enumerate(model.run(clips(NUM_CLIPS), SMALL)):
                if number == 20:
                    os.kill(third, signal.SIGKILL)
        with pytest.raises(DecodeError, match="all devices have failed"):
            list(model.run(clips(1), SMALL))


def test_an_input_that_ends_each_process_is_its_own_error(tmp_path: Path) -> None:
    items = clips(40)
    items[5] = AudioInput(key="deadly", source=samples(DEADLY, 0.1))
    with replicas(tmp_path) as model:
        results = list(model.run(items, SMALL))
        assert Counter(place for place, _ in results) == Counter(range(len(items)))
        failed = [(place, transcript.error or "") for place, transcript in results if transcript.status == "error"]
        assert [place for place, _ in failed] == [5] and "several processes failed over it" in failed[0][1]
        assert len(model.devices) == 1
        assert texts(model, clips(5)) == [text_of(number) for number in range(5)]


def test_a_model_that_cannot_be_loaded_names_its_device_and_leaves_no_process(tmp_path: Path) -> None:
    before = processes()
    with pytest.raises(CheckpointError, match="cpu 1: a tensor is missing"):
        Replicas(FAMILY, [("cpu 0", partial(load, tmp_path)), ("cpu 1", load_broken)])
    assert processes() == before


def test_each_process_starts_further_engines_as_one_alone_does_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its engine's prompts wait, because it is given as many clips as it can take up; and it has its share of cores."""
    caplog.set_level(logging.INFO, "twostage_asr")
    found: dict[str, list[str]] = {}
    with Replicas(FAMILY, [(f"cuda:{number}", partial(load_growing, tmp_path)) for number in range(2)]) as model:
        endless = (AudioInput(key=f"{number}", source=samples(1, 0.1)) for number in itertools.count())
        deadline = time.monotonic() + 300
        with closing(model.run(endless, SMALL)) as results:
            for _, transcript in results:
                assert transcript.text == "A"
                found = {device: lines_of(device, caplog) for device in model.devices}
                if time.monotonic() > deadline or all("3 vLLM engines decode" in lines for lines in found.values()):
                    break
    for cores, lines in zip(shares_of_cores(2), found.values(), strict=True):
        assert lines[0] == f"{len(cores)} cores"
        waiting = re.fullmatch(r"(\d+) prompts wait; 2 more vLLM engines are loading", lines[1])
        assert waiting is not None and int(waiting[1]) >= slow_engine.MAX_PENDING - SMALL.batch_size
        assert lines[2:] == ["2 vLLM engines decode", "3 vLLM engines decode"]
    assert len(found) == 2


def lines_of(device: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this device has said in the log."""
    return [line.removeprefix(f"{device}: ") for line in caplog.messages if line.startswith(f"{device}: ")]


def test_processes_that_do_not_leave_are_waited_for_together() -> None:
    waits: list[float] = []
    staying: Any = SimpleNamespace(leave=lambda: None, close=lambda wait_s: waits.append(wait_s) or time.sleep(wait_s))
    replica.close_all([staying] * 5, wait_s=0.1)
    assert len(waits) == 5 and sum(waits) <= 0.1


def test_closing_leaves_no_process_even_within_a_list(pair: Replicas, pids: Path) -> None:
    """The last test: it closes what the others use."""
    results = pair.run(clips(NUM_CLIPS), SMALL)
    next(results)
    pair.close()
    assert not any(map(is_running, ids(pids)))
    with pytest.raises(ConfigError, match="closed"):
        list(results)
