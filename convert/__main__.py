"""python -m twostage_asr.convert: the same as `twostage-asr convert`."""

import sys

from ..engine.cli import main

sys.exit(main(["convert", *sys.argv[1:]]))
