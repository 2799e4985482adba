"""How a sub-command is built, and the options that several of them share.

A sub-command is a file with `add_parser(commands)`, which sets the parser's default `run` to a function from the parsed
arguments to the exit code. The program imports all sub-commands at each start, so modules that need torch are imported
within `run`.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from ..audio.ffmpeg import AUDIO_SUFFIXES
from ..errors import ConfigError
from ..hub.resolve import HUBS, resolve_model
from ..options import RequestOptions, SegmentOptions
from ..text_files import read_lines
from .parser import OptionGroup, add_switch

INTERRUPTED = 130  # the exit code that shells give to a program ended by Ctrl-C

_ENGINE = (
    *("device", "dtype", "encoder_dtype", "backend"),
    *("tensor_parallel_size", "decoder_processes", "stall_timeout_s", "fast_lane", "vllm"),
)
_MODEL = (
    "model",
    "hub",
    "revision",
    "gpu_memory_utilization",
    "max_model_len",
    "dither",
    "forced_aligner",
    "speaker_model",
)
MODEL_OPTIONS = frozenset((*_MODEL, *_ENGINE))  # what the table [model] of twostage-asr.toml sets


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of how the engine runs."""
    group = parser.add_argument_group("the engine's options")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, npu; auto: a GPU if there is one")
    group.add_argument("--dtype", choices=["auto", "bf16", "fp32"], default="auto", help="of the LLM")
    group.add_argument("--encoder-dtype", choices=["auto", "bf16", "fp32"], default="auto", help="of stage 1")
    group.add_argument(
        "--backend",
        choices=["auto", "vllm", "torch"],
        default="auto",
        help="what decodes; auto: vLLM if it is installed",
    )
    group.add_argument("--tensor-parallel-size", type=int, default=1, metavar="N", help="GPUs that share the LLM")
    group.add_argument(
        "--decoder-processes",
        type=int,
        metavar="N",
        help="vLLM engines in processes of their own (default: one on a GPU and more when prompts wait; 0 on a CPU)",
    )
    group.add_argument(
        "--stall-timeout-s", type=float, default=120.0, metavar="S", help="that such a process may write no token"
    )
    group.add_argument(
        "--fast-lane", type=_fast_lane, default="auto", metavar="auto|on|off", help="a second LLM for few prompts"
    )
    group.add_argument(
        "--vllm",
        type=_json_object,
        default={},
        metavar="JSON",
        help='further options of vLLM, as {"max_num_seqs": 256}',
    )


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of add_engine_options, by AutoModelVLLM's argument names."""
    return _named(args, _ENGINE)


def add_which_model(group: OptionGroup) -> None:
    """Add the options of which model it is. Unless `needs_model` is set to False, the program asks for one."""
    group.add_argument(
        "--model", help="hub id, or directory of a checkpoint or a converted model (no default: one is needed)"
    )
    group.add_argument("--hub", choices=HUBS, default="ms", help="ms: ModelScope, hf: Hugging Face")
    group.add_argument("--revision", help="branch, tag or commit on the hub (default: its main branch)")
    group.set_defaults(needs_model=True)


def converted_model(args: argparse.Namespace) -> Path:
    """The directory of the converted model that add_which_model's options name. Raises what resolve_model raises."""
    from ...convert.export import ensure_converted  # imports torch

    return ensure_converted(resolve_model(args.model, hub=args.hub, revision=args.revision))


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of which model runs, and how: the arguments of AutoModelVLLM, by the same names."""
    group = parser.add_argument_group("the model")
    add_which_model(group)
    group.add_argument(
        "--gpu-memory-utilization", type=float, default=0.8, metavar="SHARE", help="of a GPU's memory, for vLLM"
    )
    group.add_argument(
        "--max-model-len",
        type=int,
        metavar="N",
        help="positions of prompt and answer together (default: 4096, or the LLM's limit if that is less)",
    )
    group.add_argument("--dither", type=float, default=0.0, help="noise added to the 16-bit samples")
    group.add_argument(
        "--forced-aligner", metavar="MODEL", help="a Qwen3-ForcedAligner that times the words (default: the CTC head)"
    )
    group.add_argument(
        "--speaker-model",
        default="auto",
        metavar="MODEL",
        help="directory or hub id of CAM++ or ERes2NetV2, which tells speakers apart; loaded when it is needed",
    )
    add_engine_options(parser)


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """The values of add_model_options, and of add_devices_option if it was given, by AutoModelVLLM's names."""
    devices = getattr(args, "devices", None)
    return _named(args, (*_MODEL, *_ENGINE)) | ({} if devices is None else {"devices": devices})


def add_devices_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that transcribe lists of inputs."""
    parser.add_argument(
        "--devices",
        type=_devices,
        metavar="auto|0,1",
        help="an engine on each of these GPUs; auto: on every GPU (default: on --device alone)",
    )


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of how speech is written down, which are arguments of `generate`."""
    group = parser.add_argument_group("the text")
    group.add_argument("--language", help='a name, code or tag: "中文", "zh", "zh-CN" (default: the model finds it)')
    group.add_argument(
        "--context",
        default="",
        metavar="TEXT",
        help="what the speech is about, for models that read it (default: none)",
    )
    group.add_argument(
        "--hotwords", nargs="+", default=[], metavar="WORD", help="words to prefer: all up to the next option"
    )
    group.add_argument("--hotwords-file", type=Path, metavar="FILE", help="such words, one a line (default: none)")
    add_switch(group, "--itn", default=True, help="write numbers, dates and amounts in figures")


def request_options(args: argparse.Namespace) -> RequestOptions:
    """The values of add_request_options, by the argument names of `generate`. Raises ConfigError or OSError."""
    hotwords = list(args.hotwords)
    for word in hotwords:
        if Path(word).suffix.lower() in AUDIO_SUFFIXES and Path(word).is_file():
            raise ConfigError(f"--hotwords has taken the file {word} for a word: put files before the options")
    if args.hotwords_file is not None:
        hotwords += [line for line in read_lines(args.hotwords_file) if line]
    return RequestOptions(language=args.language, context=args.context, hotwords=hotwords, itn=args.itn)


def add_segment_options(parser: argparse.ArgumentParser, *, vad: str, vad_help: str) -> None:
    """Add the options of how speech is cut, which are arguments of `generate` and of live sessions."""
    group = parser.add_argument_group("segments")
    group.add_argument("--vad", default=vad, help=vad_help)
    group.add_argument(
        "--max-segment-s", type=float, metavar="S", help="longest segment (default: what suits the model)"
    )
    group.add_argument(
        "--silence-schedule",
        type=_schedule,
        metavar="MS:MS,...",
        help="age of a segment up to : silence that ends it, as 5000:1500,inf:300 (default: 1000 ms at any age of "
        "files; of live audio, less with age)",
    )
    add_switch(group, "--dynamic-silence", default=True, help="that schedule; else 800 ms of silence at any age")


def segment_options(args: argparse.Namespace) -> SegmentOptions:
    """The values of add_segment_options that were given, by the argument names of `generate`."""
    return cast(SegmentOptions, given_options(args, SegmentOptions.__annotations__))


def given_options(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The values of the named options that were given; `generate` has defaults for the others."""
    return {name: value for name, value in _named(args, names).items() if value is not None}


def _schedule(text: str) -> list[tuple[float, float]]:
    try:
        return [(float(age), float(silence)) for age, silence in (row.split(":") for row in text.split(","))]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"needs rows like 5000:1500, got {text!r}") from error


def _named(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names}


def _fast_lane(text: str) -> str | bool:
    named: dict[str, str | bool] = {"auto": "auto", "on": True, "off": False}
    if text not in named:
        raise argparse.ArgumentTypeError(f"must be auto, on or off, got {text!r}")
    return named[text]


def _devices(text: str) -> str | list[int | str]:
    return text if text == "auto" else [int(name) if name.isdecimal() else name for name in text.split(",")]


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: nested thousands deep
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"needs a JSON object, got {text}")
    return value
