"""python -m twostage_asr.engine.cli"""

import sys

from . import main

sys.exit(main())
