"""Fun-ASR-Nano as transformers and vLLM hold it: the same numbers as transformers' own model, and refusals by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny_models
from tests.paths import CHECKPOINTS, CONVERSIONS
from tests.tones import clip
from twostage_asr.convert.export import ensure_converted
from twostage_asr.convert.families import FAMILIES, find_family
from twostage_asr.encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from twostage_asr.engine import CheckpointError
from twostage_asr.engine.manifest import EngineManifest

FULL_SCALE = 32_768.0  # of 16-bit samples, which FunASR's features are made of, and transformers' are not


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tiny_models.FunASRNanoReference]:
    """The same weights in both layouts; do not write there."""
    base = tmp_path_factory.mktemp("models")
    return {name: tiny_models.fun_asr_nano(base / name, vllm=name == "of_vllm") for name in ("of_hf", "of_vllm")}


@pytest.fixture
def checkpoint(models: dict[str, tiny_models.FunASRNanoReference], tmp_path: Path) -> Path:
    return shutil.copytree(models["of_hf"].directory, tmp_path / "model", ignore=CONVERSIONS)


@pytest.fixture
def of_vllm(models: dict[str, tiny_models.FunASRNanoReference], tmp_path: Path) -> Path:
    return shutil.copytree(models["of_vllm"].directory, tmp_path / "of_vllm", ignore=CONVERSIONS)


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@torch.inference_mode()
def test_encoder_and_adaptor_are_transformers_own_but_for_features_and_eps(
    models: dict[str, tiny_models.FunASRNanoReference], checkpoint: Path
) -> None:
    """Both differences are transformers' from FunASR; with FunASR's in their place the outputs are equal."""
    theirs = models["of_hf"]
    for layer in theirs.model.model.multi_modal_projector.layers:
        layer.input_layernorm.eps = layer.post_attention_layernorm.eps = 1e-12
    converted = ensure_converted(checkpoint, progress=False)
    ours = FunASRNanoAcoustic(FunASRNanoAcousticConfig.from_dict(EngineManifest.read(converted).acoustic)).eval()
    ours.load_state_dict(load_file(converted / "acoustic.safetensors"), strict=True)
    for seed, seconds in enumerate((0.3, 3.37, 12.34)):
        waveform = clip(seconds, seed)
        encoded, adapted = theirs.hear(waveform * FULL_SCALE)
        batch = ours.encode(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        torch.testing.assert_close(batch.encoder_out[0], encoded, rtol=0, atol=3e-5)
        torch.testing.assert_close(batch.audio_embeds[0], adapted[: -(-len(adapted) // 8)], rtol=0, atol=3e-5)


def test_names_with_and_without_the_outer_prefix_are_the_same(checkpoint: Path) -> None:
    """`FunAsrNanoModel.save_pretrained` writes none."""
    path = checkpoint / "model.safetensors"
    expected = ensure_converted(checkpoint, output=checkpoint.parent / "expected", progress=False)
    save_file({name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}, path)
    converted = ensure_converted(checkpoint, progress=False)
    for name in ("acoustic.safetensors", "llm/model.safetensors"):
        a, b = load_file(converted / name), load_file(expected / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("layout", ["checkpoint", "of_vllm"])
def test_without_a_ctc_head_the_reason_is_said(layout: str, request: pytest.FixtureRequest) -> None:
    manifest = EngineManifest.read(ensure_converted(request.getfixturevalue(layout), dtype="fp16", progress=False))
    assert manifest.acoustic["ctc"] is None and manifest.frame_clock is None
    assert "no CTC head; forced_aligner= times its words" in manifest.missing["ctc"]
    assert any("degenerate in float16" in note for note in manifest.notes)
    assert manifest.acoustic["low_frame_rate"] is True
    assert manifest.llm.tied and manifest.llm.eos_token_ids == (256,)  # <|im_end|>


def test_a_tensor_that_is_missing_or_unknown_is_named(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.audio_tower.layers.1.self_attn.k_proj.bias"]
    save_file(tensors | {"model.stranger": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError) as caught:
        ensure_converted(checkpoint, progress=False)
    message = str(caught.value)
    assert "1 missing: audio_encoder.encoders.0.self_attn.linear_q_k_v.bias" in message
    assert "3 not used by any part of the model: audio_encoder.encoders.0.self_attn.linear_q.bias" in message
    assert "model.stranger" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["audio_config"].pop("hidden_size"), "lacks audio_config.hidden_size"),
        (lambda c: c["audio_config"].update(num_attention_heads="4"), "audio_config.num_attention_heads is '4'"),
        (lambda c: c["audio_config"].update(num_attention_heads=5), "multiple of attention_heads"),
        (lambda c: c["audio_config"].update(hidden_act="gelu"), "audio_config.hidden_act is 'gelu'; only 'relu'"),
        (lambda c: c["audio_config"].update(num_stacked_frames=5), "num_stacked_frames is 5; only 7"),
        (lambda c: c["audio_config"].update(num_timestamp_prediction_blocks=2), "an early conversion, .* fetch the"),
        (lambda c: c.update(text_config=None), "text_config is None; an object is needed"),
        (lambda c: c["audio_config"].update(num_hidden_layers=6), "audio_encoder.after_norm.bias"),
    ],
)
def test_a_configuration_that_is_not_implemented_is_refused_by_value(
    checkpoint: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit_json(checkpoint / "config.json", change)
    with pytest.raises(CheckpointError, match=message):
        ensure_converted(checkpoint, progress=False)


def test_other_features_are_refused(checkpoint: Path, of_vllm: Path) -> None:
    edit_json(checkpoint / "processor_config.json", lambda c: c["feature_extractor"].update(stride_lfr=4))
    with pytest.raises(CheckpointError, match=r"processor_config\.json: stride_lfr is 4; only 6 is implemented"):
        ensure_converted(checkpoint, progress=False)
    edit_json(of_vllm / "preprocessor_config.json", lambda c: c["frontend_conf"].update(fs=8000))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json: frontend_conf\.fs is 8000; only 16000"):
        ensure_converted(of_vllm, progress=False)


@pytest.mark.parametrize("layout", ["checkpoint", "of_vllm"])
def test_a_layout_is_recognised_from_its_small_files(layout: str, request: pytest.FixtureRequest) -> None:
    directory: Path = request.getfixturevalue(layout)
    (directory / "model.safetensors").unlink()
    assert find_family(directory).name == "fun_asr_nano"


@pytest.mark.parametrize(
    ("path", "title", "family"),
    [
        ("anything", None, "fun_asr_nano"),
        ("Fun-ASR-Nano-2512-hf", None, "fun_asr_nano"),
        ("Fun-ASR-MLT-Nano-2512", None, "fun_asr_mlt_nano"),
        ("models--FunAudioLLM--Fun-ASR-MLT-Nano-2512-hf/snapshots/0a1b", None, "fun_asr_mlt_nano"),
        ("fun_asr_mlt_nano", None, "fun_asr_mlt_nano"),
        ("Fun-ASR-MLT-Nano-2512/tuned/nano", None, "fun_asr_nano"),
        ("Fun-ASR-MLT-Nano-2512/tuned/run7", "# My model", "fun_asr_mlt_nano"),
        ("mount", "# Fun-ASR-MLT-Nano-2512", "fun_asr_mlt_nano"),
        ("mount", "# Fun-ASR-Nano-2512\n\nFor 31 languages use Fun-ASR-MLT-Nano.\n# MLT", "fun_asr_nano"),
        ("mount", "---\nlicense: apache-2.0\n# MLT\n---\n# Fun-ASR-Nano", "fun_asr_nano"),
    ],
)
def test_what_a_checkpoint_is_called_decides(tmp_path: Path, path: str, title: str | None, family: str) -> None:
    directory = tmp_path / path
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text("model: FunASRNano\n")
    if title is not None:
        (directory / "README.md").write_text(f"{title}\n", encoding="utf-8")
    assert find_family(directory).name == family
    assert sum(known.recognises(directory) for known in FAMILIES.values()) == 1


def test_a_conversion_of_the_other_family_is_made_anew(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(CHECKPOINTS["low_frame_rate"], plain, ignore=CONVERSIONS)
    assert EngineManifest.read(ensure_converted(plain, progress=False)).family == "fun_asr_nano"
    called = plain.rename(tmp_path / "Fun-ASR-MLT-Nano-2512")
    assert EngineManifest.read(ensure_converted(called, progress=False)).family == "fun_asr_mlt_nano"
