"""How live sessions cut talk between different speakers: python demos/hearing/live.py CLIPS --pause 0.8

CLIPS holds manifest.jsonl and the clips that it names. The session is the product's own, but its model writes nothing,
so that silence alone closes segments.
"""

import argparse
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from talk import Talk, lay_together, with_babble

from twostage_asr.engine import (
    Final,
    LiveOptions,
    StreamingSession,
    Transcript,
    TranscriptionService,
    transcribe_options,
)
from twostage_asr.engine.audio.waveform import SAMPLE_RATE, Waveform
from twostage_asr.engine.families.fun_asr_nano import FunASRNano
from twostage_asr.engine.model_lock import ModelLock
from twostage_asr.engine.vad import FIXED_SCHEDULE, LIVE_RULES, STREAMING_SCHEDULE, load_vad

PUSH_SAMPLES = SAMPLE_RATE // 10
SCHEDULES = {
    "ours": LIVE_RULES,
    "fixed": LIVE_RULES.with_silence(FIXED_SCHEDULE),
    "funasr": replace(LIVE_RULES.with_silence(STREAMING_SCHEDULE), max_segment_s=30.0),
}


@dataclass
class Model:
    """What a session asks of a model itself."""

    family: FunASRNano
    tokenizer: None  # nothing is confirmed, so nothing is tokenised
    lock: ModelLock


class Service:
    """Answers at once, with no text."""

    def __init__(self) -> None:
        self.model = Model(FunASRNano(), None, ModelLock())

    def submit(self, waveform: Waveform, options: Any, *, key: str, **_: Any) -> Future[Transcript]:
        future: Future[Transcript] = Future()
        future.set_result(Transcript(key=key, text="", duration=len(waveform) / SAMPLE_RATE))
        return future


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--pause", type=float, nargs="+", default=[0.8, 1.5, 2.5], help="s between two speakers")
    parser.add_argument("--schedule", choices=SCHEDULES, nargs="+", default=[*SCHEDULES])
    parser.add_argument("--half", type=int, choices=(0, 1), default=0, help="which half of the clips")
    parser.add_argument("--most", type=int, default=30, help="clips")
    parser.add_argument("--babble", type=float, metavar="DB", help="signal-to-noise ratio of six other voices")
    parser.add_argument("--vad", default="silero", help="silero, or the directory of an fsmn-vad")
    args = parser.parse_args()
    service = cast(TranscriptionService, Service())
    print("| pause | schedule | two speakers | sentences cut | wait median, longest s | longest s |")
    print("|---" * 6 + "|")
    for pause_s in args.pause:
        talk = lay_together(args.clips, half=args.half, pause_s=pause_s, most=args.most)
        if args.babble is not None:
            others = lay_together(args.clips, half=1 - args.half, pause_s=0.1, most=60)
            talk = with_babble(talk, others, args.babble)
        for name in args.schedule:
            live = LiveOptions(vad=load_vad(args.vad), rules=SCHEDULES[name])
            found = listen(StreamingSession(service, transcribe_options(), live), talk)
            print(f"| {pause_s} s | {name} | {summary(found, talk)}", flush=True)


def listen(session: StreamingSession, talk: Talk) -> list[tuple[float, float, float]]:
    """(start, end, when it closed), s, of each segment; those that the end of the stream closes are left out."""
    found = []
    for place in range(0, len(talk.waveform), PUSH_SAMPLES):
        events = session.push(talk.waveform[place : place + PUSH_SAMPLES])
        now = min(place + PUSH_SAMPLES, len(talk.waveform)) / SAMPLE_RATE
        found += [(event.start, event.end, now) for event in events if isinstance(event, Final)]
    session.finish()
    return found


def summary(found: list[tuple[float, float, float]], talk: Talk) -> str:
    num_speakers = [sum(min(end, b) - max(start, a) > 0.3 for a, b in talk.turns) for start, end, _ in found]
    cut = sum(any(a + 0.2 < end < b - 0.25 for _, end, _ in found) for a, b in talk.turns)
    ends = [(max(b for a, b in talk.turns if a < end), now) for _, end, now in found if end > talk.turns[0][0]]
    waits = [now - end for end, now in ends if now > end] or [0.0]
    longest = max((end - start for start, end, _ in found), default=0.0)
    return (
        f"{sum(n > 1 for n in num_speakers)} of {len(found)} | {cut} of {len(talk.turns)} | "
        f"{np.median(waits):.2f}, {max(waits):.2f} | {longest:.1f} |"
    )


if __name__ == "__main__":
    main()
