"""Where the micro checkpoints and the test clips are."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKPOINTS = {
    "low_frame_rate": ROOT / "demos" / "micro" / "checkpoint",
    "full_rate": ROOT / "tests" / "data" / "full_rate",  # made from the other one at the start of each session
}
CONVERSIONS = shutil.ignore_patterns("twostage", ".twostage.*")  # that a checkpoint may have beside it
CLIPS = ROOT / "tests" / "data" / "clips" / "manifest.jsonl"
