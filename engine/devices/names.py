"""Which devices `devices` names, and how a process is made to see one GPU alone."""

import os
import re
from collections.abc import Iterable, Mapping

import torch

from ..decoder.mps import VISIBLE_GPUS
from ..errors import ConfigError

_NAME = re.compile(r"cpu|(cuda|npu):\d+")
_ALLOWED = "'auto', or a list such as [0, 1], ['cuda:0', 'cuda:1'] or ['cpu', 'cpu']"


def device_names(devices: str | Iterable[int | str | torch.device]) -> str | tuple[str, ...]:
    """ "auto", or the name of each device; a number is a GPU's.

    Raises:
        ConfigError: there are none, one is unknown or occurs twice, or they are of several kinds.
    """
    if devices == "auto":
        return "auto"
    if isinstance(devices, str):
        raise ConfigError(f"devices must be {_ALLOWED}; got {devices!r}")
    given = list(devices)
    names = tuple(f"cuda:{one}" if isinstance(one, int) and not isinstance(one, bool) else str(one) for one in given)
    unknown = [name for name in names if not _NAME.fullmatch(name)]
    if unknown or not names:
        raise ConfigError(f"devices must be {_ALLOWED}; got {given!r}")
    if len({name.partition(":")[0] for name in names}) > 1:
        raise ConfigError(f"devices must be of one kind, because number formats differ between kinds; got {given!r}")
    if names[0] != "cpu" and len(set(names)) < len(names):
        raise ConfigError(f"devices must name each GPU once; got {given!r}")
    return names


def present_devices(devices: str | tuple[str, ...]) -> tuple[str, ...]:
    """The devices that device_names() has named. "auto" is every GPU that this process sees, or none without a GPU.

    Raises:
        ConfigError: this machine lacks one.
    """
    num_gpus = torch.cuda.device_count()
    if devices == "auto":
        return tuple(f"cuda:{number}" for number in range(num_gpus))
    missing = [name for name in devices if name.startswith("cuda:") and int(name.removeprefix("cuda:")) >= num_gpus]
    if missing:
        raise ConfigError(f"devices: {', '.join(missing)} cannot be used, this process sees {num_gpus} GPUs")
    return tuple(devices)


def device_within(name: str) -> str:
    """The name of a device for the process that environment_of() lets see it alone."""
    return "cuda" if name.startswith("cuda:") else name


def environment_of(name: str) -> Mapping[str, str]:
    """What a process needs in its environment, before it uses CUDA, to see one GPU alone. Others need nothing.

    vLLM takes the first GPU that it sees. Numbers count the GPUs that this process sees.
    """
    if not name.startswith("cuda:"):
        return {}
    number = name.removeprefix("cuda:")
    visible = os.environ.get(VISIBLE_GPUS)
    return {VISIBLE_GPUS: visible.split(",")[int(number)] if visible else number}
