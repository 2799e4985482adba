"""What a user's own code sees of a process in which a model is loaded, at work and closed: nothing."""

import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fake_model import FakeAcoustic, fake_transcriber, samples
from twostage_asr.engine import AudioInput, AutoModelVLLM, transcribe_options
from twostage_asr.engine.acoustic import threads
from twostage_asr.engine.acoustic.base import EncodedBatch


class Threads:
    """PyTorch's number of threads; vLLM keeps what runs in its process from changing the real one."""

    def __init__(self) -> None:
        self.number = 3

    def get_num_threads(self) -> int:
        return self.number

    def set_num_threads(self, number: int) -> None:
        self.number = number


def test_threads_are_as_many_as_before_between_two_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a GPU, PyTorch works with one thread; "meta" stands for any device that is no CPU."""
    during: list[int] = []
    set_to = Threads()
    monkeypatch.setattr(threads, "torch", set_to)

    class Acoustic(FakeAcoustic):
        def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
            during.append(set_to.number)
            return super().encode(waveforms, with_ctc=with_ctc)

    model = fake_transcriber(tmp_path, device=torch.device("meta"), acoustic=Acoustic())
    items = [AudioInput(key=str(number), source=samples(number)) for number in (1, 2, 3)]
    seen = [set_to.number for _ in model.run(items, transcribe_options(batch_size=1))]
    assert (set(during), seen, set_to.number) == ({1}, [3, 3, 3], 3)


def test_the_garbage_collector_goes_on_looking_at_everything(engine_dirs: dict[str, Path]) -> None:
    before = gc.get_freeze_count()
    with AutoModelVLLM(engine_dirs["full_rate"], backend="torch") as model:
        assert gc.get_freeze_count() <= before
        model.generate([samples(1)])
        assert gc.get_freeze_count() <= before
    assert gc.get_freeze_count() <= before
