"""Many clients, few threads: they have their turns, none has all threads, and what nobody wants any more ends."""

import contextlib
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

import numpy as np
import pytest

from tests.audio_clips import encode, slow_to_decode, sweep
from tests.processes import processes, wait_until
from twostage_asr.engine.audio import readers as readers_module
from twostage_asr.engine.audio.decode import AudioLimits, Waveform
from twostage_asr.engine.audio.inputs import AudioInput, expand_inputs
from twostage_asr.engine.audio.readers import AudioReaders
from twostage_asr.engine.audio.turns import Stop, Turns
from twostage_asr.engine.errors import AudioError
from twostage_asr.engine.vad import SegmentRules
from twostage_asr.engine.vad.splitting import Cutting

LIMITS = AudioLimits(max_samples=1 << 40)
CUTTING = Cutting(vad="silero", rules=SegmentRules(), whole_s=5.0)
SHORT = encode(sweep(1.0, 16_000), 16_000, "FLAC", "PCM_16")


class Work:
    """Readings that end when they are told, and the order in which they began."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._may_end: dict[str, threading.Event] = {}

    def reading(self, name: str) -> Generator[str, None, None]:
        self._may_end[name] = threading.Event()
        return self._reading(name)

    def _reading(self, name: str) -> Generator[str, None, None]:
        self.begun.append(name)
        assert self._may_end[name].wait(60)
        yield name

    def end(self, *names: str) -> None:
        for name in names:
            self._may_end[name].set()


@pytest.fixture
def work() -> Work:
    return Work()


@contextlib.contextmanager
def turns(num_threads: int) -> Iterator[Turns[str]]:
    with ThreadPoolExecutor(num_threads) as threads:
        yield Turns(threads, num_threads)


def test_clients_have_their_turns(work: Work) -> None:
    """One after another: whoever asked first is served first, but not all of what they asked for."""
    with turns(1) as one:
        names = ["a1", "a2", "a3", "b1", "b2", "c1"]
        futures = [one.add(name[0], work.reading(name)) for name in names]
        work.end(*names)
        assert [future.result(60) for future in futures] == [[name] for name in names]
    assert work.begun == ["a1", "a2", "b1", "c1", "a3", "b2"]


def test_a_named_client_never_has_all_threads(work: Work) -> None:
    with turns(3) as three:
        futures = [three.add("a", work.reading(f"a{i}")) for i in range(4)]
        wait_until(lambda: len(work.begun) == 2)
        other = three.add("b", work.reading("b"))
        work.end("b")
        assert other.result(60) == ["b"] and work.begun == ["a0", "a1", "b"]
        work.end("a0", "a1", "a2", "a3")
        wait(futures, 60)


def test_those_without_a_name_have_all_threads(work: Work) -> None:
    with turns(3) as three:
        futures = [three.add(None, work.reading(str(i))) for i in range(3)]
        wait_until(lambda: len(work.begun) == 3)
        work.end("0", "1", "2")
        wait(futures, 60)


def test_what_is_cancelled_before_its_turn_is_not_begun(work: Work) -> None:
    with turns(1) as one:
        futures = [one.add("a", work.reading(name)) for name in ("first", "second", "third")]
        assert futures[1].cancel()
        work.end("first", "second", "third")
        assert futures[2].result(60) == ["third"]
    assert work.begun == ["first", "third"]


def test_closing_cancels_what_waits(work: Work) -> None:
    with turns(1) as one:
        first, second = (one.add("a", work.reading(name)) for name in ("first", "second"))
        one.close()
        work.end("first")
        assert first.result(60) == ["first"]
        with pytest.raises(CancelledError):
            second.result(60)
        with pytest.raises(RuntimeError, match="closed"):
            one.add("a", work.reading("third"))


def test_an_exception_reaches_who_asked() -> None:
    def failing() -> Generator[str, None, None]:
        yield "something"
        raise ZeroDivisionError

    with turns(1) as one, pytest.raises(ZeroDivisionError):
        one.add(None, failing()).result(60)


def test_nothing_is_read_after_stop() -> None:
    stop = Stop()
    blocks = stop.before_each(iter([np.zeros(1, np.float32)] * 3))
    next(blocks)
    stop.set()
    with pytest.raises(AudioError, match="nobody wants"):
        next(blocks)


# --- with the readers


def submit(readers: AudioReaders, content: bytes, client: str | None = None) -> Future[list[readers_module.Audio]]:
    (item,) = expand_inputs(content)
    return readers.submit(item, limits=LIMITS, allow_urls=False, cutting=CUTTING, client=client)


def test_an_abandoned_process_ends_and_another_client_need_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "PROCESS_BYTES", 0)
    before = processes()
    with contextlib.closing(AudioReaders(1)) as readers:
        abandoned = submit(readers, slow_to_decode())
        wait_until(lambda: len(processes() - before) == 1)
        (victim,) = processes() - before
        assert abandoned.cancel()
        assert len(submit(readers, SHORT).result(60)) == 1
        wait_until(lambda: victim not in processes())


def test_an_abandoned_thread_ends_at_the_next_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "PROCESS_BYTES", 1 << 60)
    num_blocks = 0
    may_go_on = threading.Event()

    def endless(item: AudioInput, **options: object) -> Iterator[Waveform]:
        nonlocal num_blocks
        while True:
            num_blocks += 1
            yield np.zeros(1600, np.float32)
            assert may_go_on.wait(60)

    with contextlib.closing(AudioReaders(1)) as readers:
        monkeypatch.setattr(readers_module, "load_blocks", endless)
        abandoned = submit(readers, SHORT)
        wait_until(lambda: num_blocks == 1)
        assert abandoned.cancel()
        may_go_on.set()
        monkeypatch.undo()
        assert len(submit(readers, SHORT).result(60)) == 1
        assert num_blocks <= 2
