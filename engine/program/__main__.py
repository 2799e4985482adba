"""python -m twostage_asr: the same as `twostage-asr`."""

import sys

from twostage_asr.engine.cli import main

sys.exit(main())
