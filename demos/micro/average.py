"""Average the weights of two checkpoints, of which one went on from the other (make_checkpoint.py --start).

    python demos/micro/average.py FIRST SECOND --weight 0.75 --out DIR

DIR gets SECOND's files, and weights of which that share is SECOND's. Such a mean often does better than either, because
it lies nearer to the middle of a flat valley of the loss (Izmailov et al., 2018, "Averaging weights leads to wider
optima and better generalization").
"""

import argparse
import shutil
from pathlib import Path

import torch

_NAME = "model.pt"
_CONVERSIONS = shutil.ignore_patterns("twostage", ".twostage.*")


def average(first: Path, second: Path, out: Path, *, weight: float) -> None:
    """Write the mean; ValueError if the two are not of one shape and one vocabulary."""
    vocabulary = "multilingual.tiktoken"
    if (first / vocabulary).read_bytes() != (second / vocabulary).read_bytes():
        raise ValueError(f"{first} and {second} have different vocabularies, so their weights mean different tokens")
    one, two = (torch.load(each / _NAME, weights_only=True)["state_dict"] for each in (first, second))
    mean = {
        name: torch.lerp(one[name].float(), tensor.float(), weight).to(tensor.dtype) for name, tensor in two.items()
    }
    shutil.copytree(second, out, ignore=_CONVERSIONS)
    torch.save({"state_dict": mean}, out / _NAME)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--weight", type=float, default=0.75, help="share of the second, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="folder that does not exist yet")
    arguments = parser.parse_args()
    average(arguments.first, arguments.second, arguments.out, weight=arguments.weight)


if __name__ == "__main__":
    main()
