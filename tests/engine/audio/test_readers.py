"""AudioReaders gives what load() gives, in order, with bounded memory, whichever process dies."""

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.audio_clips import encode, encode_vbr_mp3, slow_to_decode, sweep, wav_header
from tests.hostile import hostile_inputs
from tests.processes import is_running, processes, wait_until
from twostage_asr.engine.audio import read_ahead
from twostage_asr.engine.audio import readers as readers_module
from twostage_asr.engine.audio.decode import AudioLimits, Waveform
from twostage_asr.engine.audio.inputs import AudioInput, expand_inputs
from twostage_asr.engine.audio.loading import load, load_blocks
from twostage_asr.engine.audio.read_ahead import Audio, Reading
from twostage_asr.engine.audio.readers import AudioReaders
from twostage_asr.engine.errors import AudioError, AudioTooLongError, ConfigError
from twostage_asr.engine.vad import SegmentRules
from twostage_asr.engine.vad.splitting import Cutting

LIMITS = AudioLimits()
ONE_SECOND = encode(sweep(1.0, 16_000), 16_000, "WAV", "PCM_24")


@pytest.fixture(scope="module")
def shared() -> Iterator[AudioReaders]:
    readers = AudioReaders(2)
    yield readers
    readers.close()


def write_silence(path: Path, duration_s: int) -> Path:
    """A file with a hole; an hour takes seconds to decode."""
    length = duration_s * 44_100 * 4
    with path.open("wb") as file:
        file.write(wav_header(data_length=length, sample_rate=44_100, channels=2))
        file.truncate(44 + length)
    return path


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "PROCESS_BYTES", 0)


@pytest.fixture
def new_processes() -> Callable[[], set[int]]:
    """Those that were started in this test."""
    before = processes()
    return lambda: processes() - before


def read(readers: AudioReaders, items: list[AudioInput], **options: bool) -> list[Waveform | AudioError]:
    found = list(readers.read(items, limits=LIMITS, **{"allow_urls": True} | options))
    assert [(index, item) for index, item, _ in found] == list(enumerate(items))
    return [whole(audio) for _, _, audio in found]


def whole(audio: Audio) -> Waveform | AudioError:
    """The waveform of an input that was not cut."""
    if isinstance(audio, AudioError):
        return audio
    assert audio.is_whole and audio.is_last
    return audio.cuts[0].waveform


def expected(items: list[AudioInput]) -> list[Waveform | AudioError]:
    found: list[Waveform | AudioError] = []
    for item in items:
        try:
            found.append(load(item, limits=LIMITS))
        except AudioError as error:
            found.append(error)
    return found


def assert_same(ours: list[Waveform | AudioError], theirs: list[Waveform | AudioError]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert type(a) is type(b)
        if isinstance(b, AudioError):
            assert str(a) == str(b)
        else:
            assert np.array_equal(a, b)


@pytest.mark.parametrize("where", ["threads", "processes"])
def test_equal_to_load(where: str, tmp_path: Path, shared: AudioReaders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "PROCESS_BYTES", 0 if where == "processes" else 1 << 60)
    music = np.stack([sweep(2.0, 48_000), 0.5 * sweep(2.0, 48_000)])
    good = {
        "a.wav": encode(music, 48_000, "WAV", "PCM_24"),
        "b.mp3": encode_vbr_mp3(sweep(2.0, 48_000), 48_000, with_length=True),
        "c.webm": encode(music, 48_000, "webm", "libopus"),
        "d.flac": encode(music, 48_000, "FLAC", "PCM_16"),
        "e.wav": encode(sweep(2.0, 16_000), 16_000, "WAV", "PCM_16"),
    }
    bad = tmp_path / "bad"
    bad.mkdir()
    sources = [case.source for case in hostile_inputs(bad)]
    for name, content in good.items():
        (tmp_path / name).write_bytes(content)
        sources += [tmp_path / name, content]
    sources += [(sweep(1.0, 8_000), 8_000), (music, 48_000), sweep(0.5, 16_000)]
    items = expand_inputs(sources[::-1])
    assert_same(read(shared, items), expected(items))


@pytest.mark.usefixtures("in_processes")
def test_limits_hold_in_processes(shared: AudioReaders) -> None:
    ((_, _, audio),) = shared.read(expand_inputs(ONE_SECOND), limits=AudioLimits(max_duration_s=0.5), allow_urls=False)
    assert isinstance(audio, AudioTooLongError)


def test_urls_can_be_forbidden(shared: AudioReaders) -> None:
    (audio,) = read(shared, expand_inputs("http://127.0.0.1:1/a.wav"), allow_urls=False)
    assert "fetching URLs is off" in str(audio)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(2, 40_000), st.sampled_from(["file", "bytes", "samples", "8 kHz", "nothing"]))))
@pytest.mark.usefixtures("in_processes")
def test_order(shared: AudioReaders, wanted: list[tuple[int, str]]) -> None:
    """Long and short ones, wherever they are read."""

    def source(length: int, kind: str) -> object:
        samples = np.zeros(length, np.float32)
        content = encode(samples, 16_000, "WAV", "PCM_16") if kind in ("file", "bytes") else b""
        return {"file": content, "bytes": content, "samples": samples, "8 kHz": (samples, 8_000)}.get(kind)

    audio = read(shared, expand_inputs([source(*one) for one in wanted]))
    lengths = [None if isinstance(a, AudioError) else len(a) for a in audio]
    assert lengths == [{"8 kHz": 2 * n, "nothing": None}.get(kind, n) for n, kind in wanted]


def test_what_is_ready_comes_out_while_no_input_comes(shared: AudioReaders) -> None:
    first, second = expand_inputs([sweep(0.1, 16_000), sweep(0.2, 16_000)])
    found = shared.read([None, first, None, second], limits=LIMITS, allow_urls=False)
    assert [None if output is None else output[0] for output in found] == [None, 0, None, 1]


def test_a_waveform_stays_where_it_is(shared: AudioReaders) -> None:
    samples = sweep(1.0, 16_000)
    for source in (samples, (samples, 16_000), ("key", samples, 16_000)):
        (audio,) = read(shared, expand_inputs(source))
        assert isinstance(audio, np.ndarray) and np.shares_memory(audio, samples)


def test_few_files_start_no_process(new_processes: Callable[[], set[int]]) -> None:
    readers = AudioReaders(2)
    assert not any(isinstance(audio, AudioError) for audio in read(readers, expand_inputs([ONE_SECOND] * 20)))
    assert not new_processes()
    many = expand_inputs([ONE_SECOND] * (readers_module.PROCESS_BYTES // len(ONE_SECOND)))
    assert not any(isinstance(audio, AudioError) for audio in read(readers, many))
    assert len(new_processes()) in (1, 2)
    readers.close()
    assert not new_processes()


@pytest.mark.usefixtures("in_processes")
def test_short_audio_that_needs_no_decoding_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only thread is at work on a recording that is too long for that."""
    may_read = held(monkeypatch, after=0)
    with contextlib.closing(AudioReaders(1)) as readers:
        lengths = (CUTTING.whole_s + 1.0, 1.0)
        items = expand_inputs([encode(sweep(seconds, 16_000), 16_000, "WAV", "PCM_16") for seconds in lengths])
        long, short = (readers.submit(item, limits=LIMITS, allow_urls=False, cutting=CUTTING) for item in items)
        assert short.done() and not long.done()
        may_read.set()
        assert shape(short.result()[0]) == "whole" and shape(long.result()[0]) == "6 s."


def test_the_decoding_process_needs_no_torch() -> None:
    check = "import sys, twostage_asr.engine.audio.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.parametrize("num_processes", [0, -1])
def test_no_processes_are_refused(num_processes: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        AudioReaders(num_processes)


@pytest.mark.parametrize("cutting", [None, "pieces"])
def test_whatever_reading_raises_is_the_error_of_that_input(
    cutting: str | None, shared: AudioReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(item: AudioInput, **options: Any) -> Waveform:
        if item.key == "bad":
            raise ZeroDivisionError("a header of zeros")
        return load(item, **options)

    def faulty_blocks(item: AudioInput, **options: Any) -> Iterator[Waveform]:
        yield faulty(item, **options)

    monkeypatch.setattr(readers_module, "PROCESS_BYTES", 1 << 60)
    monkeypatch.setattr(readers_module, "load_blocks", faulty_blocks)
    items = [AudioInput(key=key, source=ONE_SECOND) for key in ("good", "bad", "better")]
    options = {"limits": LIMITS, "allow_urls": False, "cutting": cutting and CUTTING}
    found = [audio for _, _, audio in shared.read(items, **options)]  # type: ignore[arg-type]
    assert [shape(audio) for audio in found] == ["whole", "AudioError", "whole"]
    assert str(found[1]) == "read failed for bad: ZeroDivisionError: a header of zeros"
    future = shared.submit(items[1], **options)  # type: ignore[arg-type]
    assert [str(audio) for audio in future.result(60)] == [str(found[1])]


# --- how far ahead


class Counted:
    """An endless list that counts what was taken from it, and by whom."""

    def __init__(self) -> None:
        self.num_pulled = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[AudioInput]:
        (item,) = expand_inputs(ONE_SECOND)
        while True:
            self.num_pulled += 1
            self.threads.add(threading.get_ident())
            yield item


def begun(monkeypatch: pytest.MonkeyPatch) -> list[AudioInput]:
    """What the readers begin to read from now on."""
    seen: list[AudioInput] = []
    read_one = AudioReaders._read_one

    def counted(self: AudioReaders, item: AudioInput, **options: Any) -> Reading:
        seen.append(item)
        yield from read_one(self, item, **options)

    monkeypatch.setattr(AudioReaders, "_read_one", counted)
    return seen


def held(monkeypatch: pytest.MonkeyPatch, *, after: int) -> threading.Event:
    """From now on the readers read so many inputs in other threads, and more once the event is set."""
    may_read, number, read_one = threading.Event(), itertools.count(), AudioReaders._read_one
    here = threading.current_thread()

    def late(self: AudioReaders, item: AudioInput, **options: Any) -> Reading:
        assert threading.current_thread() is here or next(number) < after or may_read.wait(60)
        yield from read_one(self, item, **options)

    monkeypatch.setattr(AudioReaders, "_read_one", late)
    return may_read


def test_items_are_pulled_lazily_and_here(shared: AudioReaders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "READ_AHEAD", 8)
    items = Counted()
    audio = shared.read(items, limits=LIMITS, allow_urls=False)
    assert items.num_pulled == 0
    for num_taken in range(1, 30):
        next(audio)
        assert items.num_pulled == num_taken + 7
    assert items.threads == {threading.get_ident()}


@pytest.mark.parametrize("num_kept", [1, 10])
@pytest.mark.usefixtures("in_processes")
def test_memory_is_bounded(
    num_kept: int, tmp_path: Path, shared: AudioReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "READ_AHEAD_BYTES", num_kept * 64_000)  # a second's waveform
    (tmp_path / "a.wav").write_bytes(ONE_SECOND)
    seen = begun(monkeypatch)
    items = expand_inputs([tmp_path / "a.wav"] * 200)
    for num_taken, (_, _, audio) in enumerate(shared.read(items, limits=LIMITS, allow_urls=False), start=1):
        assert isinstance(whole(audio), np.ndarray)
        if num_taken % 20 == 0:
            time.sleep(0.02)
        assert len(seen) - num_taken <= num_kept + 2  # and one in each process
    assert num_taken == 200


def test_sources_in_memory_count(shared: AudioReaders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "READ_AHEAD_BYTES", 5 * len(ONE_SECOND))
    items = Counted()
    audio = shared.read(items, limits=LIMITS, allow_urls=False)
    next(audio)
    assert items.num_pulled <= 5


def test_sources_beyond_the_bound_are_read_one_by_one_and_not_here(
    shared: AudioReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "READ_AHEAD_BYTES", 1)
    threads: list[int] = []

    def load_and_tell(item: AudioInput, **options: Any) -> Iterator[Waveform]:
        threads.append(threading.get_ident())
        return load_blocks(item, **options)

    monkeypatch.setattr(readers_module, "PROCESS_BYTES", 1 << 60)
    monkeypatch.setattr(readers_module, "load_blocks", load_and_tell)
    items = expand_inputs([ONE_SECOND] * 10)
    for num_taken, _ in enumerate(shared.read(items, limits=LIMITS, allow_urls=False), start=1):
        assert len(threads) == num_taken
    assert threading.get_ident() not in threads


@pytest.mark.usefixtures("in_processes")
def test_closing_early_drops_the_rest(shared: AudioReaders, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = begun(monkeypatch)
    may_read = held(monkeypatch, after=1)
    items = Counted()
    audio = shared.read(items, limits=LIMITS, allow_urls=False)
    next(audio)
    audio.close()
    num_begun = len(seen)
    assert num_begun < items.num_pulled
    may_read.set()
    assert_same(read(shared, expand_inputs([ONE_SECOND] * 5)), expected(expand_inputs([ONE_SECOND] * 5)))
    assert len(seen) <= num_begun + 2 + 5


@pytest.mark.usefixtures("in_processes")
def test_two_lists_at_once(shared: AudioReaders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "READ_AHEAD_BYTES", 1)
    items = expand_inputs([ONE_SECOND] * 10)
    first, second = (shared.read(items, limits=LIMITS, allow_urls=False) for _ in range(2))
    assert [len(whole(a)) for both in zip(first, second, strict=True) for _, _, a in both] == [16_000] * 20


# --- recordings that are cut

CUTTING = Cutting(vad="silero", rules=SegmentRules(), whole_s=5.0)


def shape(audio: Audio) -> str:
    if isinstance(audio, AudioError):
        return type(audio).__name__
    return "whole" if audio.is_whole else f"{audio.duration:.0f} s" + "." * audio.is_last


@pytest.mark.parametrize("process_bytes", [0, 1 << 60])
def test_long_recordings_come_in_turn(
    process_bytes: int, shared: AudioReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time, because there are two readers; each time a block of 2**20 samples."""
    monkeypatch.setattr(readers_module, "PROCESS_BYTES", process_bytes)
    long = np.zeros(16_000 * 150, np.float32)
    content = encode(long, 16_000, "FLAC", "PCM_16")
    items = expand_inputs([ONE_SECOND, content, ONE_SECOND, long, content, b"nothing", ONE_SECOND])
    for ahead in (1, 1 << 30):
        monkeypatch.setattr(read_ahead, "READ_AHEAD_BYTES", ahead)
        found = [(i, shape(a)) for i, _, a in shared.read(items, limits=LIMITS, allow_urls=False, cutting=CUTTING)]
        assert found == [
            (0, "whole"), (1, "66 s"), (2, "whole"), (1, "131 s"), (3, "66 s"), (1, "150 s."), (3, "131 s"),
            (4, "66 s"), (3, "150 s."), (4, "131 s"), (5, "UnsupportedAudioError"), (4, "150 s."), (6, "whole"),
        ]  # fmt: skip


@pytest.mark.usefixtures("in_processes")
def test_closing_ends_what_is_being_cut(new_processes: Callable[[], set[int]]) -> None:
    readers = AudioReaders(2)
    long = encode(np.zeros(16_000 * 600, np.float32), 16_000, "WAV", "PCM_16")
    audio = readers.read(expand_inputs([long] * 5), limits=LIMITS, allow_urls=False, cutting=CUTTING)
    assert not next(audio)[2].is_last  # type: ignore[union-attr]
    audio.close()
    wait_until(lambda: not new_processes())
    assert [len(a) for a in read(readers, expand_inputs([ONE_SECOND] * 3))] == [16_000] * 3  # type: ignore[arg-type]
    readers.close()


@pytest.mark.usefixtures("in_processes")
def test_a_process_that_is_killed_while_it_cuts_costs_one_input(
    new_processes: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "READ_AHEAD_BYTES", 1)  # so that it has not cut all of it yet
    readers = AudioReaders(1)
    long = encode(np.zeros(16_000 * 600, np.float32), 16_000, "WAV", "PCM_16")
    audio = readers.read(expand_inputs([long, ONE_SECOND]), limits=LIMITS, allow_urls=False, cutting=CUTTING)
    next(audio)
    (victim,) = new_processes()
    os.kill(victim, signal.SIGKILL)
    rest = list(audio)
    assert [shape(a) for _, _, a in rest if not shape(a).endswith("s")] == ["AudioError", "whole"]
    readers.close()


# --- waiting


def test_who_waits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second input is not read before somebody has heard three times that it is not."""
    is_read = threading.Event()

    def slow(item: AudioInput, **options: Any) -> Iterator[Waveform]:
        assert item.key == "first" or is_read.wait(60)
        return load_blocks(item, **options)

    monkeypatch.setattr(readers_module, "load_blocks", slow)
    source = encode(sweep(1.0, 16_000), 16_000, "FLAC", "PCM_16")
    items = [AudioInput(key=key, source=source) for key in ("first", "second")]
    readers, heard = AudioReaders(2), []
    for read in readers.read(items, limits=LIMITS, allow_urls=False, wait_s=0.01):
        heard.append(read and read[1].key)
        if heard.count(None) >= 3 and "first" in heard:
            is_read.set()
    readers.close()
    assert [key for key in heard if key] == ["first", "second"]
    assert heard.index("second") - heard.index("first") > 1


# --- processes that die


def open_files(pid: int) -> set[Path]:
    """What this process reads, among other things."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it has been closed by now
            found.add(link.readlink())
    return found


def children_cpu_s() -> float:
    """Processor time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.usefixtures("in_processes")
def test_a_decoding_process_that_is_killed_costs_one_input(
    tmp_path: Path, new_processes: Callable[[], set[int]]
) -> None:
    silence = write_silence(tmp_path / "silence.wav", 3600)
    readers = AudioReaders(1)
    items = expand_inputs([ONE_SECOND, silence, ONE_SECOND])
    audio = readers.read(items, limits=LIMITS, allow_urls=False)
    assert isinstance(whole(next(audio)[2]), np.ndarray)
    (victim,) = new_processes()
    wait_until(lambda: silence in open_files(victim))
    os.kill(victim, signal.SIGKILL)
    _, _, error = next(audio)
    assert type(error) is AudioError
    assert str(error) == f"{silence}: the process that decoded it died with exit status -9"
    assert [len(whole(a)) for _, _, a in audio] == [16_000]
    (replacement,) = new_processes()
    os.kill(replacement, signal.SIGKILL)  # while it has nothing to do: that costs nothing
    wait_until(lambda: not is_running(replacement))
    assert [len(a) for a in read(readers, items[:1])] == [16_000]
    readers.close()


@pytest.mark.usefixtures("in_processes")
def test_close_does_not_wait_for_the_decoding(tmp_path: Path, new_processes: Callable[[], set[int]]) -> None:
    slow, limits = tmp_path / "slow.flac", AudioLimits(max_samples=1 << 40)
    slow.write_bytes(slow_to_decode())
    readers = AudioReaders(2)
    audio = readers.read(expand_inputs([ONE_SECOND] * 2 + [slow] * 4), limits=limits, allow_urls=False)
    next(audio), next(audio)
    both = new_processes()
    assert len(both) == 2
    wait_until(lambda: all(slow in open_files(pid) for pid in both))
    before_s = children_cpu_s()
    readers.close()
    wait_until(lambda: not new_processes())
    assert children_cpu_s() < before_s + 100.0, "it has been decoded to the end"
    with pytest.raises((RuntimeError, CancelledError)):
        list(audio)


@pytest.mark.parametrize("end", ["killed", "by itself"])
def test_a_program_that_ends_in_the_midst_leaves_no_process(end: str, tmp_path: Path) -> None:
    silence = write_silence(tmp_path / "silence.wav", 600)
    (tmp_path / "short.wav").write_bytes(ONE_SECOND)
    command = [sys.executable, Path(__file__).with_name("long_reading.py"), tmp_path / "short.wav", silence, end]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None and program.stderr is not None
        children = [int(pid) for pid in program.stdout.readline().split()]
        assert len(children) == 2 and all(map(is_running, children))
        if end == "killed":
            program.kill()
        else:
            assert program.wait(timeout=300) == 0
            assert program.stderr.read() == ""
    wait_until(lambda: not any(map(is_running, children)))
