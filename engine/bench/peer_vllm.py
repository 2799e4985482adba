"""A process that times vLLM's own single-stage model of a family for peer.py: its encoder and its LLM in one engine."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.decode import SAMPLE_RATE
from ..audio.inputs import expand_inputs
from ..audio.loading import load
from ..worker_process import connect, receive, send
from .peer import PeerClip, PeerJob, PeerTask

MOST_TOKENS = 512  # longest answer if the text may end by itself
MAX_MODEL_LEN = 4096  # our engine's default
GPU_BATCH = 512
PROMPTS = {  # model_type -> the prompt; vLLM repeats the placeholder as often as a clip needs it
    "qwen3_asr": "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"
    "<|audio_start|><|audio_pad|><|audio_end|><|im_end|>\n<|im_start|>assistant\nlanguage Chinese<asr_text>",
    "glmasr": "<|user|>\n<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\n"
    "Please transcribe this audio into text<|assistant|>\n",
}


def engine(task: PeerTask) -> Any:
    """vLLM's LLM class on the published checkpoint; bfloat16 on a GPU, float32 on a CPU."""
    from vllm import LLM

    on_cpu = task.device == "cpu"
    return LLM(
        model=task.checkpoint,
        dtype="float32" if on_cpu else "bfloat16",
        max_model_len=MAX_MODEL_LEN,
        gpu_memory_utilization=0.6,
        enforce_eager=on_cpu,
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,  # else a second pass would reuse the embeddings of the first
        limit_mm_per_prompt={"audio": 1},
        seed=0,
        **({} if on_cpu else {"max_num_seqs": GPU_BATCH}),
    )


def waveform(clip: PeerClip) -> np.ndarray:
    if isinstance(clip, np.ndarray):
        return clip
    (item,) = expand_inputs([clip])
    return load(item)


def transcribe(llm: Any, prompt: str, job: PeerJob) -> object:
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0.0, max_tokens=job.num_tokens or MOST_TOKENS, ignore_eos=job.num_tokens is not None
    )
    requests = [{"prompt": prompt, "multi_modal_data": {"audio": (waveform(clip), SAMPLE_RATE)}} for clip in job.clips]
    return llm.generate(requests, params, use_tqdm=False)


def main() -> None:
    """Run all jobs and send the time of each pass."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    parent = connect()
    task: PeerTask = receive(parent)
    config = json.loads((Path(task.checkpoint) / "config.json").read_text(encoding="utf-8"))
    prompt = PROMPTS[config["model_type"]]
    llm = engine(task)
    for index, job in enumerate(task.jobs):
        for _ in range(job.num_passes):
            started = time.perf_counter()
            transcribe(llm, prompt, job)
            send(parent, (index, time.perf_counter() - started))
    send(parent, None)


if __name__ == "__main__":
    main()
