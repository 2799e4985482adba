"""Runs an ONNX graph with torch, in float32, on any device.

Only the operators that Kokoro has. What the file quantises while it runs is not quantised here: the whole numbers of
its weights are multiplied out, and activations stay as they are. So sounds are a little cleaner than onnxruntime's, and
a GPU can compute them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Attributes = dict[str, Any]
Operator = Callable[[list[Any], Attributes], Any]

_DTYPES = {1: torch.float32, 7: torch.int64, 9: torch.bool}
_WHOLE = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}  # of whole numbers -> the same of real ones
_LEAST = 1e-30
_INT32 = 6  # only biases become such numbers, and here they stay as they are


@dataclass(frozen=True, slots=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Attributes
    freed: tuple[str, ...]  # values that no later node reads


class Graph:
    """What kokoro.py exported, ready to run."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        described = json.loads((folder / "graph.json").read_text("utf-8"))
        self._outputs: list[str] = described["outputs"]
        self._constants: dict[str, Any] = {}
        for path in sorted(folder.glob("weights.*.npz")):
            with np.load(path) as arrays:
                for name in arrays.files:
                    tensor = torch.from_numpy(arrays[name])
                    self._constants[name] = tensor if tensor.dtype == torch.int64 else tensor.to(device)
        with torch.inference_mode():
            self._nodes = _with_last_uses(self._fold(described["nodes"], device), self._outputs)

    def run(self, feeds: Mapping[str, Tensor]) -> list[Tensor]:
        """The graph's outputs for inputs by name, each on the graph's device."""
        values = dict(feeds)
        device = next(iter(feeds.values())).device
        with torch.inference_mode():
            for node in self._nodes:
                inputs = [self._constants[n] if n in self._constants else values[n] if n else None for n in node.inputs]
                values |= zip(node.outputs, _compute(node.operator, inputs, node.attributes, device), strict=False)
                for name in node.freed:
                    values.pop(name, None)
        return [values[name] for name in self._outputs]

    def _fold(self, nodes: list[list[Any]], device: torch.device) -> list[list[Any]]:
        """Compute once what depends on weights alone; the nodes that are left."""
        left = []
        for operator, inputs, outputs, attributes in nodes:
            if operator == "DynamicQuantizeLinear":  # nothing is quantised: scale 1, zero 0
                self._constants |= zip(outputs[1:], torch.tensor([1.0, 0.0], device=device), strict=True)
            if operator == "Floor" and "quant_rounded" in outputs[0]:
                operator = "Identity"
            if operator == "DynamicQuantizeLSTM":
                operator, inputs = "LSTM", [inputs[0], inputs[5], inputs[6], self._as_gates(inputs)]
            if operator in _WHOLE and inputs[1] in self._constants:
                operator, inputs = _WHOLE[operator], [inputs[0], self._as_real(inputs[1], inputs[3])]
            if all(name in self._constants for name in inputs):
                found = _compute(operator, [self._constants[name] for name in inputs], attributes, device)
                self._constants |= zip(outputs, found, strict=False)
            else:
                left.append([operator, inputs, outputs, attributes])
        return left

    def _as_real(self, weight: str, zero: str) -> str:
        """The name of the weight's numbers without their zero point, as real ones."""
        name = f"{weight} as real"
        self._constants[name] = self._constants[weight].float() - self._constants[zero].float()
        return name

    def _as_gates(self, inputs: list[str]) -> str:
        """The name of an LSTM's weights and biases as torch.lstm has them, so that they are computed once."""
        inner, outer, bias = (self._constants[name] for name in inputs[1:4])
        inner_scale, outer_scale = self._constants[inputs[8]], self._constants[inputs[10]]
        size = outer.shape[1]
        parameters: list[Tensor] = []
        for side in range(len(inner)):
            for weight, scale in ((inner[side], inner_scale[side]), (outer[side], outer_scale[side])):
                parameters.append(_gates((weight.float() * scale).T, size))
            parameters += [_gates(each, size) for each in bias[side].split(4 * size)]
        name = f"{inputs[1]} as gates"
        self._constants[name] = parameters
        return name


def _with_last_uses(nodes: list[list[Any]], outputs: Sequence[str]) -> list[_Node]:
    needed, found = set(outputs), []
    for operator, inputs, outs, attributes in reversed(nodes):
        freed = tuple({name for name in inputs if name not in needed})
        needed |= {*inputs}
        found.append(_Node(operator, tuple(inputs), tuple(outs), attributes, freed))
    return found[::-1]


def _compute(operator: str, inputs: list[Any], attributes: Attributes, device: torch.device) -> Sequence[Any]:
    if any(isinstance(each, Tensor) and each.device.type != "cpu" for each in inputs) and operator in _TOGETHER:
        inputs = [each.to(device, non_blocking=True) if isinstance(each, Tensor) else each for each in inputs]
    found = _OPERATORS[operator](inputs, attributes)
    if operator == "ConstantOfShape" and found.is_floating_point():
        found = found.to(device)
    return found if isinstance(found, list | tuple) else [found]


def _ints(tensor: Tensor) -> list[int]:
    return [int(each) for each in tensor.reshape(-1).tolist()]


def _gather(i: list[Any], a: Attributes) -> Tensor:
    data, places = i
    axis = a.get("axis", 0) % data.dim()
    flat = data.index_select(axis, places.reshape(-1).to(data.device).remainder(data.shape[axis]))
    return flat.reshape([*data.shape[:axis], *places.shape, *data.shape[axis + 1 :]])


def _slice(i: list[Any], _a: Attributes) -> Tensor:
    data = i[0]
    starts, ends = _ints(i[1]), _ints(i[2])
    axes = _ints(i[3]) if len(i) > 3 else list(range(len(starts)))
    steps = _ints(i[4]) if len(i) > 4 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, _ = slice(start, end).indices(data.shape[axis])
        data = data.narrow(axis, first, max(last - first, 0))
        if step != 1:
            data = data.index_select(axis, torch.arange(0, data.shape[axis], step, device=data.device))
    return data


def _reshape(i: list[Any], _a: Attributes) -> Tensor:
    data, shape = i[0], _ints(i[1])
    return data.reshape([data.shape[place] if size == 0 else size for place, size in enumerate(shape)])


def _expand(i: list[Any], _a: Attributes) -> Tensor:
    return i[0].expand(torch.broadcast_shapes(i[0].shape, _ints(i[1])))


def _unsqueeze(i: list[Any], _a: Attributes) -> Tensor:
    data = i[0]
    for axis in sorted(_ints(i[1])):
        data = data.unsqueeze(axis)
    return data


def _squeeze(i: list[Any], _a: Attributes) -> Tensor:
    return i[0].squeeze(_ints(i[1])) if len(i) > 1 else i[0].squeeze()


def _concat(i: list[Any], a: Attributes) -> Tensor:
    return torch.cat(i, a["axis"])


def _cast(i: list[Any], a: Attributes) -> Tensor:
    return i[0] if a["to"] == _INT32 else i[0].to(_DTYPES[a["to"]])


def _mean(i: list[Any], a: Attributes) -> Tensor:
    return i[0].mean(_ints(i[1]), keepdim=bool(a["keepdims"]))


def _sum(i: list[Any], a: Attributes) -> Tensor:
    return i[0].sum(_ints(i[1]), keepdim=bool(a["keepdims"]))


def _normalise(i: list[Any], a: Attributes) -> Tensor:
    return F.layer_norm(i[0], i[1].shape, i[1], i[2], a["epsilon"])


def _skip_normalise(i: list[Any], a: Attributes) -> Tensor:
    return F.layer_norm(i[0] + i[1], i[2].shape, i[2], i[3], a["epsilon"])


def _gelu(i: list[Any], _a: Attributes) -> Tensor:
    return F.gelu(i[0] + i[1], approximate="tanh")


def _dequantise(i: list[Any], _a: Attributes) -> Tensor:
    return (i[0].float() - i[2].float()) * i[1]


def _fused_matmul(i: list[Any], a: Attributes) -> Tensor:
    left = i[0].transpose(-1, -2) if a["transA"] else i[0]
    right = i[1].transpose(-1, -2) if a["transB"] else i[1]
    return a["alpha"] * (left @ right)


def _convolve(i: list[Any], a: Attributes) -> Tensor:
    bias = i[2] if len(i) == 3 else None
    first, last = a["pads"]
    assert first == last
    return F.conv1d(i[0], i[1], bias, a["strides"], first, a["dilations"], a["group"])


def _convolve_transposed(i: list[Any], a: Attributes) -> Tensor:
    bias = i[2] if len(i) == 3 else None
    spare = a.get("output_padding", [0])
    return F.conv_transpose1d(i[0], i[1], bias, a["strides"], a["pads"][0], spare, a["group"], a["dilations"])


def _lstm(i: list[Any], _a: Attributes) -> list[Tensor]:
    """Both directions, as cuDNN computes them where there is a GPU."""
    data, hidden, cell, parameters = i
    found, last_hidden, last_cell = torch.lstm(data, [hidden, cell], parameters, True, 1, 0.0, False, True, False)
    steps, clips, width = found.shape
    return [found.view(steps, clips, 2, width // 2).transpose(1, 2), last_hidden, last_cell]


def _gates(rows: Tensor, size: int) -> Tensor:
    """ONNX has the gates in the order input, output, forget, cell; torch has input, forget, cell, output."""
    entry, exit_, forget, cell = rows.split(size)
    return torch.cat([entry, forget, cell, exit_]).contiguous()


def _resize(i: list[Any], a: Attributes) -> Tensor:
    return F.interpolate(i[0], scale_factor=i[2].tolist()[2:], mode=a["mode"])


def _pad(i: list[Any], a: Attributes) -> Tensor:
    pads, dims = _ints(i[1]), i[0].dim()
    assert not any(pads[: dims - 1]) and not any(pads[dims:-1])
    return F.pad(i[0].unsqueeze(0) if dims == 1 else i[0], (pads[dims - 1], pads[-1]), mode=a["mode"])


def _stft(i: list[Any], _a: Attributes) -> Tensor:
    """The imaginary part of the first and the last bin is zero; below zero it is the least above zero.

    For the graph computes angles by comparing it with zero, and makes -pi of zero. Kokoro was trained with torch.angle,
    which makes pi of it, as onnxruntime does, by rounding, in nearly all frames. The network hears the difference: with
    -pi it speaks a fifth too quietly.
    """
    signal, step, window, _ = i
    signal = signal.reshape(signal.shape[0], -1)
    spectrum = torch.view_as_real(torch.fft.rfft(signal.unfold(-1, len(window), int(step)) * window))
    for place in (0, -1):
        spectrum[..., place, 1] = _LEAST * (spectrum[..., place, 0] < 0)
    return spectrum


def _scatter(i: list[Any], _a: Attributes) -> Tensor:
    data = i[0].clone()
    data[tuple(i[1].movedim(-1, 0))] = i[2]
    return data


def _clip(i: list[Any], _a: Attributes) -> Tensor:
    return i[0].clamp(min=i[1])


def _constant(i: list[Any], a: Attributes) -> Tensor:
    (value,) = a.get("value", [0.0])
    return torch.full(_ints(i[0]), value)


def _range(i: list[Any], _a: Attributes) -> Tensor:
    return torch.arange(*(each.item() for each in i), device=i[1].device)


def _divide(i: list[Any], _a: Attributes) -> Tensor:
    return i[0] / i[1] if i[0].is_floating_point() else torch.div(i[0], i[1], rounding_mode="trunc")


_OPERATORS: dict[str, Operator] = {
    "Add": lambda i, _: i[0] + i[1],
    "And": lambda i, _: i[0] & i[1],
    "Atan": lambda i, _: i[0].nan_to_num(0.0, float("inf"), -float("inf")).atan(),  # of 0 / 0, as atan2 has it
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant,
    "Conv": _convolve,
    "ConvTranspose": _convolve_transposed,
    "Cos": lambda i, _: i[0].cos(),
    "CumSum": lambda i, _: i[0].cumsum(int(i[1])),
    "DequantizeLinear": _dequantise,
    "Div": _divide,
    "DynamicQuantizeLinear": lambda i, _: i[0],
    "Equal": lambda i, _: i[0] == i[1],
    "Exp": lambda i, _: i[0].exp(),
    "Expand": _expand,
    "FastGelu": _gelu,
    "Floor": lambda i, _: i[0].floor(),
    "FusedMatMul": _fused_matmul,
    "Gather": _gather,
    "Greater": lambda i, _: i[0] > i[1],
    "GreaterOrEqual": lambda i, _: i[0] >= i[1],
    "Identity": lambda i, _: i[0],
    "LSTM": _lstm,
    "LayerNormalization": _normalise,
    "LeakyRelu": lambda i, a: F.leaky_relu(i[0], a["alpha"]),
    "Less": lambda i, _: i[0] < i[1],
    "MatMul": lambda i, _: i[0] @ i[1],
    "Mul": lambda i, _: i[0] * i[1],
    "NonZero": lambda i, _: i[0].nonzero().T,
    "Pad": _pad,
    "Pow": lambda i, _: i[0] ** i[1],
    "Range": _range,
    "ReduceMean": _mean,
    "ReduceSum": _sum,
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": lambda i, _: i[0].round(),
    "STFT": _stft,
    "ScatterND": _scatter,
    "Shape": lambda i, _: torch.tensor(i[0].shape),
    "Sigmoid": lambda i, _: i[0].sigmoid(),
    "Sin": lambda i, _: i[0].sin(),
    "SkipLayerNormalization": _skip_normalise,
    "Slice": _slice,
    "Softmax": lambda i, a: i[0].softmax(a["axis"]),
    "Split": lambda i, a: i[0].split(_ints(i[1]), a["axis"]),
    "Sqrt": lambda i, _: i[0].sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda i, _: i[0] - i[1],
    "Tanh": lambda i, _: i[0].tanh(),
    "Transpose": lambda i, a: i[0].permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
    "Where": lambda i, _: torch.where(*i),
}
# Whose inputs must be on one device; the others read whole numbers, such as shapes, from the CPU without waiting.
_TOGETHER = frozenset(
    ("Add", "And", "Concat", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "Mul", "Pow", "Sub", "Where")
) | {"ScatterND"}
