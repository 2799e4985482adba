"""`twostage-asr align`: find when each word of a known text is spoken. It needs no LLM, only stage 1 and a CTC head."""

import argparse
import sys
from pathlib import Path

from ..audio.decode import decode_audio
from ..audio.notes import Notes
from ..hub.resolve import HUBS, resolve_model
from ..segments import with_warnings
from ..text_files import read_text
from ..writers import WRITERS
from .command import Commands


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("align", help="find when each word of a known text is spoken")
    parser.add_argument("audio", type=Path, metavar="AUDIO")
    parser.add_argument("text", metavar="TEXT", help="what is said, or a .txt file that holds it")
    parser.add_argument("--format", choices=WRITERS, default="ctm", help="default: ctm")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument("--model", required=True, help="hub id, or directory of a checkpoint or a converted model")
    parser.add_argument("--hub", choices=HUBS, default="ms")
    parser.add_argument("--device", default="auto")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ...convert.export import ensure_converted
    from .known_text import align_known_text

    engine_dir = ensure_converted(resolve_model(args.model, hub=args.hub))
    text, notes = _text(args.text), Notes()
    waveform = decode_audio(args.audio, notes=notes)
    transcript = align_known_text(engine_dir, waveform, text, key=args.audio.stem, device=args.device)
    transcript = with_warnings(transcript, notes.warnings())
    if args.output is None:
        print(WRITERS[args.format](transcript), end="")
    else:
        args.output.write_text(WRITERS[args.format](transcript), encoding="utf-8", newline="\n")
    for warning in transcript.warnings:
        print(f"twostage-asr: {args.audio}: {warning.message}", file=sys.stderr)
    return 1 if transcript.words is None else 0


def _text(given: str) -> str:
    """The text itself, or the content of the .txt file with this name."""
    path = Path(given)
    return read_text(path) if path.suffix == ".txt" else given
