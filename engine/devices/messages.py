"""What replicas.py and the processes of worker.py say to each other.

To a process, first Setup; then, for each list of inputs, Begin, any number of lists of Given, and an Ask:

    Begin, [Given, ...], [Given, ...], Ask.END        the results of all of these are wanted
    Begin, [Given, ...], Ask.CANCEL                   no longer

From a process, lists of events, of which all before Said.READY are Logged or an ASRError:

    Said.READY        the model is loaded
    Logged            a line of its log, which the parent's log takes
    int               so many inputs have been taken up, and others may be sent
    (place, Transcript)   a result
    Over              after Ask.END: all results have been sent
    Said.CANCELLED    after Ask.CANCEL: nothing of that list will come any more, and no waveform of it is in use
    Refusal           the list cannot be transcribed, whatever the device
    ASRError          the engine has failed; it is the last event
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from ..audio.inputs import AudioInput
from ..clip import Result
from ..errors import ASRError
from ..run_options import TranscribeOptions
from ..transcriber import Transcriber

Load: TypeAlias = Callable[[], Transcriber]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a process needs to load its engine."""

    load: Load
    memory: int  # file descriptor of its Arena


@dataclass(frozen=True, slots=True)
class Begin:
    options: TranscribeOptions


class Given(NamedTuple):
    """An input. Its waveform is in the arena if `start` is given, and its source is empty then."""

    place: int
    item: AudioInput
    start: int | None = None
    num_samples: int = 0


class Ask(Enum):
    END = auto()
    CANCEL = auto()
    LEAVE = auto()  # free everything and end


class Said(Enum):
    READY = auto()
    CANCELLED = auto()


@dataclass(frozen=True, slots=True)
class Over:
    """The end of a list; and what the process has spent since its start, in seconds."""

    starved_s: float = 0.0  # waiting for inputs of a list
    blocked_s: float = 0.0  # sending results: the parent had no room for them
    busy_s: float = 0.0  # of CPU time, in the thread that runs the engine


@dataclass(frozen=True, slots=True)
class Logged:
    """What the logger of this name has said there."""

    name: str
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Refusal:
    error: ASRError


Event: TypeAlias = int | Result | Said | Over | Logged | Refusal | ASRError
