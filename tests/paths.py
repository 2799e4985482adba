"""Where the micro checkpoints and the test clips are."""

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKPOINTS = {
    "low_frame_rate": ROOT / "demos" / "micro" / "checkpoint",
    # Made from the other one at the start of each session, by each process that runs tests for itself.
    "full_rate": ROOT / "tests" / "data" / f"full_rate{os.environ.get('PYTEST_XDIST_WORKER', '')}",
}
CONVERSIONS = shutil.ignore_patterns("twostage", ".twostage.*")  # that a checkpoint may have beside it
CLIPS = ROOT / "tests" / "data" / "clips" / "manifest.jsonl"
