"""How live sessions cut talk between different speakers: python demos/hearing/live.py CLIPS --pause 0.8

CLIPS holds manifest.jsonl and the clips that it names. The session is the product's own, but its model writes nothing,
so that silence alone closes segments. With `--whisper` and the directory of a Whisper checkpoint, that model writes the
texts, and a segment that stops within a sentence waits longer. With `--true-texts`, they are the texts of the manifest,
with a mark at the end of each sentence alone: this is what the rule can do for a recogniser that makes no mistake in
its marks. A decoding takes no time here: waits are of the rules.

"Cut" are sentences in which one segment ends and the next one begins. Ends that get lost are counted by cutting.py.
"""

import argparse
import itertools
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from talk import Talk, babble, lay_together, with_noise
from whisper import Whisper

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
NEVER = 1 << 30  # partials that would have to agree on a text: confirmed texts are not measured here
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
    """Answers at once."""

    def __init__(self, write: Callable[[Waveform], str]) -> None:
        self.model = Model(FunASRNano(), None, ModelLock())
        self._write = write

    def submit(self, waveform: Waveform, options: Any, *, key: str, **_: Any) -> Future[Transcript]:
        text = self._write(waveform)
        future: Future[Transcript] = Future()
        future.set_result(Transcript(key=key, text=text, duration=len(waveform) / SAMPLE_RATE))
        return future


class TrueTexts:
    """Writes of each sentence as much as has been heard, and a mark once all of it has."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._samples = talk.waveform.tobytes()

    def __call__(self, waveform: Waveform) -> str:
        start = self._samples.index(waveform.tobytes()) / waveform.itemsize / SAMPLE_RATE
        end = start + len(waveform) / SAMPLE_RATE
        written = []
        for (a, b), text in zip(self._talk.turns, self._talk.texts, strict=True):
            first, last = (round(len(text) * (min(max(edge, a), b) - a) / (b - a)) for edge in (start, end))
            written.append(text[first:last].strip(" .,") + ("." if first < last == len(text) else ""))
        return " ".join(filter(None, written))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--pause", type=float, nargs="+", default=[0.8, 1.5, 2.5], help="s between two speakers")
    parser.add_argument("--schedule", choices=SCHEDULES, nargs="+", default=[*SCHEDULES])
    parser.add_argument("--half", type=int, choices=(0, 1), default=0, help="which half of the clips")
    parser.add_argument("--language", help="of the clips, en or zh; default: any")
    parser.add_argument("--most", type=int, default=30, help="clips")
    parser.add_argument("--babble", type=float, metavar="DB", help="signal-to-noise ratio of six other voices")
    parser.add_argument("--vad", default="silero", help="silero, or the directory of an fsmn-vad")
    parser.add_argument("--whisper", type=Path, help="directory of a Whisper checkpoint that writes the texts")
    parser.add_argument("--chunk-ms", type=float, default=720.0, help="new audio between two partial texts")
    parser.add_argument("--true-texts", action="store_true", help="write the manifest's texts, with true marks")
    args = parser.parse_args()
    whisper = None if args.whisper is None else Whisper(args.whisper)
    print("| pause | schedule | two speakers | sentences cut | wait median, longest s | longest s |")
    print("|---" * 6 + "|")
    for pause_s in args.pause:
        pauses_s = (pause_s, pause_s)
        talk = lay_together(args.clips, half=args.half, pause_s=pauses_s, most=args.most, language=args.language)
        if args.babble is not None:
            others = lay_together(args.clips, half=1 - args.half, pause_s=(0.1, 0.1), most=60)
            talk = with_noise(talk, babble(others, len(talk.waveform)), args.babble)
        service = cast(TranscriptionService, Service(TrueTexts(talk) if args.true_texts else whisper or _nothing))
        for name in args.schedule:
            live = LiveOptions(
                vad=load_vad(args.vad), chunk_ms=args.chunk_ms, agreeing_partials=NEVER, rules=SCHEDULES[name]
            )
            found = listen(StreamingSession(service, transcribe_options(), live), talk)
            print(f"| {pause_s} s | {name} | {summary(found, talk)}", flush=True)


def _nothing(waveform: Waveform) -> str:
    return ""


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
    between = [(end, start) for (_, end, _), (start, _, _) in itertools.pairwise(found)]
    cut = sum(any(a + 0.2 < end and start < b - 0.25 for end, start in between) for a, b in talk.turns)
    ends = [(max(b for a, b in talk.turns if a < end), now) for _, end, now in found if end > talk.turns[0][0]]
    waits = [now - end for end, now in ends if now > end] or [0.0]
    longest = max((end - start for start, end, _ in found), default=0.0)
    return (
        f"{sum(n > 1 for n in num_speakers)} of {len(found)} | {cut} of {len(talk.turns)} | "
        f"{np.median(waits):.2f}, {max(waits):.2f} | {longest:.1f} |"
    )


if __name__ == "__main__":
    main()
