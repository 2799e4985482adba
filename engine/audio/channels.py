"""Which channels of a recording are transcribed: their mean, one of them, or each of them separately."""

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, UnsupportedAudioError
from .notes import Notes

# "mix": the mean of all channels. A number: that channel alone, counted from 0. "split": each channel separately.
Channels: TypeAlias = Literal["mix", "split"] | int

# Channels that carry the same speech with opposite signs cancel each other in the mean. They are taken to cancel if the
# energy of the mean is below this share of what uncorrelated channels of the same energy would give. For two channels,
# the share is 2 if they are equal and 1 if one is silent.
CANCELLED_SHARE = 0.1
_AS_LOUD = 0.9  # the first channel with this share of the highest channel energy counts as the loudest
INTEGER_FULL_SCALE = {np.int16: 2.0**15, np.int32: 2.0**31, np.uint8: 2.0**7}


def check_channels(channels: object) -> Channels:
    """Return `channels` if it is a valid Channels value. Raises ConfigError otherwise."""
    is_number = isinstance(channels, int) and not isinstance(channels, bool) and channels >= 0
    if not is_number and channels not in ("mix", "split"):
        raise ConfigError(f'channels must be "mix", "split" or a channel\'s number from 0 on, got {channels!r}')
    return channels  # type: ignore[return-value]


class Mixer:
    """Reduces the channels of a recording, block by block, to the samples that are transcribed."""

    def __init__(self, name: str, channels: Channels, notes: Notes) -> None:
        self._name = name
        self._channels = channels
        self._notes = notes
        self._num_split = 0  # number of channels of a recording that is split
        self._picked: int | None = None  # the channel used instead of the mean, while the channels cancel each other

    def mix(self, planes: npt.NDArray[Any], *, start_s: float, end_s: float) -> npt.NDArray[np.float32]:
        """(channels, N) of any allowed dtype -> (N,) float32, or (N, channels) if the channels are split.

        Integers are scaled by their full range. The block lasts from `start_s` to `end_s` of the recording.

        Raises:
            UnsupportedAudioError: the chosen channel does not exist, or the number of channels changes in a recording
                that is split.
        """
        if self._channels == "split":
            self._require_same_number(len(planes), start_s)
            return np.ascontiguousarray(_scaled(planes).T)
        if isinstance(self._channels, int):
            if self._channels >= len(planes):
                numbers = "0" if len(planes) == 1 else f"0 to {len(planes) - 1}"
                raise UnsupportedAudioError(f"{self._name}: has no channel {self._channels}; it has {numbers}")
            planes = planes[self._channels : self._channels + 1]
        if len(planes) == 1:
            return np.ascontiguousarray(_scaled(planes)[0])
        with np.errstate(over="ignore", invalid="ignore"):  # the Joiner counts infinite and NaN samples
            return self._mean_or_louder(_as_float(planes), _scale(planes.dtype), start_s, end_s)

    def _mean_or_louder(
        self, planes: npt.NDArray[np.float32], scale: np.float32, start_s: float, end_s: float
    ) -> npt.NDArray[np.float32]:
        """The mean of the channels, or the loudest channel if they cancel each other."""
        mono: npt.NDArray[np.float32] = planes[0] + planes[1]  # np.add.reduce takes ten times as long if interleaved
        for plane in planes[2:]:
            mono += plane
        flat = planes.ravel(order="K")
        total = float(np.dot(flat, flat))
        if float(np.dot(mono, mono)) >= CANCELLED_SHARE * total or not np.isfinite(total):
            self._picked = None
        elif total > 0:
            energies = [float(np.dot(plane, plane)) for plane in planes]
            loudest = next(i for i, energy in enumerate(energies) if energy >= _AS_LOUD * max(energies))
            if self._picked is None or self._picked >= len(planes) or energies[self._picked] < energies[loudest] / 4:
                self._picked = loudest  # kept for the following blocks: switching to the opposite sign would click
            self._notes.add_cancelled(self._picked, start_s, end_s)
            mono = planes[self._picked] * scale
            return mono
        mono *= scale / np.float32(len(planes))
        return mono

    def _require_same_number(self, number: int, start_s: float) -> None:
        self._num_split = self._num_split or number
        if number != self._num_split:
            raise UnsupportedAudioError(
                f"{self._name}: the number of channels changes from {self._num_split} to {number} at {start_s:.2f} s; "
                "such a recording cannot be split"
            )


def _as_float(planes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The samples as float32, centred on 0 but not yet scaled."""
    with np.errstate(over="ignore", invalid="ignore"):
        samples = planes.astype(np.float32, copy=False)
    return samples - np.float32(128.0) if planes.dtype.type is np.uint8 else samples


def _scale(dtype: np.dtype[Any]) -> np.float32:
    return np.float32(1.0 / INTEGER_FULL_SCALE.get(dtype.type, 1.0))


def _scaled(planes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    samples = _as_float(planes)
    return samples * _scale(planes.dtype) if planes.dtype.type in INTEGER_FULL_SCALE else samples
