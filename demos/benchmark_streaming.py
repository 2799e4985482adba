"""How soon live text comes, for many speakers at once who share one model; and whether an hour costs what it should.

    python demos/benchmark_streaming.py --model demos/micro/checkpoint --sessions 1 4 16
    python demos/benchmark_streaming.py --random --sessions 1 16 64        # the published sizes, random weights
    python demos/benchmark_streaming.py --model demos/micro/checkpoint --minutes 60

Every session hears the bundled clips, with pauses between them, as slowly as they were spoken, in blocks of 100 ms; the
sessions begin at different times. Printed in seconds, p50 and p95:

    first     from the beginning of a segment's speech to its first partial
    partial   from the last of the audio that a partial has heard to the partial
    final     from the audio in which a segment was found to be over to its final
    lag       the most that a session fell behind its audio

Random weights never end a text: each answer then takes TOKENS tokens, partial or final, and is not checked, because
random texts contradict random CTC heads.
--minutes hears that much in one session, as fast as it goes, and prints what each tenth of it took.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from twostage_asr.engine.console import quiet_libraries

quiet_libraries()  # before torch and vLLM are imported

from twostage_asr.engine import (
    AsyncStreamingSession,
    FunASRNanoStreamingVLLM,
    Partial,
    StreamingSession,
    transcribe_options,
)
from twostage_asr.engine.audio.decode import SAMPLE_RATE, Waveform, decode_audio
from twostage_asr.engine.bench.random_checkpoint import write_checkpoint
from twostage_asr.engine.decoder.base import DecodeParams
from twostage_asr.engine.run_options import TranscribeOptions
from twostage_asr.engine.streaming import Event

CLIPS = Path(__file__).parent / "micro" / "clips"
BLOCK = SAMPLE_RATE // 10
PAUSE_S = 2.3  # ends a segment
WARM_UP_S = 8.0  # for as many sessions as there will be: batches of new sizes cost a GPU more
TOKENS = 16  # of every answer of random weights


@dataclass(slots=True)
class Latencies:
    """Of all sessions, s."""

    first: list[float] = field(default_factory=list)
    partial: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    lag: float = 0.0

    def add(self, events: Iterable[Event], begun: set[int], spoken_s: float, now_s: float) -> None:
        """Events that came at `now_s` of the session, of a push whose audio had been spoken at `spoken_s`."""
        for event in events:
            if not isinstance(event, Partial):
                self.final.append(now_s - spoken_s)
                continue
            self.partial.append(now_s - spoken_s)
            if event.segment not in begun:
                begun.add(event.segment)
                self.first.append(now_s - event.start)

    def __str__(self) -> str:
        cells = [
            f"{np.percentile(each, [50, 95])[0]:6.3f} {np.percentile(each, [50, 95])[1]:6.3f}" for each in self.all
        ]
        return "   ".join([*cells, f"{self.lag:6.3f}", f"{len(self.partial):6}, {len(self.final)}"])

    @property
    def all(self) -> list[list[float]]:
        return [self.first, self.partial, self.final]


def talk(seconds: float) -> Waveform:
    """The bundled clips with pauses, again and again."""
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    once = np.concatenate([part for path in sorted(CLIPS.glob("*.flac")) for part in (decode_audio(path), pause)])
    num_samples = round(seconds * SAMPLE_RATE)
    return np.tile(once, -(-num_samples // len(once)))[:num_samples]


async def listen(session: AsyncStreamingSession, pcm: Waveform, delay_s: float, latencies: Latencies) -> None:
    await asyncio.sleep(delay_s)
    started, heard, begun = time.perf_counter(), 0, set[int]()
    while heard < len(pcm):
        due = min(heard + BLOCK, len(pcm))
        await asyncio.sleep(max(0.0, started + due / SAMPLE_RATE - time.perf_counter()))
        behind = time.perf_counter() - started - due / SAMPLE_RATE
        latencies.lag = max(latencies.lag, behind)
        due = min(due + int(behind * SAMPLE_RATE) // BLOCK * BLOCK, len(pcm))  # all that has been spoken meanwhile
        events = await session.push(pcm[heard:due])
        latencies.add(events, begun, due / SAMPLE_RATE, time.perf_counter() - started)
        heard = due


async def measure(
    engine: FunASRNanoStreamingVLLM, options: TranscribeOptions, num_sessions: int, pcm: Waveform
) -> Latencies:
    latencies = Latencies()
    sessions = [AsyncStreamingSession(engine.service, options, engine.live) for _ in range(num_sessions)]
    # Spread over the time between two partials, and each at another place of the talk.
    listening = (
        listen(session, np.roll(pcm, -index * len(pcm) // num_sessions), 0.72 * index / num_sessions, latencies)
        for index, session in enumerate(sessions)
    )
    await asyncio.gather(*listening)
    return latencies


def tenths(engine: FunASRNanoStreamingVLLM, options: TranscribeOptions, pcm: Waveform) -> Iterator[tuple[float, float]]:
    """Seconds that each tenth of the audio took: on the clock, and of this process on the CPU."""
    session = StreamingSession(engine.service, options, engine.live)
    for part in np.array_split(pcm, 10):
        started, cpu_started = time.perf_counter(), time.process_time()
        for start in range(0, len(part), BLOCK):
            session.push(part[start : start + BLOCK])
        yield time.perf_counter() - started, time.process_time() - cpu_started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="checkpoint directory or hub id")
    source.add_argument("--random", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto", choices=["auto", "vllm", "torch"])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=60.0, help="that every session hears")
    parser.add_argument("--minutes", type=float, help="one session, as fast as it goes")
    args = parser.parse_args()
    options = transcribe_options()
    with tempfile.TemporaryDirectory() as folder:
        if args.random:
            write_checkpoint(Path(folder))
            options = replace(options, params=DecodeParams(max_new_tokens=TOKENS, ignore_eos=True), check=False)
        with FunASRNanoStreamingVLLM.from_pretrained(
            args.model or folder, device=args.device, backend=args.backend
        ) as engine:
            num_warm = 1 if args.minutes else max(args.sessions)
            asyncio.run(measure(engine, options, num_warm, talk(min(WARM_UP_S, args.seconds))))
            if args.minutes:
                for index, (wall, cpu) in enumerate(tenths(engine, options, talk(60 * args.minutes)), start=1):
                    rtfx = 6 * args.minutes / wall
                    print(f"tenth {index:2}: {wall:7.2f} s, RTFx {rtfx:.1f}; {cpu:7.2f} s of CPU", flush=True)
                return
            print("sessions  first           partial         final           lag    partials, finals")
            for num_sessions in args.sessions:
                pcm = talk(args.seconds)
                print(f"{num_sessions:8}  {asyncio.run(measure(engine, options, num_sessions, pcm))}", flush=True)


if __name__ == "__main__":
    main()
