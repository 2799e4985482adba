"""Time the engine on random audio held in memory.

    python demos/random_load.py DIR
    python demos/benchmark.py DIR [--clips 512]

The clock covers everything from waveforms in memory to transcripts. Every clip decodes the same number of tokens,
because random weights never end a sentence. Prints one JSON line a repetition, without and with word times;
RTFx = audio seconds / wall seconds.
`tests/peers/benchmark_funasr.py` measures FunASR's engine on the same clips.
"""

import argparse
import json
import time

from twostage_asr.engine.console import quiet_libraries

quiet_libraries()  # before torch and vLLM are imported

import numpy as np
from random_load import SAMPLE_RATE, random_clips, tokens_per_clip

from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.decoder.base import DecodeParams
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.inputs import expand_inputs
from twostage_asr.engine.transcriber import TranscribeOptions, Transcriber


def measure(transcriber: Transcriber, clips: list[np.ndarray], *, timestamps: bool) -> dict[str, float]:
    params = DecodeParams(max_new_tokens=tokens_per_clip(clips), ignore_eos=True)
    options = TranscribeOptions(request=Request(language="中文"), params=params, timestamps=timestamps)
    items = expand_inputs([(clip, SAMPLE_RATE) for clip in clips])
    started = time.perf_counter()
    done = list(transcriber.run(items, options))
    wall_s = time.perf_counter() - started
    failed = [t.error for _, t in done if t.status == "error"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(clips)} clips failed, the first with: {failed[0]}")
    audio_s = sum(map(len, clips)) / SAMPLE_RATE
    return {"audio_s": round(audio_s), "wall_s": round(wall_s, 2), "rtfx": round(audio_s / wall_s, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--encoder-dtype", default="auto", choices=["auto", "bf16", "fp32"])
    args = parser.parse_args()
    clips = random_clips(args.clips)
    with AutoModelVLLM(args.checkpoint, encoder_dtype=args.encoder_dtype) as model:
        for timestamps in (False, True):
            for repetition in range(args.repeat):
                figures = measure(model.transcriber, clips, timestamps=timestamps)
                print(json.dumps({"timestamps": timestamps, "repetition": repetition, **figures}), flush=True)


if __name__ == "__main__":
    main()
