"""Stage 1: bytes | path | array -> waveform (N,) float32, mono, 16 kHz, in [-1, 1].

Who decodes what: libsndfile reads linear PCM and G.711 in WAV; FFmpeg (PyAV) reads everything else. A WAV in memory
whose samples are a waveform's but for the scale (16-bit PCM, 16 kHz, one channel) is read in place: libsndfile would
call back for each 8 KiB, and wait for Python's lock every time. libsndfile 1.2.2 opens FLAC, MP3 and Ogg as well, but
was seen to lose audio without a word: two thirds of a VBR MP3 without a Xing tag, and all but the first part of a
joined MP3 or a chained Ogg. It cannot read a FLAC of unknown length, and its MP3 decoder prints to stderr.

A file that holds less than it promises is an error, not a short text, unless the caller wants to salvage the rest. What
counts as a promise:
- WAV: the length of the data chunk. 0 and lengths from 0x7FFF0000 up are what tools write that stream to a pipe and
  cannot go back; they promise nothing, and everything up to the end of the file is read. What a file holds beyond a
  definite length is not read, and a warning says so.
- MP3: the length in the Xing tag, if the tag fits the file's size (it does not in joined files).
- containers that store a length (MP4, Matroska, FLAC, AIFF, ...): that length; of Ogg, the position of the last page,
  and that no page before it is missing or damaged.
- streams that store none (ADTS AAC, AC-3, AMR, MPEG-TS, MP3 without a tag) promise nothing and end where the file
  ends, and so do W64 and CAF, whose lengths FFmpeg takes from the size of the file. Packets of theirs that do not
  decode count as audio lost, unless they lie between others that do, or are text or padding: those are foreign bytes,
  such as tags, and are skipped with a warning.
Up to LOSS_TOLERANCE_S (waveform.py) may be missing.

Samples stand where their container's time stamps say: clock.py has the rules. Joined files, and the links of an
Ogg, follow each other end to end; each part may have a sample rate of its own. Several channels are mixed, unless they
cancel each other: channels.py. What was filled in, skipped or left out is noted: notes.py.

Limits hold before decoding (file size, declared length) and while decoding, which goes block by block, so that memory
is bounded whatever a header says; a caller may take the blocks one by one. Nothing here prints, writes files, or leaves
a file open. All functions may run in several threads at once, but FFmpeg's small frames keep Python busy: with two
threads in place of one, WAV was decoded 1.9 times as fast, FLAC 1.6, Opus 1.5, MP3 and AAC 1.0 to 1.2 times; with two
processes, 1.7 to 1.9 times.
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

MAX_ARRAY_CHANNELS = 16  # more means that the axes are swapped

_BLOCK_SAMPLES = 1 << 20  # of all channels together, that are read from a WAV at a time
_PCM_TAGS = (1, 3, 6, 7, 0xFFFE)  # WAV's integers, floats, A-law, mu-law, and any of these with a channel layout
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
        source: the file's path or its content. Several audio streams: the one a player would choose.
        limits: see AudioLimits.
        name: what errors call the source; by default the path, or the number of bytes.
        channels: what becomes of several channels; see channels.py.
        salvage: give what can be decoded of a truncated or damaged file.
        notes: gets to know what was filled in, skipped or left out.

    Returns:
        (N,) float32, or (N, channels) with channels="split". Integers are scaled by their full range; floats beyond 1
        stay as they are.

    Raises:
        UnsupportedAudioError: unreadable, not audio, truncated, damaged, NaN or infinite samples, nothing to hear.
        AudioTooLongError: more bytes, seconds, samples or work than the limits allow.
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
    """`decode_audio` in pieces that joined are what it returns; none is decoded before it is asked for.

    Raises:
        What decode_audio raises, but only when the iteration comes to where it is wrong.
    """
    joiner = Joiner(name or source_name(source), limits, channels=channels, salvage=salvage, notes=notes)
    for _ in _push_file(source, joiner):
        yield from joiner.take()
    yield joiner.finish()


def needs_no_decoding(source: bytes, most_s: float) -> bool:
    """Whether this is a WAV with at most so many seconds of 16-bit samples as a waveform has them: 10 s take 0.1 ms."""
    header = read_wav_header(io.BytesIO(source))
    return header is not None and header.speech is not None and len(header.speech) <= 2 * SAMPLE_RATE * most_s


def source_name(source: bytes | Path) -> str:
    """What errors call a source that has no better name."""
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
            must be transposed by the caller. int16, int32 and uint8 are scaled by their full range, float16, float32
            and float64 are taken as they are.
        sample_rate: Hz.
        channels, notes: as for decode_audio.

    Returns:
        (N,) float32, or (N, channels) with channels="split"; 16 kHz mono float32 comes back without a copy.

    Raises:
        UnsupportedAudioError: another dtype or shape, NaN or infinite samples, nothing to hear.
        AudioTooLongError: more seconds than the limits allow.
    """
    array = _to_numpy(samples)
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
    """Push everything that a file holds, with a stop after each part of it. Raises AudioError."""
    steps = _decoding(source, joiner)
    used_s = 0.0  # of this thread, which may be another one after each stop
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
    """The work of _push_file. Raises AudioError."""
    try:
        with _open_source(source, joiner.name, joiner.limits) as file:
            if not (yield from _push_wave(file, joiner)):
                yield from read_with_ffmpeg(file, joiner)
    except (OSError, av.error.FFmpegError, soundfile.LibsndfileError) as error:
        raise UnsupportedAudioError(f"{joiner.name}: {_reason(error)}") from error


def _open_source(source: bytes | Path, name: str, limits: AudioLimits) -> BinaryIO:
    """The source as a seekable binary file that is neither empty nor too large. Never blocks on a fifo or a device."""
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
    """Push a WAV's samples; False if FFmpeg should read this: no WAV, compressed, or a data chunk of length 0."""
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
    if header.surplus_s:  # libsndfile gives up over some of it
        handle = io.BufferedReader(Splice(file, [range(header.data_stop)]))
    elif not isinstance(file, io.BytesIO):
        handle = file.fileno()  # given the number, libsndfile reads without the GIL
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
    """Compare the data with what the header says. Raises UnsupportedAudioError if some is missing."""
    if header.missing_s > LOSS_TOLERANCE_S:
        if not joiner.salvage:
            raise UnsupportedAudioError(f"{joiner.name}: truncated: {header.missing_s:.2f} s of its data are not there")
        joiner.note_missing(f"the file is cut off: {header.missing_s:.2f} s of {header.promised_s:.2f} s are not there")
    if header.surplus_s > LOSS_TOLERANCE_S:
        heard = f"read to {header.promised_s:.2f} s, where it ends by its header"
        message = f"{heard}; what follows would be {header.surplus_s:.2f} s more"
        joiner.notes.add(TranscriptWarning("trailing_audio", message))


def _push_speech(file: io.BytesIO, samples: range, joiner: Joiner) -> Iterator[None]:
    """Push the 16-bit samples, 16 kHz, that these bytes are."""
    joiner.require_duration(len(samples) / 2 / SAMPLE_RATE)
    file.seek(samples.start)
    for start in samples[:: 2 * _BLOCK_SAMPLES]:
        data = file.read(min(2 * _BLOCK_SAMPLES, samples.stop - start))
        joiner.push(np.frombuffer(data, "<i2")[None], SAMPLE_RATE)
        yield


def _to_numpy(samples: "npt.NDArray[Any] | torch.Tensor") -> npt.NDArray[Any]:
    """Raises UnsupportedAudioError for what is neither an array nor a tensor that NumPy can hold."""
    if isinstance(samples, np.ndarray):
        return samples
    if not is_tensor(samples):
        raise UnsupportedAudioError(
            f"samples are a {type(samples).__name__}; allowed are NumPy arrays and torch tensors"
        )
    try:
        array: npt.NDArray[Any] = samples.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # bfloat16, sparse, conjugated, without data
        raise UnsupportedAudioError(f"samples are a tensor that NumPy cannot hold: {error}") from error
    return array


def is_tensor(value: object) -> bool:
    """Whether this is a torch tensor; torch itself is not needed to decode audio, and slow to import in each worker."""
    return all(hasattr(value, method) for method in ("detach", "cpu", "numpy"))


def _reason(error: Exception) -> str:
    """What a library says is wrong, without the file's name and error numbers."""
    if isinstance(error, soundfile.LibsndfileError):
        return f"not a readable WAV file ({error.error_string})"
    return str(getattr(error, "strerror", None) or error)
