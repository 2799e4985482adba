"""Silero VAD: a speech probability every 32 ms, from the network in silero_network.py.

The package silero-vad holds the weights. It is not imported, because it imports torch, which audio worker processes do
without. A long push is encoded in up to _MAX_THREADS threads, _MAX_WINDOWS at a time; the recurrent part, a quarter of
the work, follows in the caller's. The sizes of the pushes and the number of threads do not change a probability by a
single bit.

The network misses quiet words at the beginning of a stream, because its state has heard nothing yet. A stream therefore
begins with the state after half a second of zeros: of 220 recorded words and sentences, 24 instead of 44 open no
segment at -30 dB.

It also misses people far from the microphone. Each window is therefore brought towards the level of a close speaker,
by a gain that follows the loudest of the last seconds. The gain is bounded, because it raises noise as well.
"""

import importlib.util
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..cores import usable_cores
from ..errors import ConfigError
from .silero_network import INPUT_SAMPLES, FloatArray, SileroNetwork, State

WINDOW_SAMPLES = 512
_CONTEXT_SAMPLES = INPUT_SAMPLES - WINDOW_SAMPLES  # of the previous window, which are part of each window's input
_MODEL = "data/silero_vad_16k_sequence.onnx"
_MAX_WINDOWS = 256  # windows per call: 8 s
_MAX_THREADS = 4  # with more, the recurrent part sets the pace
_LEVEL = 0.1  # root mean square of a loud window after the gain, where full scale is 1
_GREATEST_GAIN = 3.0  # 10 dB; at 20 dB, distant noise is taken for speech more often than speech is gained
_LEVEL_FALLS_TO = 0.1 ** (WINDOW_SAMPLES / SAMPLE_RATE / 5.0)  # per window: the level falls by 20 dB in 5 s
_WARM_UP_WINDOWS = 16  # of zeros, before a stream: 0.5 s


class SileroVAD:
    """The network; its streams share it."""

    def __init__(self) -> None:
        """Raises ConfigError if the package silero-vad lacks the file, or has another network."""
        self._network = SileroNetwork(_model_file())
        self._threads = ThreadPoolExecutor(min(_MAX_THREADS, usable_cores()), thread_name_prefix="silero")
        self._state = self._network.cold
        warm_up = self.new_stream(with_gain=False)
        warm_up.push(np.zeros(_WARM_UP_WINDOWS * WINDOW_SAMPLES, np.float32))
        self._state = warm_up.state

    def new_stream(self, *, with_gain: bool = True) -> "SileroStream":
        """A stream in its initial state. `with_gain=False` is for samples that have been brought to a level already."""
        return SileroStream(self._network, self._threads, self._state, with_gain=with_gain)


class SileroStream:
    """Computes the speech probabilities of one stream of samples."""

    frame_s = WINDOW_SAMPLES / SAMPLE_RATE
    threshold = 0.25  # at the network's own 0.5, 9 % of distant speech (AMI) is missed; below, noise becomes speech

    def __init__(self, network: SileroNetwork, threads: ThreadPoolExecutor, state: State, *, with_gain: bool) -> None:
        self._network = network
        self._threads = threads
        self.state = state
        self._with_gain = with_gain
        self._samples: Waveform = np.zeros(0, np.float32)  # of the incomplete window
        self._context: Waveform = np.zeros(_CONTEXT_SAMPLES, np.float32)  # the end of the window before, after its gain
        self._level = 0.0  # root mean square of the loudest recent window

    def push(self, samples: Waveform) -> FloatArray:
        if len(self._samples):
            samples = np.concatenate([self._samples, samples])
        num_windows = len(samples) // WINDOW_SAMPLES
        windows = samples[: num_windows * WINDOW_SAMPLES].reshape(num_windows, WINDOW_SAMPLES)
        self._samples = samples[num_windows * WINDOW_SAMPLES :].copy()
        found = [np.zeros(0, np.float32)]
        for features in self._encoded(windows):
            probabilities, self.state = self._network.recur(features, self.state)
            found.append(probabilities)
        return np.concatenate(found)

    def _encoded(self, windows: FloatArray) -> Iterator[FloatArray]:
        """The features of all windows, _MAX_WINDOWS at a time."""
        inputs = (self._inputs(windows[i : i + _MAX_WINDOWS]) for i in range(0, len(windows), _MAX_WINDOWS))
        if len(windows) <= _MAX_WINDOWS:
            yield from map(self._network.encode, inputs)
            return
        while some := [*itertools.islice(inputs, 2 * _MAX_THREADS)]:  # bounds the memory
            yield from self._threads.map(self._network.encode, some)

    def _inputs(self, windows: FloatArray) -> FloatArray:
        """(W, 512) -> (W, 576): each with its gain, after the end of the one before."""
        if self._with_gain:
            windows = windows * self._gains(windows)[:, None]
        heard = np.concatenate([self._context, windows.ravel()])
        self._context = heard[-_CONTEXT_SAMPLES:]
        return np.lib.stride_tricks.sliding_window_view(heard, INPUT_SAMPLES)[::WINDOW_SAMPLES]

    def _gains(self, windows: FloatArray) -> FloatArray:
        """The gain of each window: (W, 512) -> (W,)."""
        gains = []
        for rms in np.sqrt(np.mean(np.square(windows), axis=1)).tolist():
            self._level = max(self._level * _LEVEL_FALLS_TO, rms)
            gains.append(min(_LEVEL / max(self._level, 1e-9), _GREATEST_GAIN))
        return np.array(gains, np.float32)


def _model_file() -> Path:
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise ConfigError("vad='silero' needs the package silero-vad, which is not installed")
    path = Path(spec.origin).parent / _MODEL
    if not path.is_file():
        raise ConfigError(f"vad='silero' needs silero-vad 6.2.3 or later: {path} does not exist")
    return path
