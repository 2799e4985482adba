"""A process that decodes audio files for readers.py: (source, options, cutting) -> what cut_audio() makes of it.

The options are those of decode_blocks. Answers with Pieces up to the last one, or ends with an AudioError. Imports no
torch, unless it has to run a VAD that needs it.
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
    """Answer until the parent has gone."""
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
