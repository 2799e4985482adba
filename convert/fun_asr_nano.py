"""Fun-ASR-Nano (Nano-2512, MLT-Nano-2512 and their fine-tunings): how its checkpoints are recognised and taken apart.

A checkpoint is a directory as the hubs hold it: config.yaml, model.pt, Qwen3-0.6B/ (configuration and tokenizer of the
LLM, no weights), and multilingual.tiktoken for the CTC head, which only some of the published files have.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ..encoders import fbank
from ..encoders.adaptor import AdaptorConfig
from ..encoders.ctc import CTCConfig
from ..encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from ..encoders.sensevoice import SenseVoiceConfig
from ..engine.ctc_tokenizer import CTCTokenizer
from ..engine.errors import CheckpointError
from ..engine.manifest import FrameClock
from .checkpoint import read_state_dict
from .config_file import CONFIG_NAME, CONFIG_YAML, ConfigFile, model_class, read_json
from .layout import Family, Part, Plan, Shapes, check_fit, split_parts
from .llm import HEAD, list_llm_files, llm_shapes, plan_llm, read_llm_config
from .weights import LORA_A, plan_weights

MODEL_CLASS = "FunASRNano"
CONFIGURATION_JSON = "configuration.json"
MODEL_PT = "model.pt"
VOCABULARY = "multilingual.tiktoken"
NAME_TABLE: Mapping[str, tuple[Part, str]] = {
    "audio_encoder.": ("acoustic", "audio_encoder."),
    "audio_adaptor.": ("acoustic", "audio_adaptor."),
    "ctc_decoder.": ("acoustic", "ctc_decoder."),
    "ctc.": ("acoustic", "ctc."),
    "llm.": ("llm", ""),
}
_CTC_PREFIXES = ("ctc_decoder.", "ctc.")
_IMPLEMENTED: Mapping[str, tuple[object, object]] = {  # key -> the one value that is implemented, FunASR's default
    "audio_encoder": ("SenseVoiceEncoderSmall", None),
    "audio_adaptor": ("Transformer", None),
    "frontend": ("WavFrontend", None),
    "frontend_conf.cmvn_file": (None, None),
    "frontend_conf.fs": (fbank.SAMPLE_RATE, 16_000),
    "frontend_conf.window": ("hamming", "hamming"),
    "frontend_conf.n_mels": (fbank.NUM_MELS, 80),
    "frontend_conf.frame_length": (fbank.WINDOW_SAMPLES * 1000 // fbank.SAMPLE_RATE, 25),  # ms
    "frontend_conf.frame_shift": (fbank.HOP_SAMPLES * 1000 // fbank.SAMPLE_RATE, 10),  # ms
    "frontend_conf.lfr_m": (fbank.LFR_M, 1),
    "frontend_conf.lfr_n": (fbank.LFR_N, 1),
    "frontend_conf.snip_edges": (True, True),
    "frontend_conf.upsacle_samples": (True, True),  # FunASR's spelling
}
_CTC_IMPLEMENTED: Mapping[str, tuple[object, object]] = {
    "ctc_decoder": ("Transformer", None),
    "dataset_conf.ctc_tokenizer": ("SenseVoiceTokenizer", None),
}
_DEFAULT_CTC_VOCAB_SIZE = 60_515  # FunASR's, which the published config.yaml relies on
_NO_CTC = "model.pt holds no ctc_decoder.* and ctc.* tensors; without them there are no word times"
_FP16_NOTE = "Qwen3 decoders are known to degenerate in float16 (answers of '!!!!'); bf16 and fp32 are safe."


def list_sources(directory: Path) -> dict[str, Path]:
    """Every file that a conversion reads, by its name relative to the checkpoint. Raises CheckpointError."""
    config = ConfigFile.read(directory / CONFIG_YAML)
    files = [directory / CONFIG_YAML, directory / MODEL_PT, *list_llm_files(_llm_directory(directory, config))]
    files += [f for f in (directory / CONFIGURATION_JSON, _ctc_vocabulary(directory, config)) if f.is_file()]
    if not (directory / MODEL_PT).is_file():
        raise CheckpointError(f"{directory} has no {MODEL_PT}; the download may be incomplete")
    return {file.relative_to(directory).as_posix(): file for file in files}


def plan(directory: Path, dtype: torch.dtype | None) -> Plan:
    """Decide the conversion of one checkpoint. Raises CheckpointError, with names, for whatever does not fit."""
    config = ConfigFile.read(directory / CONFIG_YAML)
    _require(config, _IMPLEMENTED)
    llm_directory = _llm_directory(directory, config)
    llm_config = read_llm_config(llm_directory)
    tensors = read_state_dict(directory / MODEL_PT)
    _refuse_missing_llm(directory / MODEL_PT, tensors)
    has_ctc = any(name.startswith(_CTC_PREFIXES) for name in tensors)
    if has_ctc:
        _require(config, _CTC_IMPLEMENTED)
    acoustic_config = _acoustic_config(config, llm_dim=llm_config["hidden_size"], has_ctc=has_ctc)
    weights = plan_weights(tensors, dtype, _lora_scale(config))
    needed = _needed_shapes(acoustic_config, llm_config, has_head="llm." + HEAD in weights)
    check_fit(directory / MODEL_PT, needed=needed, found={name: weight.shape for name, weight in weights.items()})
    parts = split_parts(weights, NAME_TABLE)
    llm_plan, notes = plan_llm(llm_directory, llm_config, parts["llm"])
    return Plan(
        acoustic=parts["acoustic"],
        acoustic_config=acoustic_config.to_dict(),
        frame_clock=FrameClock(
            frame_shift_s=fbank.HOP_SAMPLES / fbank.SAMPLE_RATE, lfr_m=fbank.LFR_M, lfr_n=fbank.LFR_N
        ),
        ctc_vocabulary=_checked_vocabulary(directory, config, acoustic_config.ctc),
        llm=llm_plan,
        missing={} if has_ctc else {"ctc": _NO_CTC},
        notes=(*notes, *_lora_notes(config, tensors), *([_FP16_NOTE] if dtype is torch.float16 else [])),
    )


def _require(config: ConfigFile, implemented: Mapping[str, tuple[object, object]]) -> None:
    for key, (allowed, default) in implemented.items():
        config.require(key, allowed, default)


def _llm_directory(directory: Path, config: ConfigFile) -> Path:
    """Where the LLM's configuration is: as config.yaml says, else configuration.json, else the only candidate."""
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
    """What config.yaml and configuration.json say under `key`, as far as it stays inside the checkpoint."""
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
    """Sizes as FunASR takes them: the widths between the parts follow the encoder and the LLM, not the file."""

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


def _needed_shapes(acoustic: FunASRNanoAcousticConfig, llm_config: Mapping[str, Any], *, has_head: bool) -> Shapes:
    """Every tensor that a whole checkpoint has, by the checkpoint's own names."""
    with torch.device("meta"):
        module = FunASRNanoAcoustic(acoustic)
    needed = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    needed |= {f"llm.{name}": shape for name, shape in llm_shapes(llm_config).items()}
    if not has_head and llm_config.get("tie_word_embeddings"):
        del needed["llm." + HEAD]
    return needed


def _lora_scale(config: ConfigFile) -> float | None:
    rank, alpha = config.find("llm_conf.lora_conf.r"), config.find("llm_conf.lora_conf.lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        return None
    return alpha / rank


def _lora_notes(config: ConfigFile, tensors: Mapping[str, Tensor]) -> list[str]:
    """Raises CheckpointError if the rank that config.yaml names is not that of the tensors."""
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


def _checked_vocabulary(directory: Path, config: ConfigFile, ctc: CTCConfig | None) -> Path | None:
    """The CTC head's vocabulary, as the engine will read it. Raises CheckpointError."""
    if ctc is None:
        return None
    path = _ctc_vocabulary(directory, config)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the CTC tensors in model.pt cannot be used without it")
    CTCTokenizer.from_file(path).check_blank(ctc.blank_id)
    return path


FAMILY = Family(
    name="fun_asr_nano",
    examples=("FunAudioLLM/Fun-ASR-Nano-2512", "FunAudioLLM/Fun-ASR-MLT-Nano-2512"),
    sign=f"{CONFIG_YAML} says model: {MODEL_CLASS}",
    recognises=lambda directory: model_class(directory) == MODEL_CLASS,
    read_tensors=lambda directory: read_state_dict(directory / MODEL_PT),
    name_table=NAME_TABLE,
    list_sources=list_sources,
    plan=plan,
)
