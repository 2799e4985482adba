"""python -m twostage_asr.convert --model DIR_OR_HUB_ID: convert a checkpoint, once, verifiably.

Exit status: 0 done (or nothing to do), 1 an error that is explained in one line on stderr, 2 wrong usage.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..engine.errors import ASRError
from ..engine.hub import HUBS, resolve_model
from ..engine.manifest import EngineManifest
from .export import ensure_converted
from .weights import DTYPES


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. Wrong usage leaves through SystemExit, as argparse does it."""
    options = _parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s %(message)s")
    logging.getLogger("twostage_asr").setLevel(logging.INFO)  # the hubs' libraries log every request there
    try:
        _convert(options)
    except ASRError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m twostage_asr.convert",
        description="Take a checkpoint apart into engine.json, acoustic.safetensors and llm/. Does nothing if that was "
        "done before and the checkpoint has not changed.",
    )
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID", help="a directory, or owner/name on a hub")
    parser.add_argument("--hub", choices=HUBS, default="ms", help="ms: ModelScope (default), hf: Hugging Face")
    parser.add_argument("--revision", help="of the model on the hub (default: its main branch)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: <model>/twostage")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="keep", help="of all weights (default: as they are)")
    parser.add_argument("--verify", action="store_true", help="compare every tensor, and the LLM's logits, bit for bit")
    parser.add_argument("--force", action="store_true", help="convert even if nothing has changed")
    return parser


def _convert(options: argparse.Namespace) -> None:
    checkpoint_dir = resolve_model(options.model, hub=options.hub, revision=options.revision, output=options.output)
    converted = ensure_converted(checkpoint_dir, output=options.output, dtype=options.dtype, force=options.force)
    manifest = EngineManifest.read(converted)
    print(f"{converted}: {manifest.family}, dtype {manifest.dtype}")
    for component, reason in manifest.missing.items():
        print(f"missing {component}: {reason}")
    for note in manifest.notes:
        print(f"note: {note}")
    if options.verify:
        from .verify import verify_conversion  # here, since it needs the LLM's modelling code

        proof = verify_conversion(checkpoint_dir, converted)
        dtype = str(proof.dtype).removeprefix("torch.")
        print(f"verified: {proof.num_tensors} tensors and {proof.num_logits} logits ({dtype}) are bit-equal")


if __name__ == "__main__":
    sys.exit(main())
