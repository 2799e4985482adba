"""Closing: the base of objects that hold processes, memory or files until they are closed."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import NoReturn, Self

from .errors import ConfigError


class Closing(ABC):
    """Closed by close(), or at the end of its `with` block."""

    @abstractmethod
    def close(self) -> None:
        """Free what the object holds; idempotent."""

    def __reduce__(self) -> NoReturn:
        """Raises ConfigError where it would be pickled, as by multiprocessing's Pool.map(model.generate, files)."""
        name = type(self).__name__
        raise ConfigError(
            f"{name} holds memory, files or processes of this process: make one in the process that uses it"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
