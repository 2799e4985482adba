"""LoadedModel: both stages of one model, which transcriber.py, service.py and pipeline.py run."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import torch

from .acoustic.base import AcousticModel
from .audio.readers import AudioReaders
from .audio.waveform import Waveform
from .decoder.base import Decoder
from .errors import ConfigError
from .families.base import ModelFamily
from .model_lock import ModelLock
from .preparation import Preparation
from .prompt import PromptEmbedder
from .run_options import TranscribeOptions
from .speakers.loading import LazySpeakerModel
from .speakers.model import Bounds, Embeddings, SpeakerModel
from .text import LLMTokenizer
from .transcript import Transcript
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
    preparation: Preparation = field(default_factory=Preparation)  # what goes on after the model is ready

    def speaker_model(self) -> SpeakerModel:
        """The model that tells speakers apart, which is loaded when it is first asked for.

        Raises:
            ConfigError, CheckpointError, HubError: there is none, or it cannot be loaded.
        """
        if self.speakers is None:
            raise ConfigError("this model was loaded without a speaker model")
        return self.speakers.get()

    def wait_until_complete(self) -> None:
        """Wait for all that a model which is ready still loads or compiles: vLLM beside the fast lane, and stage 1.

        For what is to be measured in its usual state.
        """
        from .decoder.two_lanes import TwoLaneDecoder  # where there is no fast lane, it is not imported

        self.preparation.wait()
        if isinstance(self.decoder, TwoLaneDecoder):
            self.decoder.wait_until_loaded()

    def close(self) -> None:
        """End the processes and free the models; idempotent. A forked child does nothing: its parent owns them."""
        if not self.lock.close():
            return
        self.preparation.close()
        self.readers.close()
        self.decoder.close()
        if self.aligner is not None:
            self.aligner.close()


class ServedModel(Protocol):
    """What live sessions and protocols know of a model."""

    @property
    def family(self) -> ModelFamily: ...

    @property
    def tokenizer(self) -> LLMTokenizer: ...

    @property
    def lock(self) -> ModelLock: ...


class ClipService(Protocol):
    """Transcribes clips: a TranscriptionService, or one that hands them to that of another process."""

    @property
    def model(self) -> ServedModel: ...

    def submit(
        self,
        waveform: Waveform,
        options: TranscribeOptions,
        *,
        key: str = "audio",
        answer_prefix: str = "",
        is_speech: bool = False,
        draft: str = "",
        on_text: Callable[[str], None] | None = None,
    ) -> Future[Transcript]: ...

    def embed(self, waveform: Waveform, windows: Sequence[Bounds]) -> Future[Embeddings]: ...
