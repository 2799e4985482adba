"""What a server asks of its engine, and an engine in the server's own process; remote.py has one in another."""

from typing import Protocol

from ..audio.readers import AudioReaders
from ..model import ClipService, ServedModel
from ..service import TranscriptionService
from ..transcriber import Transcriber
from .metrics import Metrics, MetricsTimeline


class ReadingModel(ServedModel, Protocol):
    """What a server knows of a model."""

    @property
    def readers(self) -> AudioReaders: ...


class Service(ClipService, Protocol):
    """Transcribes for all protocols of a server; LocalService or RemoteService."""

    metrics: Metrics  # of this process
    failed: bool  # the engine has died: nothing more is transcribed

    @property
    def model(self) -> ReadingModel: ...

    @property
    def num_waiting(self) -> int:
        """Clips of the whole server that are not encoded yet."""

    @property
    def num_jobs(self) -> int:
        """Clips of this process that are not done."""

    def num_audio_tokens(self, num_samples: int) -> int:
        """Positions that the audio takes in the LLM."""

    def metrics_text(self) -> bytes:
        """The metrics of the whole server, in Prometheus' text format. Waits for other processes, if there are any."""

    def close(self) -> None:
        """Drop the work that is left. A model that is loaded in this process stays open; it belongs to the caller."""


class LocalService(TranscriptionService):
    """The service of a model that is loaded in this process."""

    def __init__(self, model: Transcriber, metrics: Metrics, *, max_waiting: int) -> None:
        super().__init__(model, max_waiting=max_waiting, timeline=MetricsTimeline(metrics))
        self.metrics = metrics
        metrics.watch_decoder(model.decoder)

    def num_audio_tokens(self, num_samples: int) -> int:
        return self.model.acoustic.num_audio_tokens(num_samples)

    def metrics_text(self) -> bytes:
        return self.metrics.text()
