"""How much audio a file promises, read from its header; nothing is decoded here.

audio.py compares it with what the file turns out to hold, so that a file cut off is an error and not a short text.
"""

import functools
import io
import struct
from typing import BinaryIO

_PLACEHOLDER_LENGTH = 0x7FFF_0000  # bytes; a data chunk said to be longer stands for "until the end of the file"
_MAX_WAV_CHUNKS = 1_000  # before the data chunk; a forged file has millions
_XING_WINDOW = 64  # bytes from the first MP3 frame that hold the tag: header 4, CRC 2, side information up to 32


def is_wave(file: BinaryIO) -> bool:
    file.seek(0)
    head = file.read(12)
    return head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE"


def missing_wav_data_s(file: BinaryIO) -> float:
    """Seconds by which a WAV file falls short of the length of its data chunk; 0.0 if that promises nothing definite.

    Tools that write to a pipe cannot go back to fill in the length: they leave 0, or something near 2 or 4 GiB.
    """
    file.seek(0)
    order = ">" if file.read(4) == b"RIFX" else "<"
    position, bytes_per_s, long_length = 12, 0, None
    for _ in range(_MAX_WAV_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            return 0.0  # no data chunk: libsndfile says so
        chunk: bytes
        length: int
        chunk, length = struct.unpack(order + "4sI", header)
        if chunk == b"data":
            break
        body = file.read(16)
        if chunk == b"fmt " and len(body) == 16:
            (bytes_per_s,) = struct.unpack_from(order + "I", body, 8)
        elif chunk == b"ds64" and len(body) == 16:  # RF64: the data chunk itself says 0xFFFFFFFF
            (long_length,) = struct.unpack_from("<Q", body, 8)
        position += 8 + length + length % 2
    else:
        return 0.0
    if length >= _PLACEHOLDER_LENGTH:
        length = long_length or 0
    held = file.seek(0, io.SEEK_END) - position - 8
    return max(0, length - held) / max(bytes_per_s, 1)


def has_fitting_xing_tag(file: BinaryIO) -> bool:
    """Whether an MP3's first frame counts its bytes and the file is not longer, as it is when several were joined.

    The tag: "Xing" or "Info", flags (32 bits), then the number of frames if flag 1, the number of bytes if flag 2.
    """
    file.seek(0)
    head = file.read(10)
    start = 0
    if len(head) == 10 and head[:3] == b"ID3":  # its size is four times 7 bits
        start = 10 + functools.reduce(lambda size, byte: size << 7 | byte & 0x7F, head[6:], 0)
    file.seek(start)
    frame = file.read(_XING_WINDOW)
    tag = max(frame.find(b"Xing"), frame.find(b"Info"))
    if tag < 0 or len(frame) < tag + 16:
        return False
    flags, first, second = struct.unpack_from(">III", frame, tag + 4)
    num_bytes = second if flags & 1 else first
    held = file.seek(0, io.SEEK_END) - start
    return bool(flags & 2) and held - num_bytes <= num_bytes // 16  # FFmpeg's own test for joined files
