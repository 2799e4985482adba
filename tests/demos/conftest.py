"""The scripts beside the micro checkpoint import each other by plain names, as they do when run."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "demos" / "micro"))
