"""How fast a voice activity detection network hears a stream: python demos/hearing/speed.py RECORDING --vad silero

Prints seconds of audio per second of one core, by the length of the pushes. CPU time is counted, not wall-clock time,
so that other work on the machine disturbs it little.
"""

import argparse
import time
from pathlib import Path

import torch
from talk import read

from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.vad import load_vad

PUSHES_MS = (10, 20, 100, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--vad", nargs="+", default=["silero"], help="silero, or directories of an fsmn-vad")
    args = parser.parse_args()
    torch.set_num_threads(1)
    waveform = read(args.recording)
    print("| network |" + "".join(f" {ms} ms |" for ms in PUSHES_MS))
    print("|---" * (1 + len(PUSHES_MS)) + "|")
    for name in args.vad:
        figures = []
        for ms in PUSHES_MS:
            size = ms * SAMPLE_RATE // 1000
            stream = load_vad(name).new_stream()
            stream.push(waveform[:SAMPLE_RATE])
            before = time.process_time()
            for place in range(0, len(waveform), size):
                stream.push(waveform[place : place + size])
            figures.append(len(waveform) / SAMPLE_RATE / (time.process_time() - before))
        print(f"| {Path(name).name} |" + "".join(f" {figure:.0f} |" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
