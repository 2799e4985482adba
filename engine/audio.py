"""Stage 1: bytes | path | array -> waveform (N,) float32, mono, 16 kHz, in [-1, 1].

Who decodes what: libsndfile reads linear PCM and G.711 in WAV; FFmpeg (PyAV) reads everything else. libsndfile 1.2.2
opens FLAC, MP3 and Ogg as well, but was seen to lose audio without a word: two thirds of a VBR MP3 without a Xing tag,
and all but the first part of a joined MP3 or a chained Ogg. It cannot read a FLAC of unknown length, and its MP3
decoder prints to stderr.

A file that holds less than it promises is an error, not a short text. What counts as a promise:
- WAV: the length of the data chunk. 0 and lengths from 0x7FFF0000 up are what tools write that stream to a pipe and
  cannot go back; they promise nothing, and everything up to the end of the file is read.
- MP3: the length in the Xing tag, if the tag fits the file's size (it does not in joined files).
- containers that store a length (MP4, Matroska, FLAC, AIFF, ...): that length; of Ogg, the position of the last page.
- streams that store none (ADTS AAC, AC-3, AMR, MPEG-TS, MP3 without a tag) promise nothing and end where the file
  ends, and so do W64 and CAF, whose lengths FFmpeg takes from the size of the file. Packets of theirs that do not
  decode count as audio lost.
Up to LOSS_TOLERANCE_S may be missing. Samples are joined end to end: time stamps inside a container are not followed.

Limits hold before decoding (file size, declared length) and while decoding, which goes block by block, so that memory
is bounded whatever a header says. Nothing here prints, writes files, or leaves a file open; all functions may run in
several threads at once.
"""

import functools
import io
import numbers
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from .audio_length import has_fitting_xing_tag, read_wav_header
from .errors import AudioTooLongError, ConfigError, UnsupportedAudioError

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16_000  # Hz, of every waveform in this package
MAX_CHANNELS = 64  # of a file; sixth-order ambisonics has 49
MAX_ARRAY_CHANNELS = 16  # of an array; more means that the axes are swapped
LOSS_TOLERANCE_S = 0.25  # lengths are rounded, and padded by a frame (AAC at 8 kHz: 0.13 s); few words are shorter

Waveform: TypeAlias = npt.NDArray[np.float32]

_BLOCK_SAMPLES = 1 << 20  # samples of all channels that are converted at a time

_PCM_TAGS = (1, 3, 6, 7, 0xFFFE)  # WAV's integers, floats, A-law, mu-law, and any of these with a channel layout

# FFmpeg's demuxers that may run. Playlists (hls, concat, dash) are not here: they open other files and addresses.
_FORMATS = "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
_FORMATS_WITH_LENGTH = {
    "aiff", "ape", "asf", "au", "flac", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "ogg", "tta", "wv",
}  # fmt: skip

_FRAME_FORMATS = {"u8", "s16", "s32", "flt", "dbl"}  # of FFmpeg, that PyAV makes arrays of; s64 it does not

_INTEGER_FULL_SCALE = {np.int16: 2.0**15, np.int32: 2.0**31, np.uint8: 2.0**7}
_FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioLimits:
    """What one input may cost; protects against forged headers and files that decode to hours of silence."""

    max_duration_s: float = 3 * 3600.0  # a long meeting or a film; 0.7 GB as a waveform
    max_bytes: int = 2 << 30  # encoded; one hour of 24-bit 48 kHz stereo WAV is 1.0 GB
    min_sample_rate: int = 1_000  # Hz
    max_sample_rate: int = 768_000  # Hz

    def __post_init__(self) -> None:
        if not self.max_duration_s > 0 or self.max_bytes <= 0:
            raise ConfigError(f"max_duration_s and max_bytes must be positive: {self.max_duration_s}, {self.max_bytes}")
        if not 0 < self.min_sample_rate <= self.max_sample_rate:
            raise ConfigError(f"sample rates must be 0 < min <= max: {self.min_sample_rate}, {self.max_sample_rate}")


DEFAULT_LIMITS = AudioLimits()


def decode_audio(source: bytes | Path, *, limits: AudioLimits = DEFAULT_LIMITS, name: str | None = None) -> Waveform:
    """Decode an audio or video file.

    Args:
        source: the file's path or its content. Several audio streams: the one a player would choose.
        limits: see AudioLimits.
        name: what errors call the source; by default the path, or the number of bytes.

    Returns:
        (N,) float32, mean of the channels. Integers are scaled by their full range; floats beyond 1 stay as they are.

    Raises:
        UnsupportedAudioError: unreadable, not audio, truncated, damaged, NaN or infinite samples, nothing to hear.
        AudioTooLongError: more bytes or seconds than the limits allow.
    """
    name = name or (f"{len(source):,} bytes of audio" if isinstance(source, bytes) else str(source))
    joiner = _Joiner(name, limits)
    try:
        with _open_source(source, name, limits) as file:
            if not _read_wave(file, joiner):
                _read_with_ffmpeg(file, joiner)
    except (OSError, av.error.FFmpegError, soundfile.LibsndfileError) as error:
        raise UnsupportedAudioError(f"{name}: {_reason(error)}") from error
    return joiner.finish()


def as_waveform(
    samples: "npt.NDArray[Any] | torch.Tensor", sample_rate: int, *, limits: AudioLimits = DEFAULT_LIMITS
) -> Waveform:
    """Samples in memory -> waveform.

    Args:
        samples: (N,) or (channels, N) with at most MAX_ARRAY_CHANNELS channels, as torchaudio has it; (N, channels)
            must be transposed by the caller. int16, int32 and uint8 are scaled by their full range, float16, float32
            and float64 are taken as they are.
        sample_rate: Hz.

    Returns:
        (N,) float32, mean of the channels; 16 kHz mono float32 comes back without a copy.

    Raises:
        UnsupportedAudioError: another dtype or shape, NaN or infinite samples, nothing to hear.
        AudioTooLongError: more seconds than the limits allow.
    """
    array = _to_numpy(samples)
    if array.dtype.type not in (*_INTEGER_FULL_SCALE, *_FLOATS):
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
    joiner = _Joiner(f"array {array.shape} {array.dtype}", limits)
    joiner.push(_mix(np.atleast_2d(array)), int(sample_rate))
    return joiner.finish()


class _Joiner:
    """Collects mono blocks of one sample rate, resamples them on the way, and stops when the limits are passed."""

    def __init__(self, name: str, limits: AudioLimits) -> None:
        self.name = name
        self.limits = limits
        self._sample_rate = 0
        self._num_samples = 0
        self._num_invalid = 0
        self._resampler: Any = None
        self._pending: list[Waveform] = []
        self._num_pending = 0
        self._blocks: list[Waveform] = []

    @property
    def duration_s(self) -> float:
        return self._num_samples / self._sample_rate if self._sample_rate else 0.0

    def require_duration(self, duration_s: float) -> None:
        """Raises AudioTooLongError."""
        if duration_s > self.limits.max_duration_s:
            allowed_s = self.limits.max_duration_s
            raise AudioTooLongError(
                f"{self.name}: {duration_s:,.1f} s of audio or more, at most {allowed_s:,.1f} s allowed"
            )

    def require_format(self, sample_rate: int, num_channels: int) -> None:
        """Raises UnsupportedAudioError."""
        low, high = self.limits.min_sample_rate, self.limits.max_sample_rate
        if not low <= sample_rate <= high:
            raise UnsupportedAudioError(f"{self.name}: sample rate {sample_rate:,} Hz, allowed are {low:,} to {high:,}")
        if not 1 <= num_channels <= MAX_CHANNELS:
            raise UnsupportedAudioError(f"{self.name}: {num_channels} channels, allowed are 1 to {MAX_CHANNELS}")

    def require_complete(self, promised_s: float) -> None:
        """Raises UnsupportedAudioError when what was pushed falls short of what the file promised."""
        if promised_s - self.duration_s > LOSS_TOLERANCE_S:
            raise UnsupportedAudioError(
                f"{self.name}: truncated or damaged: {self.duration_s:.2f} s of {promised_s:.2f} s can be decoded"
            )

    def push(self, block: Waveform, sample_rate: int) -> None:
        if not self._sample_rate:
            self.require_format(sample_rate, 1)
            self._sample_rate = sample_rate
            if sample_rate != SAMPLE_RATE:
                self._resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        elif sample_rate != self._sample_rate:
            raise UnsupportedAudioError(
                f"{self.name}: the sample rate changes from {self._sample_rate} to {sample_rate} Hz at "
                f"{self.duration_s:.2f} s; one rate is allowed"
            )
        self._num_samples += len(block)
        self.require_duration(self.duration_s)
        self._pending.append(block)
        self._num_pending += len(block)
        if self._num_pending >= _BLOCK_SAMPLES:
            self._flush()

    def _flush(self, *, last: bool = False) -> None:
        block = _concatenate(self._pending)
        self._pending, self._num_pending = [], 0
        self._num_invalid += int(block.size - np.count_nonzero(np.isfinite(block)))
        self._blocks.append(block if self._resampler is None else self._resampler.resample_chunk(block, last=last))

    def finish(self) -> Waveform:
        """The waveform, (N,) float32 at 16 kHz. Raises UnsupportedAudioError if there is nothing to hear in it."""
        if not self._num_samples:
            raise UnsupportedAudioError(f"{self.name}: no samples")
        if self._pending or self._resampler is not None:
            self._flush(last=True)
        if self._num_invalid:
            raise UnsupportedAudioError(
                f"{self.name}: {self._num_invalid:,} of {self._num_samples:,} samples are NaN or infinite"
            )
        waveform = _concatenate(self._blocks)
        if len(waveform) < 2:
            raise UnsupportedAudioError(f"{self.name}: {len(waveform)} sample(s) at 16 kHz, at least 2 are needed")
        if self._resampler is not None and not np.isfinite(waveform).all():
            raise UnsupportedAudioError(f"{self.name}: samples too large for resampling to 16 kHz")
        return waveform


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


def _read_wave(file: BinaryIO, joiner: _Joiner) -> bool:
    """Push a WAV's samples; False if FFmpeg should read this: no WAV, compressed, or a data chunk of length 0."""
    header = read_wav_header(file)
    if header is None:
        return False
    if header.missing_s > LOSS_TOLERANCE_S:
        raise UnsupportedAudioError(f"{joiner.name}: truncated: {header.missing_s:.2f} s of its data are not there")
    if header.format_tag not in _PCM_TAGS:
        return False
    file.seek(0)
    handle = file if isinstance(file, io.BytesIO) else file.fileno()  # by its number, libsndfile reads without the GIL
    with soundfile.SoundFile(handle, closefd=False) as wave:
        if not wave.frames:
            return False
        joiner.require_format(wave.samplerate, wave.channels)
        joiner.require_duration(wave.frames / wave.samplerate)
        while len(block := wave.read(_BLOCK_SAMPLES // wave.channels, dtype="float32", always_2d=True)):
            joiner.push(_mix(block.T), wave.samplerate)
        joiner.require_complete(wave.frames / wave.samplerate)
    return True


def _read_with_ffmpeg(file: BinaryIO, joiner: _Joiner) -> None:
    is_counted = has_fitting_xing_tag(file)
    file.seek(0)
    # Only audio decoders may run: to probe a file, FFmpeg decodes pictures too, and a cover of 400 kB can take 400 MB.
    options = {"format_whitelist": _FORMATS, "codec_whitelist": _audio_decoders()}
    try:
        container = av.open(file, options=options, metadata_errors="replace")
    except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError) as error:
        raise UnsupportedAudioError(
            f"{joiner.name}: not audio that can be read here, or cut off ({_reason(error)}); known are {_FORMATS}"
        ) from error
    with container:
        stream = container.streams.best("audio")
        if stream is None:
            found = ", ".join(sorted({s.type or "unknown" for s in container.streams})) or "none"
            raise UnsupportedAudioError(f"{joiner.name}: has no audio stream (streams: {found})")
        if stream.codec_context is None:  # PyAV 18 crashes the process when asked to decode such a stream
            raise UnsupportedAudioError(f"{joiner.name}: its {container.format.name} audio codec is not known here")
        promised_s = _promised_s(container, stream, is_counted)
        joiner.require_duration(promised_s or 0.0)
        lost_s = _push_packets(_packets(container, stream), joiner)
        joiner.require_complete(joiner.duration_s + lost_s if promised_s is None else promised_s)


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    try:
        yield from container.demux(stream)
    except IndexError:  # PyAV 18 stumbles, after our last packet, over streams that begin in the middle of a file
        return


def _push_packets(packets: Iterator[Any], joiner: _Joiner) -> float:
    """Push what decodes; return roughly how many seconds did not, judged by the bytes."""
    num_decoded, num_lost = 0, 0
    for packet in packets:
        try:
            frames = packet.decode()
        except av.error.FFmpegError:  # as players do; the caller decides whether too much was lost
            num_lost += packet.size
            continue
        num_decoded += packet.size
        for frame in frames:
            joiner.require_format(frame.sample_rate, frame.layout.nb_channels)
            joiner.push(_mix(_planes(frame)), frame.sample_rate)
    return joiner.duration_s * num_lost / max(num_decoded, 1)


def _promised_s(container: Any, stream: Any, is_counted: bool) -> float | None:
    """Seconds that the container says its audio lasts; None if FFmpeg can only guess by the bit rate."""
    if container.format.name not in _FORMATS_WITH_LENGTH and not (container.format.name == "mp3" and is_counted):
        return None
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _planes(frame: Any) -> npt.NDArray[Any]:
    """An FFmpeg audio frame as (channels, N)."""
    num_channels = frame.layout.nb_channels
    reads_past_planes = frame.format.is_planar and num_channels >= 8  # in PyAV 18, which crashes the process
    if reads_past_planes or frame.format.packed.name not in _FRAME_FORMATS:
        (frame,) = av.AudioResampler(format="flt").resample(frame)
    array: npt.NDArray[Any] = frame.to_ndarray()
    return array if frame.format.is_planar else array.reshape(-1, num_channels).T


def _mix(planes: npt.NDArray[Any]) -> Waveform:
    """(channels, N) of any allowed dtype -> (N,) float32, the mean; integers scaled by their full range."""
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite or NaN here is counted and reported
        samples = planes.astype(np.float32, copy=False)
        mono: Waveform = samples[0] if len(samples) == 1 else samples.mean(axis=0, dtype=np.float32)
    if scale := _INTEGER_FULL_SCALE.get(planes.dtype.type):
        mono = (mono - 128.0 if planes.dtype.type is np.uint8 else mono) / np.float32(scale)
    return np.ascontiguousarray(mono)


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
    except TypeError as error:  # bfloat16, sparse, quantised
        raise UnsupportedAudioError(f"samples are a tensor that NumPy cannot hold: {error}") from error
    return array


def is_tensor(value: object) -> bool:
    """Whether this is a torch tensor; torch itself is not needed to decode audio, and slow to import in each worker."""
    return all(hasattr(value, method) for method in ("detach", "cpu", "numpy"))


def _concatenate(blocks: list[Waveform]) -> Waveform:
    """Without a copy if there is one block; no block gives no samples."""
    return blocks[0] if len(blocks) == 1 else np.concatenate([*blocks, np.zeros(0, np.float32)])


@functools.cache
def _audio_decoders() -> str:
    """FFmpeg's audio decoders, joined by commas."""
    names = set()
    for name in av.codecs_available:
        try:
            codec = av.codec.Codec(name, "r")
        except ValueError:  # an encoder only
            continue
        if codec.type == "audio":
            names.add(codec.name)
    return ",".join(sorted(names))


def _reason(error: Exception) -> str:
    """What a library says is wrong, without the file's name and error numbers."""
    if isinstance(error, soundfile.LibsndfileError):
        return f"not a readable WAV file ({error.error_string})"
    return str(getattr(error, "strerror", None) or error)
