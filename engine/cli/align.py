"""`twostage-asr align`: find when each word of a known text is spoken. It needs no LLM, only stage 1 and a CTC head."""

import argparse
import os
import sys
from pathlib import Path

from ..audio.decode import SAMPLE_RATE, decode_audio
from ..audio.notes import Notes
from ..console import tell_loading
from ..errors import ConfigError
from ..segments import with_warnings
from ..text_files import read_text
from ..writers import WRITERS, encoded
from .command import add_which_model, converted_model
from .parser import Commands, new_parser
from .progress import AudioProgress


def add_parser(commands: Commands) -> None:
    parser = new_parser(
        commands,
        "align",
        help="find when each word of a known text is spoken",
        usage="AUDIO TEXT --model MODEL",
        more="The model needs a CTC head. A recording may last hours. The head's confidence in each word is the last "
        "column of CTM: it is low where the head would have written something else, and near 0 where the text is not "
        "what is said.",
        examples=(
            "twostage-asr align talk.wav talk.txt --model FunAudioLLM/Fun-ASR-Nano-2512",
            "twostage-asr align hello.wav 'hello world' --model my_model --format TextGrid --output hello.TextGrid",
        ),
    )
    parser.add_argument("audio", type=Path, metavar="AUDIO", help="an audio or video file")
    parser.add_argument("text", metavar="TEXT", help="what is said, or a .txt file that holds it")
    parser.add_argument("--format", choices=WRITERS, default="ctm", help="of what is written")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write (default: standard output)")
    add_which_model(parser)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, npu; auto: a GPU if there is one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    text, notes = _text(args.text), Notes()
    waveform = decode_audio(args.audio, notes=notes)
    tell_loading(args.model)
    from .known_text import align_known_text  # imports torch

    engine_dir = converted_model(args)
    with AudioProgress(len(waveform) / SAMPLE_RATE) as progress:
        transcript = align_known_text(
            engine_dir, waveform, text, key=args.audio.stem, device=args.device, tell=progress.show
        )
    transcript = with_warnings(transcript, notes.warnings())
    written = WRITERS[args.format](transcript)
    if args.output is None:
        print(written, end="")
    else:
        args.output.write_bytes(encoded(written))  # not replaced: it may be a pipe or /dev/stdout
    for warning in transcript.warnings:
        print(f"twostage-asr: {args.audio}: {warning.message}", file=sys.stderr)
    return 1 if transcript.words is None else 0


def _text(given: str) -> str:
    """The text itself, or the content of the .txt file with this name. Raises ConfigError for another file's name."""
    path = Path(given)
    if path.suffix.lower() == ".txt":
        return read_text(path)
    if os.path.isfile(given):  # Path.is_file() would raise OSError for a long text
        raise ConfigError(f"{given} is a file, and texts are read from .txt files alone; rename it")
    return given
