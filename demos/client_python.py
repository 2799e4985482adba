"""A client of the realtime WebSocket: what a microphone or a file says, as it is said.

    python demos/client_python.py --server ws://localhost:10095 --mic
    python demos/client_python.py --server ws://localhost:10095 --file audio.wav --language 中文 --hotwords 张三 北京

A file is sent at --speed times real time; a microphone needs `pip install sounddevice`.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import websockets

from twostage_asr.engine import AudioError
from twostage_asr.engine.audio.decode import SAMPLE_RATE, Waveform, decode_audio

CHUNK = SAMPLE_RATE // 10  # samples in a message


async def file_chunks(waveform: Waveform, speed: float) -> AsyncIterator[bytes]:
    """A waveform as PCM16, as fast as it would be spoken times `speed`."""
    samples = np.clip(waveform * 32768, -32768, 32767).astype("<i2")
    loop = asyncio.get_running_loop()
    started = loop.time()
    for first in range(0, len(samples), CHUNK):
        yield samples[first : first + CHUNK].tobytes()
        await asyncio.sleep(started + (first + CHUNK) / SAMPLE_RATE / speed - loop.time())


async def microphone_chunks(sounddevice: Any) -> AsyncIterator[bytes]:
    """The default microphone, until Ctrl-C."""
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def hear(data: Any, frames: int, time: Any, status: Any) -> None:
        loop.call_soon_threadsafe(heard.put_nowait, bytes(data))

    with sounddevice.RawInputStream(SAMPLE_RATE, CHUNK, channels=1, dtype="int16", callback=hear):
        print("speak; Ctrl-C ends", file=sys.stderr)
        while True:
            yield await heard.get()


def show(answer: dict[str, Any], num_shown: int) -> int:
    """Print sentences that are new, and the end of what is being spoken, in a row that the next answer overwrites."""
    for sentence in answer["sentences"][num_shown:]:
        print(f"\r\x1b[K[{sentence['start'] / 1000:.1f}-{sentence['end'] / 1000:.1f}s] {sentence['text']}", flush=True)
    num_fit = shutil.get_terminal_size().columns // 2  # of characters that take two columns each
    print(f"\r\x1b[K{answer['partial'][-num_fit:]}", end="", flush=True)  # what wraps could not be overwritten
    return len(answer["sentences"])


async def receive(socket: websockets.ClientConnection) -> None:
    num_shown = 0
    async for message in socket:
        answer = json.loads(message)
        if answer.get("event") == "error":
            print(f"\nerror: {answer['error']}", file=sys.stderr)
        elif answer.get("event") == "stopped":
            return
        elif "sentences" in answer:
            num_shown = show(answer, num_shown)


def chunks_of(args: argparse.Namespace) -> AsyncIterator[bytes]:
    """What is sent, opened before the server is asked for a session."""
    if not args.mic:
        return file_chunks(decode_audio(args.file), args.speed)
    import sounddevice

    return microphone_chunks(sounddevice)


async def talk(args: argparse.Namespace) -> None:
    chunks = chunks_of(args)
    headers = {"Authorization": f"Bearer {args.api_key}"} if args.api_key else {}
    async with websockets.connect(args.server, additional_headers=headers) as socket:
        receiving = asyncio.create_task(receive(socket))
        await socket.send("START")
        if args.language:
            await socket.send(f"LANGUAGE:{args.language}")
        if args.hotwords:
            await socket.send(f"HOTWORDS:{','.join(args.hotwords)}")
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C
            async for pcm in chunks:
                await socket.send(pcm)
        await socket.send("STOP")
        await receiving


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="ws://localhost:10095")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--mic", action="store_true")
    source.add_argument("--file", type=Path)
    parser.add_argument("--language")
    parser.add_argument("--hotwords", nargs="+", default=[])
    parser.add_argument("--speed", type=float, default=2.0, help="of a file, times real time (default 2)")
    parser.add_argument("--api-key")
    args = parser.parse_args()
    try:
        asyncio.run(talk(args))
    except ImportError as error:
        sys.exit(f"a microphone needs `pip install sounddevice`: {error}")
    except AudioError as error:
        sys.exit(str(error))
    except (OSError, websockets.WebSocketException) as error:
        sys.exit(f"{args.server}: {error}; is `twostage-asr serve-realtime --model MODEL` running there?")


if __name__ == "__main__":
    main()
