"""Graphs that onnxruntime runs, and weights as they were written."""

import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from twostage_asr.engine.vad.onnx_file import OnnxGraph, load_onnxruntime, read_onnx


def small_graph(weight: np.ndarray) -> bytes:
    """(B, 3) -> twice its product with the weight, flat."""
    graph = OnnxGraph()
    product = graph.node("MatMul", "x", graph.constant(weight))
    doubled = graph.node("Concat", product, product, axis=1)
    graph.node("Reshape", doubled, graph.constant([-1]), outputs=["y"])
    return graph.model({"x": ["B", 3]}, {"y": ["N"]})


def test_a_written_graph_computes_what_it_says() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    x = np.array([[1.0, 2.0, 3.0], [0.0, 0.5, 0.0]], np.float32)
    session = onnxruntime.InferenceSession(small_graph(weight), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    assert y.tolist() == np.concatenate([x @ weight, x @ weight], axis=1).ravel().tolist()


def test_a_written_graph_is_read_as_it_was(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float32)  # more than 127 of a size
    path = tmp_path / "small.onnx"
    path.write_bytes(small_graph(weight))
    file = read_onnx(path)
    assert [operator for operator, _ in file.operators] == ["MatMul", "Concat", "Reshape"]
    assert file.operators[0][1][0] == "x"
    (found,) = file.weights.values()  # integers are no weights
    assert np.array_equal(found, weight)


@pytest.mark.parametrize(("before", "then"), [(None, "1"), ("0", "0")])
def test_onnxruntime_reports_nothing_unless_the_user_says_so(
    before: str | None, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("import os\nread = os.environ['ORT_DISABLE_TELEMETRY']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(os, "environ", {} if before is None else {"ORT_DISABLE_TELEMETRY": before})
    assert load_onnxruntime().read == then
