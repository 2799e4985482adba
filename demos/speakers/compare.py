"""Compare this project's speakers with those of FunASR's clustering, on the same embeddings of the same windows.

    python demos/speakers/compare.py FOLDER... [--model auto] [--spans oracle silero] [--cache DIR]

Each FOLDER holds recordings (FLAC or WAV, 16 kHz) with an RTTM file of the same name, and perhaps an STM file with what
is said. "oracle" takes the speech spans from the reference, "silero" from the voice activity detection. Needs funasr,
of the group "dev".

With --output, the folders SPANS/reference, SPANS/ours and SPANS/funasr there get RTTM and CTM files for error_rate.py.
Their words and times are the reference's, so that cpWER counts wrong speakers alone.

"words" is the share of words that get a wrong speaker, where the words and their times are the reference's: those of
the STM file, or else each WORD_S of a reference turn counts as one.
"""

import argparse
import copy
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from error_rate import Turn, error_rate, read_rttm, read_stm, speaker_of, word_error_rate, write_rttm

from twostage_asr.engine.speakers.clustering import SpeakerCount
from twostage_asr.engine.speakers.diarize import Stretch, diarize, embedded, stretch_of
from twostage_asr.engine.speakers.loading import load_speaker_model
from twostage_asr.engine.speakers.model import SpeakerModel
from twostage_asr.engine.vad import SegmentRules, SpeechSegmenter, load_vad

RATE = 16_000
WORD_S = 0.4
Samples = npt.NDArray[np.float32]
Interval = tuple[float, float]


def spans_of(kind: str, samples: Samples, reference: Sequence[Turn]) -> list[Interval]:
    """The speech spans: the union of the reference's turns, or what silero finds with pauses of 0.3 s."""
    if kind == "silero":
        rules = SegmentRules(silence_schedule=((float("inf"), 300.0),), padding_s=0.05)
        segmenter = SpeechSegmenter(load_vad().new_stream(), rules)
        return [(span.start, span.end) for span in [*segmenter.push(samples), *segmenter.finish()]]
    spans: list[Interval] = []
    for start, end, _ in sorted(reference):
        if spans and start <= spans[-1][1]:
            start, end = spans[-1][0], max(spans.pop()[1], end)
        spans.append((start, end))
    return spans


def stretches_of(model: SpeakerModel, audio: Path, kind: str, cache: Path) -> list[Stretch]:
    """The speech of a recording with its embeddings, from the cache if they are there."""
    stored = cache / f"{audio.parent.name}.{audio.stem}.{kind}.npz"
    if not stored.is_file():
        samples, rate = soundfile.read(audio, dtype="float32")
        if rate != RATE or samples.ndim != 1:
            raise SystemExit(f"{audio} must be mono at {RATE} Hz")
        spans = spans_of(kind, samples, read_rttm(audio.with_suffix(".rttm")))
        bounds = [(round(start * RATE), min(round(end * RATE), len(samples))) for start, end in spans]
        bounds = [(first, stop) for first, stop in bounds if first < stop]
        rows = embedded(model, [samples[first:stop] for first, stop in bounds])
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(stored, bounds=np.array(bounds), counts=[len(some) for some in rows], rows=np.concatenate(rows))
    data = np.load(stored)
    ends = list(itertools.accumulate(data["counts"].tolist(), initial=0))
    rows = [data["rows"][a:b] for a, b in itertools.pairwise(ends)]
    bounds = data["bounds"].tolist()
    return [stretch_of(a / RATE, b - a, some) for (a, b), some in zip(bounds, rows, strict=True)]


def ours(stretches: Sequence[Stretch]) -> list[Turn]:
    return [Turn(turn.start, turn.end, turn.speaker) for turn in diarize(stretches, SpeakerCount()).turns]


def funasr(stretches: Sequence[Stretch]) -> list[Turn]:
    from funasr.models.campplus.cluster_backend import ClusterBackend
    from funasr.models.campplus.utils import postprocess

    np.random.seed(0)
    rows = np.concatenate([stretch.embeddings for stretch in stretches])
    windows = np.concatenate([stretch.windows for stretch in stretches]).tolist()
    labels = ClusterBackend()(copy.deepcopy(rows))
    return [Turn(start, end, str(label)) for start, end, label in postprocess(windows, None, labels, rows)]


def words_of(path: Path, reference: Sequence[Turn]) -> list[tuple[Turn, str]]:
    """The reference's words, each as a turn and what is said. Where that is not known, no two words are the same."""
    stm = path.with_suffix(".stm")
    if stm.is_file():
        return read_stm(stm)
    words: list[Turn] = []
    for start, end, speaker in reference:
        edges = np.linspace(start, end, max(round((end - start) / WORD_S), 1) + 1).tolist()
        words += [Turn(a, b, speaker) for a, b in itertools.pairwise(edges)]
    return [(word, f"w{number}") for number, word in enumerate(words)]


def write_scored(folder: Path, name: str, turns: Sequence[Turn], words: Sequence[tuple[Turn, str]]) -> None:
    """The RTTM and CTM files that error_rate.py reads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rttm(folder / f"{name}.rttm", turns)
    lines = [
        f"{name} 1 {start:.3f} {end - start:.3f} {text} 1.000{speaker and f' lex {speaker}'}\n"
        for (start, end, speaker), text in words
    ]
    (folder / f"{name}.ctm").write_text("".join(lines), "utf-8")


def line_of(path: Path, kind: str, stretches: Sequence[Stretch], output: Path | None) -> str:
    """A row of the table; each pair of figures is ours and FunASR's."""
    reference = read_rttm(path)
    found = [method(stretches) for method in (ours, funasr)]
    words = words_of(path, reference)
    if output is not None:
        write_scored(output / kind / "reference", path.stem, reference, words)
        for who, turns in zip(("ours", "funasr"), found, strict=True):
            tagged = [(word._replace(speaker=speaker_of(word, turns) or ""), text) for word, text in words]
            write_scored(output / kind / who, path.stem, turns, tagged)
    strict, loose = ([error_rate(reference, turns, collar) for turns in found] for collar in (0.0, 0.25))
    cells = [path.stem, kind, str(strict[0].speakers), *(str(result.speakers_found) for result in strict)]
    cells += [f"{result.rate:.1%}" for result in [*strict, *loose]]
    cells += [f"{word_error_rate([word for word, _ in words], turns):.1%}" for turns in found]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", default="auto", help="CAM++ or ERes2NetV2: a directory, or owner/name on ModelScope")
    parser.add_argument("--spans", nargs="+", default=["oracle", "silero"], choices=["oracle", "silero"])
    parser.add_argument("--cache", type=Path, default=Path("embeddings"))
    parser.add_argument("--output", type=Path, help="folder for the files that error_rate.py compares")
    args = parser.parse_args()
    model = load_speaker_model(args.model, torch.device("cpu"))
    print("| recording | spans | speakers | found | FunASR | DER | FunASR | collar 0.25 | FunASR | words | FunASR |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for path in (path for folder in args.folders for path in sorted(folder.glob("*.rttm"))):
        audio = next(file for file in (path.with_suffix(".wav"), path.with_suffix(".flac")) if file.is_file())
        for kind in args.spans:
            print(line_of(path, kind, stretches_of(model, audio, kind, args.cache), args.output), flush=True)


if __name__ == "__main__":
    main()
