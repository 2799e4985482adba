"""AudioInput -> waveform: reads and decodes any kind of input, within limits."""

from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UnsupportedAudioError
from .decode import DEFAULT_LIMITS, SAMPLE_RATE, AudioLimits, Blocks, Waveform, as_waveform, decode_blocks
from .inputs import AudioInput, Refused, file_name, is_samples
from .notes import Notes
from .urls import require_size, url_content


def load(
    item: AudioInput,
    *,
    limits: AudioLimits = DEFAULT_LIMITS,
    allow_urls: bool | Collection[str] = True,
    notes: Notes | None = None,
) -> Waveform:
    """Read and decode one input: (N,) float32, mono, 16 kHz, or (N, channels) if its channels are split.

    Args:
        item: the input.
        limits: see AudioLimits.
        allow_urls: False refuses http and https URLs, through which a client could reach hosts that only this machine
            can reach. A collection of host names allows only these, also as targets of redirects.
        notes: records what was filled in, skipped or left out.

    Raises:
        AudioError: the only error, whatever the source is.
    """
    blocks = list(load_blocks(item, limits=limits, allow_urls=allow_urls, notes=notes))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def load_blocks(
    item: AudioInput,
    *,
    limits: AudioLimits = DEFAULT_LIMITS,
    allow_urls: bool | Collection[str] = True,
    notes: Notes | None = None,
) -> Blocks:
    """Yield the waveform of `load` block by block; a file is decoded as the iteration proceeds.

    Raises:
        AudioError: the only error, possibly after some blocks.
    """
    if is_samples(item.source):
        rate = SAMPLE_RATE if item.sample_rate is None else item.sample_rate
        yield as_waveform(item.source, rate, limits=limits, channels=item.decoding["channels"], notes=notes)
        return
    file, name = _file(item.source, limits, allow_urls)
    yield from decode_blocks(file, limits=limits, name=item.name or name, notes=notes, **item.decoding)


def _file(
    source: Path | str | bytes | BinaryIO | Refused, limits: AudioLimits, allow_urls: bool | Collection[str]
) -> tuple[Path | bytes, str | None]:
    """The audio file of a source, or its content, with its name in error messages. Raises AudioError."""
    if isinstance(source, Refused):
        raise UnsupportedAudioError(source.reason)
    if isinstance(source, Path | bytes):
        return source, None
    if isinstance(source, str):
        return url_content(source, limits, allow_urls)
    return file_content(source, limits), file_name(source)


def file_content(file: BinaryIO, limits: AudioLimits) -> bytes:
    """Read a file object from its position to its end. Raises AudioError."""
    name = file_name(file) or type(file).__name__
    try:
        content = file.read(limits.max_bytes + 1)
    except (OSError, ValueError, TypeError) as error:  # ValueError: closed, or not text; TypeError: read() without size
        raise UnsupportedAudioError(f"{name}: cannot be read: {error}") from error
    if not isinstance(content, bytes):
        kind = type(content).__name__
        raise UnsupportedAudioError(f"{name}: reading gives {kind}, not bytes; open it with mode 'rb'")
    require_size(len(content), name, limits)
    return content
