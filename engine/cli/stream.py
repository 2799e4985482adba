"""`twostage-asr stream`: show live text of a microphone, of raw samples on standard input, or of a file."""

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..audio.decode import decode_audio
from ..audio.notes import Notes
from ..audio.waveform import SAMPLE_RATE
from ..console import tell_loading
from ..errors import AudioError, ConfigError
from ..options import SessionOptions
from ..writers.cues import width_of
from .command import (
    add_model_options,
    add_request_options,
    add_segment_options,
    model_options,
    request_options,
    segment_options,
)
from .file_options import add_speaker_options, speaker_options
from .parser import Commands, add_switch, new_parser

if TYPE_CHECKING:
    from ..streaming import Event, Final

BLOCK_SAMPLES = SAMPLE_RATE // 10
_FILE_MARKS = (b"RIFF", b"fLaC", b"OggS", b"ID3", b"\x1aE\xdf\xa3")  # WAV, FLAC, Ogg, MP3, Matroska and WebM


def add_parser(commands: Commands) -> None:
    parser = new_parser(
        commands,
        "stream",
        help="show live text of a microphone, standard input or a file",
        usage="FILE|-|mic --model MODEL",
        examples=(
            "twostage-asr stream mic --model FunAudioLLM/Fun-ASR-Nano-2512 --language en",
            "twostage-asr stream talk.wav --model my_model --realtime --json --speakers",
            "twostage-asr stream - --model my_model  # raw 16-bit samples at 16 kHz on standard input",
        ),
    )
    parser.add_argument(
        "source", metavar="FILE|-|mic", help="-: raw 16-bit little-endian mono samples at 16 kHz on standard input"
    )
    add_switch(parser, "--realtime", default=False, help="hear a file as slowly as it was spoken")
    add_switch(parser, "--json", default=False, help="a line of JSON for each partial and final")
    group = parser.add_argument_group("live audio")
    group.add_argument("--chunk-ms", type=float, default=720.0, help="of audio between two partials")
    group.add_argument("--rollback-chars", type=int, default=8, help="at the end, never confirmed")
    vad_help = '"silero", or the directory of an fsmn-vad checkpoint'
    add_segment_options(parser, vad="silero", vad_help=vad_help)
    add_model_options(parser)
    add_request_options(parser)
    add_speaker_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options: SessionOptions = {**request_options(args), **speaker_options(args)}
    blocks = _blocks(args.source, realtime=args.realtime)
    tell_loading(args.model)
    from ..speakers.loading import find_weights  # imports torch, as the next does
    from ..streaming.sdk import FunASRNanoStreamingVLLM

    if args.speakers:
        find_weights(args.speaker_model)  # fail before the LLM loads, which takes minutes
    show = _show_json if args.json else _LiveLine()
    live: dict[str, Any] = {"chunk_ms": args.chunk_ms, "rollback_chars": args.rollback_chars, **segment_options(args)}
    with FunASRNanoStreamingVLLM(**model_options(args), **live) as model:
        session = model.session(**options)
        try:
            for block in blocks:
                show(session.push(block))
        except KeyboardInterrupt:  # Ctrl-C ends the recording, and the rest is still transcribed
            pass
        show(session.finish())
        _show_joined(session.relabel(), as_json=args.json)
    return 0


def _blocks(source: str, *, realtime: bool) -> Iterator[Any]:
    """Blocks of samples for a session. Raises AudioError or ConfigError for a source that cannot be opened."""
    if source == "mic":
        return _microphone(_sounddevice())
    if source == "-":
        return _standard_input()
    notes = Notes()
    waveform = decode_audio(Path(source), notes=notes)
    for warning in notes.warnings():
        print(f"twostage-asr: {source}: {warning.message}", file=sys.stderr)
    return _paced(waveform, realtime=realtime)


def _standard_input() -> Iterator[bytes]:
    """Blocks until the end of standard input or, after Ctrl-C, until no more has come.

    Raises AudioError for a file in place of samples, which would be heard as noise.
    """
    _tell_listening()
    num_bytes = 0
    with _on_interrupt(lambda: os.set_blocking(sys.stdin.fileno(), False)):
        while block := sys.stdin.buffer.read(2 * BLOCK_SAMPLES):
            if not num_bytes and block.startswith(_FILE_MARKS):
                raise AudioError(
                    f"standard input begins with {block[:4]!r}, as a file does; - takes raw 16-bit little-endian mono "
                    "samples at 16 kHz: arecord -t raw -f S16_LE -r 16000, or ffmpeg -i ... -f s16le -ar 16000 -ac 1 -"
                )
            num_bytes += len(block)
            yield block
    if num_bytes % 2:
        print("twostage-asr: standard input ended in the middle of a sample; its byte was left out", file=sys.stderr)


def _tell_listening() -> None:
    """What is said before would be lost: a microphone is not heard while the model loads."""
    print("listening; Ctrl-C ends", file=sys.stderr)


def _paced(waveform: npt.NDArray[np.float32], *, realtime: bool) -> Iterator[npt.NDArray[np.float32]]:
    started = time.monotonic()
    for start in range(0, len(waveform), BLOCK_SAMPLES):
        block = waveform[start : start + BLOCK_SAMPLES]
        if realtime:  # a block is available once its last sample has been spoken
            time.sleep(max(0.0, started + (start + len(block)) / SAMPLE_RATE - time.monotonic()))
        yield block


def _sounddevice() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: the PortAudio library is missing
        needed = 'PortAudio and pip install ".[mic]"'
        raise ConfigError(f"a microphone needs {needed}: {error}") from error
    return sounddevice


def _microphone(sounddevice: Any) -> Iterator[bytes]:
    """All that is recorded until Ctrl-C. Raises ConfigError at once if no microphone can be opened."""
    recorded: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None ends the recording
    num_gaps = 0

    def record(data: Any, frames: int, when: Any, status: Any) -> None:
        nonlocal num_gaps
        num_gaps += bool(status)
        recorded.put(bytes(data))

    try:
        stream = sounddevice.RawInputStream(
            samplerate=SAMPLE_RATE,
            channels=1,
            dtype="int16",
            blocksize=BLOCK_SAMPLES,
            callback=record,
            finished_callback=lambda: recorded.put(None),
        )
    except sounddevice.PortAudioError as error:
        raise ConfigError(f"no microphone can be opened: {error}") from error

    def blocks() -> Iterator[bytes]:
        with stream, _on_interrupt(lambda: recorded.put(None)):
            _tell_listening()
            yield from _gathered(recorded)
            if not stream.active:
                print("twostage-asr: the microphone has gone; what it recorded is transcribed", file=sys.stderr)
        if num_gaps:
            print(f"twostage-asr: audio was lost {num_gaps} times, since this machine was too busy", file=sys.stderr)

    return blocks()


def _gathered(recorded: "queue.SimpleQueue[bytes | None]") -> Iterator[bytes]:
    """Until None comes, all that has come since the last block, so that a slow machine does not fall behind."""
    pieces: list[bytes | None] = [b""]
    while pieces[-1] is not None:
        pieces = [recorded.get()]
        while pieces[-1] is not None and not recorded.empty():
            pieces.append(recorded.get())
        yield b"".join(filter(None, pieces))


@contextlib.contextmanager
def _on_interrupt(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` at the first Ctrl-C; a second one interrupts.

    An exception at the first one would drop what has been recorded while the model was at work.
    """

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        end()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show_json(events: "list[Event]") -> None:
    from ..streaming import Final

    for event in events:
        if isinstance(event, Final):
            line = {"type": "final", "segment": event.segment, "start": event.start, "end": event.end}
            line |= {"transcript": event.transcript.to_dict()}
        else:
            line = {"type": "partial"} | asdict(event)
        print(json.dumps(line, ensure_ascii=False), flush=True)


def _show_joined(names: Mapping[str, str], *, as_json: bool) -> None:
    """Tell which names of speakers have turned out to be one speaker's."""
    changed = {old: new for old, new in names.items() if old != new}
    if changed and as_json:
        print(json.dumps({"type": "relabelled", "speakers": changed}, ensure_ascii=False), flush=True)
        return
    for old, new in changed.items():
        print(f"{old} is {new}", flush=True)


class _LiveLine:
    """Shows finals as lines and, on a terminal, the open segment below them, with its tail dimmed."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._shown = ""  # of the open segment

    def __call__(self, events: "list[Event]") -> None:
        from ..streaming import Final

        for event in events:
            if isinstance(event, Final):
                print(self._cleared("") + _lines(event), end="", flush=True)
            elif self._is_terminal:
                cleared = self._cleared(event.confirmed + event.tail)
                print(f"{cleared}{event.confirmed}\x1b[2m{event.tail}\x1b[0m", end="", flush=True)

    def _cleared(self, text: str) -> str:
        """What clears the open segment's text on a terminal, of which `text` takes the place."""
        if not self._is_terminal:
            return ""
        num_above = _num_wraps(self._shown, shutil.get_terminal_size().columns)
        self._shown = text
        return "\r" + (f"\x1b[{num_above}A" if num_above else "") + "\x1b[J"


def _num_wraps(text: str, columns: int) -> int:
    """How often a terminal goes to a new row within `text`."""
    num_wraps = column = 0
    for character in text:
        width = width_of(character)
        if column + width > columns:
            num_wraps, column = num_wraps + 1, 0
        column += width
    return num_wraps


def _lines(final: "Final") -> str:
    """The text of a final as one line, or as one for each part in which one speaker talks."""
    if not final.text:
        return ""
    if final.transcript.turns is None:
        return _line(final.start, final.end, final.text)
    parts = final.transcript.segments
    return "".join(_line(part.start, part.end, part.text, part.speaker) for part in parts)


def _line(start: float, end: float, text: str, speaker: str | None = None) -> str:
    return f"[{start:8.2f} - {end:8.2f}] {'' if speaker is None else f'{speaker}: '}{text}\n"
