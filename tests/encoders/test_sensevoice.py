"""The encoder gives a clip the same frames alone, in a batch and under padding; bfloat16 stays close."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from twostage_asr.encoders.sensevoice import SenseVoiceConfig, SenseVoiceEncoder


@pytest.fixture(scope="module", params=[11, 65], ids=lambda kernel_size: f"kernel{kernel_size}")
def encoder(request: pytest.FixtureRequest) -> SenseVoiceEncoder:
    torch.manual_seed(0)
    config = SenseVoiceConfig(
        output_dim=64, attention_heads=4, linear_units=128, num_blocks=3, tp_blocks=2, kernel_size=request.param
    )
    return SenseVoiceEncoder(config).eval().requires_grad_(False)


def log_mel_like(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 3 + 10


def test_batch_equals_single_under_any_padding(encoder: SenseVoiceEncoder) -> None:
    lens = torch.tensor([29, 1, 17])
    features = log_mel_like(3, 33, 560)
    out = encoder(features, lens)
    assert out.isfinite().all()
    for row, clip, length in zip(out, features, lens.tolist(), strict=True):
        single = encoder(clip[None, :length], torch.tensor([length]))
        torch.testing.assert_close(row[:length], single[0], atol=2e-5, rtol=0)


def test_the_input_is_left_as_it_is(encoder: SenseVoiceEncoder) -> None:
    features = log_mel_like(2, 9, 560)
    before = features.clone()
    encoder(features, torch.tensor([9, 5]))
    assert torch.equal(features, before)


@pytest.mark.parametrize(("lens", "masked"), [([9, 9], False), ([9, 8], True)])
def test_a_mask_is_passed_only_where_there_is_padding(
    encoder: SenseVoiceEncoder, monkeypatch: pytest.MonkeyPatch, lens: list[int], masked: bool
) -> None:
    attention = F.scaled_dot_product_attention
    masks: list[Tensor | None] = []

    def recording(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
        masks.append(attn_mask)
        return attention(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recording)
    encoder(log_mel_like(2, 9, 560), torch.tensor(lens))
    assert [mask is not None for mask in masks] == [masked] * 5
    assert all(mask.shape == (2, 1, 1, 9) for mask in masks if mask is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0.0, 300.0], ids=["", "with an offset that bfloat16 input could not carry"])
def test_half_precision_stays_close(encoder: SenseVoiceEncoder, dtype: torch.dtype, offset: float) -> None:
    features, lens = log_mel_like(2, 60, 560) + offset, torch.tensor([60, 41])
    exact = encoder(features, lens)[1, :41]
    half = SenseVoiceEncoder(encoder.config).to(dtype)
    half.load_state_dict(encoder.state_dict())
    out = half(features, lens)
    assert out.dtype == dtype
    assert F.cosine_similarity(out[1, :41].float(), exact, dim=-1).min() > 0.9995


@pytest.mark.parametrize("lens", [[10], [0]])
def test_impossible_lengths_are_refused(encoder: SenseVoiceEncoder, lens: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must be in 1\.\.9 "):
        encoder(log_mel_like(1, 9, 560), torch.tensor(lens))


@pytest.mark.parametrize(
    "wrong", [{"attention_heads": 3}, {"kernel_size": 0}, {"num_blocks": 0}, {"input_dim": 64}, {"input_dim": 561}]
)
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    sizes = {
        "output_dim": 64,
        "attention_heads": 4,
        "linear_units": 128,
        "num_blocks": 1,
        "tp_blocks": 0,
        "kernel_size": 3,
    }
    with pytest.raises(ValueError, match="must be"):
        SenseVoiceConfig(**(sizes | wrong))


@pytest.mark.parametrize(("kernel_size", "memory_shift"), [(11, 0), (11, 3), (8, 0), (1, 0)])
def test_the_memory_that_a_compiler_sees_is_the_same(kernel_size: int, memory_shift: int) -> None:
    torch.manual_seed(0)
    config = SenseVoiceConfig(
        output_dim=64,
        attention_heads=4,
        linear_units=128,
        num_blocks=2,
        tp_blocks=1,
        kernel_size=kernel_size,
        memory_shift=memory_shift,
    )
    encoder = SenseVoiceEncoder(config).eval().requires_grad_(False)
    value = torch.randn(3, 17, 64)
    memory = encoder.encoders0[0].self_attn
    torch.testing.assert_close(memory._unrolled_memory(value), memory._memory(value, None), atol=1e-5, rtol=0)


def test_few_lengths_are_convolved_however_many_there_are() -> None:
    """oneDNN compiles and keeps a kernel for each."""
    config = SenseVoiceConfig(
        output_dim=64, attention_heads=4, linear_units=128, num_blocks=1, tp_blocks=0, kernel_size=3
    )
    memory = SenseVoiceEncoder(config).encoders0[0].self_attn
    convolved: set[torch.Size] = set()
    memory.fsmn_block.register_forward_pre_hook(lambda _, columns: convolved.add(columns[0].shape))
    for num_frames in range(1, 129):
        assert memory._memory(torch.randn(1, num_frames, 64), None).shape == (1, num_frames, 64)
    assert len(convolved) == 4


def test_compiled_layers_give_the_same_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for a GPU, but run by PyTorch itself: no C++ compiler is needed."""
    torch.manual_seed(0)
    config = SenseVoiceConfig(
        output_dim=64, attention_heads=4, linear_units=128, num_blocks=3, tp_blocks=2, kernel_size=11
    )
    encoder = SenseVoiceEncoder(config).eval().requires_grad_(False)
    features, lens = log_mel_like(3, 33, 560), torch.tensor([29, 1, 17])
    expected = encoder(features, lens)
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, dynamic: compile_(f, dynamic=dynamic, backend="eager"))
    unrolled: list[int] = []
    memory = type(encoder.encoders0[0].self_attn)._unrolled_memory

    def counted(self: object, value: Tensor) -> Tensor:
        unrolled.append(1)
        return memory(self, value)  # type: ignore[arg-type]

    monkeypatch.setattr(type(encoder.encoders0[0].self_attn), "_unrolled_memory", counted)
    encoder.compile()
    out = encoder(features, lens)
    for row, same, length in zip(out, expected, lens.tolist(), strict=True):
        torch.testing.assert_close(row[:length], same[:length], atol=2e-5, rtol=0)
    assert unrolled
