"""`twostage-asr convert`: convert a checkpoint ahead of its first use, and verify the result."""

import argparse
import logging
from pathlib import Path

from ..hub.resolve import HUBS, resolve_model
from ..manifest import EngineManifest
from .command import Commands

DTYPES = ("keep", "bf16", "fp16", "fp32")


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "convert",
        help="convert a checkpoint before it is used, and prove it bit for bit",
        description="Take a checkpoint apart into engine.json, acoustic.safetensors and llm/. Does nothing if that was "
        "done before and the checkpoint has not changed.",
    )
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID", help="a directory, or owner/name on a hub")
    parser.add_argument("--hub", choices=HUBS, default="ms", help="ms: ModelScope (default), hf: Hugging Face")
    parser.add_argument("--revision", help="of the model on the hub (default: its main branch)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: <model>/twostage")
    parser.add_argument("--dtype", choices=DTYPES, default="keep", help="of all weights (default: as they are)")
    parser.add_argument("--verify", action="store_true", help="compare every tensor, and the LLM's logits, bit for bit")
    parser.add_argument("--force", action="store_true", help="convert even if nothing has changed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ...convert.export import ensure_converted

    logging.getLogger("twostage_asr").setLevel(logging.INFO)  # sizes of downloads, and waiting for another process
    checkpoint_dir = resolve_model(args.model, hub=args.hub, revision=args.revision, output=args.output)
    converted = ensure_converted(checkpoint_dir, output=args.output, dtype=args.dtype, force=args.force)
    manifest = EngineManifest.read(converted)
    print(f"{converted}: {manifest.family}, dtype {manifest.dtype}")
    for component, reason in manifest.missing.items():
        print(f"missing {component}: {reason}")
    for note in manifest.notes:
        print(f"note: {note}")
    if args.verify:
        from ...convert.verify import verify_conversion  # here, since it needs the LLM's modelling code

        proof = verify_conversion(checkpoint_dir, converted)
        dtype = str(proof.dtype).removeprefix("torch.")
        print(f"verified: {proof.num_tensors} tensors and {proof.num_logits} logits ({dtype}) are bit-equal")
    return 0
