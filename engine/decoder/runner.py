"""Runs the passes of llm.py: copies their inputs to the device, and their results back, once for each pass.

On an NVIDIA GPU a pass of a small shape is a CUDA graph, because launching its kernels takes the CPU longer than
running them takes the GPU. The graph also holds these copies, from and to pinned memory of its own, so that the CPU
fills that memory, launches once and waits once. A graph has a fixed shape, so that inputs are padded to a few shapes.
Those of one sequence are captured while the model loads, the usual ones of several when there is nothing else to do,
and others at their first use. A pass whose graph cannot be captured now, because another thread compiles or captures,
runs without.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..captures import captured_alone, capturing
from ..isolation import caught
from .llm import LLM, PLACE_COLUMNS, LLMOutput
from .plain_step import PlainStep

NUM_DRAFTED = 8  # drafted tokens that a step checks
PREFILL_LENGTHS = (64, 96, 128, 192, 256, 384, 512)  # positions of the graphs for prompts; longer ones need none
# Of the usual graphs: sequences in a step, prompts that are read together, and their lengths. 10 s take 45 positions.
STEP_SIZES, PROMPT_SIZES, PROMPT_LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128), (1, 2, 4, 8, 16, 32), (64, 96)
_WARM_UP_RUNS = 2  # before a capture: Triton compiles, and cuBLAS allocates its workspace

logger = logging.getLogger(__name__)

Shape = tuple[bool, int, int]  # whether it is of a prompt, sequences, positions


@dataclass(frozen=True, slots=True)
class Place:
    """A sequence's rows of the cache, and its first new position."""

    start: int
    base: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class PassOutput:
    """The result of a pass, on the CPU except for the logits."""

    token_ids: list[list[int]]  # per sequence, the most probable token of each position that was read
    log_probs: list[list[float]]
    logits: Tensor  # (B, V) float32, of the first of these positions; valid until the next pass


@dataclass(frozen=True, slots=True, eq=False)
class _Captured:
    """A graph, and the memory that it uses."""

    graph: torch.cuda.CUDAGraph
    on_device: tuple[Tensor, Tensor | None]  # the inputs of the pass
    ints: np.ndarray  # pinned; the graph copies it to the device
    embeds: Tensor | None  # likewise
    output: LLMOutput
    best: np.ndarray  # pinned; the graph copies `output.best` to it


class LLMRunner:
    """Runs passes one after the other."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm

    def prefill(self, prompts: Sequence[Tensor], places: Sequence[Place]) -> PassOutput:
        """Read prompts, (P, hidden_size) each; finds the first token of each answer."""
        return self._run(_ints(places, [len(prompt) - 1 for prompt in prompts]), prompts)

    def step(self, token_ids: Sequence[Sequence[int]], places: Sequence[Place]) -> PassOutput:
        """Go on behind the last tokens; each sequence has 1 or 1 + NUM_DRAFTED of them."""
        return self._run(
            np.concatenate([_ints(places, [0] * len(places)), np.array(token_ids, np.int32)], axis=1), None
        )

    def warm_up(self) -> None:
        """Prepare what would otherwise be prepared by the first passes: here nothing."""

    def warm_up_more(self) -> bool:
        """Prepare a part of what later passes need, which takes up to 0.2 s: here nothing.

        Returns whether there is more, and nothing keeps it from being prepared now.
        """
        return False

    def _run(self, ints: np.ndarray, prompts: Sequence[Tensor] | None) -> PassOutput:
        device, embeds = self._llm.device, None
        if prompts is not None:
            embeds = torch.zeros(len(prompts), max(map(len, prompts)), prompts[0].shape[1], dtype=self._llm.dtype)
            _fill(embeds, prompts)
            embeds = embeds.to(device)
        output = self._llm.run(torch.from_numpy(ints).to(device), embeds)
        return _found(output.best.cpu().numpy(), output.logits, len(ints))


class GraphRunner(LLMRunner):
    """The same on an NVIDIA GPU, in a stream of its own, whose kernels come before those of stage 1."""

    def __init__(self, llm: LLM, max_sequences: int) -> None:
        super().__init__(llm)
        self._max_sequences = max_sequences
        self._device, self._has_graphs = llm.device, True
        self._captured: dict[Shape, _Captured] = {}
        self._later: list[Shape] = []  # usual shapes that are not captured yet
        self._stream = torch.cuda.Stream(llm.device, priority=-1)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._stream.wait_stream(torch.cuda.current_stream(llm.device))  # the weights are being copied

    def warm_up(self) -> None:
        """Compile the kernels and capture the usual shapes of one sequence."""
        steps = [(False, size, length) for size in STEP_SIZES for length in (1, 1 + NUM_DRAFTED)]
        prompts = [(True, size, length) for size in PROMPT_SIZES for length in PROMPT_LENGTHS]
        usual = [shape for shape in steps + prompts if shape[1] <= self._max_sequences]
        usual.sort(key=lambda shape: shape[1])
        with torch.cuda.stream(self._stream):
            failure = caught(self._try_kernels)
            if isinstance(failure, Exception):
                logger.warning("the kernels of stage 2 do not run here, plain PyTorch does their work: %r", failure)
                self._llm.step, self._has_graphs = PlainStep, False
            logger.debug("loading: the kernels of the fast lane are compiled")
            for shape in usual:
                if shape[1] == 1:
                    self._captured_for(shape)
        self._later = [shape for shape in reversed(usual) if shape not in self._captured]

    def warm_up_more(self) -> bool:
        if not self._later:
            return False
        with torch.cuda.stream(self._stream):
            if self._captured_for(self._later[-1]) is None and self._has_graphs:
                return False  # another thread compiles
        self._later.pop()
        return bool(self._later)

    def _run(self, ints: np.ndarray, prompts: Sequence[Tensor] | None) -> PassOutput:
        longest = None if prompts is None else max(map(len, prompts))
        with torch.cuda.stream(self._stream):
            shape = padded_shape(len(ints), ints.shape[1] - PLACE_COLUMNS, longest)
            captured = None if shape is None else self._captured_for(shape)
            return super()._run(ints, prompts) if captured is None else self._replay(captured, ints, prompts)

    def _try_kernels(self) -> None:
        """Run a step and a prompt, which compiles all kernels."""
        for shape in ((False, 1, 1), (True, 1, PROMPT_LENGTHS[0])):
            self._llm.run(*self._inputs(shape))
        self._stream.synchronize()

    def _inputs(self, shape: Shape) -> tuple[Tensor, Tensor | None]:
        """Inputs on the device for sequences that keep nothing."""
        is_prompt, num_sequences, length = shape
        columns = PLACE_COLUMNS + (0 if is_prompt else length)
        ints = torch.zeros(num_sequences, columns, dtype=torch.int32, device=self._device)
        if not is_prompt:
            return ints, None
        width = self._llm.config.hidden_size
        return ints, torch.zeros(num_sequences, length, width, dtype=self._llm.dtype, device=self._device)

    def _captured_for(self, shape: Shape) -> _Captured | None:
        """The graph of a shape; None if there is none now, or because a capture has failed."""
        if shape not in self._captured and self._has_graphs:
            captured = captured_alone("stage 2 goes on", lambda: self._capture(shape))
            if isinstance(captured, Exception):
                self._has_graphs = False
            elif captured is not None:
                self._captured[shape] = captured
        return self._captured.get(shape)

    def _replay(self, captured: _Captured, ints: np.ndarray, prompts: Sequence[Tensor] | None) -> PassOutput:
        num_sequences = len(ints)
        captured.ints[:num_sequences] = ints
        captured.ints[num_sequences:] = 0  # sequences that only pad the shape keep no rows
        if prompts is not None:
            assert captured.embeds is not None
            _fill(captured.embeds, prompts)
        captured.graph.replay()
        self._stream.synchronize()  # from here on the pinned memory may be read, and written again
        return _found(captured.best, captured.output.logits, num_sequences)

    def _capture(self, shape: Shape) -> _Captured:
        on_device = ints, embeds = self._inputs(shape)
        for _ in range(_WARM_UP_RUNS):
            output = self._llm.run(ints, embeds)
        pinned_ints, pinned_best = _pinned_like(ints), _pinned_like(output.best)
        pinned_embeds = None if embeds is None else _pinned_like(embeds)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with capturing(graph, pool=self._pool, draws=False, stream=self._stream):
            ints.copy_(pinned_ints, non_blocking=True)
            if embeds is not None and pinned_embeds is not None:
                embeds.copy_(pinned_embeds, non_blocking=True)
            output = self._llm.run(ints, embeds)
            pinned_best.copy_(output.best, non_blocking=True)
        return _Captured(graph, on_device, pinned_ints.numpy(), pinned_embeds, output, pinned_best.numpy())


def runner_for(llm: LLM, max_sequences: int) -> LLMRunner:
    """What runs passes on the LLM's device."""
    return GraphRunner(llm, max_sequences) if llm.device.type == "cuda" else LLMRunner(llm)


def padded_shape(num_sequences: int, num_tokens: int, prompt_length: int | None) -> Shape | None:
    """The shape of the graph that serves a pass of `num_tokens` each, or of prompts; None if prompts are too long."""
    padded = num_tokens
    if prompt_length is not None:
        if prompt_length > PREFILL_LENGTHS[-1]:
            return None
        padded = next(size for size in PREFILL_LENGTHS if size >= prompt_length)
    return prompt_length is not None, 1 << (num_sequences - 1).bit_length(), padded


def _ints(places: Sequence[Place], read: Sequence[int]) -> np.ndarray:
    rows = [(place.start, place.base, place.size, at) for place, at in zip(places, read, strict=True)]
    return np.array(rows, np.int32)


def _pinned_like(tensor: Tensor) -> Tensor:
    """Zeros in memory of the CPU that a GPU copies from and to without the CPU."""
    return torch.zeros_like(tensor, device="cpu").pin_memory()


def _fill(rows: Tensor, prompts: Sequence[Tensor]) -> None:
    """Write each prompt to the beginning of a row. What follows it there must be finite, and is not read."""
    for row, prompt in zip(rows, prompts, strict=False):
        row[: len(prompt)] = prompt


def _found(best: np.ndarray, logits: Tensor, num_sequences: int) -> PassOutput:
    token_ids, log_probs = best[:, :num_sequences]
    return PassOutput(token_ids.tolist(), log_probs.view(np.float32).tolist(), logits)
