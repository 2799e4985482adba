"""How the first stage of every family is run: loaded, batches staged, compiled, replayed as CUDA graphs, fetched.

On a GPU it runs as it is written until `prepare` has compiled it, so that the first text does not wait for a compiler.
A family says in a subclass of StageOneRunner what is computed.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...encoders import SAMPLE_RATE
from ...encoders.transformer import attention_for_any_shape, layers_as_written
from ...encoders.upload import to_cpu
from ..errors import CheckpointError
from ..hub.model_files import check_file
from ..manifest import EngineManifest
from .base import AcousticModel, EncodedBatch, StageOneOptions
from .cuda_graphs import FRAME_STEP, MAX_CLIPS, MAX_FRAMES, Encode, SmallBatchGraphs
from .staging import uploader
from .threads import one_thread

logger = logging.getLogger(__name__)

USUAL_CLIPS = (1, 2, 4, 8, 16, 32)  # of small batches
USUAL_SECONDS = (3, 7, 11, 15, 19, 23, 26, 30)  # one for each multiple of FRAME_STEP, at frames of 60 ms
USUAL_TOTAL_S = 240  # of all clips of a batch; a graph keeps its inputs, 15 MB of waveforms for so much

Inputs = tuple[Tensor, Tensor]  # what is encoded of a batch, on the device, and the lengths of it

Config = TypeVar("Config")
Module = TypeVar("Module", bound=nn.Module)


class StageOneRunner(AcousticModel):
    """Stage 1 of one loaded checkpoint. `num_frames` is, where there is a CTC head, the frames that it reads."""

    def __init__(
        self,
        options: StageOneOptions,
        *,
        max_clips: int = MAX_CLIPS,
        max_frames: int = MAX_FRAMES,
        frame_step: int = FRAME_STEP,
        min_samples: int = 0,
    ) -> None:
        """See SmallBatchGraphs for the first three sizes. A batch with a clip below `min_samples` runs without one."""
        self._options = options
        self._max_clips, self._max_frames, self._frame_step = max_clips, max_frames, frame_step
        self._min_samples = min_samples
        self._graphs: Encode | None = None  # runs the modules compiled, once that is prepared
        self._upload = uploader(options.device)

    def prepare(self) -> None:
        """Compile what batches of any size and single clips run, so that no later request waits for it."""
        if self._options.device.type != "cuda":
            return
        self._compile()
        graphs = self._small_batch_graphs()
        for num_clips in (self._max_clips + 1, 1):
            self._encode_silence(graphs, num_clips, 1)
        self._graphs = graphs
        logger.debug("loading: stage 1 is compiled")

    def _small_batch_graphs(self) -> SmallBatchGraphs:
        return SmallBatchGraphs(
            self._run_in_graph,
            otherwise=self._run_modules,
            max_clips=self._max_clips,
            max_frames=self._max_frames,
            frame_step=self._frame_step,
        )

    def further_steps(self) -> list[Callable[[], None]]:
        """The captures of the usual sizes of small batches; see AcousticModel."""

        def step(num_clips: int, seconds: int) -> None:
            if self._graphs is not None:
                self._encode_silence(self._graphs, num_clips, seconds)

        sizes = [size for size in USUAL_CLIPS if size <= self._max_clips]
        usual = [(size, seconds) for size in sizes for seconds in USUAL_SECONDS if size * seconds <= USUAL_TOTAL_S]
        return [partial(step, *each) for each in usual]

    def _encode_silence(self, run: Encode, num_clips: int, seconds: int) -> None:
        with one_thread(active=True):  # as in a run: compiled code belongs to a number of threads
            self._encoded([np.zeros(seconds * SAMPLE_RATE, np.float32)] * num_clips, run, with_ctc=False).utterances()

    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        """See AcousticModel; `with_ctc` changes nothing where there is no CTC head."""
        graphs = self._graphs
        with layers_as_written(active=graphs is None):
            return self._encoded(waveforms, graphs or self._run_modules, with_ctc=with_ctc)

    @torch.inference_mode()
    @attention_for_any_shape()
    def _encoded(self, waveforms: Sequence[np.ndarray], run: Encode, *, with_ctc: bool) -> EncodedBatch:
        if min(map(len, waveforms)) < self._min_samples:
            run = self._run_modules
        encoded, *hidden = run(*self._inputs(waveforms))
        audio_lens = [self.num_audio_tokens(len(waveform)) for waveform in waveforms]
        embeds, done = to_cpu(self._by_clip(encoded, audio_lens))
        return EncodedBatch(
            audio_embeds=embeds,
            audio_lens=audio_lens,
            ctc_hidden=hidden[0] if with_ctc and hidden else None,
            encoder_lens=[self.num_frames(len(waveform)) for waveform in waveforms],
            done=done,
        )

    @abstractmethod
    def _compile(self) -> None:
        """Make the modules faster on a GPU."""

    @abstractmethod
    def _inputs(self, waveforms: Sequence[np.ndarray]) -> Inputs:
        """What `_run_modules` takes of a batch."""

    @abstractmethod
    def _run_modules(self, inputs: Tensor, lens: Tensor, /) -> tuple[Tensor, ...]:
        """Embeddings in the LLM's dtype and, where the checkpoint has a CTC head, what that reads."""

    def _run_in_graph(self, inputs: Tensor, lens: Tensor, /) -> tuple[Tensor, ...]:
        """The same with `lens` on the GPU, in operations that a CUDA graph can hold."""
        return self._run_modules(inputs, lens)

    def _by_clip(self, encoded: Tensor, audio_lens: Sequence[int]) -> Tensor:
        """The modules' embeddings -> (B, A, hidden_size), meaningless beyond a clip's length."""
        return encoded


def read_config(
    make: Callable[[Mapping[str, Any]], Config], engine_dir: Path, manifest: EngineManifest, what: str
) -> Config:
    """The configuration that `make` reads from engine.json. Raises CheckpointError if it is not one of `what`."""
    try:
        return make(manifest.acoustic)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{engine_dir}: engine.json describes no {what}: {error}") from error


def load_module(path: Path, make: Callable[[], Module], options: StageOneOptions) -> Module:
    """The module that `make` builds, with the tensors of a safetensors file, ready to run.

    Raises:
        CheckpointError: another file in its place, or tensors that are missing, left over or of another shape.
    """
    check_file(path)
    with torch.device("meta"):
        module = make()
    try:
        module.load_state_dict(load_file(path), strict=True, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not hold the tensors that engine.json promises: {error}") from error
    # A GPU casts sooner than a CPU; one part after the other, it never holds all of them in both dtypes.
    for part in reversed(list(module.modules())):
        part.to(options.device).to(options.dtype)
    return module.eval()
