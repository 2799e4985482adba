"""Stage 2 in worker processes: one or several vLLM engines that share a GPU.

With such small models vLLM spends more time in Python than on the GPU. In its own process it does not compete with
stage 1 for the GIL, and while one engine schedules, the GPU decodes for another. A prompt goes to the engine with the
fewest prompts. Prompts submitted between two polls are sent together.

An engine that ends, or that has prompts and makes no progress, has failed (engine_process.py). Where others are left,
they take its prompts, each of them once more: a prompt that has ended two engines is an error. The failure of the last
engine is one of this decoder.
"""

import contextlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from ..cores import usable_cores
from ..errors import ASRError, ConfigError, DecodeError
from ..worker_process import wait_readable
from .backlog import Backlog
from .base import POLL_S, Decoder, Hypothesis, LLMSource, Prompt, weight_bytes
from .engine_process import EngineProcess, Pending
from .vllm_decoder import VLLMOptions

# GPU memory of an engine besides weights and KV cache: activations of a full batch, logits, CUDA graphs.
WORKSPACE_BYTES = 3 << 30
# An engine keeps a core busy, and reading audio, stage 1 and word times need the others. Four reach an H200's limit.
MOST_ENGINES, CORES_PER_ENGINE = 4, 4
MIN_KV_CACHE_BYTES = 4 << 30  # of one of several engines, for 512 prompts of 80 tokens with 100 KB each

logger = logging.getLogger(__name__)


class ProcessDecoder(Decoder):
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
        """Start `num_processes`. `wait_until_ready` waits for them, and with 0 starts the first.

        See EngineConfig for `stall_timeout_s`.
        """
        self.limits = source.limits
        self._source = source
        self._stall_timeout_s = stall_timeout_s
        self._num_spare = (max_processes or num_processes) - num_processes
        self._share = share_of_gpu(source, options, num_processes + self._num_spare)
        self._backlog = Backlog()
        self._is_closed = False
        self._loading: list[EngineProcess] = []  # further engines; prompts go to those that are ready
        self._engines = [self._start() for _ in range(num_processes)]

    def _start(self) -> EngineProcess:
        engine = EngineProcess.start(self._stall_timeout_s)
        engine.send((self._source, self._share, engine.memory.file_descriptor))
        return engine

    def wait_until_ready(self) -> None:
        if not self._engines:
            self._num_spare -= 1
            self._engines.append(self._start())
            if self._is_closed:  # by another thread, which has not seen this engine
                self.close()
                raise DecodeError("the decoder was closed while it was loading")
        for engine in tuple(self._engines):
            engine.wait_until_ready()

    @property
    def max_pending(self) -> int:
        return sum(engine.max_pending for engine in self._engines)

    @property
    def num_pending(self) -> int:
        return sum(len(engine.pending) for engine in self._engines)

    def add(self, prompt_id: int, prompt: Prompt) -> None:
        self._give(prompt_id, Pending(prompt.embeds.to(self.limits.dtype), prompt.params, prompt.stream_tokens))

    def _give(self, prompt_id: int, prompt: Pending) -> None:
        min(self._engines, key=lambda engine: len(engine.pending)).add(prompt_id, prompt)

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        done: list[tuple[int, Hypothesis]] = []
        numbers: dict[EngineProcess, int] = {}  # idle engines are polled too, because they may have died
        for engine in tuple(self._engines):
            try:
                engine.flush()
                numbers[engine] = engine.fileno()
            except ASRError as error:
                done += self._without(engine, error)
        self._grow()
        loading = [engine.fileno() for engine in self._loading]
        wakers = [] if wake is None else [wake]
        readable = wait_readable([*numbers.values(), *loading, *wakers], wait_s if self.num_pending and not done else 0)
        for engine in tuple(self._loading):
            self._admit(engine, has_news=engine.fileno() in readable)
        for engine, number in numbers.items():
            try:
                if number in readable:
                    done += engine.news()
                else:
                    engine.check_progress()
            except ASRError as error:
                done += self._without(engine, error)
        return done

    def _without(self, engine: EngineProcess, error: ASRError) -> list[tuple[int, Hypothesis]]:
        """Go on without an engine that has failed; returns those of its prompts that are given up.

        Raises `error` if it was the last.
        """
        if len(self._engines) == 1:
            raise error
        self._engines.remove(engine)
        engine.close()
        num_left = len(self._engines)
        logger.warning("a vLLM engine failed, %d go on with its %d prompts: %s", num_left, len(engine.pending), error)
        given_up = []
        for prompt_id, prompt in engine.pending.items():
            if prompt.is_second_try:
                given_up.append((prompt_id, Hypothesis((), (), "stop", error=f"two engines failed over it: {error}")))
            else:
                self._give(prompt_id, Pending(prompt.embeds, prompt.params, prompt.stream_tokens, is_second_try=True))
        return given_up

    def _grow(self) -> None:
        """Start the further engines once prompts have been waiting for BACKLOG_S."""
        # With no more than half of `max_pending`, all of them are being decoded.
        if not self._num_spare or not self._backlog.lasts(2 * self.num_pending > self.max_pending):
            return
        logger.info("%d prompts wait; %d more vLLM engines are loading", self.num_pending, self._num_spare)
        num_spare, self._num_spare = self._num_spare, 0
        for _ in range(num_spare):
            try:
                self._loading.append(self._start())
            except (ASRError, OSError) as error:
                logger.warning("a further vLLM engine did not start, %d go on: %s", len(self._engines), error)

    def _admit(self, engine: EngineProcess, *, has_news: bool) -> None:
        """Give prompts to an engine once it has loaded. One that cannot is done without: the others decode."""
        try:
            if not has_news:
                engine.check_loading()
                return
            engine.wait_until_ready()
            self._engines.append(engine)
            logger.info("%d vLLM engines decode", len(self._engines))
        except ASRError as error:
            logger.warning("a further vLLM engine did not load, %d go on: %s", len(self._engines), error)
            engine.close()
        self._loading.remove(engine)

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        return next(engine.pending[prompt_id].written for engine in self._engines if prompt_id in engine.pending)

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        for engine in self._engines:
            dropped = [i for i in (list(engine.pending) if prompt_ids is None else prompt_ids) if i in engine.pending]
            for prompt_id in dropped:
                engine.outbox.pop(prompt_id, None)
                engine.forget(prompt_id)
            if dropped:
                with contextlib.suppress(DecodeError):  # the next poll says why
                    engine.send(dropped)

    def close(self) -> None:
        self._is_closed = True
        engines = [*self._engines, *self._loading]
        self._engines.clear()
        self._loading.clear()
        for engine in engines:
            engine.child.hang_up()  # all of them end at the same time
        for engine in engines:
            engine.close()


def engines_by_cores() -> int:
    """How many engines these cores can feed; at least 1."""
    return max(1, min(MOST_ENGINES, usable_cores() // CORES_PER_ENGINE))


def engines_that_fit(source: LLMSource, options: VLLMOptions) -> int:
    """How many engines repay themselves on this GPU and these cores; at least 1."""
    total = torch.cuda.get_device_properties(options.device).total_memory
    each = weight_bytes(source.directory) // options.tensor_parallel_size + WORKSPACE_BYTES + MIN_KV_CACHE_BYTES
    by_memory = int(total * options.gpu_memory_utilization) // each
    return max(1, min(engines_by_cores(), by_memory))


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
