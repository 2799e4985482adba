"""Objects survive the socket, and processes their parent only for a moment."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from twostage_asr.engine import worker_process
from twostage_asr.engine.worker_process import hold_standard_streams, receive, send, start_child


def there_and_back(message: object) -> object:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=send, args=(ours, message))
        sender.start()
        received = receive(theirs)
        sender.join()
    return received


def test_objects_survive() -> None:
    for message in (None, "x" * 1_000_000, ValueError("中文"), {"a": (1, 2.5, b"\0")}):
        received = there_and_back(message)
        assert (type(received), str(received)) == (type(message), str(message))


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (2_000_000,)])
def test_arrays_survive_and_can_be_written_to(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    received = there_and_back([array, {"transposed": array.T, "every second": array[::2]}, array.astype(np.int16)])
    assert isinstance(received, list)
    whole, others, integers = received
    assert np.array_equal(whole, array) and whole.dtype == np.float32 and whole.flags.writeable
    assert np.array_equal(others["transposed"], array.T) and np.array_equal(others["every second"], array[::2])
    assert np.array_equal(integers, array.astype(np.int16))


def test_the_end_of_the_other_side_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(b"half a head")
        theirs.close()
        with pytest.raises(EOFError):
            receive(ours)


def test_a_child_finds_what_this_process_would_import_and_ends_with_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text(
        "import os, time\n"
        "from twostage_asr.engine.worker_process import connect, receive, send\n"
        "parent = connect()\n"
        "print('noise')\n"
        "send(parent, (receive(parent), os.getpgid(0)))\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(worker_process, "STOP_TIMEOUT_S", 300.0)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "only_here.py").write_text("a user's file of that name")
    monkeypatch.chdir(tmp_path / "here")
    child = start_child("only_here")
    send(child.socket, [1, 2])
    answer, group = receive(child.socket)
    assert answer == [1, 2]
    assert group == child.process.pid != os.getpgid(0), "Ctrl-C in the terminal would reach it"
    started = time.monotonic()
    child.close()
    assert child.process.returncode in (0, -signal.SIGKILL) and time.monotonic() - started < 60.0


def test_a_child_ends_before_it_is_closed_once_it_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "waits.py").write_text(
        "import time\nfrom twostage_asr.engine.worker_process import connect\nparent = connect()\ntime.sleep(600)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    child = start_child("waits")
    child.hang_up()
    assert child.process.wait(60) == -signal.SIGKILL
    child.close()


def test_shared_memory_that_a_child_leaves_behind_is_removed_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "leaves_memory.py").write_text(
        "import time\n"
        "from multiprocessing.shared_memory import SharedMemory\n"
        "from twostage_asr.engine.worker_process import connect, send\n"
        "parent = connect()\n"
        "memory = SharedMemory(create=True, size=1)\n"
        "send(parent, memory.name)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    child = start_child("leaves_memory")
    memory = Path("/dev/shm") / receive(child.socket)
    assert memory.exists()
    child.close()
    assert not memory.exists()
    assert capfd.readouterr().err == ""


def test_no_file_takes_the_number_of_a_standard_stream() -> None:
    saved = os.dup(0)
    try:
        os.close(0)
        hold_standard_streams()
        assert os.path.samestat(os.fstat(0), os.stat(os.devnull))
    finally:
        os.dup2(saved, 0)
        os.close(saved)


def test_without_stderr_a_child_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file with its number may be one of the user's."""
    (tmp_path / "noisy.py").write_text("import os\nos.write(1, b'noise')\nos.write(2, b'noise')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for stderr, said in ((sys.__stderr__, "noisenoise"), (None, "")):
        monkeypatch.setattr(sys, "__stderr__", stderr)
        child = start_child("noisy")
        child.process.wait()
        child.close()
        assert capfd.readouterr().err == said
