"""How far word times are from the synthesizer's own.

    python demos/micro/evaluate_timestamps.py CHECKPOINT MANIFEST

CHECKPOINT: a Fun-ASR-Nano directory, converted or not. MANIFEST: JSON lines with "source" (a wav file beside the
manifest), "text" (as the model should write it), "spoken", and "words" ([[spoken word, start in seconds, end], ...]).

Aligns the reference, so no LLM takes part: as it is spoken and as it is written. Of a number ("205", "two hundred
five") the first start and the last end count. Prints medians and 95th percentiles of absolute errors, in milliseconds.
"""

import argparse
import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file

from twostage_asr.convert.export import ensure_converted
from twostage_asr.encoders.fun_asr_nano import FunASRNanoAcoustic, FunASRNanoAcousticConfig
from twostage_asr.engine.manifest import ACOUSTIC_NAME, CTC_VOCABULARY_NAME, EngineManifest
from twostage_asr.engine.transcript import Word
from twostage_asr.engine.words.aligner import WordAligner
from twostage_asr.engine.words.pauses import edges_at_sound
from twostage_asr.engine.words.tokenizer import CTCTokenizer

TimedWord = tuple[str, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("manifest", type=Path)
    options = parser.parse_args()
    clips = [json.loads(line) for line in options.manifest.read_text(encoding="utf-8").splitlines()]
    acoustic, aligner = load(options.checkpoint)
    waveforms = [soundfile.read(options.manifest.parent / clip["source"], dtype="float32")[0] for clip in clips]
    hidden = [ctc_hidden(acoustic, torch.from_numpy(waveform)) for waveform in waveforms]
    durations = [len(waveform) / 16_000 for waveform in waveforms]
    print(f"{'text':8}{'words':>6}{'start: median':>15}{'p95':>7}{'end: median':>15}{'p95':>7}{'no times':>10}")
    for form in ("spoken", "text"):
        alignments = aligner.align(hidden, [clip[form] for clip in clips], durations)
        errors = [
            error
            for clip, waveform, alignment in zip(clips, waveforms, alignments, strict=True)
            for error in time_errors(edges_at_sound(alignment.words or (), waveform), clip["words"])
        ]
        starts, ends = 1000 * np.abs(np.array(errors)).T
        failed = sum(alignment.words is None for alignment in alignments)
        figures = [f"{f(e):.0f}" for e in (starts, ends) for f in (np.median, lambda x: np.percentile(x, 95))]
        print(f"{form:8}{len(errors):6}{figures[0]:>15}{figures[1]:>7}{figures[2]:>15}{figures[3]:>7}{failed:>10}")


def load(checkpoint: Path) -> tuple[FunASRNanoAcoustic, WordAligner]:
    engine_dir = ensure_converted(checkpoint)
    manifest = EngineManifest.read(engine_dir)
    acoustic = FunASRNanoAcoustic(FunASRNanoAcousticConfig.from_dict(manifest.acoustic)).eval()
    acoustic.load_state_dict(load_file(engine_dir / ACOUSTIC_NAME))
    if acoustic.ctc_head is None:
        raise SystemExit(f"{checkpoint} has no CTC head: {manifest.missing}")
    tokenizer = CTCTokenizer.from_file(engine_dir / CTC_VOCABULARY_NAME)
    return acoustic, WordAligner(tokenizer, acoustic.ctc_head, manifest.frame_clock)


@torch.inference_mode()
def ctc_hidden(acoustic: FunASRNanoAcoustic, waveform: torch.Tensor) -> torch.Tensor:
    """(N,) samples -> (T, D)."""
    encoded = acoustic.encode(waveform[None], torch.tensor([len(waveform)]))
    return acoustic.ctc_head.hidden(encoded.encoder_out, encoded.encoder_lens)[0]


def time_errors(found: Sequence[Word], true: Sequence[TimedWord]) -> Iterator[tuple[float, float]]:
    """(start, end) errors in seconds of the words that both have, and of each run of words that differ, as one."""
    matcher = difflib.SequenceMatcher(
        None, [w.text.lower() for w in found], [w[0].lower() for w in true], autojunk=False
    )
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            for word, (_, start, end) in zip(found[i1:i2], true[j1:j2], strict=True):
                yield word.start - start, word.end - end
        elif kind == "replace":
            yield found[i1].start - true[j1][1], found[i2 - 1].end - true[j2 - 1][2]


if __name__ == "__main__":
    main()
