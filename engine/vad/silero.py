"""Silero VAD: a speech probability every 32 ms, from the ONNX file that the package silero-vad contains.

The package itself is not imported, because it imports torch, which audio worker processes do without. onnxruntime runs
its ONNX file, which takes any number of windows in one call. This processes 1,000 s of audio per second on one core,
against 530 s with one window per call and 150 s with the package's own loop over TorchScript (AMD EPYC, 2026-11-20).
The number of windows per call does not change a probability by a single bit.

The network misses quiet words at the beginning of a stream, because its state has heard nothing yet. A stream therefore
begins with the state after half a second of zeros: of 220 recorded words and sentences, 24 instead of 44 open no
segment at -30 dB.

It also misses people far from the microphone. Each window is therefore brought towards the level of a close speaker,
by a gain that follows the loudest of the last seconds. The gain is bounded, because it raises noise as well.
"""

import importlib.util
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..audio.waveform import SAMPLE_RATE, Waveform
from ..errors import ConfigError

FloatArray: TypeAlias = "npt.NDArray[np.float32]"

WINDOW_SAMPLES = 512
_CONTEXT_SAMPLES = 64  # samples of the previous window, which are part of each window's input
_MODEL = "data/silero_vad_16k_sequence.onnx"
_STATE_SHAPE = (1, 1, 128)
_MAX_WINDOWS = 512  # windows per call: 16 s
_LEVEL = 0.1  # root mean square of a loud window after the gain, where full scale is 1
_GREATEST_GAIN = 3.0  # 10 dB; at 20 dB, distant noise is taken for speech more often than speech is gained
_LEVEL_FALLS_TO = 0.1 ** (WINDOW_SAMPLES / SAMPLE_RATE / 5.0)  # per window: the level falls by 20 dB in 5 s
_WARM_UP_WINDOWS = 16  # of zeros, before a stream: 0.5 s


class SileroVAD:
    """The network; its streams share it."""

    frame_s = WINDOW_SAMPLES / SAMPLE_RATE

    def __init__(self) -> None:
        """Raises ConfigError if the package silero-vad lacks the file."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the network is too small for more
        self._session = onnxruntime.InferenceSession(_model_file(), options, providers=["CPUExecutionProvider"])
        cold = np.zeros(_STATE_SHAPE, np.float32)
        warm_up = SileroStream(self._session, (cold, cold), with_gain=False)
        warm_up.push(np.zeros(_WARM_UP_WINDOWS * WINDOW_SAMPLES, np.float32))
        self._state = warm_up.state

    def new_stream(self, *, with_gain: bool = True) -> "SileroStream":
        """A stream in its initial state. `with_gain=False` is for samples that have been brought to a level already."""
        return SileroStream(self._session, self._state, with_gain=with_gain)


class SileroStream:
    """Computes the speech probabilities of one stream of samples."""

    frame_s = SileroVAD.frame_s
    threshold = 0.25  # at the network's own 0.5, 9 % of distant speech (AMI) is missed; below, noise becomes speech

    def __init__(self, session: Any, state: tuple[FloatArray, FloatArray], *, with_gain: bool) -> None:
        """`state`: the hidden state and the cell of the LSTM, (1, 1, 128) each."""
        self._session = session
        self.state = state
        self._with_gain = with_gain
        self._samples: Waveform = np.zeros(0, np.float32)  # of the incomplete window
        self._context: Waveform = np.zeros(_CONTEXT_SAMPLES, np.float32)  # the end of the window before, after its gain
        self._level = 0.0  # root mean square of the loudest recent window

    def push(self, samples: Waveform) -> FloatArray:
        self._samples = np.concatenate([self._samples, samples])
        num_windows = len(self._samples) // WINDOW_SAMPLES
        windows = self._samples[: num_windows * WINDOW_SAMPLES].reshape(num_windows, WINDOW_SAMPLES)
        self._samples = self._samples[num_windows * WINDOW_SAMPLES :].copy()
        found = [np.zeros(0, np.float32)]
        for first in range(0, num_windows, _MAX_WINDOWS):
            found.append(self._probabilities(windows[first : first + _MAX_WINDOWS]))
        return np.concatenate(found)

    def _probabilities(self, windows: FloatArray) -> FloatArray:
        if self._with_gain:
            windows = windows * self._gains(windows)[:, None]
        heard = np.concatenate([self._context, windows.ravel()])
        self._context = heard[-_CONTEXT_SAMPLES:]
        windows = np.lib.stride_tricks.sliding_window_view(heard, _CONTEXT_SAMPLES + WINDOW_SAMPLES)[::WINDOW_SAMPLES]
        hidden, cell = self.state
        inputs = {"input": np.ascontiguousarray(windows), "h": hidden, "c": cell}
        found, hidden, cell = self._session.run(None, inputs)
        self.state = hidden, cell
        return np.asarray(found, np.float32).reshape(-1)

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
