"""A process that decodes audio files for reading.py: (source, limits, cutting) -> what cut_audio() makes of it.

Answers with a waveform, or with Pieces up to the last one, or ends with an AudioError. Imports no torch, unless it has
to run a VAD that needs it.
"""

import contextlib
import os
import socket
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is one such process per core

from .audio import AudioLimits, decode_audio, decode_blocks
from .child import connect, receive, send
from .errors import AudioError
from .segments import Cutting, cut_audio


def main() -> None:
    """Answer until the parent has gone."""
    parent = connect()
    while True:
        source, limits, cutting = receive(parent)
        try:
            _answer(parent, source, limits, cutting)
        except AudioError as error:
            send(parent, error)


def _answer(parent: socket.socket, source: Path | bytes, limits: AudioLimits, cutting: Cutting | None) -> None:
    if cutting is None:
        send(parent, decode_audio(source, limits=limits))
        return
    for audio in cut_audio(decode_blocks(source, limits=limits), cutting):
        send(parent, audio)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError):
        main()
