"""Make the micro checkpoint from nothing: speak, train, export, examine.

    python demos/micro/make_checkpoint.py --out DIR            # one GPU, under 20 minutes
    python demos/micro/make_checkpoint.py --out DIR --kokoro SHARDS --kokoro-held-out SHARDS   # with natural voices
    python demos/micro/make_checkpoint.py --out DIR --people DIR   # and with people, whom people.py prepares
    python demos/micro/make_checkpoint.py --out DIR --smoke    # two CPU cores, under 3 minutes; does not transcribe

Needs the library of espeak-ng (espeak.py). Writes DIR in the layout of the model hubs. Interrupted (Ctrl-C, SIGTERM),
it writes the best model examined so far, or the model as it is if there is none.
"""

import argparse
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_BEGAN = time.perf_counter()  # before the imports that take seconds

import torch
from heldout import CONDITIONS, HeldOutClip, draw_all
from kokoro import read_shards
from natural import natural_clips, people_clips
from train.align import align_head
from train.batches import BatchLimits, PlannerOptions, Planners
from train.compose import Composer
from train.corpus import Corpus, add_voices, build_corpus
from train.examine import FULL_RATE, MAX_NEW_TOKENS, Examiner
from train.export import write_checkpoint
from train.loop import Trainer, TrainingOptions
from train.model import MicroConfig, MicroModel
from train.people import draw
from train.start import start_from
from train.vocabulary import Vocabulary, learn_vocabulary

NATURAL_SHARE = 0.5  # of the sentences that are synthesized
PEOPLE_SHARE = 1 / 3  # of all sentences
_HEAD_SHARE, _TABLE_SHARE = 0.06, 0.05  # of the time, at its end: for the CTC head alone, and to examine


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything."""

    num_sentences: int
    num_sounds: int
    num_held_out: int  # per condition
    batch: BatchLimits
    steps: int
    seconds: float  # for everything, should the machine be too slow for the steps; then the checkpoint is a worse one
    head_steps: int  # at the end, of the CTC head alone
    examinations: int  # while training
    max_new_tokens: int  # of an answer when examining


FULL = Scale(
    num_sentences=200_000,
    num_sounds=4_000,
    num_held_out=320,
    batch=BatchLimits(audio_s=1600.0, clips=480),
    steps=10_000,
    seconds=1140.0,
    head_steps=1_000,
    examinations=4,
    max_new_tokens=MAX_NEW_TOKENS,
)
SMOKE = Scale(
    num_sentences=240,
    num_sounds=12,
    num_held_out=1,
    batch=BatchLimits(audio_s=60.0, clips=24),
    steps=4,
    seconds=170.0,
    head_steps=2,
    examinations=0,
    max_new_tokens=4,
)


def make(arguments: argparse.Namespace, scale: Scale) -> None:
    """All steps. Worker processes are forked before anything touches a GPU."""
    whole_s = 60 * arguments.minutes if arguments.minutes else scale.seconds
    num_workers = arguments.workers or len(os.sched_getaffinity(0))
    random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)  # planners use the other cores; threads that wait for each other cost more than they do
    print(f"seed {arguments.seed}, {num_workers} worker processes, {scale}", flush=True)
    vocabulary = learn_vocabulary(seed=arguments.seed)
    clips = _held_out(arguments, scale, num_workers)
    print(f"held out {time.perf_counter() - _BEGAN:.1f} s: {len(clips)} clips", flush=True)
    corpus = _corpus(arguments, scale, num_workers)
    options = PlannerOptions(
        limits=scale.batch,
        seed=arguments.seed,
        group_size=min(2400, 4 * scale.batch.clips),
        num_planners=max(1, min(num_workers - 2, 8)),
    )
    with Planners(corpus, vocabulary, options) as planners:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN plans attention anew for each shape, and all batches differ
        model = _model(vocabulary).to(device)
        examiner = Examiner(clips, vocabulary, max_new_tokens=scale.max_new_tokens)
        composer = Composer(torch.from_numpy(corpus.audio).to(device), seed=arguments.seed)
        print(f"ready {time.perf_counter() - _BEGAN:.1f} s, training on {device}", flush=True)
        trainer = Trainer(
            model,
            composer,
            planners,
            examiner,
            TrainingOptions(
                until=_BEGAN + whole_s * (1 - _HEAD_SHARE - _TABLE_SHARE),
                steps=scale.steps,
                examinations=scale.examinations,
                report_steps=min(100, max(scale.steps // 4, 1)),
                goes_on=arguments.start is not None,
            ),
            lambda: write_checkpoint(model, vocabulary, arguments.out),
        )
        if arguments.bar:
            start_from(model, vocabulary, arguments.bar)
            trainer.set_bars()
        if arguments.start:
            start_from(model, vocabulary, arguments.start)
        is_whole = trainer.run()
        write_checkpoint(model, vocabulary, arguments.out)  # whatever becomes of the last step
        if not is_whole:
            return
        planners.set_progress(1.0)
        steps, until = arguments.head_steps or scale.head_steps, _BEGAN + whole_s * (1 - _TABLE_SHARE)
        align_head(model.acoustic, composer, iter(planners), steps=steps, until=until)
        write_checkpoint(model, vocabulary, arguments.out)
        size = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
        print(f"written {time.perf_counter() - _BEGAN:.1f} s: {arguments.out}, {size} bytes", flush=True)
        trainer.show(examiner.examine(model))
        print("   at full rate:", flush=True)
        trainer.show(examiner.examine(model, names=FULL_RATE, low_frame_rate=False))
    print(f"done {time.perf_counter() - _BEGAN:.1f} s", flush=True)


def _held_out(arguments: argparse.Namespace, scale: Scale, num_workers: int) -> list[HeldOutClip]:
    counts = dict.fromkeys(CONDITIONS, arguments.held_out_clips or scale.num_held_out)
    natural = natural_clips(arguments.kokoro_held_out) if arguments.kokoro_held_out else []
    people = people_clips(arguments.people_held_out) if arguments.people_held_out else []
    return [*draw_all(counts, num_workers=num_workers), *natural, *people]


def _corpus(arguments: argparse.Namespace, scale: Scale, num_workers: int) -> Corpus:
    corpus = build_corpus(
        num_sentences=arguments.sentences or scale.num_sentences,
        num_sounds=scale.num_sounds,
        seed=arguments.seed,
        num_workers=num_workers,
    )
    if arguments.kokoro:
        corpus = add_voices(corpus, read_shards(arguments.kokoro), "natural voices", share=NATURAL_SHARE)
    if arguments.people:
        said = draw(arguments.people, random.Random(arguments.seed))
        corpus = add_voices(corpus, said, "people", share=PEOPLE_SHARE)
    if not arguments.kokoro and not arguments.people:
        print("neither --kokoro nor --people: the checkpoint will know espeak-ng alone", flush=True)
    return corpus


def _model(vocabulary: Vocabulary) -> MicroModel:
    config = MicroConfig(
        num_tokens=vocabulary.num_tokens,
        llm_rows=vocabulary.llm_size,
        end_id=vocabulary.end_id,
        pad_id=vocabulary.special_id("<|endoftext|>"),
    )
    return MicroModel(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint to")
    parser.add_argument("--smoke", action="store_true", help="a few steps on little data")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, help="processes that speak and plan; by default one per CPU core")
    parser.add_argument("--minutes", type=float, help="for everything, from the start of the process")
    parser.add_argument("--held-out-clips", type=int, help="of each condition, to examine")
    parser.add_argument("--sentences", type=int, help="that espeak-ng speaks")
    parser.add_argument("--head-steps", type=int, help="of the CTC head alone, at the end")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from; its vocabulary may be smaller")
    parser.add_argument("--bar", type=Path, help="checkpoint whose error rates should not be exceeded")
    parser.add_argument("--kokoro", type=Path, help="what kokoro.py spoke, to train on as well")
    parser.add_argument("--people", type=Path, help="recordings that people.py wrote, to train on as well")
    parser.add_argument("--kokoro-held-out", type=Path, help="what kokoro.py spoke, to examine")
    parser.add_argument("--people-held-out", type=Path, help="recordings that people.py wrote, to examine")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job begins with the first one ignored
        signal.signal(number, signal.default_int_handler)
    make(arguments, SMOKE if arguments.smoke else FULL)


if __name__ == "__main__":
    main()
