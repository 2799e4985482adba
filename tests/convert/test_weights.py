"""Casts, LoRA merges and the safetensors files that they end up in."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from twostage_asr.convert import safetensors_file, weights
from twostage_asr.convert.safetensors_file import list_model_files, write_safetensors, write_sharded
from twostage_asr.convert.weights import LoRAUpdate, Weight, plan_weights
from twostage_asr.engine.errors import CheckpointError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def ignore(num_bytes: int) -> None:
    """Progress that nobody watches."""


@settings(max_examples=60)
@given(data=st.data())
def test_files_read_back_as_the_tensors_cast(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text('aé."\\ 中', min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
    shapes = st.lists(st.integers(1, 5), max_size=3)
    plan = {}
    for name in names:
        tensor = torch.randn(data.draw(shapes)).to(data.draw(st.sampled_from(DTYPES)))
        plan[name] = Weight(tensor, data.draw(st.sampled_from(DTYPES)))
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    reported: list[int] = []
    write_safetensors(path, plan, reported.append)
    read = load_file(path)
    assert read.keys() == plan.keys()
    for name, weight in plan.items():
        assert read[name].dtype is weight.dtype and torch.equal(read[name], weight.source.to(weight.dtype))
    assert sum(reported) == sum(weight.nbytes for weight in plan.values())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_tensors_start_at_multiples_of_their_element_size(tmp_path: Path) -> None:
    plan = {f"{n}": Weight(torch.ones(n), DTYPES[n % 2]) for n in range(1, 8)}
    write_safetensors(tmp_path / "x.safetensors", plan, ignore)
    raw = (tmp_path / "x.safetensors").read_bytes()
    header_bytes = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + header_bytes])
    assert header_bytes % 8 == 0
    assert all(header[name]["data_offsets"][0] % weight.dtype.itemsize == 0 for name, weight in plan.items())


def test_strided_and_shared_tensors_are_written_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    plan = {
        "t": Weight(base.T, torch.float32),
        "row": Weight(base[1], torch.float32),
        "all": Weight(base, torch.float32),
    }
    write_safetensors(tmp_path / "x.safetensors", plan, ignore)
    read = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], weight.source) for name, weight in plan.items())


def test_pieces_join_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_PIECE_ELEMENTS", 7)
    tensor = torch.randn(5, 8)
    weight = Weight(tensor, torch.bfloat16)
    assert [len(piece) for piece in weight.pieces()] == [7] * 5 + [5]
    assert torch.equal(weight.value(), tensor.bfloat16())


@pytest.mark.parametrize("shard_bytes", [1, 400, 10**9])
def test_shards_and_their_index_load_in_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
) -> None:
    sizes = dict(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    config = Qwen3Config(**sizes, num_key_value_heads=2, head_dim=4, tie_word_embeddings=True)
    model = Qwen3ForCausalLM(config)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    config.save_pretrained(tmp_path)
    monkeypatch.setattr(safetensors_file, "SHARD_BYTES", shard_bytes)
    write_sharded(tmp_path, plan_weights(state, None, None), ignore)
    files = list_model_files(tmp_path)
    largest = max(tensor.nbytes for tensor in state.values())
    assert (len(files) == 1) == (shard_bytes == 10**9)
    assert all(sum(t.nbytes for t in load_file(file).values()) <= max(shard_bytes, largest) for file in files)
    loaded = Qwen3ForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_lora_is_summed_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, a, b = torch.randn(6, 5).to(dtype), torch.randn(2, 5).to(dtype), torch.randn(6, 2).to(dtype)
    expected = weight.double() + 1.5 * (b.double() @ a.double())
    merged = LoRAUpdate(a, b, 1.5).merged_into(weight)
    assert merged.dtype is dtype
    torch.testing.assert_close(merged.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.ones(2, 5), torch.ones(6, 3), "do not make an update"),
        (torch.ones(2, 4), torch.ones(6, 2), "do not make an update"),
        (torch.ones(2), torch.ones(6, 2), "do not make an update"),
    ],
)
def test_lora_pairs_that_do_not_fit_are_refused(a: torch.Tensor, b: torch.Tensor, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"x\.q_proj: .* {message}"):
        plan_weights({"x.q_proj.weight": torch.ones(6, 5), "x.q_proj.lora_A": a, "x.q_proj.lora_B": b}, None, 1.0)


def test_a_value_too_large_for_float16_is_named(tmp_path: Path) -> None:
    large = torch.tensor([1.0, 1e6]).bfloat16()
    with pytest.raises(CheckpointError, match=r"layer\.w: a weight of magnitude 999424 does not fit in float16"):
        write_safetensors(tmp_path / "x.safetensors", {"layer.w": Weight(large, torch.float16)}, ignore)
    infinite = torch.tensor([float("inf"), 1.0])
    assert torch.equal(Weight(infinite, torch.float16).value(), infinite.half())
