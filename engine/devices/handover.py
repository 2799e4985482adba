"""Inputs -> inputs that another process can read.

Paths and URLs go over as they are, since the other process reads them: one Python process could not read for several
GPUs. What is in memory has to be copied. A waveform is copied once, into memory that both processes map; other samples
and files in memory go through the socket.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.decode import is_tensor, to_numpy
from ..audio.inputs import AudioInput, Refused, Samples, Source, file_name
from ..audio.loading import file_content
from ..audio.waveform import AudioLimits, Waveform
from ..errors import ASRError
from ..isolation import alone
from ..jobs.listing import RemoteFile
from ..run_options import TranscribeOptions

MOST_IN_ARENA = 64 << 20  # bytes of a waveform; longer ones are few, and go through the socket

_NOTHING = np.zeros(0, np.float32)


def portable(item: AudioInput, limits: AudioLimits) -> AudioInput:
    """The input, with the content of a file object or tensor in its place. What cannot be read is refused as it is."""
    source = item.source
    if isinstance(source, np.ndarray) and source.dtype.hasobject:  # anything, which may be impossible to send
        return replace(item, source=Refused(f"samples are {source.dtype}; allowed are numbers"))
    if isinstance(source, Path | str | bytes | np.ndarray | Refused | RemoteFile):
        return item
    read = alone("read", item.key, partial(_content, source, limits))
    if isinstance(read, ASRError):
        return replace(item, source=Refused(str(read)))
    name = item.name if is_tensor(source) else item.name or file_name(source)
    return replace(item, source=read, name=name)


def _content(source: Any, limits: AudioLimits) -> bytes | Samples:
    """Raises UnsupportedAudioError, or whatever a foreign file object raises."""
    return to_numpy(source) if is_tensor(source) else file_content(source, limits)


def portable_options(options: TranscribeOptions) -> TranscribeOptions:
    """The options, with the content of file objects and tensors in place of those among the known speakers' clips."""
    if options.speakers is None:
        return options
    known = {name: _portable_source(name, source, options.limits) for name, source in options.speakers.known.items()}
    return replace(options, speakers=replace(options.speakers, known=known))


def _portable_source(name: str, source: Source, limits: AudioLimits) -> Source:
    is_content = is_tensor(source) or isinstance(source, np.ndarray) or hasattr(source, "read")
    return portable(AudioInput(key=name, source=source), limits).source if is_content else source


def waveform_of(item: AudioInput) -> Waveform | None:
    """The input's waveform, if it is one already and the arena takes it."""
    waveform = item.waveform
    return waveform if waveform is not None and 0 < waveform.nbytes <= MOST_IN_ARENA else None


def without_waveform(item: AudioInput) -> AudioInput:
    return replace(item, source=_NOTHING)
