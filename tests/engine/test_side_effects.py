"""What a user's own code sees of a process in which a model is loaded, at work and closed: nothing."""

import gc
from dataclasses import replace
from pathlib import Path

import torch

from tests.fake_model import fake_transcriber, samples
from twostage_asr.engine import AudioInput, AutoModelVLLM, transcribe_options


def test_threads_are_as_many_as_before_between_two_results(tmp_path: Path) -> None:
    """Beside a GPU, PyTorch works with one thread; "meta" stands for any device that is no CPU."""
    during: list[int] = []
    model = fake_transcriber(tmp_path)
    encode = model.acoustic.encode

    class Acoustic(type(model.acoustic)):  # type: ignore[misc]
        def encode(self, *args: object, **options: object) -> object:
            during.append(torch.get_num_threads())
            return encode(*args, **options)  # type: ignore[arg-type]

    model = replace(model, device=torch.device("meta"), acoustic=Acoustic())
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        items = [AudioInput(key=str(number), source=samples(number)) for number in (1, 2, 3)]
        seen = {torch.get_num_threads() for _ in model.run(items, transcribe_options(batch_size=1))}
        assert (set(during), seen, torch.get_num_threads()) == ({1}, {3}, 3)
    finally:
        torch.set_num_threads(before)


def test_the_garbage_collector_goes_on_looking_at_everything(engine_dirs: dict[str, Path]) -> None:
    before = gc.get_freeze_count()
    with AutoModelVLLM(engine_dirs["full_rate"], backend="torch") as model:
        assert gc.get_freeze_count() == before
        model.generate([samples(1)])
        assert gc.get_freeze_count() == before
    assert gc.get_freeze_count() == before
