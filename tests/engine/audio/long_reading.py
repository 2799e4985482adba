"""A process that is busy reading: writes the ids of its decoding processes, and goes on or ends in the midst of it.

    python long_reading.py SHORT_FILE LONG_FILE "killed"|"by itself"

There is no `if __name__ == "__main__"` here: decoding processes must not run this again.
"""

import os
import sys
import time
from pathlib import Path

from twostage_asr.engine.audio import readers
from twostage_asr.engine.audio.decode import DEFAULT_LIMITS
from twostage_asr.engine.audio.inputs import expand_inputs

short, long, end = sys.argv[1:]
readers.PROCESS_BYTES = 0
readers = readers.AudioReaders(2)
audio = readers.read(expand_inputs([short, short, *[long] * 1000]), limits=DEFAULT_LIMITS, allow_urls=False)
next(audio), next(audio)
tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
sys.stdout.write(" ".join((task / "children").read_text() for task in tasks) + "\n")
sys.stdout.flush()
if end == "killed":
    time.sleep(600)
