"""What cutting recordings costs, close by, from afar and in noise: python demos/hearing/cutting.py CLIPS

CLIPS holds manifest.jsonl and the clips that it names. Sentences of changing speakers, with pauses of 0.3 to 1.5 s
between them, are cut by the rules for recordings. With `--whisper`, a Whisper checkpoint writes the text of each
segment, and of each sentence by itself with 0.2 s around it, as if it had been cut by hand.

"In sound": cuts within a sentence that have sound of the clean talk within 30 ms. "Edges": sentences of which more than
50 ms are lost at the beginning, at the end. What lies below 80 Hz is the rumble of a recording, and no sound of these.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from talk import Talk, babble, from_afar, is_loud, lay_together, white, with_noise
from vad import count, row
from whisper import Whisper

from twostage_asr.engine.audio.waveform import SAMPLE_RATE
from twostage_asr.engine.cli.error_rates import error_rates
from twostage_asr.engine.vad import SegmentRules, SpeechSegmenter, load_vad

STYLES = ("read", "IVR", "broadcast")
PAUSE_S = (0.3, 1.5)
AROUND_S = 0.2
NEAR_S = 0.03
EDGE_S = 0.05
RUMBLE_HZ = 80.0
Spans = list[tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--half", type=int, choices=(0, 1), default=0, help="which half of the clips")
    parser.add_argument("--language", help="en or zh: Whisper writes one language in a segment; default: any")
    parser.add_argument("--order", type=int, default=0, help="another order of the sentences, with other pauses")
    parser.add_argument("--most", type=int, default=60, help="clips")
    parser.add_argument("--only", nargs="+", help="conditions; default: all")
    parser.add_argument("--vad", default="silero", help="silero, or the directory of an fsmn-vad")
    parser.add_argument("--whisper", type=Path, help="directory of a Whisper checkpoint that writes the texts")
    args = parser.parse_args()
    whisper = None if args.whisper is None else Whisper(args.whisper)
    chosen = {"most": args.most, "styles": STYLES, "language": args.language, "order": args.order}
    clean = lay_together(args.clips, half=args.half, pause_s=PAUSE_S, **chosen)
    others = lay_together(args.clips, half=1 - args.half, pause_s=(0.1, 0.1), most=60)
    print(f"{len(clean.turns)} sentences, {len(clean.waveform) / SAMPLE_RATE:.0f} s\n")
    print("| condition | missed (with collar) | taken | lost | segments, longest s | cuts, in sound | edges |", end="")
    print(" errors alone (deletions), cut |" if whisper else "")
    print("|---" * (8 if whisper else 7) + "|")
    for name, talk in conditions(clean, others).items():
        if args.only and name not in args.only:
            continue
        segmenter = SpeechSegmenter(load_vad(args.vad).new_stream(), SegmentRules(max_segment_s=30.0))
        spans = [(span.start, span.end) for span in segmenter.push(talk.waveform) + segmenter.finish()]
        figures = row(name, count(clean.turns, spans, 100 * len(talk.waveform) // SAMPLE_RATE))
        print(figures, cuts(clean, spans), errors(whisper, talk, spans) if whisper else "", flush=True)


def conditions(clean: Talk, others: Talk) -> dict[str, Talk]:
    size = len(clean.waveform)
    far = from_afar(clean)
    return {
        "clean": clean,
        "30 dB quieter": replace(clean, waveform=clean.waveform * np.float32(10**-1.5)),
        "white noise, 5 dB": with_noise(clean, white(size), 5.0),
        "babble, 5 dB": with_noise(clean, babble(others, size), 5.0),
        "afar": far,
        "afar, white noise, 10 dB": with_noise(far, white(size), 10.0),
    }


def cuts(clean: Talk, spans: Spans) -> str:
    inside = [(end, turn) for _, end in spans for turn in clean.turns if turn[0] + 0.2 < end < turn[1] - 0.25]
    turns = sounding(clean)
    kept = [[(max(a, s), min(b, e)) for s, e in spans if s < b and e > a] for a, b in turns]
    first = sum(bool(parts) and parts[0][0] - a > EDGE_S for parts, (a, _) in zip(kept, turns, strict=True))
    last = sum(bool(parts) and b - parts[-1][1] > EDGE_S for parts, (_, b) in zip(kept, turns, strict=True))
    in_sound = sum(sounds_at(clean, end, turn) for end, turn in inside)
    longest = max(end - start for start, end in spans)
    return f"{len(spans)}, {longest:.1f} | {len(inside)}, {in_sound} | {first}, {last} |"


def sounding(clean: Talk) -> Spans:
    """Where (s) each sentence's first sound begins and its last one ends."""
    spectrum = np.fft.rfft(clean.waveform)
    spectrum[np.fft.rfftfreq(len(clean.waveform), 1 / SAMPLE_RATE) < RUMBLE_HZ] = 0.0
    heard = np.fft.irfft(spectrum, len(clean.waveform))
    edges = []
    for start, end in clean.turns:
        loud = np.flatnonzero(is_loud(heard[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)])) / SAMPLE_RATE
        edges.append((start + loud[0], start + loud[-1]))
    return edges


def sounds_at(clean: Talk, time_s: float, turn: tuple[float, float]) -> bool:
    start, end = (int(each * SAMPLE_RATE) for each in turn)
    place, near = int(time_s * SAMPLE_RATE) - start, int(NEAR_S * SAMPLE_RATE)
    return bool(is_loud(clean.waveform[start:end])[place - near : place + near].any())


def errors(whisper: Whisper, talk: Talk, spans: Spans) -> str:
    """Mixed error rates (characters of Mandarin, words of English) of the sentences alone and of the segments."""
    around = [(max(0.0, a - AROUND_S), b + AROUND_S) for a, b in talk.turns]
    results = []
    for places in (around, spans):
        texts = [whisper(talk.waveform[int(a * SAMPLE_RATE) : int(b * SAMPLE_RATE)]) for a, b in places]
        counts = error_rates([(" ".join(talk.texts), " ".join(texts))])["MER"]
        results.append(f"{counts.rate:.1%} ({counts.deletions})")
    return ", ".join(results) + " |"


if __name__ == "__main__":
    main()
