"""Fun-ASR-Nano (Nano-2512, MLT-Nano-2512 and their fine-tunings): how its checkpoints are recognised and taken apart.

A checkpoint is a directory as the hubs hold it: config.yaml, model.pt, Qwen3-0.6B/ (the LLM's configuration and
tokenizer without weights) and, where there is a CTC head, multilingual.tiktoken. fun_asr_nano_layouts.py has the
layouts of transformers and vLLM.

Nano and MLT-Nano are two families because they know different languages. Their files differ only in the values of the
weights, so the name decides: a checkpoint is an MLT-Nano if the title of its README.md says MLT, or its directory's
name does (in the hubs' caches, the name of a directory above it). Anything else is a Nano.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ..encoders import SAMPLE_RATE, fbank
from ..encoders.adaptor import AdaptorConfig
from ..encoders.ctc import CTCConfig
from ..encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from ..encoders.sensevoice import SenseVoiceConfig
from ..engine.errors import CheckpointError
from ..engine.hub.model_files import RepositoryFiles
from ..engine.manifest import FrameClock
from ..engine.words.tokenizer import NUM_SPECIALS, CTCTokenizer
from .checkpoint import read_state_dict
from .config_file import CONFIG_NAME, CONFIG_YAML, ConfigFile, model_class, read_json
from .fun_asr_nano_layouts import (
    FRONTEND,
    PREPROCESSOR_NAMES,
    Layout,
    Requirements,
    find_layout,
    list_preprocessors,
)
from .layout import Family, Part, Plan, check_fit, split_parts
from .llm import LLM_FILES, list_llm_files, needed_shapes, plan_llm, plan_without_ctc, read_llm_config
from .safetensors_file import list_checkpoint_files
from .weights import LORA_A, Weight, plan_weights

MODEL_CLASS = "FunASRNano"
CONFIGURATION_JSON = "configuration.json"
MODEL_PT = "model.pt"
VOCABULARY = "multilingual.tiktoken"
README_NAME = "README.md"
# The first heading of a README, after its metadata.
_TITLE = re.compile(r"\A(?:---\n.*?^---\n)?.*?^# (.*?)$", re.MULTILINE | re.DOTALL)
_MODEL_NAME = re.compile(r"(?i)(?<![a-z])(mlt|nano)(?![a-z])")
_MULTILINGUAL = re.compile(r"(?i)(?<![a-z])mlt(?![a-z])")
REPOSITORY_FILES = RepositoryFiles(  # of all layouts; the README tells an MLT-Nano
    always=(
        *(README_NAME, CONFIG_YAML, CONFIGURATION_JSON, "*.tiktoken", *PREPROCESSOR_NAMES),
        *(name for file in LLM_FILES.always for name in (file, f"*/{file}")),
    ),
    weights=(MODEL_PT, *LLM_FILES.weights),
)
NAME_TABLE: Mapping[str, tuple[Part, str]] = {
    "audio_encoder.": ("acoustic", "audio_encoder."),
    "audio_adaptor.": ("acoustic", "audio_adaptor."),
    "ctc_decoder.": ("acoustic", "ctc_decoder."),
    "ctc.": ("acoustic", "ctc."),
    "llm.": ("llm", ""),
}
_CTC_PREFIXES = ("ctc_decoder.", "ctc.")
_IMPLEMENTED: Requirements = {
    "audio_encoder": ("SenseVoiceEncoderSmall", None),
    "audio_adaptor": ("Transformer", None),
    "frontend": ("WavFrontend", None),
    **FRONTEND,
}
_CTC_IMPLEMENTED: Requirements = {
    "ctc_decoder": ("Transformer", None),
    "dataset_conf.ctc_tokenizer": ("SenseVoiceTokenizer", None),
}
_DEFAULT_CTC_VOCAB_SIZE = 60_515  # FunASR's default, which the published config.yaml relies on
_NO_CTC = "model.pt holds no ctc_decoder.* and ctc.* tensors; without them there are no word times"
_NO_CTC_IN_LAYOUT = (
    "checkpoints of transformers and vLLM hold no CTC head; forced_aligner= times its words, and Fun-ASR-Nano-2512 as "
    "ModelScope holds it times its own"
)
_FP16_NOTE = "Qwen3 decoders are known to degenerate in float16 (answers of '!!!!'); bf16 and fp32 are safe."


def list_sources(directory: Path) -> dict[str, Path]:
    """Every file that a conversion reads, by its name relative to the checkpoint. Raises CheckpointError."""
    if find_layout(directory):
        files = [*list_llm_files(directory), *list_checkpoint_files(directory), *list_preprocessors(directory)]
        return {file.name: file for file in files}
    config = ConfigFile.read(directory / CONFIG_YAML)
    files = [directory / CONFIG_YAML, directory / MODEL_PT, *list_llm_files(_llm_directory(directory, config))]
    files += [f for f in (directory / CONFIGURATION_JSON, _ctc_vocabulary(directory, config)) if f.is_file()]
    if not (directory / MODEL_PT).is_file():
        raise CheckpointError(f"{directory} has no {MODEL_PT}; the download may be incomplete")
    return {file.relative_to(directory).as_posix(): file for file in files}


def plan(directory: Path, dtype: torch.dtype | None) -> Plan:
    """Plan the conversion of a checkpoint. Raises CheckpointError, which names what does not fit."""
    layout = find_layout(directory)
    if layout:
        return _plan_layout(layout, directory, dtype)
    config = ConfigFile.read(directory / CONFIG_YAML)
    config.require_all(_IMPLEMENTED)
    llm_directory = _llm_directory(directory, config)
    llm_config = read_llm_config(llm_directory)
    tensors = read_state_dict(directory / MODEL_PT)
    _refuse_missing_llm(directory / MODEL_PT, tensors)
    has_ctc = any(name.startswith(_CTC_PREFIXES) for name in tensors)
    if has_ctc:
        config.require_all(_CTC_IMPLEMENTED)
    acoustic_config = _acoustic_config(config, llm_dim=llm_config["hidden_size"], has_ctc=has_ctc)
    weights = plan_weights(tensors, dtype, _lora_scale(config))
    parts = _fitting_parts(directory / MODEL_PT, weights, acoustic_config, llm_config)
    llm_plan, notes = plan_llm(llm_directory, llm_config, parts["llm"])
    ctc_vocabulary, vocabulary_notes = _checked_vocabulary(directory, config, acoustic_config.ctc)
    return Plan(
        acoustic=parts["acoustic"],
        acoustic_config=acoustic_config.to_dict(),
        frame_clock=FrameClock(frame_shift_s=fbank.HOP_SAMPLES / SAMPLE_RATE, lfr_m=fbank.LFR_M, lfr_n=fbank.LFR_N),
        ctc_vocabulary=ctc_vocabulary,
        llm=llm_plan,
        missing={} if has_ctc else {"ctc": _NO_CTC},
        notes=(*notes, *vocabulary_notes, *_lora_notes(config, tensors), *_dtype_notes(dtype)),
    )


def _plan_layout(layout: Layout, directory: Path, dtype: torch.dtype | None) -> Plan:
    config, llm_config = layout.read_config(directory), layout.read_llm_config(directory)
    acoustic_config = _acoustic_config(config, llm_dim=llm_config["hidden_size"], has_ctc=False)
    weights = plan_weights(layout.read_tensors(directory), dtype, None)
    parts = _fitting_parts(directory, weights, acoustic_config, llm_config)
    acoustic = acoustic_config.to_dict()
    plan = plan_without_ctc(directory, llm_config, parts, acoustic_config=acoustic, no_times_reason=_NO_CTC_IN_LAYOUT)
    return replace(plan, notes=(*plan.notes, *_dtype_notes(dtype)))


def _fitting_parts(
    source: Path, weights: Mapping[str, Weight], acoustic: FunASRNanoAcousticConfig, llm_config: Mapping[str, Any]
) -> dict[Part, dict[str, Weight]]:
    needed = needed_shapes(lambda: FunASRNanoAcoustic(acoustic), llm_config, prefix="llm.", found=weights)
    check_fit(source, needed=needed, found={name: weight.shape for name, weight in weights.items()})
    return split_parts(weights, NAME_TABLE)


def _dtype_notes(dtype: torch.dtype | None) -> list[str]:
    return [_FP16_NOTE] if dtype is torch.float16 else []


def _llm_directory(directory: Path, config: ConfigFile) -> Path:
    """Where the LLM's configuration is: as config.yaml or configuration.json says, else the only directory with one."""
    for name in _named_paths(directory, config, "llm_conf.init_param_path"):
        if (directory / name / CONFIG_NAME).is_file():
            return directory / name
    candidates = sorted(path.parent for path in directory.glob(f"*/{CONFIG_NAME}"))
    if len(candidates) != 1:
        found = ", ".join(path.name for path in candidates) or "none"
        raise CheckpointError(f"{directory}: one sub-directory with the LLM's {CONFIG_NAME} is needed, found {found}")
    return candidates[0]


def _ctc_vocabulary(directory: Path, config: ConfigFile) -> Path:
    names = [*_named_paths(directory, config, "dataset_conf.ctc_tokenizer_conf.vocab_path"), VOCABULARY]
    return next((directory / name for name in names if (directory / name).is_file()), directory / VOCABULARY)


def _named_paths(directory: Path, config: ConfigFile, key: str) -> Iterator[str]:
    """The paths that config.yaml and configuration.json name under `key`, if they are inside the checkpoint."""
    metas: object = None
    if (directory / CONFIGURATION_JSON).is_file():
        metas = read_json(directory / CONFIGURATION_JSON).get("file_path_metas")
    for part in key.split("."):
        metas = metas.get(part) if isinstance(metas, Mapping) else None
    for name in (config.find(key), metas):
        if isinstance(name, str) and name and not PurePosixPath(name).is_absolute() and ".." not in Path(name).parts:
            yield name


def _refuse_missing_llm(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if not any(name.startswith("llm.") for name in tensors):
        raise CheckpointError(
            f"{path} holds {len(tensors)} tensors but none of the LLM (llm.*). FunASR's fine-tuning leaves them out "
            "(effective_save_name_excludes); add the llm.* tensors of the base model's model.pt, from which it started"
        )


def _acoustic_config(config: ConfigFile, *, llm_dim: int, has_ctc: bool) -> FunASRNanoAcousticConfig:
    """Sizes as FunASR reads them. The widths between the parts come from the encoder and the LLM, not from the file."""

    def size(key: str) -> int:
        return config.get(key, int)

    def adaptor(section: str, width: int) -> AdaptorConfig:
        return AdaptorConfig(
            encoder_dim=size("audio_encoder_conf.output_size"),
            llm_dim=width,
            ffn_dim=size(f"{section}.ffn_dim"),
            n_layer=size(f"{section}.n_layer"),
            downsample_rate=size(f"{section}.downsample_rate"),
            attention_heads=config.get(f"{section}.attention_heads", int, 8),
        )

    try:
        return FunASRNanoAcousticConfig(
            encoder=SenseVoiceConfig(
                input_dim=fbank.NUM_MELS * fbank.LFR_M,
                output_dim=size("audio_encoder_conf.output_size"),
                attention_heads=size("audio_encoder_conf.attention_heads"),
                linear_units=size("audio_encoder_conf.linear_units"),
                num_blocks=size("audio_encoder_conf.num_blocks"),
                tp_blocks=size("audio_encoder_conf.tp_blocks"),
                kernel_size=size("audio_encoder_conf.kernel_size"),
                memory_shift=config.get("audio_encoder_conf.sanm_shfit", int, 0),  # FunASR's spelling
            ),
            adaptor=adaptor("audio_adaptor_conf", llm_dim),
            ctc=_ctc_config(config, adaptor("ctc_decoder_conf", size("ctc_decoder_conf.llm_dim"))) if has_ctc else None,
            low_frame_rate=config.get("audio_adaptor_conf.use_low_frame_rate", bool, False),
        )
    except ValueError as error:
        raise CheckpointError(f"{config.path} describes a model that is not implemented: {error}") from error


def _ctc_config(config: ConfigFile, decoder: AdaptorConfig) -> CTCConfig:
    vocab_size = config.get("ctc_vocab_size", int, _DEFAULT_CTC_VOCAB_SIZE)
    blank_id = config.get("ctc_conf.blank_id", int, vocab_size - 1)
    return CTCConfig(decoder=decoder, vocab_size=vocab_size, blank_id=blank_id)


def _lora_scale(config: ConfigFile) -> float | None:
    rank, alpha = config.find("llm_conf.lora_conf.r"), config.find("llm_conf.lora_conf.lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        return None
    return alpha / rank


def _lora_notes(config: ConfigFile, tensors: Mapping[str, Tensor]) -> list[str]:
    """Notes on LoRA. Raises CheckpointError if the tensors have another rank than config.yaml says."""
    ranks = [tensor.shape[0] for name, tensor in tensors.items() if name.endswith(LORA_A)]
    if not ranks:
        return []
    rank, alpha = config.find("llm_conf.lora_conf.r"), config.find("llm_conf.lora_conf.lora_alpha")
    if set(ranks) != {rank}:
        found = ", ".join(map(str, sorted(set(ranks))))
        raise CheckpointError(f"{config.path}: llm_conf.lora_conf.r is {rank}, but the LoRA tensors have rank {found}")
    notes = [f"LoRA updates merged into their weights: {len(ranks)} (r {rank}, lora_alpha {alpha})."]
    if config.find("llm_conf.use_lora") is not True:
        notes.append("config.yaml has llm_conf.use_lora false although model.pt holds LoRA tensors; they were merged.")
    return notes


def _checked_vocabulary(
    directory: Path, config: ConfigFile, ctc: CTCConfig | None
) -> tuple[Path | None, tuple[str, ...]]:
    """The file of the CTC head's vocabulary, and notes. Raises CheckpointError.

    A file that was cut at the end of a line is a valid, smaller vocabulary. Only the outputs without a token show it.
    """
    if ctc is None:
        return None, ()
    path = _ctc_vocabulary(directory, config)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the CTC tensors in model.pt cannot be used without it")
    tokenizer = CTCTokenizer.from_file(path)
    tokenizer.check_blank(ctc.blank_id)
    num_specials = ctc.blank_id - len(tokenizer)
    if num_specials in (0, NUM_SPECIALS - 1, NUM_SPECIALS):  # none, or FunASR's, the blank among them or after them
        return path, ()
    return path, (
        f"{path.name} has {len(tokenizer)} tokens and the CTC head {num_specials} more before its blank, where FunASR "
        f"has {NUM_SPECIALS} special tokens: if the file was cut short, word times will be wrong.",
    )


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """The tensors of any layout, under FunASR's names. Raises CheckpointError."""
    layout = find_layout(directory)
    return layout.read_tensors(directory) if layout else read_state_dict(directory / MODEL_PT)


def _recognises(directory: Path, *, multilingual: bool) -> bool:
    is_own = find_layout(directory) is not None or model_class(directory) == MODEL_CLASS
    return is_own and is_multilingual(directory) is multilingual


def is_multilingual(directory: Path) -> bool:
    """Whether a checkpoint's name says MLT-Nano; the module's docstring has the rule."""
    readme = directory / README_NAME
    title = _TITLE.match(readme.read_text(encoding="utf-8", errors="replace")) if readme.is_file() else None
    names = (part for part in reversed(directory.absolute().parts) if _MODEL_NAME.search(part))
    return any(_MULTILINGUAL.search(name) for name in (title[1] if title else "", next(names, "")))


def _family(name: str, examples: tuple[str, ...], called: str, *, multilingual: bool) -> Family:
    return Family(
        name=name,
        examples=examples,
        sign=f"{CONFIG_YAML} says model: {MODEL_CLASS}, or {CONFIG_NAME} model_type fun_asr_nano{called}",
        recognises=partial(_recognises, multilingual=multilingual),
        files=REPOSITORY_FILES,
        read_tensors=read_tensors,
        name_table=NAME_TABLE,
        list_sources=list_sources,
        plan=plan,
    )


FAMILY = _family(
    "fun_asr_nano",
    (
        "FunAudioLLM/Fun-ASR-Nano-2512",
        "FunAudioLLM/Fun-ASR-Nano-2512-hf",
        "FunAudioLLM/Fun-ASR-Nano-2512-vllm",
        "allendou/Fun-ASR-Nano-2512-vllm",
    ),
    "",
    multilingual=False,
)
MULTILINGUAL = _family(
    "fun_asr_mlt_nano",
    ("FunAudioLLM/Fun-ASR-MLT-Nano-2512", "FunAudioLLM/Fun-ASR-MLT-Nano-2512-hf"),
    ", and it is called MLT",
    multilingual=True,
)
