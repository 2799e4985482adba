"""AutoModelVLLM: the model object that users build."""

import contextlib
from collections.abc import Iterator, Sequence, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

from tqdm import tqdm

from ..convert.export import ensure_converted
from ..convert.families import FAMILIES as CONVERTED_FAMILIES
from .audio.inputs import Inputs, iterate_inputs
from .checks import argument_names, check_arguments, check_options, check_type
from .closing import Closing
from .config import EngineConfig, EngineOptions
from .decoder.sharing import share_gpu
from .devices.names import device_within, present_devices
from .devices.replicas import Replicas
from .errors import ConfigError
from .families import FAMILIES, family_named
from .hub.resolve import HubName, resolve_model
from .loader import load_transcriber
from .manifest import EngineManifest
from .options import GenerateOptions
from .run_options import transcribe_options
from .transcriber import Results, Transcriber
from .transcript import Transcript
from .words.forced_aligner import Qwen3ForcedAligner
from .worker_process import hold_standard_streams


class AutoModelVLLM(Closing):
    """A speech recognition model with an LLM decoder, loaded and ready.

    Usable as a context manager; `close()` frees the GPU and ends vLLM and all worker processes.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        hub: HubName = "ms",
        revision: str | None = None,
        forced_aligner: str | Path | None = None,
        **engine: Unpack[EngineOptions],
    ) -> None:
        """Find the model, convert it on first use, and load both stages.

        Args:
            model: the directory of a checkpoint or of a converted model, or a checkpoint's id on the hub.
            hub: "ms" (ModelScope) or "hf" (Hugging Face).
            revision: branch, tag or commit on the hub.
            forced_aligner: directory or hub id of a Qwen3-ForcedAligner, which then times the words of any model.
            engine: device, dtype, backend, tensor_parallel_size and others; see EngineOptions.

        Raises:
            ConfigError: an argument is unknown or invalid.
            HubError: the model cannot be fetched from the hub.
            CheckpointError: the model's files are damaged or do not fit together.
        """
        check_options(engine, EngineOptions, others=argument_names(AutoModelVLLM.__init__))
        check_arguments(AutoModelVLLM.__init__, model=model, hub=hub, revision=revision, forced_aligner=forced_aligner)
        config = EngineConfig.of(engine)
        hold_standard_streams()
        engine_dir = ensure_converted(resolve_model(model, hub=hub, revision=revision))
        aligner_dir = None if forced_aligner is None else resolve_model(forced_aligner, hub=hub)
        devices = () if config.devices is None else present_devices(config.devices)
        self._runner: Transcriber | Replicas | None
        if not devices or (config.devices == "auto" and len(devices) == 1):
            self._runner = _load(engine_dir, aligner_dir, replace(config, devices=None))
        else:
            self._runner = _load_on_each(engine_dir, aligner_dir, config, devices)

    @staticmethod
    def supported_models() -> dict[str, tuple[str, ...]]:
        """The families that can be loaded, with the published models of each."""
        return {name: CONVERTED_FAMILIES[name].examples for name in FAMILIES}

    def generate(
        self,
        inputs: Inputs | None = None,
        *,
        input: Inputs | None = None,
        progress: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> list[Transcript]:
        """Transcribe all inputs; results come in input order.

        Args:
            inputs: a path, URL, list file (`wav.scp`, `.jsonl`), file object, bytes, samples, or any number of these;
                audio/inputs.py describes each form. A generator is read only a little ahead of need.
            input: FunASR's other name for `inputs`.
            progress: show a progress bar on stderr.
            options: how to transcribe; see GenerateOptions.

        Returns:
            One Transcript for each input. Its status is "error" if the input could not be transcribed.

        Raises:
            ConfigError: an argument is unknown or invalid, there are no inputs, or this thread has an unfinished
                generate_iter().
            DecodeError: the LLM's engine failed.
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
        """Transcribe all inputs; each result comes as soon as it is finished.

        The iterator has the model to itself from its first result until its last, or until it is closed, which drops
        unfinished work. Memory is bounded for any number of inputs, except that `ordered` holds back results that
        finish before an earlier input.

        Args:
            inputs: see `generate`.
            ordered: yield results in input order; else in the order in which they finish.
            progress: show a progress bar on stderr.
            options: how to transcribe; see GenerateOptions.

        Raises:
            ConfigError: at once, if an argument is invalid. While iterating, if another iterator of the same thread
                uses the model, or the model was closed.
            DecodeError: while iterating, if the LLM's engine failed.
            Exception: while iterating, whatever a generator of inputs raises.
        """
        check_type("ordered", ordered, bool)
        check_type("progress", progress, bool)
        items = iterate_inputs(inputs)
        results = self.runner.run(items, transcribe_options(**options))
        counted = items if isinstance(items, Sized) else inputs
        total = len(counted) if isinstance(counted, Sized) else None
        return _transcripts(results, total, ordered=ordered, progress=progress)

    def close(self) -> None:
        """End vLLM and free the memory; idempotent."""
        if self._runner is not None:
            self._runner.close()
        self._runner = None

    @property
    def runner(self) -> Transcriber | Replicas:
        """What transcribes lists of inputs: its run() takes AudioInputs and TranscribeOptions.

        Raises ConfigError if the model is closed.
        """
        if self._runner is None:
            raise ConfigError("this model is closed; build a new one")
        return self._runner

    @property
    def transcriber(self) -> Transcriber:
        """Both stages, for callers such as TranscriptionService.

        Raises ConfigError if the model is closed, or runs on several devices, in processes of their own.
        """
        if isinstance(self.runner, Replicas):
            raise ConfigError(
                f"devices={', '.join(self.runner.devices)} can transcribe lists of inputs only; a service or live "
                "audio needs a model on one device (device=...), and a server for each GPU"
            )
        return self.runner


def _load(engine_dir: Path, aligner_dir: Path | None, config: EngineConfig) -> Transcriber:
    """Both stages in this process; `aligner_dir` is that of a forced aligner."""
    aligner = None
    if aligner_dir is not None:
        share_gpu(config)  # the aligner uses the device before load_transcriber() can ask
        aligner = Qwen3ForcedAligner.from_pretrained(aligner_dir, device=config.device, dtype=config.encoder_dtype)
    return replace(load_transcriber(engine_dir, config), forced_aligner=aligner)


def _load_on_each(engine_dir: Path, aligner_dir: Path | None, config: EngineConfig, devices: Sequence[str]) -> Replicas:
    """Both stages on each of these devices, in a process of its own."""
    configs = [replace(config, devices=None, device=device_within(name)) for name in devices]
    share_gpu(configs[0], in_children=True)  # one service for all GPUs; each process would start its own
    family = family_named(EngineManifest.read(engine_dir).family)
    loads = [partial(_load, engine_dir, aligner_dir, own) for own in configs]
    return Replicas(family, list(zip(devices, loads, strict=True)))


def _transcripts(results: Results, total: int | None, *, ordered: bool, progress: bool) -> Iterator[Transcript]:
    with contextlib.closing(results), tqdm(total=total, unit="clip", disable=not progress) as bar:
        early: dict[int, Transcript] = {}  # finished before an earlier input
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
