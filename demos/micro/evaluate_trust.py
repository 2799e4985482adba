"""Whether transcripts can be believed: text where nobody speaks, unmarked faults, and what confidences are worth.

    python demos/micro/evaluate_trust.py MANIFEST.jsonl --model DIR [--no-check]

A manifest is as `synthesize.py --set heldout` writes it. Printed: of the clips without speech, how many have a text; of
those with speech, how many are cut short (less than half of the characters) or go round in circles, and how many of
these faults carry no warning; how many words of the references were left out; and of word and segment confidences the
expected calibration error (Guo et al., 2017; ten bins of equal width). A word is right if the reference has it at that
place, a segment is as right as the share of its words among those written and left out. Nearly all are right, so that a
confidence that never changes is calibrated as well; what tells right words from wrong ones is the area under the ROC
curve, 0.5 for such a confidence.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from kaldialign import align
from scipy.stats import rankdata

NUM_BINS = 10
_CIRCLES = re.compile(r"(.{4,}?)\1{2,}")  # the same four characters or more, three times in a row
_MISSING = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--no-check", action="store_true", help="the texts as the LLM wrote them")
    parser.add_argument("--backend", default="auto", choices=["auto", "vllm", "torch"])
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.manifest.read_text("utf-8").splitlines()]
    results = transcribe(arguments.manifest, arguments.model, check=not arguments.no_check, backend=arguments.backend)
    pairs = list(zip(lines, results, strict=True))
    silent = [result for line, result in pairs if not line["text"]]
    spoken = [(line, result) for line, result in pairs if line["text"]]
    print(f"{len(silent)} clips without speech: {sum(bool(result.text) for result in silent)} with a text")
    faults = [(fault, line, result) for line, result in spoken if (fault := fault_of(line["text"], result))]
    unmarked = [(fault, line["text"], result.text) for fault, line, result in faults if not result.warnings]
    print(f"{len(spoken)} clips with speech: {len(faults)} cut short, empty or going round in circles")
    print(f"{len(unmarked)} of these without a warning", *unmarked, sep="\n    ")
    print("warnings:", dict(Counter(w.code for _, result in spoken for w in result.warnings)))
    words = [pair for line, result in spoken for pair in word_pairs(line["text"], result)]
    written = [(confidence, right) for confidence, right in words if confidence is not None]
    print(f"{len(words) - len(written)} words of the references left out")
    report("words", written)
    print(f"area under the ROC curve of words: {area_under_curve(written):.3f}")
    report("segments", [pair for line, result in spoken for pair in segment_pair(line["text"], result)])


def transcribe(manifest: Path, model_dir: str, *, check: bool, backend: Any) -> list[Any]:
    from twostage_asr.engine.console import quiet_libraries

    quiet_libraries()  # before torch and vLLM are imported
    from twostage_asr.engine import AutoModelVLLM

    with AutoModelVLLM(model=model_dir, dtype="fp32", encoder_dtype="fp32", backend=backend) as model:
        return model.generate(manifest, check=check)


def fault_of(text: str, result: Any) -> str | None:
    """What is wrong with a whole text, not with some of its words."""
    if len(result.text) < len(text) / 2:
        return "cut short"
    return "circles" if _CIRCLES.search(result.text) and not _CIRCLES.search(text) else None


def word_pairs(text: str, result: Any) -> Iterator[tuple[float | None, float]]:
    """(confidence, 1 if right else 0) of every word that was written, and (None, 0) of every one that was left out."""
    from twostage_asr.engine.words.split import split_words

    true = [word.text.lower() for word in split_words(text)]
    words = iter(result.words or ())
    for expected, written in align(true, [word.text.lower() for word in result.words or ()], _MISSING):
        yield (None, 0.0) if written == _MISSING else (next(words).confidence, float(expected == written))


def segment_pair(text: str, result: Any) -> Iterator[tuple[float, float]]:
    """(confidence, share of right words) of a text, if there is one."""
    pairs = list(word_pairs(text, result))
    if result.confidence is not None and pairs:
        yield result.confidence, sum(right for _, right in pairs) / len(pairs)


def report(name: str, pairs: Iterable[tuple[float, float]]) -> None:
    confidence, right = np.array(list(pairs)).T
    print(
        f"{name}: {len(right)}, {right.mean():.2%} right, mean confidence {confidence.mean():.2%}, "
        f"expected calibration error {calibration_error(confidence, right):.4f}"
    )


def area_under_curve(pairs: Iterable[tuple[float, float]]) -> float:
    """How often a right word has a higher confidence than a wrong one (Mann and Whitney, 1947); nan without either."""
    confidence, right = np.array(list(pairs)).T
    num_right = right.sum()
    above = rankdata(confidence)[right == 1].sum() - num_right * (num_right + 1) / 2
    return float(above / (num_right * (len(right) - num_right))) if 0 < num_right < len(right) else np.nan


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean distance between confidence and share of what is right, over bins, weighted by what is in them."""
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = [abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


if __name__ == "__main__":
    main()
