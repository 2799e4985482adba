"""How much audio a file promises, read from its header; nothing is decoded here.

decode.py compares it with what the file turns out to hold, so that a file cut off is an error and not a short text.
"""

import functools
import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

_PLACEHOLDER_LENGTH = 0x7FFF_0000  # bytes; a data chunk said to be longer stands for "until the end of the file"
_MAX_WAV_CHUNKS = 1_000  # before and behind the data chunk; a forged file has millions
_AUDIO_CHUNKS = (b"RIFF", b"RIFX", b"RF64", b"data")
_SPEECH_FORMAT = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)  # PCM; channels, Hz, bytes/s, block, bits
_XING_WINDOW = 64  # bytes from the first MP3 frame that hold the tag: header 4, CRC 2, side information up to 32


@dataclass(frozen=True, slots=True, kw_only=True)
class WavHeader:
    """What decides how a WAV file is read."""

    format_tag: int  # what the format chunk begins with; 0 if there is none
    missing_s: float  # seconds that the data chunk falls short of its length; 0.0 if that promises nothing definite
    promised_s: float = 0.0  # seconds that the data chunk has by its length; 0.0 if that promises nothing definite
    surplus_s: float = 0.0  # seconds that would fit into what follows the data chunk and is no chunk itself
    data_stop: int = 0  # bytes from the beginning of the file to the end of the data chunk, where that is definite
    speech: range | None = None  # bytes of the samples, if they are 16-bit PCM, 16 kHz, mono, and all of the rest


def read_wav_header(file: BinaryIO) -> WavHeader | None:
    """None if this is not a WAV file.

    Tools that write to a pipe cannot go back to fill in the length: they leave 0, or something near 2 or 4 GiB.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] not in _AUDIO_CHUNKS[:3] or head[8:] != b"WAVE":
        return None
    order = ">" if head[:4] == b"RIFX" else "<"
    position, format_tag, bytes_per_s, long_length, is_speech = 12, 0, 0, 0, False
    for _ in range(_MAX_WAV_CHUNKS):
        file.seek(position)
        chunk, length, body = file.read(4), file.read(4), file.read(16)
        if len(length) < 4:
            break
        (num_bytes,) = struct.unpack(order + "I", length)
        if chunk == b"fmt " and len(body) >= 12:
            format_tag, _, _, bytes_per_s = struct.unpack_from(order + "HHII", body)
            is_speech = head[:4] == b"RIFF" and body == _SPEECH_FORMAT
        elif chunk == b"ds64" and len(body) >= 16:  # RF64: the data chunk itself says 0xFFFFFFFF
            (long_length,) = struct.unpack_from("<Q", body, 8)
        elif chunk == b"data":
            promised = num_bytes if num_bytes < _PLACEHOLDER_LENGTH else long_length
            end = file.seek(0, io.SEEK_END)
            held = end - position - 8
            has_surplus = 0 < promised < held
            surplus = _num_surplus(file, position + 8 + promised, end, order) if has_surplus else 0
            is_all = 2 <= num_bytes <= held <= num_bytes + 1 and num_bytes < _PLACEHOLDER_LENGTH
            return WavHeader(
                format_tag=format_tag,
                missing_s=max(0, promised - held) / max(bytes_per_s, 1),
                promised_s=promised / max(bytes_per_s, 1),
                surplus_s=surplus / max(bytes_per_s, 1),
                data_stop=position + 8 + promised,
                speech=range(position + 8, position + 8 + num_bytes - num_bytes % 2) if is_speech and is_all else None,
            )
        position += 8 + num_bytes + num_bytes % 2
    return WavHeader(format_tag=format_tag, missing_s=0.0)  # without data; the decoder says so


def _num_surplus(file: BinaryIO, data_end: int, end: int, order: str) -> int:
    """Bytes behind the data chunk that belong to no other chunk.

    A second WAV file that was joined to the first, and a second data chunk, are surplus: nothing reads their audio. A
    chunk begins at an even place, but not every program writes the byte that sees to it.
    """
    return min(_num_after_chunks(file, start, end, order) for start in {data_end, data_end + data_end % 2})


def _num_after_chunks(file: BinaryIO, position: int, end: int, order: str) -> int:
    """Bytes from the first place on, at or behind `position`, where no chunk begins that the file holds whole."""
    for _ in range(_MAX_WAV_CHUNKS):
        file.seek(position)
        name, length = file.read(4), file.read(4)
        if len(length) < 4:
            return 0
        (num_bytes,) = struct.unpack(order + "I", length)
        is_name = all(32 <= byte < 127 for byte in name) and name not in _AUDIO_CHUNKS
        if not is_name or position + 8 + num_bytes > end:
            break
        position += 8 + num_bytes + num_bytes % 2
    return end - position


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
