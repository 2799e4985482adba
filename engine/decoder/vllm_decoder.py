"""Stage 2 with vLLM, in this process.

Of vLLM's LLMEngine this uses the input processor and the engine core. The output processor between them would turn
tokens into text, which is not needed here and costs a fifth of a step. The engine core runs in this process, so
embeddings need no serialisation, and processes are spawned only for several GPUs. process_decoder.py runs this decoder
in worker processes, where it does not compete with stage 1 for the GIL.
"""

import gc
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError, DecodeError
from .base import POLL_S, DecodeParams, Decoder, Hypothesis, LLMSource, Prompt
from .sharing import is_spread

# vLLM's engine arguments that have their own argument here, and those that this decoder requires.
OWN_ARGUMENTS = frozenset({"dtype", "gpu_memory_utilization", "max_model_len", "model", "tensor_parallel_size"})
FIXED_ARGUMENTS = frozenset({"enable_prompt_embeds", "skip_tokenizer_init"})
CPU_KV_CACHE_BYTES = 1 << 30
CPU_BATCH = 128
# Kernels that oneDNN caches for vLLM on a CPU, one for each number of rows that a layer has been called with. A kernel
# takes 0.15 ms to compile and 0.3 MB of memory. oneDNN's default is 1024.
UNLESS_SET = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "VLLM_NO_USAGE_STATS": "1",  # vLLM would report the GPU and the kind of model to its makers
}
# The largest batch for which vLLM captures CUDA graphs: 45 k tokens/s on an H200, against 34 k with its default, 1024.
GPU_BATCH = 512
# vLLM keeps the state of a pass in variables of its modules, so that the engines of one process have to take turns.
_TURNS = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMOptions:
    """How vLLM runs the LLM."""

    device: torch.device  # cpu or cuda
    tensor_parallel_size: int = 1  # GPUs that share the LLM
    gpu_memory_utilization: float = 0.8  # share of the GPU's memory for weights and KV cache
    engine: Mapping[str, Any] = field(default_factory=dict)  # EngineArgs by name; they override the defaults set here

    @property
    def is_spread(self) -> bool:
        """Whether vLLM runs the model in processes of its own, to which prompts are sent."""
        return is_spread(self.tensor_parallel_size, self.engine)

    def engine_arguments(self, source: LLMSource) -> dict[str, Any]:
        """All of vLLM's engine arguments.

        Raises ConfigError for an option in `engine` that vLLM does not know, that has its own argument here, or that
        this decoder requires.
        """
        arguments: dict[str, Any] = {
            "model": str(source.directory),
            "dtype": str(source.dtype).removeprefix("torch."),
            "max_model_len": source.max_model_len,
            "tensor_parallel_size": self.tensor_parallel_size,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "enable_prompt_embeds": True,
            "skip_tokenizer_init": True,
            "enable_prefix_caching": False,  # clips share only short prefixes, which do not repay the hashing
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "seed": 0,
        }
        if self.device.type == "cpu":
            # On a CPU, compilation needs a C++ compiler and takes more time than it saves with these models.
            arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": CPU_KV_CACHE_BYTES, "max_num_seqs": CPU_BATCH}
        else:
            # Prompts are short. Splitting them for attention took most of attention's time on an H200.
            attention = {"flash_attn_max_num_splits_for_cuda_graph": 1}
            arguments |= {"max_num_seqs": GPU_BATCH, "attention_config": attention}
        return arguments | _checked(self.engine)


class VLLMDecoder(Decoder):
    """Decodes with vLLM's continuous batching."""

    _num_open: ClassVar[int] = 0  # open decoders in this process

    def __init__(self, source: LLMSource, options: VLLMOptions) -> None:
        """Start the engine. Raises ConfigError for an option that vLLM does not know."""
        arguments = options.engine_arguments(source)
        with _TURNS:
            self._engine = _start_engine(arguments)
            VLLMDecoder._num_open += 1
        self._is_eager = bool(arguments.get("enforce_eager"))
        self._is_spread = options.is_spread
        self.num_tokens = 0  # tokens generated so far, for all prompts
        self.limits = source.limits
        self._max_pending: int = 2 * arguments["max_num_seqs"]
        self._eos_token_ids = frozenset(source.info.eos_token_ids)
        self._sampling_params = lru_cache(maxsize=16)(self._new_sampling_params)
        self._answers: dict[int, _Answer] = {}

    def wait_until_ready(self) -> None:
        """Return at once: the engine was started by the constructor."""

    @property
    def max_pending(self) -> int:
        return self._max_pending

    @property
    def num_pending(self) -> int:
        return len(self._answers)

    def add(self, prompt_id: int, prompt: Prompt) -> None:
        rows = vllm_prompt(prompt.embeds.to(self.limits.dtype), travels=self._is_spread)
        request = self._engine.input_processor.process_inputs(
            str(prompt_id), rows, self._sampling_params(prompt.params), supported_tasks=("generate",)
        )
        self._engine.engine_core.add_request(request)
        self._answers[prompt_id] = _Answer()

    def poll(self, *, wait_s: float = POLL_S, wake: int | None = None) -> list[tuple[int, Hypothesis]]:
        if not self._answers:
            return []
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            # vLLM's sampler compiles a function even with enforce_eager.
            with _TURNS, torch.compiler.set_stance("force_eager" if self._is_eager else "default"):
                step = self._engine.engine_core.get_output()
        except (EngineDeadError, RuntimeError) as error:
            self._answers.clear()
            raise DecodeError(f"vLLM's engine stopped: {error}") from error
        done: list[tuple[int, Hypothesis]] = []
        for output in step.outputs:
            prompt_id = int(output.request_id)
            if (answer := self._answers.get(prompt_id)) is None:
                continue  # cancelled during this step
            self.num_tokens += len(output.new_token_ids)
            answer.token_ids += output.new_token_ids
            answer.log_probs += (float(row[0]) for row in output.new_logprobs.logprobs)
            if output.finish_reason is not None:
                done.append((prompt_id, answer.hypothesis(str(output.finish_reason))))
                del self._answers[prompt_id]
        return done

    def partial_tokens(self, prompt_id: int) -> Sequence[int]:
        return self._answers[prompt_id].token_ids

    def cancel(self, prompt_ids: Collection[int] | None = None) -> None:
        dropped = [i for i in (self._answers if prompt_ids is None else prompt_ids) if i in self._answers]
        self._engine.engine_core.abort_requests([str(prompt_id) for prompt_id in dropped])
        for prompt_id in dropped:
            del self._answers[prompt_id]

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        with _TURNS:
            VLLMDecoder._num_open -= 1
            if VLLMDecoder._num_open:
                _shut_down_alone(engine.engine_core)
            else:
                engine.engine_core.shutdown()
        del engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _new_sampling_params(self, params: DecodeParams) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            repetition_penalty=params.repetition_penalty,
            seed=params.seed,
            max_tokens=params.max_new_tokens,
            stop_token_ids=[] if params.ignore_eos else sorted(self._eos_token_ids),
            ignore_eos=params.ignore_eos,
            logprobs=0,  # only that of the chosen token
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


@dataclass(slots=True, eq=False)
class _Answer:
    """The tokens that vLLM has generated so far for one prompt."""

    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def hypothesis(self, finish_reason: str) -> Hypothesis:
        """The result. It has an `error` for a finish reason that vLLM gives only when this one prompt has failed."""
        if finish_reason == "length":
            return Hypothesis(tuple(self.token_ids), tuple(self.log_probs), "length")
        if finish_reason != "stop":
            return Hypothesis((), (), "stop", error=f"vLLM ended the answer with {finish_reason!r}")
        return Hypothesis(tuple(self.token_ids[:-1]), tuple(self.log_probs[:-1]), "stop")  # without the end token


def vllm_prompt(rows: Tensor, *, travels: bool) -> dict[str, Any]:
    """A prompt of (P, hidden_size) rows in vLLM's format.

    `travels`: vLLM pickles the prompt for other processes. Pickling a view would include all the memory behind it, and
    rows are views of hundreds of megabytes (prompt_memory.py), so they are copied first.
    """
    return {
        "prompt_embeds": rows.clone() if travels else rows,
        # Without token ids, the repetition penalty would read those of the batch slot's previous prompt.
        "prompt_token_ids": [0] * len(rows),
        "prompt_is_token_ids": [False] * len(rows),
    }


def _shut_down_alone(client: Any) -> None:
    """vLLM's shutdown() without destroying its process groups, which other engines in this process use."""
    if hasattr(client, "_finalizer"):  # vLLM newer than 0.26 would otherwise call shutdown() later
        client._finalizer.detach()
    core = client.engine_core
    core.structured_output_manager.clear_backend()
    core.model_executor.shutdown()
    core.scheduler.shutdown()
    gc.unfreeze()


def _start_engine(arguments: Mapping[str, Any]) -> Any:
    from vllm import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    chosen = {name: os.environ.get(name, value) for name, value in UNLESS_SET.items()}
    with _environment({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", **chosen}):
        return LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    from vllm import EngineArgs

    known = EngineArgs.__dataclass_fields__
    for name in options:
        if name not in known:
            raise ConfigError(f"vllm={{{name!r}: ...}}: vLLM has no such engine argument")
        if name in OWN_ARGUMENTS:
            raise ConfigError(f"vllm={{{name!r}: ...}}: use the argument {name}")
        if name in FIXED_ARGUMENTS:
            raise ConfigError(f"vllm={{{name!r}: ...}}: the engine stands on this and cannot change it")
    return dict(options)


@contextmanager
def _environment(choices: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the options that vLLM and its child processes read only from there."""
    before = {name: os.environ.get(name) for name in choices}
    os.environ.update(choices)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
