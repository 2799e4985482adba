"""How the first stage of every family is run: loaded, batches staged, compiled, replayed as CUDA graphs, fetched.

A family says in a subclass of StageOneRunner what is computed.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...encoders import SAMPLE_RATE
from ...encoders.transformer import attention_for_any_shape
from ...encoders.upload import to_cpu
from ..errors import CheckpointError
from ..families.base import AcousticModel, EncodedBatch, StageOneOptions
from ..hub.model_files import check_file
from .cuda_graphs import FRAME_STEP, MAX_CLIPS, Encode, SmallBatchGraphs
from .staging import uploader
from .threads import one_thread

Module = TypeVar("Module", bound=nn.Module)


class StageOneRunner(AcousticModel):
    """Stage 1 of one loaded checkpoint. `num_frames` is, where there is a CTC head, the frames that it reads."""

    def __init__(self, options: StageOneOptions, *, max_clips: int = MAX_CLIPS, frame_step: int = FRAME_STEP) -> None:
        """See SmallBatchGraphs for `max_clips` and `frame_step`. A subclass can run before it calls this."""
        self._options = options
        self._run: Encode = self._run_modules
        self._upload = uploader(options.device)
        if options.device.type == "cuda":
            self._compile()
            self._run = SmallBatchGraphs(self._run_modules, max_clips=max_clips, frame_step=frame_step)
            self._warm_up(max_clips + 1)

    def _warm_up(self, many: int) -> None:
        """Compile what batches of any size and single clips run, so that no request waits for it."""
        second = np.zeros(SAMPLE_RATE, np.float32)
        with one_thread(active=True):  # as in a run: compiled code belongs to a number of threads
            for waveforms in ([second] * many, [second]):
                self.encode(waveforms, with_ctc=False).utterances()

    @torch.inference_mode()
    @attention_for_any_shape()
    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        """See AcousticModel; `with_ctc` changes nothing where there is no CTC head."""
        encoded, *hidden = self._run(*self._features(waveforms))
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
    def _features(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """What the modules read of a batch, and the lengths of it, where they are wanted."""

    @abstractmethod
    def _run_modules(self, features: Tensor, lens: Tensor, /) -> tuple[Tensor, ...]:
        """Embeddings in the LLM's dtype and, where the checkpoint has a CTC head, what that reads."""

    def _by_clip(self, encoded: Tensor, audio_lens: Sequence[int]) -> Tensor:
        """The modules' embeddings -> (B, A, hidden_size), meaningless beyond a clip's length."""
        return encoded


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
    return module.eval().to(options.device, options.dtype)
