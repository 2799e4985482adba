"""LoadedModel: both stages of one model, as the loops over them (transcriber.py, service.py) and their steps use it."""

from dataclasses import dataclass

import torch

from .audio.readers import AudioReaders
from .decoder.base import Decoder
from .families.base import AcousticModel, ModelFamily
from .model_lock import ModelLock
from .prompt import PromptEmbedder
from .text import LLMTokenizer
from .words.aligner import TextAligner, WordAligner


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """What load_transcriber() has loaded."""

    family: ModelFamily
    acoustic: AcousticModel
    aligner: WordAligner | None
    no_times_reason: str  # why `aligner` is None
    tokenizer: LLMTokenizer
    embedder: PromptEmbedder
    decoder: Decoder
    readers: AudioReaders
    device: torch.device  # of stage 1
    max_batch_frames: int  # encoder frames of a stage 1 batch, padding included
    lock: ModelLock
    forced_aligner: TextAligner | None = None  # in place of `aligner`

    def close(self) -> None:
        """End the processes and free the models; idempotent. In a process that was forked, they are its parent's."""
        if not self.lock.close():
            return
        self.readers.close()
        self.decoder.close()
        if self.aligner is not None:
            self.aligner.close()
