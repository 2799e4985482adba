"""The options of commands that transcribe files: how they are decoded and cut, and how subtitles are shaped."""

import argparse
from dataclasses import fields
from typing import cast

from ..audio.channels import Channels, check_channels
from ..errors import ConfigError
from ..options import GenerateOptions
from ..writers import WRITERS, SubtitleShape
from .command import add_request_options, add_segment_options, given_options, request_options, segment_options

_DECODING = (
    *("timestamps", "check", "fallback", "max_new_tokens", "temperature", "batch_size"),
    *("channels", "salvage"),
)


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `generate`, and the shape of subtitles."""
    add_request_options(parser)
    add_segment_options(
        parser,
        vad="auto",
        vad_help='"auto" (default) cuts what is too long for the model; "silero", or the directory of an fsmn-vad '
        'checkpoint, looks for speech in everything; "none" cuts nothing',
    )
    group = parser.add_argument_group("decoding")
    group.add_argument("--no-timestamps", dest="timestamps", action="store_false", help="do not look for word times")
    group.add_argument(
        "--no-check", dest="check", action="store_false", help="do not weigh texts against what the CTC head hears"
    )
    group.add_argument("--fallback", choices=["ctc"], help="what replaces a text that the CTC head contradicts")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default 512)")
    group.add_argument("--temperature", type=float, help="0, the default, is greedy")
    group.add_argument(
        "--channels",
        type=_channels,
        metavar="mix|split|N",
        help="the mean of all channels (default), each by itself, or one, counted from 0",
    )
    group.add_argument(
        "--salvage", action="store_true", help="transcribe what can be decoded of truncated or damaged files"
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="most clips encoded together")
    group = parser.add_argument_group("subtitles (srt, vtt, ass)")
    group.add_argument(
        "--max-line-width", type=int, metavar="N", help="columns (default 42); a Chinese character takes two"
    )
    group.add_argument("--max-lines", type=int, metavar="N", help="of one cue (default 2)")
    group.add_argument("--max-words-per-cue", type=int, metavar="N", help="default: as many as fit")
    group.add_argument(
        "--highlight-words", action="store_true", default=None, help="mark each word while it is spoken (karaoke)"
    )


def file_options(args: argparse.Namespace) -> GenerateOptions:
    """The arguments of `generate` that were given."""
    decoding = cast(GenerateOptions, given_options(args, _DECODING))
    options: GenerateOptions = {**request_options(args), **segment_options(args), **decoding}
    options["vad"] = None if args.vad == "none" else args.vad
    return options


def subtitle_shape(args: argparse.Namespace) -> SubtitleShape | None:
    """The shape of subtitles; None if no option sets it. Raises ConfigError for a number out of range."""
    given = given_options(args, [field.name for field in fields(SubtitleShape)])
    return SubtitleShape(**given) if given else None


def _channels(text: str) -> Channels:
    try:
        return check_channels(int(text) if text.isdecimal() else text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def formats(text: str) -> list[str]:
    """`srt,json` -> names in WRITERS; upper and lower case are the same."""
    names = {name.casefold(): name for name in WRITERS}
    found = []
    for part in text.split(","):
        name = names.get(part.strip().casefold())
        if name is None:
            raise argparse.ArgumentTypeError(f"{part!r} is no format; allowed: {', '.join(WRITERS)}")
        found.append(name)
    return found
