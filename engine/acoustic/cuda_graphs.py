"""Runs small batches on a GPU as CUDA graphs.

An encoder of 70 layers launches a thousand kernels. For one clip the GPU needs 3 ms, but the CPU needs 20 ms to launch
them. A CUDA graph launches all of them in one call. A graph has a fixed shape, so batches are padded to a few shapes.
Each shape is captured at its first use, which takes 0.2 s, unless another thread is capturing or compiling. After a
capture that has failed, no other is tried, and batches of shapes that are not captured run without a graph.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..captures import captured_alone, capturing

MAX_CLIPS, MAX_FRAMES = 32, 512  # limits of a small batch; 30 s are 500 frames
FRAME_STEP = 64
WARM_UP_RUNS = 3  # before a capture, as PyTorch's documentation requires

Encode = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    lens: Tensor
    outputs: tuple[Tensor, ...]


class SmallBatchGraphs:
    """Runs `encode(inputs, lens)`, as a CUDA graph if the batch is small.

    `inputs` (B, T, ...) are on the GPU: features, or waveforms, whose T are samples. A graph finds `lens` (B,) there
    too, wherever they are given. The first axis of each output is the batch. Rows beyond a clip's length are undefined,
    and a graph may return more of them than `encode` itself, because T is padded with what earlier batches have left.

    Args:
        encode: the function to run as a graph.
        otherwise: what a batch without a graph runs, with `lens` where they are given; `encode` if None.
        max_clips: most clips of a small batch.
        max_frames: the longest T of a small batch.
        frame_step: see `bucket_of`; 1 if T is always the same.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        otherwise: Encode | None = None,
        max_clips: int = MAX_CLIPS,
        max_frames: int = MAX_FRAMES,
        frame_step: int = FRAME_STEP,
    ) -> None:
        self._encode, self._otherwise = encode, otherwise or encode
        self._max_clips, self._max_frames, self._frame_step = max_clips, max_frames, frame_step
        self._captured: dict[tuple[int, int], _Captured] = {}
        self._has_graphs = True
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, inputs: Tensor, lens: Tensor) -> tuple[Tensor, ...]:
        num_clips, num_frames = inputs.shape[:2]
        if num_clips > self._max_clips or num_frames > self._max_frames:
            return self._otherwise(inputs, lens)
        captured = self._captured_for(inputs, bucket_of(num_clips, num_frames, self._frame_step))
        if captured is None:
            return self._otherwise(inputs, lens)
        captured.inputs[:num_clips, :num_frames].copy_(inputs)
        captured.lens[:num_clips].copy_(lens, non_blocking=True)
        captured.lens[num_clips:] = 1
        captured.graph.replay()
        return tuple(output[:num_clips].clone() for output in captured.outputs)

    def _captured_for(self, like: Tensor, bucket: tuple[int, int]) -> _Captured | None:
        """The graph of a bucket; None if there is none now, or because a capture has failed."""
        if bucket not in self._captured and self._has_graphs:
            captured = captured_alone("small batches go on", lambda: self._capture(like, bucket))
            if isinstance(captured, Exception):
                self._has_graphs = False
            elif captured is not None:
                self._captured[bucket] = captured
        return self._captured.get(bucket)

    def _capture(self, like: Tensor, bucket: tuple[int, int]) -> _Captured:
        inputs = like.new_zeros(*bucket, *like.shape[2:])
        lens = torch.ones(bucket[0], dtype=torch.int64, device=inputs.device)  # padding clips are as short as can be
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                self._encode(inputs, lens)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with capturing(graph, pool=self._pool, draws=True):
            outputs = self._encode(inputs, lens)
        return _Captured(graph, inputs, lens, outputs)


def bucket_of(num_clips: int, num_frames: int, frame_step: int = FRAME_STEP) -> tuple[int, int]:
    """The (B, T) that a batch is padded to: B is rounded up to a power of two, T to a multiple of `frame_step`."""
    return 1 << (num_clips - 1).bit_length(), -(-num_frames // frame_step) * frame_step
