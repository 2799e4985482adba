"""How much audio a file promises, read from its header without decoding.

decode.py compares the promise with the decoded audio, so that a truncated file is an error and not a short text.
"""

import functools
import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

PLACEHOLDER_LENGTH = 0x7FFF_0000  # bytes; a data chunk of this length or more means "until the end of the file"
_MAX_CHUNKS = 1_000  # that are looked at, in one go; a forged file could have millions
_AUDIO_CHUNKS = (b"RIFF", b"RIFX", b"RF64", b"data")
_SPEECH_FORMAT = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)  # PCM; channels, Hz, bytes/s, block, bits
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"  # the GUID that a W64 begins with
_W64_HEAD = 24  # bytes of a W64 chunk before its content: GUID 16, length 8
_XING_WINDOW = 64  # first bytes of an MP3 frame, which hold the tag: header 4, CRC 2, side information up to 32


@dataclass(frozen=True, slots=True, kw_only=True)
class WavHeader:
    """The facts of a WAV header that decide how the file is read.

    A data chunk with a placeholder for its length (0, or PLACEHOLDER_LENGTH and more without an RF64 length) promises
    nothing, and the three durations are 0.0.
    """

    format_tag: int  # first field of the format chunk; 0 if there is no such chunk
    missing_s: float  # promised by the data chunk's length but not in the file
    promised_s: float = 0.0  # duration by the data chunk's length
    surplus_s: float = 0.0  # duration of the bytes after the data chunk that belong to no other chunk
    data_stop: int = 0  # byte where the data chunk ends by its length
    speech: range | None = None  # bytes of the samples, if they are 16-bit PCM, 16 kHz, mono and end the file


def read_wav_header(file: BinaryIO) -> WavHeader | None:
    """Read the header of a WAV file; None if this is another format.

    Tools that write to a pipe cannot go back to fill in the length. They leave 0 or a value near 2 or 4 GiB.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] not in _AUDIO_CHUNKS[:3] or head[8:] != b"WAVE":
        return None
    order = ">" if head[:4] == b"RIFX" else "<"
    position, format_tag, bytes_per_s, long_length, is_speech = 12, 0, 0, 0, False
    for _ in range(_MAX_CHUNKS):
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
            promised = num_bytes if num_bytes < PLACEHOLDER_LENGTH else long_length
            end = file.seek(0, io.SEEK_END)
            held = end - position - 8
            has_surplus = 0 < promised < held
            surplus = _num_surplus(file, position + 8 + promised, end, order) if has_surplus else 0
            is_all = 2 <= num_bytes <= held <= num_bytes + 1 and num_bytes < PLACEHOLDER_LENGTH
            return WavHeader(
                format_tag=format_tag,
                missing_s=max(0, promised - held) / max(bytes_per_s, 1),
                promised_s=promised / max(bytes_per_s, 1),
                surplus_s=surplus / max(bytes_per_s, 1),
                data_stop=position + 8 + promised,
                speech=range(position + 8, position + 8 + num_bytes - num_bytes % 2) if is_speech and is_all else None,
            )
        position += 8 + num_bytes + num_bytes % 2
    return WavHeader(format_tag=format_tag, missing_s=0.0)  # no data chunk; the decoder raises the error


def _num_surplus(file: BinaryIO, data_end: int, end: int, order: str) -> int:
    """Count the bytes after the data chunk that belong to no other chunk.

    A second WAV file that was appended, and a second data chunk, are surplus, because their audio is not read. Chunks
    begin at even positions, but some programs omit the padding byte, so both positions are tried.
    """
    return min(_num_after_chunks(file, start, end, order) for start in {data_end, data_end + data_end % 2})


def _num_after_chunks(file: BinaryIO, position: int, end: int, order: str) -> int:
    """Skip the complete chunks from `position` on, and count the bytes after them."""
    for _ in range(_MAX_CHUNKS):
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


def num_missing_in_w64(file: BinaryIO) -> int:
    """Bytes that the data chunk of a W64 promises and the file does not hold; 0 in other formats.

    A chunk's length counts its head as well, and the next chunk begins at a multiple of 8 bytes. Tools that write to a
    pipe leave 0, the length of an empty chunk, or one near 2^63, which promise nothing.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(_W64_RIFF)) != _W64_RIFF:
        return 0
    position = _W64_HEAD + 16  # the GUID that follows says WAVE
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(_W64_HEAD)
        length = int.from_bytes(head[16:], "little")
        if not _W64_HEAD < length < 1 << 62:
            break
        if head[:4] == b"data":
            return max(0, position + length - end)
        position += length + -length % 8
    return 0


def is_cut_avi(file: BinaryIO) -> bool:
    """Whether an AVI ends within one of its RIFF chunks; a file of more than a gigabyte has several."""
    end = file.seek(0, io.SEEK_END)
    position = 0
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:11] != b"AVI":  # "AVIX" from the second on
            return False
        position += 8 + int.from_bytes(head[4:8], "little")
        if position > end:
            return True
    return False


def has_fitting_xing_tag(file: BinaryIO) -> bool:
    """Whether an MP3's first frame has a Xing tag whose number of bytes fits the file. Joined files are longer.

    Layout of the tag: "Xing" or "Info", flags (32 bits), the number of frames if flag 1, the number of bytes if flag 2.
    """
    file.seek(0)
    head = file.read(10)
    start = 0
    if len(head) == 10 and head[:3] == b"ID3":  # the size of an ID3 tag is four groups of 7 bits
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
