"""The model of rules of tests/fake_model.py, as the processes of Replicas load it; each says its id in `pids`."""

import logging
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tests.engine.devices import slow_engine
from tests.fake_decoder import FakeDecoder
from tests.fake_model import HIDDEN_SIZE, FakeAcoustic, fake_transcriber, number_of, write_answer
from twostage_asr.engine.acoustic.base import EncodedBatch
from twostage_asr.engine.cores import usable_cores
from twostage_asr.engine.decoder import backlog, engine_process
from twostage_asr.engine.decoder.base import LLMSource
from twostage_asr.engine.decoder.process_decoder import ProcessDecoder
from twostage_asr.engine.decoder.vllm_decoder import VLLMOptions
from twostage_asr.engine.errors import CheckpointError
from twostage_asr.engine.manifest import LLMInfo
from twostage_asr.engine.transcriber import Transcriber

DEADLY = 990  # the number of a clip
FULL = slow_engine.MAX_PENDING - 4  # prompts of one engine, where they come in batches of 4
BROKEN = "broken"  # a folder in `pids` from which on no model can be loaded


class WatchedAcoustic(FakeAcoustic):
    """Takes a while for each clip. Its engine fails once its file in `pids` is gone, and DEADLY ends its process."""

    def __init__(self, me: Path, decoder: FakeDecoder, delay_s: float) -> None:
        super().__init__()
        self._me = me
        self._decoder = decoder
        self._delay_s = delay_s

    def encode(self, waveforms: Sequence[np.ndarray], *, with_ctc: bool) -> EncodedBatch:
        if DEADLY in map(number_of, waveforms):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self._delay_s * len(waveforms))
        if not self._me.exists():
            self._decoder.fail("out of order")
        return super().encode(waveforms, with_ctc=with_ctc)


def load(pids: Path, delay_s: float = 0.0) -> Transcriber:
    if (pids / BROKEN).exists():
        return load_broken()
    me = pids / str(os.getpid())
    me.touch()
    decoder = FakeDecoder(write_answer, hidden_size=HIDDEN_SIZE)
    acoustic = WatchedAcoustic(me, decoder, delay_s)
    return fake_transcriber(Path(tempfile.mkdtemp(dir=pids)), acoustic=acoustic, decoder=decoder)


def load_broken() -> Transcriber:
    raise CheckpointError("a tensor is missing")


class GrowsOnceFull(ProcessDecoder):
    """Prompts that wait for a while are that many, unless the machine is so busy that they come late."""

    def _grow(self) -> None:
        if self.num_pending >= FULL:
            super()._grow()


def load_growing(folder: Path) -> Transcriber:
    """Decodes in a process (slow_engine.py), and in three once it has so many prompts that the others wait for long."""
    engine_process.WORKER = f"{__package__}.slow_engine"
    backlog.BACKLOG_S = 0.0
    logging.getLogger("twostage_asr.engine.loader").info("%d cores", usable_cores())
    info = LLMInfo(hidden_size=HIDDEN_SIZE, vocab_size=256, max_position_embeddings=4096, eos_token_ids=(0,), tied=True)
    source, options = LLMSource(folder, info, torch.float32, 4096), VLLMOptions(device=torch.device("cpu"))
    decoder = GrowsOnceFull(source, options, num_processes=1, max_processes=3, stall_timeout_s=60.0)
    decoder.wait_until_ready()
    return fake_transcriber(Path(tempfile.mkdtemp(dir=folder)), decoder=decoder)
