"""LoadedModel: both stages of one model, which transcriber.py, service.py and pipeline.py run."""

from dataclasses import dataclass

import torch

from .audio.readers import AudioReaders
from .decoder.base import Decoder
from .families.base import AcousticModel, ModelFamily
from .model_lock import ModelLock
from .prompt import PromptEmbedder
from .speakers.loading import LazySpeakerModel
from .text import LLMTokenizer
from .words.aligner import TextAligner, WordAligner


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """The parts of a model that load_transcriber() has loaded."""

    family: ModelFamily
    acoustic: AcousticModel
    aligner: WordAligner | None  # needs a CTC head
    no_times_reason: str  # why `aligner` is None
    tokenizer: LLMTokenizer
    embedder: PromptEmbedder
    decoder: Decoder
    readers: AudioReaders
    device: torch.device  # of stage 1
    max_batch_frames: int  # encoder frames of a stage 1 batch, padding included
    lock: ModelLock
    forced_aligner: TextAligner | None = None  # times words in place of `aligner`
    speakers: LazySpeakerModel | None = None  # None: it cannot tell speakers apart

    def close(self) -> None:
        """End the processes and free the models; idempotent. A forked child does nothing: its parent owns them."""
        if not self.lock.close():
            return
        self.readers.close()
        self.decoder.close()
        if self.aligner is not None:
            self.aligner.close()
