"""The network of silero-vad as products of large matrices, with the weights of the ONNX file in its package.

    windows (W, 576)  ->  encode(): spectra of 4 frames, 4 convolutions  ->  features (W, 128)
    features, state   ->  recur(): an LSTM along the windows  ->  probabilities (W,), state

With the package's own graph, onnxruntime takes 7 s of a core for one hour of audio, and nine tenths of that for its
convolutions: each is over 4 frames at most, which is too little for the matrix kernels. A convolution over so few
frames is a matrix, so that all windows together are one product. An hour takes 2 s (AMD EPYC, 2026-11-29). The
probabilities differ by less than 1e-4 from those of the package's graph, and not by a single bit with the number of
windows in a call.

encode() has no state: different windows may be encoded in different threads. onnxruntime releases the GIL.
"""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from .onnx_file import OnnxFile, OnnxGraph, Shape, load_onnxruntime, read_onnx

FloatArray: TypeAlias = "npt.NDArray[np.float32]"
State: TypeAlias = tuple[FloatArray, FloatArray]  # the hidden state and the cell of the LSTM, (1, 1, 128) each

INPUT_SAMPLES = 576  # a window of 512 samples after the last 64 of the one before
_FRAME_SAMPLES, _HOP_SAMPLES, _NUM_FRAMES = 256, 128, 4
_MIRRORED = slice(574, 510, -1)  # samples that follow a window, so that it has 4 frames
_MIDDLE = _FRAME_SAMPLES // 2
_NUM_BINS = _MIDDLE + 1
_SIZE = 128  # of the features and of the state
_STRIDES = (1, 2, 2, 1)  # of the convolutions, whose kernels have 3 frames
# The operators of the package's graph that compute, and the shapes of its weights: another network is refused.
_OPERATORS = [
    *("Pad", "Conv", "Pow", "Pow", "Add", "Sqrt"),
    *("Conv", "Relu") * 4,
    *("LSTM", "Relu", "Conv", "Sigmoid"),
]
_BASIS = "stft.forward_basis_buffer"
_SHAPES = {
    _BASIS: (2 * _NUM_BINS, 1, _FRAME_SAMPLES),
    "encoder.0.weight": (128, _NUM_BINS, 3), "encoder.0.bias": (128,),
    "encoder.1.weight": (64, 128, 3), "encoder.1.bias": (64,),
    "encoder.2.weight": (64, 64, 3), "encoder.2.bias": (64,),
    "encoder.3.weight": (_SIZE, 64, 3), "encoder.3.bias": (_SIZE,),
    "output.weight": (1, _SIZE, 1), "output.bias": (1,),
}  # fmt: skip
_LSTM_SHAPES = ((1, 4 * _SIZE, _SIZE), (1, 4 * _SIZE, _SIZE), (1, 8 * _SIZE))


class SileroNetwork:
    """The loaded network. Any number of threads may use it."""

    cold: State = (np.zeros((1, 1, _SIZE), np.float32), np.zeros((1, 1, _SIZE), np.float32))

    def __init__(self, path: Path) -> None:
        """`path`: silero_vad_16k_sequence.onnx. Raises ConfigError if it holds another network."""
        file = read_onnx(path)
        lstm = _lstm_weights(file)
        shapes = {name: weight.shape for name, weight in file.weights.items() if name in _SHAPES}
        operators = [operator for operator, _ in file.operators if operator in _OPERATORS]
        is_known = operators == _OPERATORS and shapes == _SHAPES and tuple(each.shape for each in lstm) == _LSTM_SHAPES
        if not is_known or not _is_fourier(file.weights[_BASIS][:, 0]):
            raise ConfigError(f"vad='silero': {path} is not the network of silero-vad 6.2; found {operators}, {shapes}")
        self._encoder = _session(_encoder(file.weights))
        self._recurrent = _session(_recurrent(file.weights, lstm))

    def encode(self, windows: FloatArray) -> FloatArray:
        """(W, 576) samples -> (W, 128) features."""
        padded = np.concatenate([windows, windows[:, _MIRRORED]], axis=1)
        frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME_SAMPLES, axis=1)[:, ::_HOP_SAMPLES]
        before, after = frames[..., 1:_MIDDLE], frames[..., :_MIDDLE:-1]
        even = np.concatenate([before + after, frames[..., _MIDDLE : _MIDDLE + 1]], axis=-1)
        features: FloatArray = self._encoder.run(None, {"even": even, "odd": before - after})[0]
        return features

    def recur(self, features: FloatArray, state: State) -> tuple[FloatArray, State]:
        """(W, 128) features of consecutive windows -> (W,) probabilities, and the state after them."""
        found, *following = self._recurrent.run(None, {"features": features, "h": state[0], "c": state[1]})
        return found.reshape(-1), (following[0], following[1])


def _lstm_weights(file: OnnxFile) -> list[FloatArray]:
    """The input weights, recurrent weights and biases; their names say nothing."""
    names = [inputs[1:4] for operator, inputs in file.operators if operator == "LSTM"]
    return [file.weights[name] for name in names[0] if name in file.weights] if names else []


def _is_fourier(basis: FloatArray) -> bool:
    """Whether (258, 256) are cosines and sines about the middle of a frame, both under a window that begins at zero.

    The cosines then see the sum of the samples on both sides of the middle, and the sines see the difference, which
    halves the products.
    """
    cosines, sines = basis[:_NUM_BINS, 1:], basis[_NUM_BINS:, 1:]
    is_symmetric = np.array_equal(cosines, cosines[:, ::-1]) and np.array_equal(sines, -sines[:, ::-1])
    return is_symmetric and not basis[:, 0].any()


def _encoder(weights: dict[str, FloatArray]) -> bytes:
    """The graph of encode(), from the even and the odd parts of the frames on."""
    graph = OnnxGraph()
    cosines, sines = np.split(weights[_BASIS][:, 0].T, 2, axis=1)
    real = graph.node("MatMul", "even", graph.constant(cosines[1 : _MIDDLE + 1]))
    imaginary = graph.node("MatMul", "odd", graph.constant(sines[1:_MIDDLE]))
    power = graph.node("Add", *(graph.node("Mul", part, part) for part in (real, imaginary)))
    flat = graph.constant([-1, _NUM_FRAMES * _NUM_BINS])
    features = graph.node("Reshape", graph.node("Sqrt", power), flat)
    num_frames = _NUM_FRAMES
    for i, stride in enumerate(_STRIDES):
        matrix = _as_matrix(weights[f"encoder.{i}.weight"], num_frames, stride)
        num_frames = len(range(0, num_frames, stride))
        bias = np.tile(weights[f"encoder.{i}.bias"], num_frames)
        if i == 0:
            features = _in_halves(graph, features, matrix, bias)
        else:
            features = graph.node("Gemm", features, graph.constant(matrix), graph.constant(bias))
        features = graph.node("Relu", features)
    graph.node("Identity", features, outputs=["features"])
    inputs: dict[str, Shape] = {"even": ["W", _NUM_FRAMES, _MIDDLE], "odd": ["W", _NUM_FRAMES, _MIDDLE - 1]}
    return graph.model(inputs, {"features": ["W", _SIZE]})


def _in_halves(graph: OnnxGraph, features: str, matrix: FloatArray, bias: FloatArray) -> str:
    """The product of the first layer, without a quarter of it that is zeros.

    The first half of its outputs does not depend on the last frame, and the second not on the first.
    """
    halves = []
    middle = len(bias) // 2
    for rows, columns in (
        (slice(0, 3 * _NUM_BINS), slice(0, middle)),
        (slice(_NUM_BINS, 4 * _NUM_BINS), slice(middle, None)),
    ):
        places = [graph.constant([place]) for place in (rows.start, rows.stop, 1)]
        frames = graph.node("Slice", features, *places)
        halves.append(graph.node("Gemm", frames, graph.constant(matrix[rows, columns]), graph.constant(bias[columns])))
    return graph.node("Concat", *halves, axis=1)


def _as_matrix(kernel: FloatArray, num_frames: int, stride: int) -> FloatArray:
    """A convolution (O, I, 3) over `num_frames` frames between zeros -> (frames * I, outputs * O)."""
    num_outputs, num_inputs, width = kernel.shape
    places = range(0, num_frames, stride)
    matrix = np.zeros((num_frames, num_inputs, len(places), num_outputs), np.float32)
    for output, place in enumerate(places):
        for frame in range(max(0, place - 1), min(num_frames, place + width - 1)):
            matrix[frame, :, output] = kernel[:, :, frame - place + 1].T
    return matrix.reshape(num_frames * num_inputs, -1)


def _recurrent(weights: dict[str, FloatArray], lstm: list[FloatArray]) -> bytes:
    """The graph of recur()."""
    graph = OnnxGraph()
    steps = graph.node("Reshape", "features", graph.constant([-1, 1, _SIZE]))
    constants = map(graph.constant, lstm)
    found = graph.node("LSTM", steps, *constants, "", "h", "c", outputs=["y", "hn", "cn"], hidden_size=_SIZE)
    hidden = graph.node("Relu", graph.node("Reshape", found, graph.constant([-1, _SIZE])))
    output = graph.constant(weights["output.weight"][0])
    logits = graph.node("Gemm", hidden, output, graph.constant(weights["output.bias"]))
    graph.node("Sigmoid", logits, outputs=["probabilities"])
    state = [1, 1, _SIZE]
    inputs: dict[str, Shape] = {"features": ["W", _SIZE], "h": state, "c": state}
    return graph.model(inputs, {"probabilities": ["W", 1], "hn": state, "cn": state})


def _session(model: bytes) -> Any:
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the caller has threads of its own
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
