"""`twostage-asr convert`: convert a checkpoint ahead of its first use, and verify the result."""

import argparse
import logging
from pathlib import Path

from ..hub.resolve import resolve_model
from ..manifest import EngineManifest
from .command import add_which_model
from .parser import Commands, add_switch, new_parser

DTYPES = ("keep", "bf16", "fp16", "fp32")


def add_parser(commands: Commands) -> None:
    parser = new_parser(
        commands,
        "convert",
        help="convert a checkpoint before it is used, and prove it bit for bit",
        usage="--model MODEL",
        more="The checkpoint is taken apart into engine.json, acoustic.safetensors and llm/. Nothing is done if that "
        "was done before and the checkpoint has not changed.",
        examples=(
            "twostage-asr convert --model FunAudioLLM/Fun-ASR-Nano-2512 --verify",
            "twostage-asr convert --model my_checkpoint --output converted",
        ),
    )
    add_which_model(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (default: <model>/twostage)")
    parser.add_argument(
        "--dtype", dest="weights_dtype", choices=DTYPES, default="keep", help="of all weights; keep: as they are"
    )
    add_switch(parser, "--verify", default=False, help="compare every tensor, and the LLM's logits, bit for bit")
    add_switch(parser, "--force", default=False, help="convert even if nothing has changed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ...convert.export import ensure_converted

    logging.getLogger("twostage_asr").setLevel(logging.INFO)  # sizes of downloads, and waiting for another process
    checkpoint_dir = resolve_model(args.model, hub=args.hub, revision=args.revision, output=args.output)
    converted = ensure_converted(checkpoint_dir, output=args.output, dtype=args.weights_dtype, force=args.force)
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
