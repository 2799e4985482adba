"""Which channels of a recording are heard: their mean, one of them, or each of them by itself."""

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, UnsupportedAudioError
from .notes import Notes

# "mix": the mean of all. A number: that channel alone, counted from 0. "split": each is transcribed by itself.
Channels: TypeAlias = Literal["mix", "split"] | int

# A mix that keeps less than this share of the energy that channels without any relation would leave has lost speech
# that both channels hold with opposite signs. Equal channels have a share of 2, one silent channel of two a share of 1.
CANCELLED_SHARE = 0.1
_AS_LOUD = 0.9  # of the energy of the loudest channel: the first that has so much is taken for the loudest
INTEGER_FULL_SCALE = {np.int16: 2.0**15, np.int32: 2.0**31, np.uint8: 2.0**7}


def check_channels(channels: object) -> Channels:
    """Raises ConfigError for what is not one of Channels."""
    is_number = isinstance(channels, int) and not isinstance(channels, bool) and channels >= 0
    if not is_number and channels not in ("mix", "split"):
        raise ConfigError(f'channels must be "mix", "split" or a channel\'s number from 0 on, got {channels!r}')
    return channels  # type: ignore[return-value]


class Mixer:
    """Turns the channels of a recording, block by block, into the samples that are heard."""

    def __init__(self, name: str, channels: Channels, notes: Notes) -> None:
        self._name = name
        self._channels = channels
        self._notes = notes
        self._num_split = 0  # channels of a recording that is split
        self._picked: int | None = None  # the channel that was heard in place of a mix that cancelled

    def mix(self, planes: npt.NDArray[Any], *, start_s: float, end_s: float) -> npt.NDArray[np.float32]:
        """(channels, N) of any allowed dtype -> (N,) float32, or (N, channels) of a recording that is split.

        Integers are scaled by their full range. `start_s` and `end_s` are the block's place in the recording.

        Raises:
            UnsupportedAudioError: there is no such channel, or the number of channels changes where they are split.
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
        with np.errstate(over="ignore", invalid="ignore"):  # infinite and NaN samples are counted later
            return self._mean_or_louder(_as_float(planes), _scale(planes.dtype), start_s, end_s)

    def _mean_or_louder(
        self, planes: npt.NDArray[np.float32], scale: np.float32, start_s: float, end_s: float
    ) -> npt.NDArray[np.float32]:
        """The mean of the channels, unless they cancel each other: then the loudest of them."""
        mono: npt.NDArray[np.float32] = planes.mean(axis=0, dtype=np.float32)
        flat = planes.ravel(order="K")
        total = float(np.dot(flat, flat))
        if float(np.dot(mono, mono)) >= CANCELLED_SHARE * total / len(planes) ** 2 or not np.isfinite(total):
            self._picked = None
        elif total > 0:
            energies = [float(np.dot(plane, plane)) for plane in planes]
            loudest = next(i for i, energy in enumerate(energies) if energy >= _AS_LOUD * max(energies))
            if self._picked is None or self._picked >= len(planes) or energies[self._picked] < energies[loudest] / 4:
                self._picked = loudest  # and it stays so: a change of sign would click
            self._notes.add_cancelled(self._picked, start_s, end_s)
            mono = planes[self._picked]
        return np.ascontiguousarray(mono if scale == 1 else mono * scale)

    def _require_same_number(self, number: int, start_s: float) -> None:
        self._num_split = self._num_split or number
        if number != self._num_split:
            raise UnsupportedAudioError(
                f"{self._name}: the number of channels changes from {self._num_split} to {number} at {start_s:.2f} s; "
                "such a recording cannot be split"
            )


def _as_float(planes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Centred on 0, not yet scaled."""
    with np.errstate(over="ignore", invalid="ignore"):
        samples = planes.astype(np.float32, copy=False)
    return samples - np.float32(128.0) if planes.dtype.type is np.uint8 else samples


def _scale(dtype: np.dtype[Any]) -> np.float32:
    return np.float32(1.0 / INTEGER_FULL_SCALE.get(dtype.type, 1.0))


def _scaled(planes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    samples = _as_float(planes)
    return samples * _scale(planes.dtype) if planes.dtype.type in INTEGER_FULL_SCALE else samples
