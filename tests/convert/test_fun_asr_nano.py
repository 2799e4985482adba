"""Fun-ASR-Nano checkpoints: what comes out is what went in, and whatever does not fit is named."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.convert.checkpoints import EditCheckpoint, State, read_tensors
from tests.paths import CHECKPOINTS
from twostage_asr.convert import fun_asr_nano
from twostage_asr.convert.config_file import ConfigFile
from twostage_asr.convert.export import ensure_converted
from twostage_asr.convert.verify import verify_conversion
from twostage_asr.encoders.adaptor import AdaptorConfig
from twostage_asr.encoders.ctc import CTCConfig
from twostage_asr.encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from twostage_asr.engine.errors import CheckpointError
from twostage_asr.engine.manifest import EngineManifest
from twostage_asr.engine.words.tokenizer import NUM_SPECIALS, CTCTokenizer

Q_PROJ = "llm.model.layers.1.self_attn.q_proj"


def convert(checkpoint: Path) -> Path:
    return ensure_converted(checkpoint, progress=False)


def assert_same_bits(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    assert all(t.dtype == b[n].dtype and torch.equal(t.view(torch.uint8), b[n].view(torch.uint8)) for n, t in a.items())


def read_source(checkpoint: Path) -> State:
    state: State = torch.load(checkpoint / "model.pt", weights_only=True)["state_dict"]
    return state


def test_every_tensor_keeps_its_name_and_bits(checkpoint: Path, converted_dirs: dict[Path, Path]) -> None:
    source = read_source(checkpoint)
    del source["llm.lm_head.weight"]  # repeats the embedding
    acoustic = load_file(converted_dirs[checkpoint] / "acoustic.safetensors")
    assert_same_bits(acoustic, {n: t for n, t in source.items() if not n.startswith("llm.")})
    llm = load_file(converted_dirs[checkpoint] / "llm" / "model.safetensors")
    assert_same_bits(llm, {n.removeprefix("llm."): t for n, t in source.items() if n.startswith("llm.")})


def test_engine_json_describes_modules_that_take_the_tensors(
    checkpoint: Path, converted_dirs: dict[Path, Path]
) -> None:
    converted = converted_dirs[checkpoint]
    manifest = EngineManifest.read(converted)
    config = FunASRNanoAcousticConfig.from_dict(manifest.acoustic)
    FunASRNanoAcoustic(config).load_state_dict(load_file(converted / "acoustic.safetensors"), strict=True)
    assert config.low_frame_rate is (checkpoint == CHECKPOINTS["low_frame_rate"])
    assert config.ctc is not None and config.ctc.blank_id == config.ctc.vocab_size - 1
    assert (manifest.family, manifest.dtype, manifest.missing, manifest.notes) == ("fun_asr_nano", "keep", {}, ())
    assert manifest.frame_clock.frame_s == pytest.approx(0.06)
    assert manifest.llm.tied and manifest.llm.hidden_size == config.adaptor.llm_dim
    assert manifest.llm.eos_token_ids[0] == json.loads((converted / "llm" / "config.json").read_text())["eos_token_id"]


def test_the_other_files_are_copies(checkpoint: Path, converted_dirs: dict[Path, Path]) -> None:
    converted = converted_dirs[checkpoint]
    assert (converted / "ctc.tiktoken").read_bytes() == (checkpoint / "multilingual.tiktoken").read_bytes()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "vocab.json", "merges.txt"):
        assert (converted / "llm" / name).read_bytes() == (checkpoint / "Qwen3-0.6B" / name).read_bytes()


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_and_prefixed_checkpoints_convert_to_the_same_bits(
    edited: EditCheckpoint, converted_dirs: dict[Path, Path], wrapper: str | None, prefix: str
) -> None:
    def rename(state: State) -> object:
        renamed = {prefix + name: tensor for name, tensor in state.items()}
        return {wrapper: renamed} if wrapper else renamed

    expected = read_tensors(converted_dirs[CHECKPOINTS["low_frame_rate"]])
    assert_same_bits(read_tensors(convert(edited(state=rename))), expected)


def drop(*prefixes: str) -> Callable[[State], object]:
    return lambda state: {n: t for n, t in state.items() if not n.startswith(prefixes)}


def test_without_ctc_tensors_engine_json_says_what_is_missing(edited: EditCheckpoint) -> None:
    checkpoint = edited(state=drop("ctc_decoder.", "ctc."))
    converted = convert(checkpoint)
    manifest = EngineManifest.read(converted)
    assert manifest.acoustic["ctc"] is None
    assert "no word times" in manifest.missing["ctc"]
    assert not (converted / "ctc.tiktoken").exists()
    verify_conversion(checkpoint, converted)


def test_a_ctc_head_with_holes_is_refused_by_name(edited: EditCheckpoint) -> None:
    checkpoint = edited(state=drop("ctc_decoder.blocks.1.norm1.", "ctc.ctc_lo.bias"))
    with pytest.raises(CheckpointError, match=r"3 missing: ctc\.ctc_lo\.bias, ctc_decoder\.blocks\.1\.norm1\.bias"):
        convert(checkpoint)


def test_an_output_layer_of_its_own_is_kept_and_untied(edited: EditCheckpoint) -> None:
    def untie(state: State) -> None:
        state["llm.lm_head.weight"] = state["llm.lm_head.weight"].clone()
        state["llm.lm_head.weight"][3, 4] *= 2

    checkpoint = edited(state=untie)
    converted = convert(checkpoint)
    manifest = EngineManifest.read(converted)
    assert manifest.llm.tied is False
    assert json.loads((converted / "llm" / "config.json").read_text())["tie_word_embeddings"] is False
    assert "lm_head differs from embed_tokens" in manifest.notes[0]
    head = load_file(converted / "llm" / "model.safetensors")["lm_head.weight"]
    assert torch.equal(head, read_source(checkpoint)["llm.lm_head.weight"])
    verify_conversion(checkpoint, converted)


def test_an_absent_output_layer_is_fine_if_the_configuration_ties_it(
    edited: EditCheckpoint, converted_dirs: dict[Path, Path]
) -> None:
    checkpoint = edited(state=drop("llm.lm_head."))
    expected = read_tensors(converted_dirs[CHECKPOINTS["low_frame_rate"]])
    assert_same_bits(read_tensors(convert(checkpoint)), expected)


def test_an_absent_output_layer_is_missing_if_the_configuration_unties_it(edited: EditCheckpoint) -> None:
    checkpoint = edited(state=drop("llm.lm_head."))
    path = checkpoint / "Qwen3-0.6B" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": False}))
    with pytest.raises(CheckpointError, match=r"1 missing: llm\.lm_head\.weight"):
        convert(checkpoint)


def with_lora(rank: int) -> Callable[[State], None]:
    def add(state: State) -> None:
        torch.manual_seed(0)
        rows, columns = state[f"{Q_PROJ}.weight"].shape
        state[f"{Q_PROJ}.lora_A"] = torch.randn(rank, columns).bfloat16()
        state[f"{Q_PROJ}.lora_B"] = torch.randn(rows, rank).bfloat16()

    return add


def set_lora(config: dict[str, Any], **values: object) -> None:
    config["llm_conf"]["use_lora"] = True
    config["llm_conf"]["lora_conf"].update(values)


def test_lora_is_merged_in_float32(edited: EditCheckpoint) -> None:
    checkpoint = edited(state=with_lora(4), config=lambda config: set_lora(config, r=4, lora_alpha=6))
    converted = convert(checkpoint)
    state = read_source(checkpoint)
    a, b, weight = (state[f"{Q_PROJ}.{part}"].float() for part in ("lora_A", "lora_B", "weight"))
    merged = (weight + 6 / 4 * (b @ a)).bfloat16()
    written = read_tensors(converted)
    assert torch.equal(written["model.layers.1.self_attn.q_proj.weight"], merged)
    assert not torch.equal(merged, state[f"{Q_PROJ}.weight"])
    assert not any("lora" in name for name in written)
    assert "LoRA updates merged into their weights: 1 (r 4, lora_alpha 6)" in EngineManifest.read(converted).notes[0]
    verify_conversion(checkpoint, converted)


@pytest.mark.parametrize(
    ("state", "config", "message"),
    [
        (with_lora(8), lambda c: set_lora(c, r=4, lora_alpha=8), "r is 4, but the LoRA tensors have rank 8"),
        (with_lora(4), lambda c: c["llm_conf"].pop("lora_conf"), "no llm_conf.lora_conf"),
        (
            lambda s: (with_lora(16)(s), s.pop(f"{Q_PROJ}.lora_B")),
            None,
            rf"{Q_PROJ}\.lora_B missing",
        ),
    ],
)
def test_lora_that_cannot_be_merged_is_refused(
    edited: EditCheckpoint,
    state: Callable[[State], object],
    config: Callable[[dict[str, Any]], object] | None,
    message: str,
) -> None:
    def change(tensors: State) -> None:
        state(tensors)

    with pytest.raises(CheckpointError, match=message):
        convert(edited(state=change, config=config))


def test_a_fine_tuned_save_without_the_llm_asks_for_the_base_model(edited: EditCheckpoint) -> None:
    with pytest.raises(CheckpointError, match=r"182 tensors but none of the LLM .*base model's model\.pt"):
        convert(edited(state=drop("llm.")))


def put(name: str, tensor: Tensor) -> Callable[[State], None]:
    return lambda state: state.__setitem__(name, tensor)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (drop("audio_adaptor.linear1.bias"), r"1 missing: audio_adaptor\.linear1\.bias"),
        (drop("llm.model.norm."), r"1 missing: llm\.model\.norm\.weight"),
        (put("audio_encoder.extra", torch.ones(1)), r"1 not used by any part of the model: audio_encoder\.extra"),
        (put("speaker.embedding", torch.ones(1)), r"1 not used by any part of the model: speaker\.embedding"),
        (
            put("audio_encoder.after_norm.bias", torch.ones(7)),
            r"1 of another shape: audio_encoder\.after_norm\.bias is \(7,\) and should be \(128,\)",
        ),
        (drop("audio_encoder."), r"108 missing: .* and 103 more"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    edited: EditCheckpoint, state: Callable[[State], object], message: str
) -> None:
    checkpoint = edited(state=state)
    with pytest.raises(CheckpointError, match=message):
        convert(checkpoint)
    assert not (checkpoint / "twostage").exists()


def set_key(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        *sections, last = key.split(".")
        for section in sections:
            config = config[section]
        config[last] = value

    return change


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("audio_encoder", "SenseVoiceEncoderLarge", "audio_encoder is 'SenseVoiceEncoderLarge'"),
        ("audio_encoder_conf.sanm_shfit", -1, "memory_shift must be in 0"),
        ("audio_encoder_conf.sanm_shfit", 1000, "memory_shift must be in 0"),
        ("audio_adaptor", "QFormer", "audio_adaptor is 'QFormer'; only 'Transformer'"),
        ("audio_adaptor_conf.downsample_rate", 2, "downsample_rate 1, got 2"),
        ("ctc_decoder_conf.downsample_rate", 2, "downsample_rate must be 1, got 2"),
        ("ctc_decoder", "Linear", "ctc_decoder is 'Linear'"),
        ("dataset_conf.ctc_tokenizer", "CharTokenizer", "ctc_tokenizer is 'CharTokenizer'"),
        ("frontend", "WavFrontendOnline", "frontend is 'WavFrontendOnline'"),
        ("frontend_conf.cmvn_file", "am.mvn", "cmvn_file is 'am.mvn'; only None"),
        ("frontend_conf.fs", 8000, "fs is 8000; only 16000"),
        ("frontend_conf.lfr_n", 5, "lfr_n is 5; only 6"),
        ("frontend_conf.n_mels", 128, "n_mels is 128; only 80"),
        ("frontend_conf.upsacle_samples", False, "upsacle_samples is False; only True"),
        ("audio_encoder_conf.num_blocks", "six", "num_blocks is 'six'; a value of type int"),
        ("audio_encoder_conf.num_blocks", 7, r"13 missing: audio_encoder\.encoders\.5\."),
        ("audio_encoder_conf.attention_heads", 5, "multiple of attention_heads"),
        ("audio_encoder_conf.output_size", None, "lacks audio_encoder_conf.output_size"),
        ("ctc_vocab_size", 2400, "is not below 2399|should be"),
        ("audio_adaptor_conf.ffn_dim", "${nowhere.at_all}", "reference that cannot be resolved"),
    ],
)
def test_a_configuration_that_is_not_implemented_is_refused_by_value(
    edited: EditCheckpoint, key: str, value: object, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(edited(config=set_key(key, value)))


def test_references_between_keys_are_followed(edited: EditCheckpoint, converted_dirs: dict[Path, Path]) -> None:
    checkpoint = edited(config=set_key("audio_adaptor_conf.ffn_dim", "${audio_encoder_conf.linear_units}"))
    expected = EngineManifest.read(converted_dirs[CHECKPOINTS["low_frame_rate"]])
    assert EngineManifest.read(convert(checkpoint)).acoustic == expected.acoustic


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:-2] + lines[-1:],  # a gap
        lambda lines: [*lines, b"YQ== 0"],
        lambda lines: [*lines[:-1], lines[0].split()[0] + b" 1852"],  # a token twice
        lambda lines: [*lines[1:], lines[0].split()[0] + b"QUJD 0"],  # a byte that is missing
        lambda lines: [*lines, b"YQ=="],
        lambda lines: [*lines, b"\xff\xfe 5000"],
    ],
)
def test_a_vocabulary_that_the_engine_cannot_read_is_refused_with_its_words(
    edited: EditCheckpoint, spoil: Callable[[list[bytes]], list[bytes]]
) -> None:
    checkpoint = edited()
    path = checkpoint / "multilingual.tiktoken"
    path.write_bytes(b"\n".join(spoil(path.read_bytes().splitlines())) + b"\n")
    with pytest.raises(CheckpointError) as at_loading:
        CTCTokenizer.from_file(path)
    with pytest.raises(CheckpointError, match=re.escape(str(at_loading.value))):
        convert(checkpoint)


@pytest.mark.parametrize(
    ("num_specials", "is_noted"), [(0, False), (NUM_SPECIALS - 1, False), (NUM_SPECIALS, False), (1000, True)]
)
def test_outputs_of_the_ctc_head_that_no_token_explains_are_noted(
    edited: EditCheckpoint, num_specials: int, is_noted: bool
) -> None:
    """A vocabulary that was cut at the end of a line is a smaller vocabulary."""
    checkpoint = edited()
    config = ConfigFile.read(checkpoint / "config.yaml")
    blank_id = 2348 + num_specials
    ctc = CTCConfig(
        decoder=AdaptorConfig(encoder_dim=128, llm_dim=128, ffn_dim=256, n_layer=2),
        vocab_size=blank_id + 1,
        blank_id=blank_id,
    )
    notes = fun_asr_nano._checked_vocabulary(checkpoint, config, ctc)[1]
    assert [f"the CTC head {num_specials} more before its blank" in note for note in notes] == [True] * is_noted


def test_a_vocabulary_that_reaches_the_blank_is_refused(edited: EditCheckpoint) -> None:
    checkpoint = edited()
    with (checkpoint / "multilingual.tiktoken").open("ab") as file:
        file.write(b"QUJDREVG 2348\n")
    with pytest.raises(CheckpointError, match="has 2349 tokens, but the head's blank is token 2348"):
        convert(checkpoint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("multilingual.tiktoken", "multilingual.tiktoken is missing; the CTC tensors"),
        ("model.pt", "has no model.pt"),
        ("Qwen3-0.6B", "one sub-directory with the LLM's config.json is needed, found none"),
    ],
)
def test_missing_files_are_named(edited: EditCheckpoint, name: str, message: str) -> None:
    checkpoint = edited()
    path = checkpoint / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=message):
        convert(checkpoint)


def test_the_llms_directory_is_found_by_either_configuration_or_alone(edited: EditCheckpoint) -> None:
    checkpoint = edited(config=set_key("llm_conf.init_param_path", "/on/the/machine/that/trained"))
    (checkpoint / "Qwen3-0.6B").rename(checkpoint / "other")
    assert (convert(checkpoint) / "llm" / "tokenizer.json").is_file(), "the only candidate"
    shutil.copytree(checkpoint / "other", checkpoint / "decoy")
    with pytest.raises(CheckpointError, match="found decoy, other"):
        convert(checkpoint)
    metas = {"file_path_metas": {"llm_conf": {"init_param_path": "other"}}}
    (checkpoint / "configuration.json").write_text(json.dumps(metas))
    assert "other/config.json" in EngineManifest.read(convert(checkpoint)).source


def test_an_llm_that_is_not_implemented_is_refused(edited: EditCheckpoint) -> None:
    checkpoint = edited()
    path = checkpoint / "Qwen3-0.6B" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match="model_type is 'gpt2'; only 'llama', 'qwen2', 'qwen3'"):
        convert(checkpoint)


def test_without_any_stated_end_of_answer_the_tokenizers_is_taken(edited: EditCheckpoint) -> None:
    checkpoint = edited()
    (checkpoint / "Qwen3-0.6B" / "generation_config.json").unlink()
    path = checkpoint / "Qwen3-0.6B" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": None}))
    assert EngineManifest.read(convert(checkpoint)).llm.eos_token_ids == (2350,)


def test_an_unknown_model_is_refused_with_what_was_found_and_what_is_known(edited: EditCheckpoint) -> None:
    checkpoint = edited(config=set_key("model", "Frobnicator"))
    held = r"LICENSE, Qwen3-0\.6B, about\.json, config\.yaml, configuration\.json and 2 more"
    found = rf"model in config\.yaml says 'Frobnicator'; it holds {held}\. Known: .*model: FunASRNano"
    with pytest.raises(CheckpointError, match=found) as caught:
        convert(checkpoint)
    assert "Fun-ASR-MLT-Nano-2512" in str(caught.value)
    (checkpoint / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="no configuration names a model; it holds"):
        convert(checkpoint)


def test_a_configuration_that_lost_its_end_is_said_to_be_cut_short(edited: EditCheckpoint) -> None:
    checkpoint = edited()
    path = checkpoint / "config.yaml"
    content = path.read_bytes()
    for size in range(10, 2 * len(content) // 3, 97):
        path.write_bytes(content[:size].rstrip())
        with pytest.raises(CheckpointError, match=r"config\.yaml.* may be cut short"):
            convert(checkpoint)
