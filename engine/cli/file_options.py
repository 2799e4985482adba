"""The options of commands that transcribe files: how they are decoded and cut, and how subtitles are shaped."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import cast

from ..audio.channels import Channels, check_channels
from ..errors import ConfigError
from ..options import GenerateOptions, SpeakerOptions
from ..writers import WRITERS, SubtitleShape
from .command import add_request_options, add_segment_options, given_options, request_options, segment_options
from .parser import OptionGroup, add_switch

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
        vad_help='"auto" cuts what is too long for the model; "silero", or the directory of an fsmn-vad checkpoint, '
        'looks for speech in everything; "none" cuts nothing (default: auto)',
    )
    group = parser.add_argument_group("decoding")
    add_switch(group, "--timestamps", default=True, help="find the times of words")
    add_switch(group, "--check", default=True, help="weigh texts against what the CTC head hears")
    group.add_argument(
        "--fallback", choices=["ctc"], help="what replaces a text that the CTC head contradicts (default: nothing)"
    )
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="longest answer (default: 512)")
    group.add_argument("--temperature", type=float, help="of sampling (default: 0, which is greedy)")
    group.add_argument(
        "--channels",
        type=_channels,
        metavar="mix|split|N",
        help="the mean of all channels (default), each by itself, or one, counted from 0",
    )
    add_switch(group, "--salvage", default=False, help="transcribe what can be decoded of truncated or damaged files")
    group.add_argument("--batch-size", type=int, metavar="N", help="most clips encoded together (default: 256)")
    add_speaker_options(parser)
    group = parser.add_argument_group("subtitles (srt, vtt, ass)")
    group.add_argument(
        "--max-line-width", type=int, metavar="N", help="columns (default: 42); a Chinese character takes two"
    )
    group.add_argument("--max-lines", type=int, metavar="N", help="of one cue (default: 2)")
    group.add_argument("--max-words-per-cue", type=int, metavar="N", help="in one cue (default: as many as fit)")
    add_switch(
        group, "--highlight-words", default=None, help="mark each word while it is spoken, as karaoke (default: off)"
    )


def add_speaker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of who speaks, which are arguments of `generate` and of live sessions."""
    group = parser.add_argument_group("who speaks")
    add_switch(group, "--speakers", default=False, help="name the speakers, wherever there is a place for it")
    group.add_argument("--num-speakers", type=int, metavar="N", help="how many there are (default: it is estimated)")
    group.add_argument("--min-speakers", type=int, metavar="N", help="at least so many (default: 1)")
    group.add_argument("--max-speakers", type=int, metavar="N", help="at most so many (default: 20)")
    add_known_speakers(group)


def add_known_speakers(group: OptionGroup) -> None:
    group.add_argument(
        "--known-speaker",
        dest="known_speakers",
        action="append",
        type=_known_speaker,
        metavar="NAME=FILE",
        help="who sounds like the audio in FILE is called NAME; may be given several times (default: none)",
    )


def known_speakers(args: argparse.Namespace) -> dict[str, Path]:
    """The files of add_known_speakers, by name. Raises ConfigError for a name that is given twice."""
    given = args.known_speakers or []
    known = dict(given)
    if len(known) < len(given):
        raise ConfigError("each --known-speaker needs a name of its own")
    return known


def speaker_options(args: argparse.Namespace) -> SpeakerOptions:
    """The speaker options of `generate` that were given. Raises ConfigError for ones that contradict each other."""
    given = given_options(args, SpeakerOptions.__annotations__)
    if "known_speakers" in given:
        given["known_speakers"] = known_speakers(args)
    if not given.pop("speakers"):
        if given:
            names = ", ".join(f"--{name.rstrip('s') if name == 'known_speakers' else name}" for name in given)
            raise ConfigError(f"{names.replace('_', '-')}: give --speakers as well")
        return {}
    from ..run_options import speaker_settings  # imports torch

    options = cast(SpeakerOptions, {"speakers": True, **given})
    speaker_settings(options)
    return options


def _known_speaker(text: str) -> tuple[str, Path]:
    name, separator, file = text.partition("=")
    if not separator or not name.strip() or not Path(file).is_file():
        raise argparse.ArgumentTypeError(f"needs NAME=FILE, with a file that exists, got {text!r}")
    return name.strip(), Path(file)


def file_options(args: argparse.Namespace) -> GenerateOptions:
    """The arguments of `generate` that were given."""
    decoding = cast(GenerateOptions, given_options(args, _DECODING))
    speakers = speaker_options(args)
    options: GenerateOptions = {**request_options(args), **segment_options(args), **decoding, **speakers}
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
