"""How soon live text comes, for many speakers at once who share one model; and whether an hour costs what it should.

    python demos/benchmark_streaming.py --model demos/micro/checkpoint --sessions 1 4 16
    python demos/benchmark_streaming.py --random --sessions 1 16 64        # the published sizes, random weights
    python demos/benchmark_streaming.py --random --agreement               # the same, with drafts that agree
    python demos/benchmark_streaming.py --model demos/micro/checkpoint --minutes 60 --speakers
    python demos/benchmark_streaming.py --minutes 240 --speakers           # the session alone, no models

Every session hears the bundled clips, with pauses between them, as slowly as they were spoken, in blocks of 100 ms; the
sessions begin at different times. Printed in seconds, p50 and p95:

    first     from the beginning of a segment's speech to its first partial
    partial   from the last of the audio that a partial has heard to the partial
    final     from the audio in which a segment was found to be over to its final
    lag       the most that a session fell behind its audio

Random weights never end a text: each answer then takes TOKENS tokens, partial or final, and is not checked, because
random texts contradict random CTC heads. With --agreement, each token of a draft agrees with this probability, by
default as those of the micro checkpoint do (twostage_asr.engine.bench.agreeing). After four partials the text that they
agree on is longer than an answer, so that nearly every final contradicts it and is decoded a second time, which real
ones seldom are.
--minutes hears that much in one session, as fast as it goes, and prints what each tenth of it took and how much memory
Python's objects take after it. Without a model, a stub answers each clip at once, with embeddings of six voices that
are scattered as CAM++ scatters them, so that what grows is the session's.
"""

import argparse
import asyncio
import contextlib
import gc
import itertools
import resource
import tempfile
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from twostage_asr.engine.console import quiet_libraries

quiet_libraries()  # before torch and vLLM are imported

from twostage_asr.engine import (
    AsyncStreamingSession,
    AutoModelVLLM,
    LiveOptions,
    LiveSpeakers,
    Partial,
    StreamingSession,
    Transcript,
    TranscriptionService,
    transcribe_options,
)
from twostage_asr.engine.audio.decode import SAMPLE_RATE, Waveform, decode_audio
from twostage_asr.engine.bench.agreeing import AGREEMENT, with_agreeing_drafts
from twostage_asr.engine.bench.measure import counts_of
from twostage_asr.engine.bench.random_checkpoint import write_checkpoint
from twostage_asr.engine.decoder.base import DecodeParams
from twostage_asr.engine.model import ClipService
from twostage_asr.engine.model_lock import ModelLock
from twostage_asr.engine.run_options import TranscribeOptions
from twostage_asr.engine.speakers.model import Embeddings
from twostage_asr.engine.streaming import Event
from twostage_asr.engine.transcriber import Transcriber
from twostage_asr.engine.transcript import Segment, Word
from twostage_asr.engine.vad import load_vad

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
        cells = [f"{p50:6.3f} {p95:6.3f}" for p50, p95 in self.percentiles.values()]
        return "   ".join([*cells, f"{self.lag:6.3f}", f"{len(self.partial):6}, {len(self.final)}"])

    @property
    def percentiles(self) -> dict[str, list[float]]:
        """p50 and p95 of each."""
        named = {"first": self.first, "partial": self.partial, "final": self.final}
        return {name: np.percentile(seconds, [50, 95]).tolist() for name, seconds in named.items()}


class Stub:
    """A service that answers each clip at once, and whose speaker model hears one of six voices in each."""

    def __init__(self) -> None:
        family = SimpleNamespace(prompt_text=lambda request: None)
        tokenizer = SimpleNamespace(encode=lambda text: list(text.encode()), decode=lambda ids: bytes(ids).decode())
        self.model: Any = SimpleNamespace(family=family, tokenizer=tokenizer, lock=ModelLock())
        self._random = np.random.default_rng(0)
        self._voices = _unit(self._random.standard_normal((6, 192)))

    def submit(self, waveform: Waveform, options: TranscribeOptions, *, key: str = "", **_: Any) -> Future[Transcript]:
        duration = len(waveform) / SAMPLE_RATE
        words = tuple(Word(f"word{n}", n / 2, n / 2 + 0.4, 0.9) for n in range(int(2 * duration)))
        text = " ".join(word.text for word in words) + "."
        future: Future[Transcript] = Future()
        future.set_result(Transcript(key, text, "en", words, (Segment(0.0, duration, text, words, 0.9),), duration))
        return future

    def embed(self, waveform: Waveform, windows: Sequence[tuple[int, int]]) -> Future[Embeddings]:
        voice = self._voices[self._random.integers(len(self._voices))]
        future: Future[Embeddings] = Future()
        future.set_result(_unit(voice + 0.8 * _unit(self._random.standard_normal((len(windows), 192)))))
        return future


def _unit(rows: Any) -> Embeddings:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


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
    service: ClipService,
    live: LiveOptions,
    options: TranscribeOptions,
    num_sessions: int,
    pcm: Waveform,
    *,
    with_speakers: bool,
) -> Latencies:
    latencies = Latencies()
    sessions = [
        AsyncStreamingSession(service, options, live, speakers=LiveSpeakers(service) if with_speakers else None)
        for _ in range(num_sessions)
    ]
    # Spread over the time between two partials, and each at another place of the talk.
    listening = (
        listen(session, np.roll(pcm, -index * len(pcm) // num_sessions), 0.72 * index / num_sessions, latencies)
        for index, session in enumerate(sessions)
    )
    await asyncio.gather(*listening)
    return latencies


def tenths(
    service: ClipService, options: TranscribeOptions, live: LiveOptions, seconds: float, speakers: LiveSpeakers | None
) -> Iterator[tuple[float, float, int]]:
    """Of each tenth of the audio: its seconds on the clock, its seconds of CPU, and how many finals it gave."""
    session = StreamingSession(service, options, live, speakers=speakers)
    once = talk(seconds / 10)  # memory holds no more of it
    for _ in range(10):
        started, cpu_started, num_finals = time.perf_counter(), time.process_time(), 0
        for start in range(0, len(once), BLOCK):
            events = session.push(once[start : start + BLOCK])
            num_finals += sum(not isinstance(event, Partial) for event in events)
        yield time.perf_counter() - started, time.process_time() - cpu_started, num_finals
    started = time.perf_counter()
    names = session.relabel()
    if names:
        print(
            f"relabelled in {time.perf_counter() - started:.2f} s: {len(names)} names, {len(set(names.values()))} left"
        )


def show_tenths(
    service: ClipService, options: TranscribeOptions, live: LiveOptions, minutes: float, *, with_speakers: bool
) -> None:
    speakers = LiveSpeakers(service) if with_speakers else None
    tracemalloc.start()
    for index, (wall, cpu, num_finals) in zip(
        itertools.count(1), tenths(service, options, live, 60 * minutes, speakers), strict=False
    ):
        gc.collect()
        kib = tracemalloc.get_traced_memory()[0] // 1024
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"tenth {index:2}: {wall:7.2f} s, RTFx {6 * minutes / wall:.1f}; {cpu:7.2f} s of CPU; {num_finals} finals; "
            f"{kib:,} KiB of Python's, at most {most:,} MiB in all",
            flush=True,
        )


def options_of(args: argparse.Namespace) -> TranscribeOptions:
    options = transcribe_options()
    if args.random:
        return replace(options, params=DecodeParams(max_new_tokens=TOKENS, ignore_eos=True), check=False)
    return options


def heard(
    service: ClipService, live: LiveOptions, args: argparse.Namespace, num_sessions: int, seconds: float
) -> Latencies:
    pcm = talk(seconds)
    return asyncio.run(measure(service, live, options_of(args), num_sessions, pcm, with_speakers=args.speakers))


def rows(service: ClipService, live: LiveOptions, args: argparse.Namespace) -> Iterator[tuple[int, Latencies]]:
    """Of each number of sessions, once as many as the most have warmed up."""
    heard(service, live, args, max(args.sessions), min(WARM_UP_S, args.seconds))
    for num_sessions in args.sessions:
        yield num_sessions, heard(service, live, args, num_sessions, args.seconds)


@contextlib.contextmanager
def serving(transcriber: Transcriber, args: argparse.Namespace) -> Iterator[TranscriptionService]:
    """The service of a model, with drafts that agree where --agreement is given."""
    if args.agreement is not None:
        transcriber = with_agreeing_drafts(transcriber, args.agreement)
    with contextlib.closing(TranscriptionService(transcriber)) as service:
        yield service


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help="checkpoint directory or hub id")
    source.add_argument("--random", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backend", default="auto", choices=["auto", "vllm", "torch"])
    parser.add_argument("--agreement", type=float, nargs="?", const=AGREEMENT, help="of answers with their drafts")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=60.0, help="that every session hears")
    parser.add_argument("--minutes", type=float, help="one session, as fast as it goes")
    parser.add_argument("--speakers", action="store_true", help="say who speaks")
    parser.add_argument("--speaker-model", default="auto", help="directory or hub id")
    args = parser.parse_args(arguments)
    if args.model is None and not args.random and args.minutes is None:
        parser.error("without --model or --random, --minutes is needed")
    return args


def main() -> None:
    args, live = parse_arguments(), LiveOptions(vad=load_vad())
    if args.model is None and not args.random:
        show_tenths(Stub(), options_of(args), live, args.minutes, with_speakers=args.speakers)
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.random:
            write_checkpoint(Path(folder))
        with AutoModelVLLM(
            args.model or folder, device=args.device, backend=args.backend, speaker_model=args.speaker_model
        ) as model:
            model.transcriber.wait_until_complete()  # a model that has just been loaded is another question
            with serving(model.transcriber, args) as service:
                if args.minutes:
                    heard(service, live, args, 1, WARM_UP_S)
                    show_tenths(service, options_of(args), live, args.minutes, with_speakers=args.speakers)
                    return
                print("sessions  first           partial         final           lag    partials, finals")
                for num_sessions, latencies in rows(service, live, args):
                    print(f"{num_sessions:8}  {latencies}", flush=True)
            if (counts := counts_of(model.transcriber.decoder)).steps:
                print(f"{counts.tokens_per_step:.2f} tokens a step, {counts.accepted_share:.2f} of the drafts kept")


if __name__ == "__main__":
    main()
