"""A process that decodes audio files for reading.py: (source, limits) -> waveform or AudioError. Imports no torch."""

import contextlib

from .audio import Waveform, decode_audio
from .child import connect, receive, send
from .errors import AudioError


def main() -> None:
    """Answer until the parent has gone."""
    parent = connect()
    while True:
        source, limits = receive(parent)
        answer: Waveform | AudioError
        try:
            answer = decode_audio(source, limits=limits)
        except AudioError as error:
            answer = error
        send(parent, answer)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, ConnectionError):
        main()
