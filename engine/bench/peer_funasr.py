"""A process that times FunASR for peer.py: its vLLM engine on a GPU, its PyTorch path elsewhere."""

import time
from collections.abc import Callable
from typing import Any

from ..cores import usable_cores
from ..worker_process import connect, receive, send
from .peer import PeerJob, PeerTask

MOST_TOKENS = 512  # longest answer if the text may end by itself
TORCH_BATCH = 8  # clips that the PyTorch path decodes together; with word times it takes one at a time

Transcribe = Callable[[PeerJob], object]


def vllm_engine(task: PeerTask) -> Transcribe:
    """FunASRNanoVLLM, in bfloat16."""
    # Imported here, because vLLM's process imports this module again, and does not start if that imports funasr.
    from funasr.models.fun_asr_nano.inference_vllm import FunASRNanoVLLM

    engine = FunASRNanoVLLM(model_dir=task.checkpoint, device=task.device, dtype="bf16", gpu_memory_utilization=0.6)
    ctc_decoder, decode = engine.ctc_decoder, engine.vllm_engine.generate

    def transcribe(job: PeerJob) -> object:
        def decode_all(prompts: object, params: Any, **_: object) -> object:
            params.ignore_eos = job.num_tokens is not None
            return decode(prompts, params, use_tqdm=False)

        engine.vllm_engine.generate = decode_all
        engine.ctc_decoder = ctc_decoder if job.timestamps else None
        return engine.generate(list(job.clips), language=task.language, max_new_tokens=job.num_tokens or MOST_TOKENS)

    return transcribe


def torch_path(task: PeerTask) -> Transcribe:
    """AutoModel, in float32."""
    import torch
    from funasr import AutoModel

    quiet = {"disable_update": True, "log_level": "ERROR"}
    auto = AutoModel(model=task.checkpoint, device=task.device, ncpu=usable_cores(), **quiet)
    ctc_decoder = auto.model.ctc_decoder

    def transcribe(job: PeerJob) -> object:
        auto.model.ctc_decoder = ctc_decoder if job.timestamps else None
        return auto.generate(
            input=[clip if isinstance(clip, str) else torch.from_numpy(clip) for clip in job.clips],
            language=task.language,
            batch_size=1 if job.timestamps else TORCH_BATCH,
            max_length=job.num_tokens or MOST_TOKENS,
            llm_kwargs={"min_new_tokens": job.num_tokens} if job.num_tokens else {},
            disable_pbar=True,
        )

    return transcribe


def main() -> None:
    """Run all jobs and send the time of each pass."""
    parent = connect()
    task: PeerTask = receive(parent)
    transcribe = vllm_engine(task) if task.device.startswith("cuda") else torch_path(task)
    for number, job in enumerate(task.jobs):
        for _ in range(job.num_passes):
            started = time.perf_counter()
            transcribe(job)
            send(parent, (number, time.perf_counter() - started))
    send(parent, None)


if __name__ == "__main__":
    main()
