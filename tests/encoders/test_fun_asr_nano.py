"""Stage 1 as a whole: names and sizes of the weights, its configuration, and batch == single from the waveform on."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from twostage_asr.encoders.adaptor import AdaptorConfig
from twostage_asr.encoders.ctc import CTCConfig
from twostage_asr.encoders.fbank import num_lfr_frames
from twostage_asr.encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from twostage_asr.encoders.sensevoice import SenseVoiceConfig

# Fun-ASR-Nano-2512: sizes of its config.yaml, and of the tensors in its model.pt.
NANO = FunASRNanoAcousticConfig(
    encoder=SenseVoiceConfig(
        output_dim=512, attention_heads=4, linear_units=2048, num_blocks=50, tp_blocks=20, kernel_size=11
    ),
    adaptor=AdaptorConfig(encoder_dim=512, llm_dim=1024, ffn_dim=2048, n_layer=2),
    ctc=CTCConfig(
        decoder=AdaptorConfig(encoder_dim=512, llm_dim=512, ffn_dim=2048, n_layer=5), vocab_size=60_515, blank_id=60_514
    ),
    low_frame_rate=True,
)
ENCODER_LAYER = {
    "self_attn.linear_q_k_v.weight": (1536, 512),
    "self_attn.linear_q_k_v.bias": (1536,),
    "self_attn.linear_out.weight": (512, 512),
    "self_attn.linear_out.bias": (512,),
    "self_attn.fsmn_block.weight": (512, 1, 11),
    "feed_forward.w_1.weight": (2048, 512),
    "feed_forward.w_1.bias": (2048,),
    "feed_forward.w_2.weight": (512, 2048),
    "feed_forward.w_2.bias": (512,),
    "norm1.weight": (512,),
    "norm1.bias": (512,),
    "norm2.weight": (512,),
    "norm2.bias": (512,),
}
FIRST_LAYER = {"self_attn.linear_q_k_v.weight": (1536, 560), "norm1.weight": (560,), "norm1.bias": (560,)}


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def adaptor_shapes(width: int, num_blocks: int) -> dict[str, tuple[int, ...]]:
    block: dict[str, tuple[int, ...]] = {}
    for part in "qkv":
        block |= linear(f"self_attn.linear_{part}", width, width)
    block |= linear("self_attn.linear_out", width, width)
    block |= linear("feed_forward.w_1", width // 4, width) | linear("feed_forward.w_2", width, width // 4)
    block |= {f"{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
    blocks = {f"blocks.{n}.{name}": shape for n in range(num_blocks) for name, shape in block.items()}
    return linear("linear1", 2048, 512) | linear("linear2", width, 2048) | blocks


def nano_shapes() -> dict[str, tuple[int, ...]]:
    groups = [("encoders0", 1), ("encoders", 49), ("tp_encoders", 20)]
    encoder = {f"{g}.{n}.{k}": shape for g, count in groups for n in range(count) for k, shape in ENCODER_LAYER.items()}
    encoder |= {f"encoders0.0.{name}": shape for name, shape in FIRST_LAYER.items()}
    encoder |= {f"{norm}.{part}": (512,) for norm in ("after_norm", "tp_norm") for part in ("weight", "bias")}
    parts = {
        "audio_encoder": encoder,
        "audio_adaptor": adaptor_shapes(1024, 2),
        "ctc_decoder": adaptor_shapes(512, 5),
        "ctc": linear("ctc_lo", 60_515, 512),
    }
    return {f"{part}.{name}": shape for part, shapes in parts.items() for name, shape in shapes.items()}


def without_ctc(config: FunASRNanoAcousticConfig) -> FunASRNanoAcousticConfig:
    return FunASRNanoAcousticConfig.from_dict(config.to_dict() | {"ctc": None})


def test_the_real_model_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        model = FunASRNanoAcoustic(NANO)
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == nano_shapes()


@pytest.mark.parametrize(
    ("prefix", "tensors", "parameters"),
    [
        ("audio_encoder.", 914, 221_136_992),
        ("audio_adaptor.", 36, 12_604_928),
        ("ctc_decoder.", 84, 8_021_632),
        ("ctc.", 2, 31_044_195),
    ],
)
def test_the_real_model_has_the_published_counts(prefix: str, tensors: int, parameters: int) -> None:
    with torch.device("meta"):
        own = [t for name, t in FunASRNanoAcoustic(NANO).state_dict().items() if name.startswith(prefix)]
    assert (len(own), sum(t.numel() for t in own)) == (tensors, parameters)


def test_a_checkpoint_without_ctc_lacks_exactly_those_tensors() -> None:
    with torch.device("meta"):
        model = FunASRNanoAcoustic(without_ctc(NANO))
    assert model.ctc_head is None
    assert set(model.state_dict()) == {name for name in nano_shapes() if not name.startswith("ctc")}


def test_the_micro_checkpoints_fit_exactly(acoustic: FunASRNanoAcoustic, acoustic_weights: dict[str, Tensor]) -> None:
    stored = {name: tuple(tensor.shape) for name, tensor in acoustic_weights.items()}
    assert {name: tuple(tensor.shape) for name, tensor in acoustic.state_dict().items()} == stored


def test_the_ctc_head_reads_the_models_own_weights(
    acoustic_weights: dict[str, Tensor], acoustic: FunASRNanoAcoustic
) -> None:
    with torch.device("meta"):
        model = FunASRNanoAcoustic(acoustic.config)
    model.load_state_dict(acoustic_weights, assign=True)
    head = model.to(torch.bfloat16).ctc_head
    assert head is not None
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("ctc")}
    assert {name: tensor.data_ptr() for name, tensor in head.state_dict().items()} == {
        name: tensor.data_ptr() for name, tensor in own.items()
    }
    assert all(tensor.dtype == torch.bfloat16 for tensor in own.values())


def test_batch_equals_single_from_the_waveform_on(acoustic: FunASRNanoAcoustic) -> None:
    lens = torch.tensor([16_000, 150, 40_321, 2000])
    waveforms = torch.randn(4, 50_000, generator=torch.Generator().manual_seed(0)) * 0.1
    batch = acoustic.encode(waveforms, lens)
    for n, length in enumerate(lens.tolist()):
        single = acoustic.encode(waveforms[n : n + 1, :length], lens[n : n + 1])
        frames, tokens = int(single.encoder_lens), int(single.audio_lens)
        assert (batch.encoder_lens[n], batch.audio_lens[n]) == (frames, tokens)
        torch.testing.assert_close(batch.encoder_out[n, :frames], single.encoder_out[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(batch.audio_embeds[n, :tokens], single.audio_embeds[0], atol=1e-4, rtol=0)


def test_the_llm_reads_the_first_adaptor_frames_only(acoustic: FunASRNanoAcoustic) -> None:
    lens = torch.tensor([16_000, 32_000])
    batch = acoustic.encode(torch.randn(2, 32_000) * 0.1, lens)
    frames = [num_lfr_frames(length) for length in lens.tolist()]
    low_frame_rate = acoustic.config.low_frame_rate
    assert batch.encoder_lens.tolist() == frames
    assert batch.audio_lens.tolist() == ([-(-n // 8) for n in frames] if low_frame_rate else frames)
    whole, _ = acoustic.audio_adaptor(batch.encoder_out, batch.encoder_lens)
    assert torch.equal(batch.audio_embeds, whole[:, : max(batch.audio_lens.tolist())])


def test_bfloat16_stays_close(acoustic: FunASRNanoAcoustic) -> None:
    half = FunASRNanoAcoustic(acoustic.config).to(torch.bfloat16)
    half.load_state_dict(acoustic.state_dict())
    waveforms, lens = (
        torch.randn(2, 32_000, generator=torch.Generator().manual_seed(0)) * 0.1,
        torch.tensor([32_000, 20_000]),
    )
    exact, rounded = acoustic.encode(waveforms, lens), half.encode(waveforms, lens)
    for name, count in (("encoder_out", exact.encoder_lens[1]), ("audio_embeds", exact.audio_lens[1])):
        a, b = getattr(exact, name)[1, :count], getattr(rounded, name)[1, :count]
        assert b.dtype == torch.bfloat16
        assert torch.nn.functional.cosine_similarity(a, b.float(), dim=-1).min() > 0.99


@pytest.mark.parametrize("config", [NANO, without_ctc(NANO)], ids=["ctc", "no ctc"])
def test_the_configuration_survives_json(config: FunASRNanoAcousticConfig) -> None:
    assert FunASRNanoAcousticConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def change(path: str, value: object) -> dict[str, Any]:
    """NANO's dict with one value set, or with one key dropped where `value` is None."""
    changed: dict[str, Any] = json.loads(json.dumps(NANO.to_dict()))
    *parents, key = path.split(".")
    inner = changed
    for parent in parents:
        inner = inner[parent]
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("encoder.sanm_shift", 0, r"acoustic\.encoder: missing keys \[\], unknown keys \['sanm_shift'\]"),
        ("ctc", None, r"acoustic: missing keys \['ctc'\]"),
        ("adaptor.attention_heads", None, r"acoustic\.adaptor: missing keys \['attention_heads'\]"),
        ("ctc.decoder.extra", 1, r"acoustic\.ctc\.decoder: .*unknown keys \['extra'\]"),
        ("ctc.blank_id", "60514", r"acoustic\.ctc\.blank_id must be a whole number, got '60514'"),
        ("encoder.num_blocks", True, r"acoustic\.encoder\.num_blocks must be a whole number, got True"),
        ("encoder", [512], r"acoustic\.encoder must be a mapping, got \[512\]"),
        ("low_frame_rate", 1, r"acoustic\.low_frame_rate must be true or false, got 1"),
        ("adaptor.encoder_dim", 256, r"adaptor\.encoder_dim is 256, but encoder\.output_dim is 512"),
        ("ctc.decoder.encoder_dim", 256, r"ctc\.decoder\.encoder_dim is 256, but encoder\.output_dim is 512"),
        ("adaptor.downsample_rate", 2, r"low_frame_rate needs adaptor\.downsample_rate 1, got 2"),
    ],
)
def test_what_the_configuration_refuses(path: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FunASRNanoAcousticConfig.from_dict(change(path, value))
