"""What live transcription costs in words: every clip heard in pieces, against offline transcription.

    python demos/micro/evaluate_streaming.py [MANIFEST.jsonl ...] [--model DIR] [--chunk-ms 720] [--rollback-chars 8]

Each clip is pushed in blocks of 100 ms. Printed are the error rates (counted as in engine/cli/error_rates.py) of
the live texts, of offline transcription of the same segments, and of that of the whole clips; how many finals are what
offline transcription of their segment gives; and how many confirmed texts were taken back, which must be none. Finals
and segments go through the same service as the same samples: if they differ, live decoding is at fault. What cutting
costs shows only beside the whole clips.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from twostage_asr.engine.console import quiet_libraries

quiet_libraries()  # before torch and vLLM are imported

from twostage_asr.engine import (
    Final,
    FunASRNanoStreamingVLLM,
    LiveOptions,
    Partial,
    StreamingSession,
    TranscriptionService,
)
from twostage_asr.engine.audio.decode import SAMPLE_RATE
from twostage_asr.engine.audio.inputs import AudioInput, expand_inputs
from twostage_asr.engine.audio.loading import load
from twostage_asr.engine.cli.error_rates import error_rates
from twostage_asr.engine.segments import join_texts
from twostage_asr.engine.streaming import Event
from twostage_asr.engine.streaming.sdk import session_options

from evaluate import read_manifest  # isort: skip

HERE = Path(__file__).parent
BLOCK = SAMPLE_RATE // 10


@dataclass(slots=True)
class Counts:
    """Over all clips."""

    live: list[tuple[str, str]] = field(default_factory=list)  # (reference, hypothesis)
    segments: list[tuple[str, str]] = field(default_factory=list)
    whole: list[tuple[str, str]] = field(default_factory=list)
    num_finals: int = 0
    num_equal: int = 0
    num_partials: int = 0
    num_retracted: int = 0


def retractions(events: Iterable[Event]) -> int:
    """Events whose text does not begin with what had been confirmed of their segment."""
    confirmed: dict[int, str] = {}
    count = 0
    for event in events:
        count += not event.text.startswith(confirmed.get(event.segment, ""))
        if isinstance(event, Partial):
            confirmed[event.segment] = event.confirmed
    return count


def hear(service: TranscriptionService, live: LiveOptions, item: AudioInput, reference: str, counts: Counts) -> None:
    waveform = load(item)
    options = session_options(language=item.language, hotwords=item.hotwords or (), itn=item.itn is not False)
    session = StreamingSession(service, options, live)
    events = [e for start in range(0, len(waveform), BLOCK) for e in session.push(waveform[start : start + BLOCK])]
    events += session.finish()
    finals = [event for event in events if isinstance(event, Final)]
    places = [(round(final.start * SAMPLE_RATE), round(final.end * SAMPLE_RATE)) for final in finals]
    futures = [service.submit(waveform[start:end], options) for start, end in places]
    offline = [future.result().text for future in futures]
    counts.live.append((reference, join_texts([final.text for final in finals])))
    counts.segments.append((reference, join_texts(offline)))
    counts.whole.append((reference, service.submit(waveform, options).result().text))
    counts.num_finals += len(finals)
    counts.num_equal += sum(final.text == text for final, text in zip(finals, offline, strict=True))
    counts.num_partials += len(events) - len(finals)
    counts.num_retracted += retractions(events)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="*", type=Path, default=[HERE / "heldout" / "manifest.jsonl"])
    parser.add_argument("--model", default=str(HERE / "checkpoint"))
    parser.add_argument("--backend", default="auto", choices=["auto", "vllm", "torch"])
    parser.add_argument("--chunk-ms", type=float, default=720.0)
    parser.add_argument("--rollback-chars", type=int, default=8)
    args = parser.parse_args()
    items = expand_inputs(list(args.manifests))
    references = [clip.text for manifest in args.manifests for clip in read_manifest(manifest)]
    counts = Counts()
    with FunASRNanoStreamingVLLM.from_pretrained(
        args.model, backend=args.backend, chunk_ms=args.chunk_ms, rollback_chars=args.rollback_chars
    ) as engine:
        for item, reference in zip(items, references, strict=True):
            hear(engine.service, engine.live, item, reference, counts)
    for name, pairs in (("live", counts.live), ("same segments", counts.segments), ("whole clips", counts.whole)):
        rates = {name: counted.rate or 0.0 for name, counted in error_rates(pairs).items()}
        print(f"{name:14}" + "".join(f"  {rate} {100 * value:6.2f} %" for rate, value in rates.items()))
    print(
        f"{counts.num_equal} of {counts.num_finals} finals are what offline transcription of their segment gives; "
        f"{counts.num_partials} partials, {counts.num_retracted} confirmed texts taken back"
    )


if __name__ == "__main__":
    main()
