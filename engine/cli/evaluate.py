"""`twostage-asr eval`: compute the error rates of hypotheses."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError
from .error_rates import UNITS, ErrorCounts, characters, error_rates, read_texts
from .parser import Commands, add_switch, new_parser

PAIRS_PER_S = 1.8e8  # of characters that kaldialign compares, each of one text with each of the other (AMD EPYC)
LONG_S = 10.0


def add_parser(commands: Commands) -> None:
    parser = new_parser(
        commands,
        "eval",
        help="compute error rates of characters (CER), words (WER) and both mixed (MER)",
        usage="REF HYP",
        more="MER counts characters of scripts without spaces, and words of all others.",
        examples=(
            "twostage-asr eval reference.txt out/transcripts.jsonl --worst 5",
            "twostage-asr eval reference.txt hypothesis.txt --lines  # plain texts, without keys",
        ),
    )
    parser.add_argument("reference", type=Path, metavar="REF", help='.jsonl lines with "key" and "text", or `key text`')
    parser.add_argument("hypothesis", type=Path, metavar="HYP", help="the same; transcripts.jsonl is such a file")
    add_switch(parser, "--lines", default=False, help="lines are texts without keys: the n-th belongs to the n-th")
    add_switch(
        parser, "--raw", default=False, help="as written; else NFKC, case folded, without punctuation and symbols"
    )
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="show the N utterances with most errors")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.worst < 0:
        args.error(f"--worst must be at least 0, got {args.worst}")
    references, hypotheses = (read_texts(path, by_line=args.lines) for path in (args.reference, args.hypothesis))
    missing = [key for key in references if key not in hypotheses]
    if missing:
        raise ConfigError(
            f"nothing was counted: {args.hypothesis} has no text for {len(missing)} of {len(references)} keys of "
            f"{args.reference}, first {missing[0]!r}; give it a line for each, with an empty text where nothing was "
            "recognised, or --lines if the lines begin with no keys"
        )
    if not args.lines and (args.reference.suffix != ".jsonl" or args.hypothesis.suffix != ".jsonl"):
        print(f"the first word of a line is its key, as {next(iter(references), '')!r}; --lines: there are no keys")
    pairs = {key: (text, hypotheses[key]) for key, text in references.items()}
    written = "as written" if args.raw else "normalised: NFKC, case folded, without punctuation and symbols"
    print(f"{len(pairs)} utterances, {written}")
    counts = {key: _compared(key, texts, normalised=not args.raw) for key, texts in pairs.items()}
    for name in UNITS:
        print(_line(name, sum((each[name] for each in counts.values()), ErrorCounts())))
    _show_worst(pairs, {key: each["MER"].errors for key, each in counts.items()}, args.worst)
    return 0


def _compared(key: str, texts: tuple[str, str], *, normalised: bool) -> dict[str, ErrorCounts]:
    """The counts of one utterance. If they will take long, that is said first."""
    lengths = [len(characters(text)) for text in texts]
    seconds = lengths[0] * lengths[1] / PAIRS_PER_S
    if seconds >= LONG_S:
        print(
            f"{key}: {lengths[0]:,} characters are compared with {lengths[1]:,}, which takes about {seconds:.0f} s; "
            "utterances of half the length take a quarter",
            file=sys.stderr,
        )
    return error_rates([texts], normalised=normalised)


def _line(name: str, counts: ErrorCounts) -> str:
    rate = "  -   " if counts.rate is None else f"{100 * counts.rate:6.2f} %"
    return (
        f"{name} {rate}  {counts.errors} errors in {counts.num_units}: {counts.substitutions} substituted, "
        f"{counts.deletions} deleted, {counts.insertions} inserted"
    )


def _show_worst(pairs: Mapping[str, tuple[str, str]], errors: Mapping[str, int], number: int) -> None:
    for key in sorted(errors, key=lambda key: -errors[key])[:number]:
        if errors[key]:
            print(f"{key}: {errors[key]} errors\n    expected {pairs[key][0]}\n    written  {pairs[key][1]}")
