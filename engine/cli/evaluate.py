"""`twostage-asr eval`: compute the error rates of hypotheses."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError
from .command import Commands
from .error_rates import ErrorCounts, error_rates, read_texts


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser("eval", help="CER, WER and MER of hypotheses")
    parser.add_argument("reference", type=Path, metavar="REF", help='.jsonl lines with "key" and "text", or `key text`')
    parser.add_argument("hypothesis", type=Path, metavar="HYP", help="the same; transcripts.jsonl is such a file")
    parser.add_argument(
        "--raw", action="store_true", help="as written; else NFKC, case folded, without punctuation and symbols"
    )
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="show the N utterances with most errors")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    references, hypotheses = read_texts(args.reference), read_texts(args.hypothesis)
    missing = [key for key in references if key not in hypotheses]
    if missing:
        raise ConfigError(
            f"{args.hypothesis}: no text for {len(missing)} of {len(references)} keys of {args.reference}, first "
            f"{missing[0]!r}; errors are counted over all references"
        )
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
