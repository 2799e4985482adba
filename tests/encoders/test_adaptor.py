"""The adaptor gives a clip the same frames alone and in a batch; the audio token count is the one that runs."""

import pytest
import torch

from twostage_asr.encoders.adaptor import AdaptorConfig, TransformerAdaptor, audio_token_count


def adaptor(downsample_rate: int) -> TransformerAdaptor:
    torch.manual_seed(0)
    config = AdaptorConfig(encoder_dim=32, llm_dim=64, ffn_dim=48, n_layer=2, downsample_rate=downsample_rate)
    return TransformerAdaptor(config).eval().requires_grad_(False)


@pytest.mark.parametrize("downsample_rate", [1, 2, 3])
def test_batch_equals_single_under_any_padding(downsample_rate: int) -> None:
    model, lens = adaptor(downsample_rate), torch.tensor([19, 1, 8, 22])
    encoder_out = torch.randn(4, 23, 32)
    out, out_lens = model(encoder_out, lens)
    assert out.shape == (4, -(-23 // downsample_rate), 64)
    for row, count, clip, length in zip(out, out_lens.tolist(), encoder_out, lens.tolist(), strict=True):
        single, single_lens = model(clip[None, :length], torch.tensor([length]))
        assert count == single_lens[0] == single.shape[1] == -(-length // downsample_rate)
        torch.testing.assert_close(row[:count], single[0], atol=1e-5, rtol=0)


def test_half_precision_reads_an_encoder_of_another_dtype() -> None:
    model, encoder_out, lens = adaptor(1), torch.randn(2, 9, 32), torch.tensor([9, 4])
    exact, _ = model(encoder_out, lens)
    out, _ = model.to(torch.bfloat16)(encoder_out, lens)
    assert out.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(out[1, :4].float(), exact[1, :4], dim=-1).min() > 0.999


def count_in_training(num_frames: int) -> int:
    """The three lines that FunASR's model, dataset and servers run."""
    count = 1 + (num_frames - 3 + 2 * 1) // 2
    count = 1 + (count - 3 + 2 * 1) // 2
    return (count - 1) // 2 + 1


def count_in_the_guide(num_frames: int) -> int:
    """The one line that FunASR's guide prints: not what runs."""
    return ((((num_frames - 3 + 2) // 2 - 3 + 2) // 2) - 1) // 2 + 1


def test_audio_token_count_is_what_training_runs() -> None:
    lens = range(1, 5001)
    assert [audio_token_count(n) for n in lens] == [count_in_training(n) for n in lens]
    assert audio_token_count(torch.tensor(lens)).tolist() == [count_in_training(n) for n in lens]


def test_the_printed_formula_is_a_trap() -> None:
    differences = [audio_token_count(n) - count_in_the_guide(n) for n in range(1, 5001)]
    assert set(differences) == {0, 1}
    assert sum(differences) / len(differences) > 0.7
    assert [count_in_the_guide(n) for n in range(1, 7)] == [0] * 6


@pytest.mark.parametrize("wrong", [{"llm_dim": 63}, {"downsample_rate": 0}, {"n_layer": -1}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        AdaptorConfig(**({"encoder_dim": 32, "llm_dim": 64, "ffn_dim": 48, "n_layer": 2} | wrong))
