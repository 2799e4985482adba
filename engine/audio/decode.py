"""Stage 1: bytes | path | array -> waveform (N,) float32, mono, 16 kHz; integer samples are scaled to [-1, 1).

Three readers share the work:
- A WAV in memory with 16-bit PCM, 16 kHz, one channel is read in place. libsndfile would call back into Python for each
  8 KiB and wait for the GIL every time.
- libsndfile reads all other linear PCM and G.711 in WAV.
- FFmpeg (PyAV) reads everything else. libsndfile 1.2.2 also opens FLAC, MP3 and Ogg, but it loses audio silently: two
  thirds of a VBR MP3 without a Xing tag, and all but the first part of a joined MP3 or a chained Ogg. It cannot read a
  FLAC of unknown length. Its MP3 decoder would take a fifth less time, but it prints to stderr, and does not tell of
  frames that it cannot decode.

A file that holds less audio than it promises is an error, because a shortened text would hide the loss. With `salvage`
the loss is a warning. These lengths count as promises:
- WAV: the length of the data chunk. Tools that write to a pipe cannot go back to fill it in and leave 0 or a length
  from 0x7FFF0000 up. Such a length promises nothing, and the file is read to its end. Data beyond a definite length is
  not read, and a warning says so.
- MP3: the length in the Xing tag, if the tag fits the file's size. In joined files it does not.
- Containers that store a length (MP4, Matroska, FLAC, AIFF, FLV, ...): that length. In Ogg it is the position of the
  last page, and no earlier page may be missing or damaged. For CAF, W64 and AVI, FFmpeg fits the length to the file's
  size, so it is read from the header, for AVI only if the file also ends before its RIFF chunk does.
- Streams without a length (ADTS AAC, AC-3, AMR, MPEG-TS, MP3 without a tag) promise nothing and end where the file
  ends. Their undecodable packets count as lost audio, with one exception: packets between decodable ones, and packets
  of text or padding, are foreign bytes such as tags. These are skipped with a warning.
Up to LOSS_TOLERANCE_S (waveform.py) may be missing.

clock.py places samples at the container's time stamps. Joined files and the links of an Ogg follow each other end to
end, and each part may have its own sample rate. channels.py mixes several channels. notes.py records what was filled
in, skipped or left out.

Limits are checked before decoding (file size, declared length) and while decoding. Decoding goes block by block, so
memory is bounded whatever a header claims, and a caller may take the blocks one by one. Nothing here prints, writes
files, or leaves a file open. All functions are thread-safe, but FFmpeg's small frames keep the GIL busy: two threads
decode WAV 1.9 times as fast as one, FLAC 1.6, Opus 1.5, MP3 and AAC 1.0 to 1.2 times; two processes, 1.7 to 1.9 times.
"""

import contextlib
import io
import numbers
import stat
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import av
import numpy as np
import numpy.typing as npt
import soundfile

from ..errors import AudioTooLongError, UnsupportedAudioError
from ..transcript import TranscriptWarning
from .channels import INTEGER_FULL_SCALE, Channels
from .ffmpeg import read_with_ffmpeg
from .header import WavHeader, read_wav_header
from .notes import Notes
from .parts import Splice
from .waveform import DEFAULT_LIMITS, LOSS_TOLERANCE_S, SAMPLE_RATE, AudioLimits, Joiner, Waveform

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEFAULT_LIMITS",
    "SAMPLE_RATE",
    "AudioLimits",
    "Waveform",
    "as_waveform",
    "decode_audio",
    "decode_blocks",
    "is_tensor",
    "needs_no_decoding",
    "source_name",
]

MAX_ARRAY_CHANNELS = 16  # a larger first axis means that the axes are swapped

_SPEECH_SAMPLES = 1 << 20  # samples of 16-bit speech that are pushed at a time
_BLOCK_SAMPLES = 1 << 17  # samples, of all channels together, that libsndfile reads from a WAV at a time
_PCM_TAGS = (1, 3, 6, 7, 0xFFFE)  # WAV's integer, float, A-law, mu-law, and any of these with a channel layout
_FLOATS = (np.float16, np.float32, np.float64)
_END = object()

Blocks: TypeAlias = Iterator[Waveform]


def decode_audio(
    source: bytes | Path,
    *,
    limits: AudioLimits = DEFAULT_LIMITS,
    name: str | None = None,
    channels: Channels = "mix",
    salvage: bool = False,
    notes: Notes | None = None,
) -> Waveform:
    """Decode an audio or video file.

    Args:
        source: the file's path or its content. Of several audio streams, the one that a player would choose is read.
        limits: see AudioLimits.
        name: the source's name in error messages; by default the path, or the number of bytes.
        channels: how several channels are treated; see channels.py.
        salvage: return what can be decoded of a truncated or damaged file, with a warning.
        notes: records what was filled in, skipped or left out.

    Returns:
        (N,) float32, or (N, channels) with channels="split". Integers are scaled by their full range; floats beyond 1
        stay as they are.

    Raises:
        UnsupportedAudioError: unreadable, not audio, truncated, damaged, NaN or infinite samples, or no samples.
        AudioTooLongError: more bytes, seconds, samples or CPU time than the limits allow.
    """
    joiner = Joiner(name or source_name(source), limits, channels=channels, salvage=salvage, notes=notes)
    for _ in _push_file(source, joiner):
        pass
    return joiner.finish()


def decode_blocks(
    source: bytes | Path,
    *,
    limits: AudioLimits = DEFAULT_LIMITS,
    name: str | None = None,
    channels: Channels = "mix",
    salvage: bool = False,
    notes: Notes | None = None,
) -> Blocks:
    """Yield the waveform of `decode_audio` block by block, each decoded when it is asked for.

    Raises:
        The errors of decode_audio, when the iteration reaches the fault.
    """
    joiner = Joiner(name or source_name(source), limits, channels=channels, salvage=salvage, notes=notes)
    for _ in _push_file(source, joiner):
        yield from joiner.take()
    yield joiner.finish()


def needs_no_decoding(source: bytes, most_s: float) -> bool:
    """Whether this is a WAV with at most `most_s` seconds of 16-bit PCM, 16 kHz, mono. Reading 10 s takes 0.1 ms."""
    header = read_wav_header(io.BytesIO(source))
    return header is not None and header.speech is not None and len(header.speech) <= 2 * SAMPLE_RATE * most_s


def source_name(source: bytes | Path) -> str:
    """The name of a source in error messages, if it has no better one."""
    return f"{len(source):,} bytes of audio" if isinstance(source, bytes) else str(source)


def as_waveform(
    samples: "npt.NDArray[Any] | torch.Tensor",
    sample_rate: int,
    *,
    limits: AudioLimits = DEFAULT_LIMITS,
    channels: Channels = "mix",
    notes: Notes | None = None,
) -> Waveform:
    """Samples in memory -> waveform.

    Args:
        samples: (N,) or (channels, N) with at most MAX_ARRAY_CHANNELS channels, as torchaudio has it; (N, channels)
            must be transposed by the caller. int16, int32 and uint8 are scaled by their full range; float16, float32
            and float64 are not scaled.
        sample_rate: Hz.
        channels, notes: as for decode_audio.

    Returns:
        (N,) float32, or (N, channels) with channels="split". 16 kHz mono float32 is returned without a copy.

    Raises:
        UnsupportedAudioError: another dtype or shape, NaN or infinite samples, or no samples.
        AudioTooLongError: more seconds than the limits allow.
    """
    array = to_numpy(samples)
    if array.dtype.type not in (*INTEGER_FULL_SCALE, *_FLOATS):
        raise UnsupportedAudioError(f"samples are {array.dtype}; allowed are int16, int32, uint8, float16/32/64")
    if array.ndim not in (1, 2):
        raise UnsupportedAudioError(f"samples have shape {array.shape}; allowed are (N,) and (channels, N)")
    if array.ndim == 2 and not 1 <= array.shape[0] <= MAX_ARRAY_CHANNELS:
        raise UnsupportedAudioError(
            f"samples have shape {array.shape}; allowed is (channels, N) with 1 to {MAX_ARRAY_CHANNELS} channels: "
            "transpose an array of (N, channels)"
        )
    if not isinstance(sample_rate, numbers.Integral):
        raise UnsupportedAudioError(f"sample_rate must be a whole number of Hz, got {sample_rate!r}")
    joiner = Joiner(f"array {array.shape} {array.dtype}", limits, channels=channels, notes=notes)
    joiner.push(np.atleast_2d(array), int(sample_rate))
    return joiner.finish()


def _push_file(source: bytes | Path, joiner: Joiner) -> Iterator[None]:
    """Push all samples of a file; yields after each block so that the caller can take it. Raises AudioError."""
    steps = _decoding(source, joiner)
    used_s = 0.0  # CPU time; measured per step, because each step may run in another thread
    with contextlib.closing(steps):
        while True:
            started = time.thread_time()
            if next(steps, _END) is _END:
                return
            used_s += time.thread_time() - started
            if used_s > joiner.limits.max_cpu_s:
                raise AudioTooLongError(
                    f"{joiner.name}: takes more than {joiner.limits.max_cpu_s:g} s of a processor to decode; "
                    f"{joiner.duration_s:.1f} s of audio are decoded so far"
                )
            yield


def _decoding(source: bytes | Path, joiner: Joiner) -> Generator[None, None, None]:
    """Do the work of _push_file, without the limit on CPU time. Raises AudioError."""
    try:
        with _open_source(source, joiner.name, joiner.limits) as file:
            if not (yield from _push_wave(file, joiner)):
                yield from read_with_ffmpeg(file, joiner)
    except (OSError, av.error.FFmpegError, soundfile.LibsndfileError) as error:
        raise UnsupportedAudioError(f"{joiner.name}: {_reason(error)}") from error


def _open_source(source: bytes | Path, name: str, limits: AudioLimits) -> BinaryIO:
    """Open the source as a seekable binary file, neither empty nor too large. Never blocks on a FIFO or a device."""
    if isinstance(source, bytes):
        size = len(source)
    else:
        try:
            status = source.stat()
        except ValueError as error:  # a NUL byte, a lone surrogate
            raise UnsupportedAudioError(f"{name!r} cannot be a path: {error}") from error
        if stat.S_ISDIR(status.st_mode):
            raise UnsupportedAudioError(f"{name}: is a directory; pass the audio files in it")
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedAudioError(f"{name}: is not a regular file")
        size = status.st_size
    if not size:
        raise UnsupportedAudioError(f"{name}: is empty (0 bytes)")
    if size > limits.max_bytes:
        raise AudioTooLongError(f"{name}: {size:,} bytes, at most {limits.max_bytes:,} allowed")
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb", buffering=0)


def _push_wave(file: BinaryIO, joiner: Joiner) -> Generator[None, None, bool]:
    """Push a WAV's samples. Returns False if FFmpeg must read the file: not WAV, compressed, or an empty data chunk."""
    header = read_wav_header(file)
    if header is None:
        return False
    _check_length(header, joiner)
    if header.format_tag not in _PCM_TAGS:
        return False
    if header.speech is not None and isinstance(file, io.BytesIO):
        yield from _push_speech(file, header.speech, joiner)
        return True
    file.seek(0)
    handle: BinaryIO | int = file
    if header.surplus_s:  # libsndfile rejects some files with trailing data
        handle = io.BufferedReader(Splice(file, [range(header.data_stop)]))
    elif not isinstance(file, io.BytesIO):
        handle = file.fileno()  # libsndfile reads from a file descriptor without the GIL
    with soundfile.SoundFile(handle, closefd=False) as wave:
        if not wave.frames:
            return False
        joiner.require_format(wave.samplerate, wave.channels)
        joiner.require_duration(wave.frames / wave.samplerate)
        joiner.require_samples(wave.frames * wave.channels)
        while len(block := wave.read(_BLOCK_SAMPLES // wave.channels, dtype="float32", always_2d=True)):
            joiner.push(block.T, wave.samplerate)
            yield
        joiner.require_complete(wave.frames / wave.samplerate)
    return True


def _check_length(header: WavHeader, joiner: Joiner) -> None:
    """Compare the data chunk's length with its header. Raises UnsupportedAudioError if data is missing."""
    if header.missing_s > LOSS_TOLERANCE_S:
        if not joiner.salvage:
            raise UnsupportedAudioError(f"{joiner.name}: truncated: {header.missing_s:.2f} s of its data are not there")
        joiner.note_missing(f"the file is cut off: {header.missing_s:.2f} s of {header.promised_s:.2f} s are not there")
    if header.surplus_s > LOSS_TOLERANCE_S:
        heard = f"read to {header.promised_s:.2f} s, where it ends by its header"
        message = f"{heard}; what follows would be {header.surplus_s:.2f} s more"
        joiner.notes.add(TranscriptWarning("trailing_audio", message))


def _push_speech(file: io.BytesIO, samples: range, joiner: Joiner) -> Iterator[None]:
    """Push 16-bit samples at 16 kHz; `samples` is the range of their bytes in the file."""
    joiner.require_duration(len(samples) / 2 / SAMPLE_RATE)
    file.seek(samples.start)
    for start in samples[:: 2 * _SPEECH_SAMPLES]:
        data = file.read(min(2 * _SPEECH_SAMPLES, samples.stop - start))
        joiner.push(np.frombuffer(data, "<i2")[None], SAMPLE_RATE)
        yield


def to_numpy(samples: "npt.NDArray[Any] | torch.Tensor") -> npt.NDArray[Any]:
    """An array or tensor as a NumPy array. Raises UnsupportedAudioError for anything that NumPy cannot hold."""
    if isinstance(samples, np.ndarray):
        return samples
    if not is_tensor(samples):
        raise UnsupportedAudioError(
            f"samples are a {type(samples).__name__}; allowed are NumPy arrays and torch tensors"
        )
    try:
        array: npt.NDArray[Any] = samples.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # a bfloat16, sparse, conjugated or meta tensor
        raise UnsupportedAudioError(f"samples are a tensor that NumPy cannot hold: {error}") from error
    return array


def is_tensor(value: object) -> bool:
    """Whether this looks like a torch tensor. Decoding needs no torch, which is slow to import in each worker."""
    return all(hasattr(value, method) for method in ("detach", "cpu", "numpy"))


def _reason(error: Exception) -> str:
    """A library's error message without the file's name and error numbers."""
    if isinstance(error, soundfile.LibsndfileError):
        return f"not a readable WAV file ({error.error_string})"
    return str(getattr(error, "strerror", None) or error)
