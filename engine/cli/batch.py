"""`twostage-asr batch`: a job of any size, which survives kill -9 and is shared by processes and machines."""

import argparse
import errno
import hashlib
import json
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from ..console import spare_loaded_objects, tell_loading
from ..jobs import JobFolder, JobRun, JobSpec, job_status
from ..jobs.plan import SHARD_SIZE
from ..manifest import EngineManifest
from .command import (
    INTERRUPTED,
    add_devices_option,
    add_model_options,
    converted_model,
    model_options,
    request_options,
)
from .file_options import add_file_options, file_options, formats, subtitle_shape
from .parser import Commands, add_switch, new_parser
from .progress import Counts, Progress, amount

# What may differ between the processes of one job: it does not change the texts.
_OF_THE_MACHINE = (
    *("device", "devices", "gpu_memory_utilization", "tensor_parallel_size", "decoder_processes"),
    *("stall_timeout_s", "fast_lane", "vllm"),
)
_GO_ON = "what is done is kept: the same command goes on from here"


def add_parser(commands: Commands) -> None:
    parser = new_parser(
        commands,
        "batch",
        help="transcribe millions of files, resumably, on any number of machines",
        usage="INPUT [INPUT ...] --output DIR --model MODEL",
        examples=(
            "twostage-asr batch /data/calls --output job --model FunAudioLLM/Fun-ASR-Nano-2512 --format srt",
            "twostage-asr batch --output job --status",
            "twostage-asr batch calls.jsonl --output job --model my_model --engine ray --workers 8",
        ),
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="folder, file, pattern such as 'a/**/*.mp3', wav.scp, .jsonl or .parquet list; also s3://, gs://, hdfs://",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the job's folder; machines share it (no default: one is needed)"
    )
    parser.add_argument(
        "--format",
        type=formats,
        default=[],
        metavar="NAMES",
        help="as srt,vtt, besides JSON lines (default: none besides)",
    )
    parser.add_argument("--shard-size", type=int, default=SHARD_SIZE, metavar="N", help="inputs in a shard")
    add_switch(parser, "--retry-failed", default=False, help="try again what complete shards hold as errors")
    parser.add_argument("--status", action="store_true", help="say how far the job is, and end")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="this process, or a Ray cluster")
    parser.add_argument("--address", metavar="ADDRESS", help="of the Ray cluster (default: this machine's)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="replicas of the model on the Ray cluster")
    parser.add_argument("--gpus-per-worker", type=float, default=1.0, metavar="N", help="on the Ray cluster")
    add_model_options(parser)
    add_devices_option(parser)
    add_file_options(parser)
    parser.set_defaults(run=run, needs_model=False)  # --status needs none


def run(args: argparse.Namespace) -> int:
    if args.output is None:
        args.error("which folder? --output DIR is the job's")
    if args.status:
        print(job_status(args.output))
        return 0
    if args.model is None or not args.inputs:
        args.error("batch needs INPUT and --model; or --status, to say how far a job is")
    if args.engine == "ray" and args.devices is not None:
        args.error("--devices is of --engine local; on a Ray cluster, give --workers")
    request_options(args)  # reads the hotwords, before anything that takes long
    try:
        num_failed = _run(args)
    except KeyboardInterrupt:
        print(f"twostage-asr: interrupted; {_GO_ON}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"twostage-asr: {error.filename or args.output}: {error.strerror}; {_GO_ON}", file=sys.stderr)
        return 1
    return 1 if num_failed else 0


def _run(args: argparse.Namespace) -> int:
    """Do this process's part, and return how many inputs of the job are errors."""
    folder = open_folder(args.output, _spec(args))
    plan, begun = folder.plan, job_status(args.output)
    if plan.num_passed_over:
        print(f"not audio, by their names, and passed over: {plan.num_passed_over} in the folders", file=sys.stderr)
    if begun.left or (args.retry_failed and begun.failed):
        if args.engine == "ray":
            from ..cluster import run_job

            run_job(
                folder.directory,
                model_options(args),
                file_options(args),
                address=args.address,
                num_workers=args.workers,
                num_gpus=args.gpus_per_worker,
                retry_failed=args.retry_failed,
            )
        else:
            _work(args, folder, begun.left + (begun.failed if args.retry_failed else 0))
    ended = job_status(args.output)
    where = ", ".join(("transcripts", *folder.formats))
    print(
        f"the job: {ended.done} done, {ended.failed} failed, {ended.left} left; {amount(ended.audio_s)} of audio; "
        f"in {folder.directory}: {where}",
        file=sys.stderr,
    )
    return ended.failed


def _spec(args: argparse.Namespace) -> JobSpec:
    asked = model_options(args)
    source = EngineManifest.read(converted_model(args)).source
    digest = hashlib.sha256(json.dumps({name: file.sha256 for name, file in sorted(source.items())}).encode())
    model = {name: value for name, value in asked.items() if name not in _OF_THE_MACHINE}
    if not args.speakers:
        del model["speaker_model"]
    options: dict[str, Any] = {**file_options(args)}
    options.pop("batch_size", None)
    return JobSpec(
        inputs=tuple(args.inputs),
        model={**model, "files": digest.hexdigest()[:16]},
        options=options,
        formats=tuple(args.format),
        shape=subtitle_shape(args),
        shard_size=args.shard_size,
    )


def open_folder(directory: Path, spec: JobSpec) -> JobFolder:
    """The job's folder; waits while another process lists the inputs."""
    while (folder := JobFolder.open(directory, spec)) is None:
        time.sleep(1.0)
    return folder


def _work(args: argparse.Namespace, folder: JobFolder, num_left: int) -> None:
    tell_loading(args.model)
    from ..auto import AutoModelVLLM
    from ..run_options import transcribe_options
    from ..speakers.loading import find_weights

    if args.speakers:
        find_weights(args.speaker_model)  # fail before the LLM loads, which takes minutes
    counts = Counts(num_left)
    with AutoModelVLLM(**model_options(args)) as model, JobRun(folder, retry_failed=args.retry_failed) as job:
        spare_loaded_objects()
        transcribe = partial(model.runner.run, options=transcribe_options(**file_options(args)))
        counts.loaded = counts.clock()
        try:
            with Progress(counts) as progress, closing(job.run(transcribe)) as results:
                for transcript in results:
                    progress.add(transcript)
                    if transcript.status == "error":
                        progress.tell([f"FAILED {transcript.key}: {transcript.error}"])
        finally:
            print(f"this process: {'; '.join(counts.summary())}", file=sys.stderr)
