"""The model of rules of tests/fake_model.py, as the processes of Replicas load it; each says its id in `pids`."""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.fake_decoder import FakeDecoder
from tests.fake_model import HIDDEN_SIZE, FakeAcoustic, fake_transcriber, write_answer
from twostage_asr.engine.errors import CheckpointError
from twostage_asr.engine.families.base import EncodedBatch
from twostage_asr.engine.transcriber import Transcriber


class SlowAcoustic(FakeAcoustic):
    """Takes `delay_s` for each clip."""

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self._delay_s = delay_s

    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        time.sleep(self._delay_s * len(waveforms))
        return super().encode(waveforms, with_ctc=with_ctc)


def load(pids: Path, delay_s: float = 0.0, failure: str = "") -> Transcriber:
    """`failure`: its engine fails at the first clip, and says this."""
    (pids / str(os.getpid())).touch()
    decoder = FakeDecoder(write_answer, hidden_size=HIDDEN_SIZE)
    if failure:
        decoder.fail(failure)
    return fake_transcriber(Path(tempfile.mkdtemp(dir=pids)), acoustic=SlowAcoustic(delay_s), decoder=decoder)


def load_broken() -> Transcriber:
    raise CheckpointError("a tensor is missing")
