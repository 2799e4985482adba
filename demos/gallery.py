"""Make the pictures of gallery.md again, with the bundled model on this machine: demos/gallery/*.png.

python demos/gallery.py
"""

import argparse
import sys
import tempfile
from pathlib import Path

from PIL import Image

from twostage_asr.engine.cli import main as twostage_asr

HERE = Path(__file__).parent
PICTURES = HERE / "gallery"
MICRO = str(HERE / "micro" / "checkpoint")
CLIPS = HERE / "micro" / "clips"
COLOURS = 64  # of a picture; a tenth of the size of one with all of them, and no difference to the eye
MOST_BYTES = 150_000
COMMANDS = {
    "transcribe.png": ["transcribe", str(CLIPS / "en_long.flac"), "--plot", "--output-dir", "OUT"],
    "bench.png": ["bench", "--clips", "64", "--repeat", "2", "--timestamps", "on", "--plot", "OUT/bench.png"],
}


def make(name: str, command: list[str]) -> None:
    """Run the command and keep its picture. Raises RuntimeError if there is none, or it is too large."""
    with tempfile.TemporaryDirectory() as folder:
        code = twostage_asr([*(word.replace("OUT", folder) for word in command), "--model", MICRO])
        found = sorted(Path(folder).glob("*.png"))
        if code or len(found) != 1:
            raise RuntimeError(f"{name}: exit code {code}, {len(found)} pictures")
        with Image.open(found[0]) as picture:
            picture.convert("RGB").quantize(COLOURS).save(PICTURES / name, optimize=True)
    if (size := (PICTURES / name).stat().st_size) > MOST_BYTES:
        raise RuntimeError(f"{name} has {size:,} bytes, more than {MOST_BYTES:,}")


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PICTURES.mkdir(exist_ok=True)
    for name, command in COMMANDS.items():
        make(name, command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
