"""Load both stages of a converted model, and choose which decoder runs, where, and in how many processes."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from .acoustic.base import AcousticModel, StageOneOptions
from .audio.readers import AudioReaders
from .config import DEFAULT_MODEL_LEN, EngineConfig
from .cores import usable_cores
from .decoder.base import Decoder, LLMSource, weight_bytes
from .decoder.sharing import installed_vllm_device, share_gpu
from .errors import CheckpointError, ConfigError
from .families import family_named
from .manifest import LLM_DIR_NAME, EngineManifest
from .model_lock import ModelLock
from .preparation import Preparation
from .prompt import PromptEmbedder
from .speakers.loading import LazySpeakerModel
from .text import LLMTokenizer
from .transcriber import Transcriber
from .words.aligner import WordAligner

logger = logging.getLogger(__name__)

# Encoder frames (60 ms) of a stage 1 batch. One clip keeps a CPU busy, and padding costs time; a GPU needs more clips.
CPU_BATCH_FRAMES, GPU_BATCH_FRAMES = 600, 40_000
# Prompts that the fast lane decodes together: on a GPU the most that fit into its memory. demos/speed.md compares them.
GPU_FAST_LANE_PROMPTS, CPU_FAST_LANE_PROMPTS = (128, 64, 32, 16, 8), (8,)
# On a CPU, vLLM in a process of its own takes cores from stage 1: an LLM of 0.6 B parameters then reaches RTFx 2.0 on
# two cores, and 5.1 in one process. A small LLM has decoded minutes of speech before vLLM has loaded.
SMALL_LLM_BYTES = 100 << 20
# Processes that time words while a GPU runs both stages; see words/processes.py.
MAX_WORD_PROCESSES, CORES_PER_WORD_PROCESS = 4, 4
# With several engines on a GPU, vLLM's Triton attention decodes more than its default: its kernels leave room.
SHARED_GPU_ATTENTION = "TRITON_ATTN"


def load_transcriber(engine_dir: Path, config: EngineConfig) -> Transcriber:
    """Load both stages of a converted model."""
    manifest = EngineManifest.read(engine_dir)
    family = family_named(manifest.family)
    unshared = share_gpu(config)  # before the device is used
    logger.debug("loading: MPS has been asked for, where it is of use")
    device = config.torch_device()
    cores = usable_cores()
    llm_dtype = config.torch_dtype(config.dtype, device)
    max_model_len = config.max_model_len or min(DEFAULT_MODEL_LEN, manifest.llm.max_position_embeddings)
    source = LLMSource(engine_dir / LLM_DIR_NAME, manifest.llm, llm_dtype, max_model_len)
    stage_one = StageOneOptions(
        device=device,
        dtype=config.torch_dtype(config.encoder_dtype, device),
        embeds_dtype=llm_dtype,
        dither=config.dither,
        word_processes=0 if device.type == "cpu" else min(MAX_WORD_PROCESSES, cores // CORES_PER_WORD_PROCESS),
    )
    decoder = build_decoder(source, config, device, unshared=unshared)
    logger.debug("loading: stage 2 has begun; the fast lane's weights are on the device")
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(decoder.close)
        # The processes of stage 2 are starting while stage 1 loads.
        acoustic, aligner = family.build_acoustic_model(engine_dir, manifest, stage_one)
        if aligner is not None:
            on_failure.callback(aligner.close)
        logger.debug("loading: the weights of stage 1 are on the device")
        tokenizer = LLMTokenizer(source.directory)
        embedder = PromptEmbedder(source.directory, tokenizer, llm_dtype, max_text_bytes=config.max_prompt_bytes)
        decoder.wait_until_ready()
        logger.debug("loading: stage 2 is ready")
        on_failure.pop_all()
    transcriber = Transcriber(
        family=family,
        acoustic=acoustic,
        aligner=aligner,
        no_times_reason=manifest.missing.get("ctc", "this model cannot time words"),
        tokenizer=tokenizer,
        embedder=embedder,
        decoder=decoder,
        readers=AudioReaders(cores),
        device=device,
        max_batch_frames=CPU_BATCH_FRAMES if device.type == "cpu" else GPU_BATCH_FRAMES,
        lock=ModelLock(),
        speakers=LazySpeakerModel(config.speaker_model, device),
        preparation=Preparation(_preparing_steps(acoustic, aligner) if device.type == "cuda" else ()),
    )
    transcriber.preparation.begin()
    return transcriber


def _preparing_steps(acoustic: AcousticModel, aligner: WordAligner | None) -> list[Callable[[], None]]:
    if aligner is None:
        return [acoustic.prepare, *acoustic.further_steps()]
    return [aligner.start_processes, acoustic.prepare, aligner.warm_up, *acoustic.further_steps()]


def build_decoder(
    source: LLMSource, config: EngineConfig, device: torch.device, *, unshared: str = "one engine was asked for"
) -> Decoder:
    """Start the decoder of the configured backend. Raises ConfigError if that cannot run here.

    `unshared` says why several engines cannot share the GPU, or is empty.
    """
    vllm_device = installed_vllm_device()
    backend = backend_on(config, device)
    if backend == "torch":
        if config.vllm or config.tensor_parallel_size > 1 or config.decoder_processes or config.fast_lane is True:
            raise ConfigError(
                "vllm=..., tensor_parallel_size, decoder_processes and fast_lane=True have no meaning with "
                "backend='torch'"
            )
        from .decoder.torch_decoder import TorchDecoder

        return TorchDecoder(source, device=device)
    if vllm_device != device.type:
        found = f"the installed vLLM runs on {vllm_device}" if vllm_device else "vLLM is not installed"
        raise ConfigError(f'backend=\'vllm\' on {device}: {found}; pip install ".[cuda]" or uv pip install ".[cpu]"')
    if device.index:
        raise ConfigError(f"vLLM takes the first GPUs it sees, not {device}; choose them with CUDA_VISIBLE_DEVICES")
    return _vllm_decoder(source, config, device, unshared)


def backend_on(config: EngineConfig, device: torch.device) -> str:
    """The configured backend, or the one that "auto" chooses on this device."""
    automatic = "vllm" if installed_vllm_device() == device.type else "torch"
    return automatic if config.backend == "auto" else config.backend


def _vllm_decoder(source: LLMSource, config: EngineConfig, device: torch.device, unshared: str) -> Decoder:
    """vLLM in this process or in others, with a fast lane beside it where there is one."""
    from .decoder.vllm_decoder import VLLMDecoder, VLLMOptions

    options = VLLMOptions(
        device=device,
        tensor_parallel_size=config.tensor_parallel_size,
        gpu_memory_utilization=config.gpu_memory_utilization,
        engine=config.vllm,
    )
    fast_lane_prompts = _fast_lane_prompts(source, config, device, is_spread=options.is_spread)
    num_processes = config.decoder_processes
    if num_processes is None:
        num_processes = 1 if device.type != "cpu" or options.is_spread or fast_lane_prompts else 0
    if num_processes == 0:
        return VLLMDecoder(source, options)
    from .decoder.process_decoder import ProcessDecoder, engines_that_fit

    most = num_processes
    if config.decoder_processes is None and not unshared:
        most = engines_that_fit(source, options)
    if device.type == "cuda":
        if most > 1 and not config.vllm.keys() & {"attention_backend", "attention_config"}:
            options = replace(options, engine={"attention_backend": SHARED_GPU_ATTENTION, **config.vllm})
        engines = f"{num_processes} vLLM engine(s), {most} when prompts wait"
        logger.info("%s; %d cores; %s", engines, usable_cores(), unshared or "they share the GPU by MPS")
    loads_at_once = not (fast_lane_prompts and device.type == "cpu" and config.decoder_processes is None)
    large = ProcessDecoder(
        source,
        options,
        num_processes=num_processes if loads_at_once else 0,
        max_processes=most,
        stall_timeout_s=config.stall_timeout_s,
    )
    if not fast_lane_prompts:
        return large
    from .decoder.torch_decoder import TorchDecoder
    from .decoder.two_lanes import TwoLaneDecoder

    with contextlib.ExitStack() as on_failure:
        on_failure.callback(large.close)
        fast = TorchDecoder(source, device=device, max_sequences=fast_lane_prompts)
        on_failure.pop_all()
    return TwoLaneDecoder(fast, large, loads_at_once=loads_at_once)


def _fast_lane_prompts(source: LLMSource, config: EngineConfig, device: torch.device, *, is_spread: bool) -> int:
    """Prompts that the fast lane beside vLLM decodes together; 0: there is none.

    Raises ConfigError if there cannot be the one that was asked for.
    """
    if config.fast_lane is False or (config.fast_lane == "auto" and not _may_have_fast_lane(source, config, device)):
        return 0
    if config.decoder_processes == 0 or is_spread:
        found: int | str = (
            "it needs a vLLM engine in one other process (decoder_processes of at least 1, and one GPU each)"
        )
    else:
        found = _most_fitting_prompts(source, config, device)
    if isinstance(found, int):
        return found
    if config.fast_lane is True:
        raise ConfigError(f"fast_lane=True: {found}")
    logger.info("no fast lane: %s", found)
    return 0


def _may_have_fast_lane(source: LLMSource, config: EngineConfig, device: torch.device) -> bool:
    """Whether "auto" means one: on an NVIDIA GPU, and for a small LLM on a CPU if nothing asks for vLLM by name."""
    names_vllm = config.backend == "vllm" or config.decoder_processes is not None or bool(config.vllm)
    is_small = device.type == "cpu" and weight_bytes(source.directory) <= SMALL_LLM_BYTES
    return device.type == "cuda" or (is_small and not names_vllm)


def _most_fitting_prompts(source: LLMSource, config: EngineConfig, device: torch.device) -> int | str:
    """The most prompts of which a second copy of this LLM has room on this device, or why it has none."""
    from .decoder.torch_decoder import needed_bytes

    is_gpu, obstacle = device.type == "cuda", ""
    for num_prompts in GPU_FAST_LANE_PROMPTS if is_gpu else CPU_FAST_LANE_PROMPTS:
        try:
            num_bytes = needed_bytes(source, num_prompts)
        except CheckpointError as error:
            return str(error)
        if is_gpu and config.fast_lane == "auto":
            obstacle = _too_small(device, num_bytes, config.gpu_memory_utilization)
        if not obstacle:
            size = "the fast lane's copy of the LLM, and its cache for %d prompts, take %.1f GiB of memory"
            logger.log(logging.INFO if is_gpu else logging.DEBUG, size, num_prompts, num_bytes / 2**30)
            return num_prompts
    return obstacle


def _too_small(device: torch.device, num_bytes: int, utilization: float) -> str:
    """Why "auto" takes no fast lane of this size on this GPU, or "". Half of what vLLM leaves is stage 1's."""
    left = left_by_vllm(device, utilization)
    if num_bytes <= left / 2:
        return ""
    needed, found = num_bytes / 2**30, left / 2**30
    return f"it needs {needed:.1f} GiB, more than half of the {found:.1f} GiB that gpu_memory_utilization leaves"


def left_by_vllm(device: torch.device, utilization: float) -> float:
    """Bytes of the GPU's memory that vLLM leaves to the fast lane and stage 1, which have half of them each."""
    return (1 - utilization) * torch.cuda.get_device_properties(device).total_memory
