"""Reads the weights of an ONNX file, and writes a graph of a few operators as one.

Both take a few lines of protobuf, so that the package onnx is not needed: it would have to be imported in each process
that reads audio. Nothing that is installed anyway would do. onnxruntime does not give out the weights of a graph, and
neither it nor the package protobuf has the messages of onnx.proto. The safetensors file that silero-vad 6.2.3 brings as
well holds another network's weights. The numbers of the fields are those of onnx.proto.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

_IR_VERSION = 8
_OPSET = 15
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_INT = 2  # AttributeProto.AttributeType

Shape: TypeAlias = Sequence[int | str]  # a str names a size that may vary


@dataclass(frozen=True, slots=True, eq=False)
class OnnxFile:
    """What read_onnx finds in a file."""

    operators: list[tuple[str, list[str]]]  # (type, names of the inputs), in the order in which they run
    weights: dict[str, npt.NDArray[np.float32]]  # the float32 initializers


def load_onnxruntime() -> Any:
    """The package onnxruntime, which otherwise would report the machine and its models to its maker from now on.

    It reads the variable when it is imported. A value that is already set is left alone.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def read_onnx(path: Path) -> OnnxFile:
    """Read an ONNX file whose tensors are in the file itself. Raises OSError."""
    model = _fields_by_number(memoryview(path.read_bytes()))
    graph = _fields_by_number(model[7][0])
    nodes = [_fields_by_number(node) for node in graph[1]]
    tensors = [_fields_by_number(tensor) for tensor in graph.get(5, [])]
    return OnnxFile(
        [(_text(node[4][0]), [*map(_text, node.get(1, []))]) for node in nodes],
        {
            _text(tensor[8][0]): np.frombuffer(tensor[9][0], "<f4").reshape(tensor[1])
            for tensor in tensors
            if tensor[2] == [_FLOAT]
        },
    )


class OnnxGraph:
    """A graph that is written node by node; nodes and constants are known by the names that they are given here."""

    def __init__(self) -> None:
        self._graph = _field(2, "graph")
        self._num_names = 0

    def constant(self, values: npt.NDArray[np.float32] | Sequence[int]) -> str:
        """Add an array of float32, or integers, and give its name."""
        is_float = isinstance(values, np.ndarray)
        array = np.ascontiguousarray(values, "<f4" if is_float else "<i8")
        name = self._new_name()
        sizes = b"".join(_field(1, size) for size in array.shape)
        data_type = _field(2, _FLOAT if is_float else _INT64)
        self._graph += _field(5, sizes + data_type + _field(8, name) + _field(9, array.tobytes()))
        return name

    def node(self, operator: str, *inputs: str, outputs: Sequence[str] = (), **attributes: int) -> str:
        """Add an operator and give the name of its first output. An empty name leaves an optional input out."""
        names = outputs or [self._new_name()]
        node = b"".join([*(_field(1, name) for name in inputs), *(_field(2, name) for name in names)])
        values = (_field(1, key) + _field(3, value) + _field(20, _INT) for key, value in attributes.items())
        self._graph += _field(1, node + _field(4, operator) + b"".join(_field(5, value) for value in values))
        return names[0]

    def model(self, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> bytes:
        """The content of the ONNX file. Inputs and outputs are float32."""
        named = [_field(11, _value(*each)) for each in inputs.items()]
        named += [_field(12, _value(*each)) for each in outputs.items()]
        opset = _field(8, _field(2, _OPSET))
        return _field(1, _IR_VERSION) + opset + _field(7, self._graph + b"".join(named))

    def _new_name(self) -> str:
        self._num_names += 1
        return f"_{self._num_names}"


def _value(name: str, shape: Shape) -> bytes:
    """The name, type and shape of an input or output."""
    sizes = (_field(1, _field(1 if isinstance(size, int) else 2, size)) for size in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, b"".join(sizes))))


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def _fields_by_number(message: memoryview) -> dict[int, list[Any]]:
    """The values of a message: int, or memoryview for what has a length."""
    found: dict[int, list[Any]] = {}
    for number, value in _fields(message):
        found.setdefault(number, []).append(value)
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        value: int | memoryview
        if key & 7 == 0:
            value, place = _read_varint(message, place)
        else:
            size, place = _read_varint(message, place) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], place)
            value, place = message[place : place + size], place + size
        yield key >> 3, value


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    """The number at `place`, and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _text(value: memoryview) -> str:
    return bytes(value).decode()
