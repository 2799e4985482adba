"""The options of a transcription: written down once, checked by what is written, with the defaults that it says."""

import inspect
import math
import re
from typing import Any, Unpack

import pytest

from twostage_asr.engine import (
    AudioLimits,
    AutoModelVLLM,
    ConfigError,
    FunASRNanoStreamingVLLM,
    FunASRNanoVLLM,
    GenerateOptions,
    RequestOptions,
    SegmentOptions,
    SessionOptions,
    TranscribeOptions,
    session_options,
    transcribe_options,
)
from twostage_asr.engine.options import SpeakerOptions
from twostage_asr.engine.server.recognizer import Recognizer
from twostage_asr.engine.vad import FIXED_SCHEDULE


@pytest.mark.parametrize(
    ("function", "declared"),
    [
        (AutoModelVLLM.generate, GenerateOptions),
        (AutoModelVLLM.generate_iter, GenerateOptions),
        (FunASRNanoVLLM.generate, GenerateOptions),
        (transcribe_options, GenerateOptions),
        (session_options, SessionOptions),
        (FunASRNanoStreamingVLLM.session, SessionOptions),
        (FunASRNanoStreamingVLLM.streaming_generate, RequestOptions),
        (Recognizer.options, RequestOptions),
    ],
)
def test_a_type_checker_sees_the_options_everywhere(function: Any, declared: type) -> None:
    variadic = [p for p in inspect.signature(function).parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    assert [parameter.annotation for parameter in variadic] == [Unpack[declared]]


def found(name: str, options: TranscribeOptions) -> object:
    parts = (options, options.request, options.params, options.segmentation)
    return next(getattr(part, name) for part in parts if hasattr(part, name))


def test_the_documented_defaults_are_those_that_hold() -> None:
    documented: dict[str, Any] = {}
    for declared in (RequestOptions, SegmentOptions, SpeakerOptions, GenerateOptions):
        entries = re.findall(r"^ +(\w+) \((.*)\): ", declared.__doc__ or "", re.MULTILINE)
        documented |= {name: eval(value, {"AudioLimits": AudioLimits}) for name, value in entries}
    assert documented.keys() == GenerateOptions.__annotations__.keys()
    assert transcribe_options(**documented) == transcribe_options()


def test_every_option_arrives() -> None:
    asked: GenerateOptions = {
        "language": "zh",
        "hotwords": (word for word in ("张三", "北京")),
        "itn": False,
        "context": "about",
        "timestamps": False,
        "fallback": "ctc",
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "seed": 3,
        "vad": "silero",
        "max_segment_s": 20.0,
        "silence_schedule": [(5000, 1500), (math.inf, 300)],
        "batch_size": 3,
        "limits": AudioLimits(max_bytes=5),
    }
    options = transcribe_options(**asked)
    expected = asked | {"hotwords": ("张三", "北京"), "silence_schedule": ((5000, 1500), (math.inf, 300))}
    assert {name: found(name, options) for name in asked} == expected
    assert not transcribe_options(check=False).check
    assert transcribe_options(dynamic_silence=False).segmentation.silence_schedule == FIXED_SCHEDULE


def test_what_the_peers_pass_for_nothing_is_nothing() -> None:
    assert transcribe_options(hotwords=None, language="", context=None) == transcribe_options()
    assert transcribe_options(hotwords=[], language=None, context="") == transcribe_options()


@pytest.mark.parametrize("make", [transcribe_options, session_options])
def test_an_unknown_option_names_the_nearest(make: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown argument 'hotword' \(did you mean 'hotwords'\?\); known: .*context"
    ):
        make(hotword=["x"])


def test_live_audio_has_no_options_for_files() -> None:
    with pytest.raises(ConfigError, match="unknown argument 'batch_size'"):
        session_options(batch_size=3)  # type: ignore[call-arg]


ODD: dict[
    str, list[Any]
] = {  # what an option refuses, of the values that stand for nothing and of those of other kinds
    "language": [[], (), ["zh"], 7, b"zh"],
    "hotwords": ["张三", b"x", 7, ["a", ""], ["a", None]],
    "itn": [None, "", "yes", 2, []],
    "context": [[], 7],
    "timestamps": [None, "", 2],
    "check": [None, ""],
    "fallback": ["", "CTC", []],
    "max_new_tokens": [None, "", 0, 1.5, True, [], "512"],
    "temperature": [None, "", -1, math.nan, True, []],
    "top_p": [None, 0, ""],
    "repetition_penalty": [None, 0, ""],
    "seed": ["", 1.5, []],
    "vad": ["", [], (), 7, "nowhere"],
    "max_segment_s": ["", 1, [], math.nan],
    "silence_schedule": ["", [], 7, [1], [(1, 2, 3)], [(5000, 1500)]],
    "dynamic_silence": [None, ""],
    "batch_size": [None, "", 0, 2.5],
    "limits": [None, "", {}],
    "channels": [None, "", "left", -1, 0.5, True, []],
    "salvage": [None, "", "yes", 2],
    "speakers": [None, "", "yes", 2],
    "num_speakers": ["", 0, 1.5, True, []],
    "min_speakers": ["", 0, 1.5, True, 21.0],
    "max_speakers": ["", 0, 1.5, True, []],
    "known_speakers": ["", [], ["Ana"], {"": b"x"}, {7: b"x"}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_what_an_option_cannot_be_is_an_error_that_names_it(name: str, value: Any) -> None:
    others = {"speakers": True} if name in SpeakerOptions.__annotations__ else {}
    with pytest.raises(ConfigError, match=name.rstrip("s")):
        transcribe_options(**others | {name: value})


def test_the_table_of_odd_values_has_every_option() -> None:
    assert ODD.keys() == GenerateOptions.__annotations__.keys()
