"""What stage 1 prepares behind the first text, and what its graphs hold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.recorded_graphs import Operations, RecordedGraph, record_graphs
from twostage_asr.encoders import SAMPLE_RATE
from twostage_asr.encoders.adaptor import AdaptorConfig
from twostage_asr.encoders.ctc import CTCConfig
from twostage_asr.encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from twostage_asr.encoders.sensevoice import SenseVoiceConfig
from twostage_asr.engine.acoustic.base import StageOneOptions
from twostage_asr.engine.acoustic.cuda_graphs import FRAME_STEP, MAX_CLIPS, MAX_FRAMES, bucket_of
from twostage_asr.engine.acoustic.runner import StageOneRunner, load_module
from twostage_asr.engine.families.fun_asr_nano import FunASRNanoAcousticModel

FRAME_SAMPLES = 960


class Runner(StageOneRunner):
    """Frames of 60 ms, without content."""

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // FRAME_SAMPLES)

    def num_audio_tokens(self, num_samples: int) -> int:
        return self.num_frames(num_samples)

    def _compile(self) -> None:
        """Nothing."""

    def _inputs(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        lens = torch.tensor([self.num_frames(len(waveform)) for waveform in waveforms])
        return torch.zeros(len(waveforms), int(lens.max()), 1), lens

    def _run_modules(self, features: Tensor, lens: Tensor, /) -> tuple[Tensor, ...]:
        return (features,)


def runner(max_clips: int) -> Runner:
    options = StageOneOptions(device=torch.device("cpu"), dtype=torch.float32, embeds_dtype=torch.float32)
    return Runner(options, max_clips=max_clips)


class Casts(TorchDispatchMode):
    """Notes the devices of the tensors that are cast."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and found.dtype != args[0].dtype:
            self.devices.append(args[0].device.type)
        return found


def test_weights_are_cast_on_the_device_that_gets_them(tmp_path: Path) -> None:
    """A CPU takes a second for what takes a GPU none."""
    save_file(nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 1))).state_dict(), tmp_path / "weights")
    options = StageOneOptions(device=torch.device("meta"), dtype=torch.bfloat16, embeds_dtype=torch.bfloat16)
    with Casts() as casts:
        loaded = load_module(
            tmp_path / "weights", lambda: nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 1))), options
        )
    assert casts.devices == ["meta"] * 4
    assert {(weight.device.type, weight.dtype) for weight in loaded.parameters()} == {("meta", torch.bfloat16)}


def buckets_of(ours: Runner) -> list[tuple[int, int]]:
    """Of the batches that the further steps run."""
    buckets = []

    def graphs(features: Tensor, lens: Tensor) -> tuple[Tensor, ...]:
        buckets.append(bucket_of(*features.shape[:2]))
        return (features,)

    ours._graphs = graphs
    for step in ours.further_steps():
        step()
    return buckets


def test_each_usual_size_of_a_small_batch_is_run_once() -> None:
    lengths = range(FRAME_STEP, MAX_FRAMES + 1, FRAME_STEP)
    assert max(lengths) * FRAME_SAMPLES >= 30 * SAMPLE_RATE  # the longest clip that is encoded in one piece
    few = [(size, length) for size in (1, 2, 4, 8) for length in lengths]
    many = [(16, 64), (16, 128), (16, 192), (16, 256), (32, 64), (32, 128)]  # of clips of up to 15 and 7 s
    assert buckets_of(runner(MAX_CLIPS)) == [*few, *many]
    assert {size for size, _ in buckets_of(runner(2))} == {1, 2}


def test_without_compiled_modules_nothing_is_run() -> None:
    ours = runner(MAX_CLIPS)
    ours.prepare()  # on a CPU it compiles nothing
    for step in ours.further_steps():
        step()
    assert ours._graphs is None


def small_fun_asr_nano() -> FunASRNanoAcousticModel:
    torch.manual_seed(0)
    encoder = SenseVoiceConfig(
        output_dim=32, attention_heads=2, linear_units=64, num_blocks=2, tp_blocks=1, kernel_size=11
    )
    adaptor = AdaptorConfig(encoder_dim=32, llm_dim=64, ffn_dim=48, n_layer=1)
    ctc = CTCConfig(decoder=adaptor, vocab_size=20, blank_id=19)
    module = FunASRNanoAcoustic(
        FunASRNanoAcousticConfig(encoder=encoder, adaptor=adaptor, ctc=ctc, low_frame_rate=True)
    )
    options = StageOneOptions(device=torch.device("cpu"), dtype=torch.float32, embeds_dtype=torch.float32)
    return FunASRNanoAcousticModel(module.eval(), options)


def test_graphs_encode_waveforms_as_plain_modules_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with a clip of less than a window, and one that is too long, take no graph."""
    record_graphs(monkeypatch)
    model, rng = small_fun_asr_nano(), np.random.default_rng(0)
    model._graphs = graphs = model._small_batch_graphs()
    plain = small_fun_asr_nano()
    for lens in ([70_000], [400], [61_440, 3000, 16_000], [61_441], [500], [399, 16_000], [492_000], [5000, 61_000]):
        clips = [(rng.standard_normal(n) * 0.1).astype(np.float32) for n in lens]
        ours, expected = (m.encode(clips, with_ctc=True).utterances() for m in (model, plain))
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one.audio_embeds, other.audio_embeds, atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(one.ctc_hidden, other.ctc_hidden, atol=1e-3, rtol=1e-3)
    assert sorted(graphs._captured) == [(1, 61_440), (1, 122_880), (2, 61_440), (4, 61_440)]


def test_beside_the_graph_there_are_only_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    record_graphs(monkeypatch)
    model, clip = small_fun_asr_nano(), np.ones(70_000, np.float32)
    model._graphs = model._small_batch_graphs()
    model.encode([clip], with_ctc=True)
    monkeypatch.setattr(RecordedGraph, "replay", lambda self: None)
    with Operations() as operations:
        model.encode([clip], with_ctc=True)
    names = {function.overloadpacket.__name__ for function, *_ in operations.calls}
    free = {"slice", "lift_fresh", "detach_"}  # they launch nothing
    assert names - free == {"pad_sequence", "to", "copy_", "fill_", "clone"}
