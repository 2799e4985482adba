"""espeak-ng through its C library: text -> 16 kHz waveform and the moment each word begins.

Needs `libespeak-ng.so.1` (espeak-ng 1.50 or later; Debian and Ubuntu: `apt-get install espeak-ng`). One Synthesizer per
process: the library keeps its voice and settings in global state. The call is synchronous; samples and WORD events
arrive in a callback on the calling thread.
"""

import ctypes
import ctypes.util
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

SAMPLE_RATE = 16_000

FloatArray = npt.NDArray[np.float32]

# Values of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_EVENT_LIST_TERMINATED = 0
_EVENT_WORD = 1
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4


class EspeakError(RuntimeError):
    """espeak-ng is missing or refused a request."""


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # 1-based, in characters
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A voice FILE with an optional variant ("gmw/en-US", "f2") and how it speaks.

    The library finds voices with variants by file name only: "en-us+f2" is unknown to it, "gmw/en-US+f2" is not.
    """

    file: str
    variant: str = ""
    rate: int = 170  # words per minute, 80..450
    pitch: int = 50  # 0..99
    pitch_range: int = 50  # 0..99

    @property
    def name(self) -> str:
        return f"{self.file}+{self.variant}" if self.variant else self.file


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Speech:
    """What one call spoke: `waveform` (N,) float32 at 16 kHz, and (character index, start in seconds) per word."""

    waveform: FloatArray
    word_starts: tuple[tuple[int, float], ...]


class Synthesizer:
    """The loaded library.

    It carries its oscillators' phases from one call to the next: the same calls in the same order in a new process give
    the same samples, another order gives samples that sound the same.
    """

    def __init__(self) -> None:
        self._library = load_library()
        self._rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, None, 0)
        if self._rate <= 0:
            raise EspeakError("espeak-ng found no voice data; install the package espeak-ng-data")
        self._pcm: list[bytes] = []
        self._words: list[tuple[int, float]] = []
        self._callback = _Callback(self._receive)  # the library keeps only a pointer: this reference keeps it alive
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: Voice) -> Speech:
        """Speak one text, without leading or trailing silence of its own beyond what espeak-ng adds."""
        self._set_voice(voice)
        self._pcm, self._words = [], []
        data = text.encode()
        status = self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data) + 1), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        if status != 0:
            raise EspeakError(f"espeak-ng could not speak {text!r} with {voice.name}: status {status}")
        samples = np.frombuffer(b"".join(self._pcm), np.int16).astype(np.float32) / 32768
        waveform = soxr.resample(samples, self._rate, SAMPLE_RATE).astype(np.float32)
        return Speech(waveform=waveform, word_starts=tuple(self._words))

    def _set_voice(self, voice: Voice) -> None:
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise EspeakError(
                f"espeak-ng has no voice file {voice.name!r}; see `espeak-ng --voices` and --voices=variant"
            )
        for parameter, value in (
            (_PARAMETER_RATE, voice.rate),
            (_PARAMETER_PITCH, voice.pitch),
            (_PARAMETER_RANGE, voice.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)

    def _receive(
        self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: "ctypes._Pointer[_Event]"
    ) -> int:
        if samples and count > 0:
            self._pcm.append(ctypes.string_at(samples, count * 2))
        self._words.extend(
            (event.text_position - 1, event.audio_position / 1000)
            for event in _until_terminated(events)
            if event.type == _EVENT_WORD and event.text_position > 0  # 0: the end of a clause
        )
        return 0  # 0: go on


def _until_terminated(events: "ctypes._Pointer[_Event]") -> Iterator[_Event]:
    index = 0
    while events[index].type != _EVENT_LIST_TERMINATED:
        yield events[index]
        index += 1


def load_library() -> ctypes.CDLL:
    name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise EspeakError(
            f"cannot load {name}: install espeak-ng (Debian, Ubuntu: apt-get install espeak-ng; macOS: brew install "
            "espeak-ng). It is needed only to make new clips; the bundled clips are files."
        ) from error
