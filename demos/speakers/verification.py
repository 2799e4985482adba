"""How well a speaker model tells voices apart: the equal error rate over all pairs of clips.

    python demos/speakers/verification.py DIRECTORY MANIFEST.jsonl [--model auto] [--device cuda] [--min-seconds 0]

MANIFEST.jsonl, one object a line: `file`, a path in DIRECTORY; `speaker`, a name, null if unknown; `language`. Clips
without a speaker are left out, and counted. Prints the equal error rate (at the threshold where as many pairs of one
voice are refused as pairs of two voices are accepted), that threshold, and the mean cosines; for all pairs, and for
those in one language.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twostage_asr.engine.audio.decode import decode_audio
from twostage_asr.engine.speakers import load_speaker_model

Mask = npt.NDArray[np.bool_]


def equal_error_rate(cosines: npt.NDArray[np.float32], is_same: Mask) -> tuple[float, float]:
    """The rate, and the threshold at and above which a pair is accepted. Both kinds of pairs must occur."""
    order = np.argsort(-cosines, kind="stable")
    accepted = is_same[order]
    refused_same = 1 - accepted.cumsum() / accepted.sum()
    accepted_others = (~accepted).cumsum() / (~accepted).sum()
    at = int(np.abs(refused_same - accepted_others).argmin())
    return float(refused_same[at] + accepted_others[at]) / 2, float(cosines[order[at]])


def report(name: str, cosines: npt.NDArray[np.float32], is_same: Mask) -> None:
    if not is_same.any() or is_same.all():
        print(f"{name}: {len(is_same)} pairs, which are all of one kind")
        return
    rate, threshold = equal_error_rate(cosines, is_same)
    print(
        f"{name}: {is_same.sum()} pairs of one voice, {(~is_same).sum()} of two; equal error rate {rate:.2%} at "
        f"{threshold:.3f}; mean cosine {cosines[is_same].mean():.3f} and {cosines[~is_same].mean():.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default="auto", help="a directory, or owner/name on ModelScope")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--min-seconds", type=float, default=0.0, help="shorter clips are left out")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = [json.loads(line) for line in args.manifest.read_text(encoding="utf-8").splitlines()]
    named = [row for row in rows if row["speaker"] is not None]
    waveforms = [decode_audio(args.directory / row["file"]) for row in named]
    long_enough = [i for i, waveform in enumerate(waveforms) if len(waveform) >= args.min_seconds * 16_000]
    embeddings = load_speaker_model(args.model, args.device).embed([waveforms[i] for i in long_enough])
    speakers = np.array([named[i]["speaker"] for i in long_enough])
    languages = np.array([named[i]["language"] for i in long_enough])
    print(
        f"{len(speakers)} clips of {len(set(speakers))} speakers; left out are {len(rows) - len(named)} without a "
        f"speaker and {len(named) - len(long_enough)} that are too short"
    )
    one, other = np.triu_indices(len(speakers), 1)
    cosines, is_same = (embeddings @ embeddings.T)[one, other], speakers[one] == speakers[other]
    report("all pairs", cosines, is_same)
    is_one_language = languages[one] == languages[other]
    report("in one language", cosines[is_one_language], is_same[is_one_language])


if __name__ == "__main__":
    main()
