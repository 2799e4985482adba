"""The model of rules of tests/fake_model.py, as actors of a Ray cluster load it."""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.fake_model import FakeAcoustic, fake_transcriber
from twostage_asr.engine.acoustic.base import EncodedBatch
from twostage_asr.engine.transcriber import Transcriber


class SlowAcoustic(FakeAcoustic):
    """Takes `delay_s` for each clip."""

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self._delay_s = delay_s

    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        time.sleep(self._delay_s * len(waveforms))
        return super().encode(waveforms, with_ctc=with_ctc)


def load(arguments: Mapping[str, Any]) -> Transcriber:
    """Leaves a file, named after the id of its process, in `pids`."""
    (Path(arguments["pids"]) / str(os.getpid())).touch()
    directory = Path(tempfile.mkdtemp(dir=arguments["pids"]))
    return fake_transcriber(directory, acoustic=SlowAcoustic(arguments["delay_s"]))
