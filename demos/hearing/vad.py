"""How much speech the cutting of recordings misses, and what else it takes: python demos/hearing/vad.py MEETINGS

MEETINGS holds NAME.flac and NAME.rttm. Times within 0.25 s of a turn's edges are left out of "with collar".
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from talk import read, read_rttm

from twostage_asr.engine.vad import (
    OFFLINE_SCHEDULE,
    RECORDING_SCHEDULE,
    STREAMING_SCHEDULE,
    SegmentRules,
    SpeechSegmenter,
    load_vad,
)

PER_S = 100  # resolution
COLLAR_S = 0.25
SCHEDULES = {"ours": RECORDING_SCHEDULE, "funasr": OFFLINE_SCHEDULE, "funasr-live": STREAMING_SCHEDULE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meetings", type=Path)
    parser.add_argument("--vad", default="silero", help="silero, or the directory of an fsmn-vad")
    parser.add_argument("--schedule", choices=SCHEDULES, default="ours")
    args = parser.parse_args()
    rules = SegmentRules(max_segment_s=30.0, silence_schedule=SCHEDULES[args.schedule])
    print(
        "| recording | missed (with collar) | taken | turns lost | segments, median, longest s |\n|---|---|---|---|---|"
    )
    counts = {}
    for rttm in sorted(args.meetings.glob("*.rttm")):
        waveform = read(rttm.with_suffix(".flac"))
        segmenter = SpeechSegmenter(load_vad(args.vad).new_stream(), rules)
        spans = [(span.start, span.end) for span in segmenter.push(waveform) + segmenter.finish()]
        counts[rttm.stem] = count(read_rttm(rttm), spans, len(waveform) * PER_S // 16_000)
        lengths = [end - start for start, end in spans]
        print(row(rttm.stem, counts[rttm.stem]), f"{len(spans)}, {np.median(lengths):.1f}, {max(lengths):.1f} |")
    meetings = [each for name, each in counts.items() if name.startswith("ami")]
    if meetings:
        print(row("all ami*", np.sum(meetings, axis=0)), "|")


def count(turns: list[tuple[float, float]], spans: list[tuple[float, float]], size: int) -> npt.NDArray[np.int64]:
    """(missed, speech, missed with collar, speech with collar, taken, other, turns lost, turns)."""
    said, kept = _mask(turns, size), _mask(spans, size)
    edges = [(edge - COLLAR_S, edge + COLLAR_S) for turn in turns for edge in turn]
    inner = said & ~_mask(edges, size)
    lost = sum(not kept[int(start * PER_S) : int(end * PER_S)].any() for start, end in turns)
    sums = (said & ~kept, said, inner & ~kept, inner, ~said & kept, ~said)
    return np.array([*(int(each.sum()) for each in sums), lost, len(turns)])


def row(name: str, counted: npt.NDArray[np.int64]) -> str:
    missed, speech, inner_missed, inner, taken, other, lost, turns = counted.tolist()
    shares = f"{missed / speech:.1%} ({inner_missed / inner:.1%}) | {taken / other:.1%}"
    return f"| {name} | {shares} | {lost} of {turns} |"


def _mask(spans: list[tuple[float, float]], size: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    for start, end in spans:
        mask[max(0, int(start * PER_S)) : round(end * PER_S)] = True
    return mask


if __name__ == "__main__":
    main()
