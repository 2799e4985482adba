"""The plan of a job: what was asked for, and its inputs in shards; written before any work and never changed.

The inputs are listed once. A rerun reads the plan, so it does the same inputs in the same order, whatever has been
added to the folders meanwhile.
"""

import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..audio.inputs import AudioInput
from ..audio.urls import is_url
from ..errors import ConfigError
from ..writers import WRITERS, SubtitleShape, replacing
from .listing import Listing, from_line, to_line

JOB_NAME = "job.json"
INPUTS_NAME = "inputs"
SHARD_SIZE = 1000
_PART = "inputs.part"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What a job is. A rerun must ask for the same."""

    inputs: tuple[str, ...]  # what listing.py allows
    model: Mapping[str, Any]  # what decides the texts: the model's name, a digest of its files, its number formats
    options: Mapping[str, Any]  # of `generate`; values as JSON has them
    formats: tuple[str, ...] = ()  # files of each transcript, besides the shards
    shape: SubtitleShape | None = None
    shard_size: int = SHARD_SIZE  # inputs

    def __post_init__(self) -> None:
        """Raises ConfigError for an unknown format, or a shard size below 1."""
        unknown = [name for name in self.formats if name not in WRITERS or name == "jsonl"]
        if unknown:
            allowed = ", ".join(name for name in WRITERS if name != "jsonl")
            raise ConfigError(f"unknown format {', '.join(unknown)}; besides the shards of JSON lines: {allowed}")
        if self.shard_size < 1:
            raise ConfigError(f"a shard has at least 1 input, got {self.shard_size}")

    def as_json(self) -> dict[str, Any]:
        """As job.json holds it; paths are absolute."""
        fields = asdict(replace(self, inputs=tuple(map(_absolute, self.inputs))))
        plain: dict[str, Any] = json.loads(json.dumps(fields, default=str))
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The inputs of a job: `num_inputs` lines in shards of `shard_size`, the last with what remains."""

    directory: Path
    num_inputs: int
    shard_size: int
    num_passed_over: int  # files of folders that, by their names, are not audio
    spec: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """The plan of the job in this directory; None if there is none yet. Raises ConfigError."""
        path = directory / JOB_NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            numbers = {name: int(data[name]) for name in ("num_inputs", "num_passed_over")}
            return cls(directory=directory, shard_size=data["spec"]["shard_size"], spec=data["spec"], **numbers)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not the description of a job: {error}") from error

    @property
    def num_shards(self) -> int:
        return -(-self.num_inputs // self.shard_size)

    def size(self, shard: int) -> int:
        """Number of inputs."""
        return min(self.shard_size, self.num_inputs - shard * self.shard_size)

    def inputs(self, shard: int) -> list[AudioInput]:
        """In the order of the listing, which is that of the shard's lines. Raises ConfigError for a damaged file."""
        path = self.directory / INPUTS_NAME / shard_name(shard)
        try:
            with path.open("rb") as lines:
                items = [from_line(line) for line in lines]
        except ValueError as error:
            raise ConfigError(f"{path} is damaged: {error}; begin a new job with another --output") from error
        if len(items) != self.size(shard):
            raise ConfigError(
                f"{path} has {len(items)} of {self.size(shard)} inputs; begin a new job with another --output"
            )
        return items

    def require(self, spec: JobSpec) -> None:
        """Raises ConfigError, naming what differs, unless the job was begun with this specification."""
        old, new = _flat(self.spec), _flat(spec.as_json())
        differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
        if differing:
            said = "; ".join(f"{name} was {old.get(name)!r} and is now {new.get(name)!r}" for name in differing)
            raise ConfigError(f"the job in {self.directory} was begun with other options: {said}. Use another --output")


def make_plan(directory: Path, spec: JobSpec) -> Plan:
    """List the inputs and write the plan. The caller is the only one who does. job.json is written last.

    Raises:
        ConfigError: there are no inputs, a list is malformed, or two inputs have the same key.
        OSError: something cannot be listed or written.
    """
    part, listing, keys = directory / _PART, Listing(spec.inputs), array("q")
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(directory / INPUTS_NAME, ignore_errors=True)  # of a plan that was not completed
    part.mkdir()
    for shard, items in enumerate(_groups(listing, spec.shard_size)):
        keys.extend(hash(item.key) for item in items)
        (part / shard_name(shard)).write_bytes(b"".join(map(to_line, items)))
    if not keys:
        raise ConfigError(f"{', '.join(spec.inputs)}: no audio; {listing.num_passed_over} other files are passed over")
    _require_unique(np.frombuffer(keys, np.int64), part)
    os.replace(part, directory / INPUTS_NAME)
    data = {"num_inputs": len(keys), "num_passed_over": listing.num_passed_over, "spec": spec.as_json()}
    replace_file(directory / JOB_NAME, json.dumps(data, indent=2).encode() + b"\n")
    plan = Plan.read(directory)
    assert plan is not None
    return plan


def shard_name(shard: int) -> str:
    return f"{shard:06d}.jsonl"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all, and outlives the machine. It has one writer at a time."""
    with replacing(path, is_durable=True) as file:
        file.write(content)


def _groups(listing: Iterable[AudioInput], size: int) -> Iterator[list[AudioInput]]:
    items = iter(listing)
    while group := list(islice(items, size)):
        yield group


def _require_unique(hashes: np.ndarray[Any, np.dtype[np.int64]], part: Path) -> None:
    """Raises ConfigError if two inputs have the same key. A hash takes 8 bytes of an input; keys are only read again
    for hashes that occur twice."""
    values, counts = np.unique(hashes, return_counts=True)
    twice = set(values[counts > 1].tolist())
    if not twice:
        return
    found: Counter[str] = Counter()
    for path in sorted(part.iterdir()):
        with path.open("rb") as lines:
            found.update(key for line in lines if hash(key := from_line(line).key) in twice)
    key, count = found.most_common(1)[0]
    if count > 1:
        raise ConfigError(f"{count} inputs have the key {key!r}, and keys must differ; a list may give them others")


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names, joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _absolute(name: str) -> str:
    return name if is_url(name) else os.path.abspath(name)
