"""`twostage-asr eval`: compute the error rates of hypotheses."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError
from .error_rates import ErrorCounts, error_rates, read_texts
from .parser import Commands, add_switch, new_parser


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
    for name, counts in error_rates(pairs.values(), normalised=not args.raw).items():
        print(_line(name, counts))
    _show_worst(pairs, args.worst, normalised=not args.raw)
    return 0


def _line(name: str, counts: ErrorCounts) -> str:
    rate = "  -   " if counts.rate is None else f"{100 * counts.rate:6.2f} %"
    return (
        f"{name} {rate}  {counts.errors} errors in {counts.num_units}: {counts.substitutions} substituted, "
        f"{counts.deletions} deleted, {counts.insertions} inserted"
    )


def _show_worst(pairs: Mapping[str, tuple[str, str]], number: int, *, normalised: bool) -> None:
    errors = {key: error_rates([pair], normalised=normalised)["MER"].errors for key, pair in pairs.items()}
    for key in sorted(errors, key=lambda key: -errors[key])[:number]:
        if errors[key]:
            print(f"{key}: {errors[key]} errors\n    expected {pairs[key][0]}\n    written  {pairs[key][1]}")
