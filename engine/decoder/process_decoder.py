"""Stage 2 in worker processes: one or several vLLM engines that share a GPU.

With such small models vLLM spends more time in Python than on the GPU. In its own process it does not compete with
stage 1 for the GIL, and while one engine schedules, the GPU decodes for another. A prompt goes to the engine with the
fewest prompts. Prompts submitted between two polls are sent together.

Every wait for an engine has a limit: an engine that ends, or that has prompts and makes no progress, raises an error. A
step of vLLM cannot be interrupted, so a stalled engine's process is terminated.
"""

import contextlib
import itertools
import logging
import select
import socket
import struct
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..cores import num_cores
from ..errors import ASRError, ConfigError, DecodeError
from ..worker_process import Child, receive, send, start_child
from .base import POLL_S, DecodeParams, DraftSource, Hypothesis, LLMSource, weight_bytes
from .prompt_memory import Piece, PromptMemory
from .vllm_decoder import VLLMOptions

WORKER = f"{__package__}.worker"
# GPU memory of an engine besides weights and KV cache: activations of a full batch, logits, CUDA graphs.
WORKSPACE_BYTES = 3 << 30
PROMPT_BYTES = 512 << 20  # shared memory for the prompts of one engine; prompts that do not fit go through the socket
# An engine keeps a core busy, and reading audio, stage 1 and word times need the others. Four reach an H200's limit.
MOST_ENGINES, CORES_PER_ENGINE = 4, 4
MIN_KV_CACHE_BYTES = 4 << 30  # of one of several engines, for 512 prompts of 80 tokens with 100 KB each
# Further engines start when more prompts than one decodes at once have been waiting so long. They take about 40 s of
# all cores to load, which a shorter job never gets back.
BACKLOG_S = 5.0
LOAD_TIMEOUT_S = 1800.0  # for loading an engine; compilation takes minutes, and so can weights on a slow disk

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Prompt:
    """A pending prompt."""

    submitted: float = field(default_factory=time.monotonic)
    written: list[int] = field(default_factory=list)  # tokens so far, if it was submitted with `stream_tokens`
    piece: Piece | None = None  # the shared memory that holds it, once it is sent


@dataclass(slots=True, eq=False)
class _Engine:
    """The parent's view of one worker process with a vLLM engine."""

    child: Child
    memory: PromptMemory
    stall_timeout_s: float
    failure: str = ""  # why the engine was given up
    heard: float = field(default_factory=time.monotonic)  # time of its last message, or when prompts ended its idleness
    outbox: dict[int, tuple[Tensor, DecodeParams, bool]] = field(default_factory=dict)  # the bool is `stream_tokens`
    pending: dict[int, _Prompt] = field(default_factory=dict)  # includes those in the outbox

    @classmethod
    def start(cls, stall_timeout_s: float) -> "_Engine":
        memory = PromptMemory(PROMPT_BYTES)
        child = start_child(WORKER, pass_fds=(memory.file_descriptor,))
        whole_s = int(stall_timeout_s)
        limit = struct.pack("ll", whole_s, int(1e6 * (stall_timeout_s - whole_s)))
        for direction in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            child.socket.setsockopt(socket.SOL_SOCKET, direction, limit)
        return cls(child, memory, stall_timeout_s)

    def wait_until_ready(self) -> int:
        """Wait until the engine is loaded; returns its `max_pending`. Raises ASRError."""
        if not wait_readable([self.fileno()], LOAD_TIMEOUT_S):
            raise self.give_up(f"vLLM's engine has not loaded within {LOAD_TIMEOUT_S:.0f} s")
        num_prompts: int = self.receive()
        return num_prompts

    def flush(self) -> None:
        """Send the prompts that were submitted since the last call."""
        if not self.outbox:
            return
        if len(self.outbox) == len(self.pending):
            self.heard = time.monotonic()
        prompts, params, followed = zip(*self.outbox.values(), strict=True)
        piece = self.memory.write(prompts)
        for prompt_id in self.outbox:
            self.pending[prompt_id].piece = piece
        # NumPy has no bfloat16.
        rows = piece.start if piece is not None else torch.cat(prompts).view(torch.uint8).numpy()
        self.send((list(self.outbox), [len(prompt) for prompt in prompts], params, followed, rows))
        self.outbox.clear()

    def forget(self, prompt_id: int) -> bool:
        """Remove a prompt and release its memory. Returns whether it was pending."""
        prompt = self.pending.pop(prompt_id, None)
        if prompt is not None and prompt.piece is not None:
            self.memory.release(prompt.piece)
        return prompt is not None

    def close(self) -> None:
        """Stop the process."""
        self.child.close()
        self.memory.close()

    def fileno(self) -> int:
        """The socket's file descriptor. Raises DecodeError if the engine was given up."""
        if self.failure:
            raise DecodeError(self.failure)
        return self.child.socket.fileno()

    def check_progress(self) -> None:
        """Called when no message has come. Raises DecodeError if prompts have been waiting too long for one."""
        if self.pending and time.monotonic() > self.heard + self.stall_timeout_s:
            raise self._stalled()

    def send(self, message: object) -> None:
        """Send a message. Raises DecodeError if the engine does not read it in time.

        If the process has ended, this does nothing: `receive` raises the error, with the reason that the engine sent.
        """
        self.fileno()
        try:
            send(self.child.socket, message)
        except BlockingIOError as error:  # the socket's timeout
            raise self._stalled() from error
        except OSError:  # the process has ended; a message that says why may be waiting in the socket
            pass

    def receive(self) -> Any:
        """The next message. Raises the ASRError that the engine sent, or DecodeError if it ended without one."""
        try:
            message = receive(self.child.socket)
        except BlockingIOError as error:
            raise self._stalled() from error
        except (EOFError, OSError) as error:
            self.child.close()
            status = self.child.process.returncode
            raise self.give_up(f"the process of vLLM's engine ended, exit status {status}; its log says why") from error
        self.heard = time.monotonic()
        if isinstance(message, ASRError):
            self.give_up(str(message))
            raise message
        return message

    def give_up(self, reason: str) -> DecodeError:
        """Stop the process, and return the error to raise; every later call raises the same error."""
        self.child.close()
        self.failure = reason
        return DecodeError(reason)

    def _stalled(self) -> DecodeError:
        now = time.monotonic()
        oldest_s = now - min((prompt.submitted for prompt in self.pending.values()), default=now)
        return self.give_up(
            f"vLLM's engine (process {self.child.process.pid}) has written no token for {now - self.heard:.1f} s and "
            f"was ended; prompts that wait for it: {len(self.pending)}, the oldest for {oldest_s:.1f} s. If one step "
            f"can take so long here, raise stall_timeout_s, now {self.stall_timeout_s:g}"
        )


class ProcessDecoder:
    """Decodes with vLLM in `num_processes` processes, and up to `max_processes` when prompts have to wait."""

    def __init__(
        self,
        source: LLMSource,
        options: VLLMOptions,
        *,
        num_processes: int,
        stall_timeout_s: float,
        max_processes: int | None = None,
    ) -> None:
        """Start `num_processes`; `wait_until_ready` waits for them. See EngineConfig for `stall_timeout_s`."""
        self.limits = source.limits
        self.max_pending = 0
        self._ids = itertools.count()
        self._source = source
        self._stall_timeout_s = stall_timeout_s
        self._num_spare = (max_processes or num_processes) - num_processes
        self._share = share_of_gpu(source, options, num_processes + self._num_spare)
        self._backlog_since: float | None = None
        self._loading: list[_Engine] = []  # further engines; prompts go to those that are ready
        self._engines = [self._start() for _ in range(num_processes)]

    def _start(self) -> _Engine:
        engine = _Engine.start(self._stall_timeout_s)
        engine.send((self._source, self._share, engine.memory.file_descriptor))
        return engine

    def wait_until_ready(self) -> None:
        self.max_pending = sum(engine.wait_until_ready() for engine in self._engines)

    @property
    def num_pending(self) -> int:
        return sum(len(engine.pending) for engine in self._engines)

    def submit(
        self,
        prompt_embeds: Tensor,
        params: DecodeParams,
        *,
        stream_tokens: bool = False,
        draft: DraftSource | None = None,
    ) -> int:
        self.limits.check(prompt_embeds, params)
        engine = min(self._engines, key=lambda engine: len(engine.pending))
        prompt_id = next(self._ids)
        engine.outbox[prompt_id] = (prompt_embeds.to(self.limits.dtype), params, stream_tokens)
        engine.pending[prompt_id] = _Prompt()
        return prompt_id

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        for engine in self._engines:
            engine.flush()
        self._grow()
        # Idle engines are polled too, because they may have died.
        engine_of = {engine.fileno(): engine for engine in self._engines}
        loading = {engine.fileno(): engine for engine in self._loading}
        wakers = [] if wake is None else [wake]
        readable = wait_readable([*engine_of, *loading, *wakers], wait_s if self.num_pending else 0)
        for number in readable & loading.keys():
            self._admit(loading[number])
        done: list[tuple[int, Hypothesis]] = []
        for number, engine in engine_of.items():
            if number not in readable:
                engine.check_progress()
                continue
            finished, written = engine.receive()
            # Tokens of cancelled prompts may still arrive.
            for prompt_id, token_ids in written:
                if prompt_id in engine.pending:
                    engine.pending[prompt_id].written += token_ids
            done += [(i, hypothesis) for i, hypothesis in finished if engine.forget(i)]
        return done

    def _grow(self) -> None:
        """Start the further engines once prompts have been waiting for BACKLOG_S."""
        if not self._num_spare:
            return
        now = time.monotonic()
        if 2 * self.num_pending <= self.max_pending:  # all of them are being decoded
            self._backlog_since = None
        elif self._backlog_since is None:
            self._backlog_since = now
        elif now > self._backlog_since + BACKLOG_S:
            logger.info("%d prompts wait; %d more vLLM engines are loading", self.num_pending, self._num_spare)
            num_spare, self._num_spare = self._num_spare, 0
            for _ in range(num_spare):
                try:
                    self._loading.append(self._start())
                except (ASRError, OSError) as error:
                    logger.warning("a further vLLM engine did not start, %d go on: %s", len(self._engines), error)

    def _admit(self, engine: _Engine) -> None:
        """Give prompts to an engine that has loaded. One that cannot is done without: the others decode."""
        self._loading.remove(engine)
        try:
            self.max_pending += engine.receive()
            self._engines.append(engine)
        except ASRError as error:
            logger.warning("a further vLLM engine did not load, %d go on: %s", len(self._engines), error)
            engine.close()

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        return next(engine.pending[prompt_id].written for engine in self._engines if prompt_id in engine.pending)

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        for engine in self._engines:
            dropped = [i for i in (list(engine.pending) if prompt_ids is None else prompt_ids) if i in engine.pending]
            for prompt_id in dropped:
                engine.outbox.pop(prompt_id, None)
                engine.forget(prompt_id)
            if dropped:
                with contextlib.suppress(DecodeError):  # a process that has ended needs no message
                    engine.send(dropped)

    def close(self) -> None:
        engines = [*self._engines, *self._loading]
        self._engines.clear()
        self._loading.clear()
        for engine in engines:
            engine.child.hang_up()  # all of them end at the same time
        for engine in engines:
            engine.close()


def wait_readable(file_descriptors: Iterable[int], wait_s: float) -> set[int]:
    """The file descriptors that are readable or at their end; waits at most `wait_s` for the first one.

    It uses poll(), because select() refuses descriptors above 1,023, which a server's sockets reach.
    """
    poll = select.poll()
    for number in file_descriptors:
        poll.register(number, select.POLLIN)
    return {number for number, _ in poll.poll(1000 * wait_s)}


def engines_that_fit(source: LLMSource, options: VLLMOptions) -> int:
    """How many engines repay themselves on this GPU and these cores; at least 1."""
    total = torch.cuda.get_device_properties(options.device).total_memory
    each = weight_bytes(source.directory) // options.tensor_parallel_size + WORKSPACE_BYTES + MIN_KV_CACHE_BYTES
    by_memory = int(total * options.gpu_memory_utilization) // each
    return max(1, min(MOST_ENGINES, num_cores() // CORES_PER_ENGINE, by_memory))


def share_of_gpu(source: LLMSource, options: VLLMOptions, num_processes: int) -> VLLMOptions:
    """The options of each of `num_processes` engines, with a fixed size of the KV cache.

    A single vLLM engine measures how much memory it may take. Engines that start together cannot, because each would
    count what the others have just allocated.

    Raises:
        ConfigError: the GPU's memory is too small for so many engines.
    """
    if options.device.type == "cpu" or "kv_cache_memory_bytes" in options.engine:
        return options
    utilization = options.gpu_memory_utilization / num_processes
    total = torch.cuda.get_device_properties(options.device).total_memory
    weights = weight_bytes(source.directory) // options.tensor_parallel_size
    kv_cache = int(total * utilization) - weights - WORKSPACE_BYTES
    if kv_cache <= 0:
        raise ConfigError(
            f"{num_processes} engines do not fit into {options.gpu_memory_utilization:.0%} of this GPU's "
            f"{total / 2**30:.0f} GiB: each needs {(weights + WORKSPACE_BYTES) / 2**30:.1f} GiB besides its KV cache. "
            "Use fewer decoder_processes (0 lets vLLM measure) or a larger gpu_memory_utilization"
        )
    engine = {**options.engine, "kv_cache_memory_bytes": kv_cache}
    return replace(options, gpu_memory_utilization=utilization, engine=engine)
