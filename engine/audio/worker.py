"""A worker process that decodes and cuts audio files for readers.py.

In: (source, options of decode_blocks, Cutting | None). Out: Pieces up to the last one, or up to an AudioError. It
imports no torch, unless it has to run a VAD that needs it.
"""

import contextlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is one such process per core

from ..errors import AudioError
from ..vad.splitting import cut_audio
from ..worker_process import connect, receive, send
from .decode import decode_blocks
from .notes import Notes


def main() -> None:
    """Answer requests until the parent process ends."""
    parent = connect()
    while True:
        source, options, cutting = receive(parent)
        notes = Notes()
        try:
            for piece in cut_audio(decode_blocks(source, **options, notes=notes), cutting, notes):
                send(parent, piece)
        except AudioError as error:
            send(parent, error)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError):
        main()
