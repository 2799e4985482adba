"""What a session of the Realtime API asks for, in both of its forms, and what comes of it."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from twostage_asr.engine.server.failures import Refusal
from twostage_asr.engine.server.realtime_config import SessionConfig
from twostage_asr.engine.vad import LIVE_RULES, SegmentRules

USUAL = replace(LIVE_RULES, padding_s=0.3, silence_schedule=((5_000.0, 900.0), (inf, 300.0)), threshold=0.4)


def rules(**turn_detection: Any) -> SegmentRules:
    asked = SessionConfig.of({"audio": {"input": {"turn_detection": turn_detection}}}).audio.input.turn_detection
    assert asked is not None
    return asked.rules(USUAL)


@pytest.mark.parametrize(
    ("asked", "silence_ms"),
    [
        ({"silence_duration_ms": 700}, 700),
        ({"type": "semantic_vad", "eagerness": "low"}, 2_000),
        ({"type": "semantic_vad", "eagerness": "high"}, 500),
        ({"type": "semantic_vad", "eagerness": "high", "silence_duration_ms": 900}, 900),
    ],
)
def test_a_turn_ends_after_the_silence_that_is_asked_for(asked: dict[str, Any], silence_ms: float) -> None:
    assert rules(**asked).silence_schedule == ((inf, silence_ms),)
    assert rules(**asked).mid_sentence_ms == 0.0


@pytest.mark.parametrize("asked", [{}, {"eagerness": "auto"}, {"type": "semantic_vad", "eagerness": "medium"}])
def test_what_is_left_out_is_as_in_every_live_session(asked: dict[str, Any]) -> None:
    assert rules(**asked) == USUAL


@pytest.mark.parametrize(("padding_ms", "padding_s"), [(0, 0.0), (250, 0.25), (500, 0.5), (900, 0.5)])
def test_padding_is_in_milliseconds_and_at_most_half_a_second(padding_ms: float, padding_s: float) -> None:
    assert rules(prefix_padding_ms=padding_ms).padding_s == padding_s


def test_the_threshold_is_that_of_the_session() -> None:
    assert rules(threshold=0.7).threshold == 0.7


@pytest.mark.parametrize(
    ("asked", "rate"),
    [
        ({}, 24_000),
        ({"type": "audio/pcm", "rate": 16_000}, 16_000),
        ({"type": "audio/pcmu"}, 8_000),
        ({"type": "audio/pcma", "rate": 16_000}, 8_000),
    ],
)
def test_pcm_has_24_khz_unless_it_says_another_rate_and_g711_has_8(asked: dict[str, Any], rate: int) -> None:
    assert SessionConfig.of({"audio": {"input": {"format": asked}}}).audio.input.format.sample_rate == rate


@pytest.mark.parametrize(
    ("name", "kind"), [("pcm16", "audio/pcm"), ("g711_ulaw", "audio/pcmu"), ("g711_alaw", "audio/pcma")]
)
def test_the_form_of_the_beta_means_the_same(name: str, kind: str) -> None:
    beta = {
        "input_audio_format": name,
        "input_audio_transcription": {"language": "zh"},
        "turn_detection": None,
        "input_audio_noise_reduction": {"type": "near_field"},
        "include": ["item.input_audio_transcription.logprobs"],
    }
    config = SessionConfig.of(beta)
    assert config.audio.input.format.type == kind
    assert config.transcription.language == "zh" and config.audio.input.turn_detection is None
    assert config.wants_logprobs and not config.unknown_keys()


def test_only_keys_that_nobody_knows_are_named() -> None:
    asked = {
        "type": "realtime",
        "voice": "alloy",
        "colour": "red",
        "audio": {"output": {"voice": "alloy"}, "input": {"noise_reduction": None, "gain": 2}},
    }
    config = SessionConfig.of(asked)
    assert config.unknown_keys() == ["session.colour", "session.audio.input.gain"] and not config.wants_logprobs


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ("zh", "session"),
        ({"type": "chat"}, "session.type"),
        ({"input_audio_format": "mp3"}, "session.audio.input.format.type"),
        *(
            ({"audio": {"input": {"format": {"rate": rate}}}}, "session.audio.input.format.rate")
            for rate in (7_999, 48_001)
        ),
        *(
            ({"turn_detection": {key: value}}, f"session.audio.input.turn_detection.{key}")
            for key, value in [
                ("threshold", 0),
                ("threshold", 1),
                ("silence_duration_ms", 0),
                ("prefix_padding_ms", -1),
                ("eagerness", "very"),
            ]
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_place(session: Any, param: str) -> None:
    with pytest.raises(Refusal) as refused:
        SessionConfig.of(session)
    assert (refused.value.status_code, refused.value.code, refused.value.param) == (400, "invalid_value", param)


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_both_ends_of_the_rates_are_taken(rate: int) -> None:
    assert SessionConfig.of({"audio": {"input": {"format": {"rate": rate}}}}).audio.input.format.sample_rate == rate
