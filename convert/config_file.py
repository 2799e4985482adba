"""config.yaml and JSON files, whose values are checked for their types. Every error names the file and the key."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import yaml

from ..engine.errors import CheckpointError
from ..engine.hub.model_files import cut_short, read_text

CONFIG_YAML = "config.yaml"  # of FunASR's checkpoints
CONFIG_NAME = "config.json"  # of checkpoints in transformers' manner, and of every LLM
T = TypeVar("T")
_ABSENT: Final = object()
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # OmegaConf's reference to another key, as in ${llm_conf.init_param_path}
_MAX_REFERENCES = 8


class ConfigFile:
    """A YAML or JSON file whose values are read by dotted keys. A null counts as absent."""

    def __init__(self, path: Path, values: Mapping[str, Any], *, hint: str = "") -> None:
        """`hint` is appended to errors; `cut_short` makes it."""
        self.path = path
        self.hint = hint
        self._values = values

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises CheckpointError if the file is not a YAML mapping."""
        text = read_text(path)
        hint = cut_short(text)
        try:
            values = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}{hint}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} holds a {type(values).__name__}; a mapping is needed{hint}")
        return cls(path, values, hint=hint)

    def find(self, key: str) -> object:
        """The value with its references resolved, or None. Raises CheckpointError for one that leads nowhere."""
        value = self._look_up(key)
        for _ in range(_MAX_REFERENCES):
            if not isinstance(value, str) or "${" not in value:
                return value
            reference = _REFERENCE.fullmatch(value)
            if reference is None or self._look_up(reference[1]) is None:
                break
            value = self._look_up(reference[1])
        raise CheckpointError(f"{self.path}: {key} is {value!r}, a reference that cannot be resolved")

    def get(self, key: str, kind: type[T], default: T | object = _ABSENT) -> T:
        """The value, which must be exactly of type `kind` (a bool is not an int). Raises CheckpointError."""
        value = self.find(key)
        value = default if value is None else value
        if value is _ABSENT:
            raise CheckpointError(f"{self.path} lacks {key}; a value of type {kind.__name__} is needed{self.hint}")
        if type(value) is not kind:
            raise CheckpointError(f"{self.path}: {key} is {value!r}; a value of type {kind.__name__} is needed")
        return value

    def require(self, key: str, allowed: object, default: object) -> None:
        """Raises CheckpointError unless the value, or the default if it is absent, is the allowed one."""
        value = self.find(key)
        value = default if value is None else value
        if value != allowed or isinstance(value, bool) is not isinstance(allowed, bool):
            raise CheckpointError(f"{self.path}: {key} is {value!r}; only {allowed!r} is implemented{self.hint}")

    def require_all(self, implemented: Mapping[str, tuple[object, object]]) -> None:
        """Call `require` for each key of `implemented`, whose values are (allowed, default)."""
        for key, (allowed, default) in implemented.items():
            self.require(key, allowed, default)

    def _look_up(self, key: str) -> object:
        value: object = self._values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError if the file is not one."""
    text = read_text(path).rstrip()
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        is_cut = text.startswith("{") and (error.pos >= len(text) or not text.endswith("}"))
        raise CheckpointError(f"{path} {'is cut short' if is_cut else 'cannot be read'}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}; an object is needed")
    return values


def model_class(directory: Path) -> object:
    """The class that a checkpoint's config.yaml names; None without one. Raises CheckpointError for a damaged file."""
    path = directory / CONFIG_YAML
    return ConfigFile.read(path).find("model") if path.is_file() else None


def model_type(directory: Path) -> object:
    """The model_type of a checkpoint's config.json; None without one. Raises CheckpointError for a damaged file."""
    path = directory / CONFIG_NAME
    return read_json(path).get("model_type") if path.is_file() else None
