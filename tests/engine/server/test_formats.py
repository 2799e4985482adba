"""Numbers and times in the answers of each protocol, and audio in its messages."""

import math

import numpy as np
import pytest

from twostage_asr.engine.server import formats
from twostage_asr.engine.server.pcm import A_LAW, MU_LAW, PCMDecoder, Resampler
from twostage_asr.engine.transcript import Segment, Token, Transcript, Word

WORDS = (Word("你", 0.25, 0.5, 0.9), Word("好", 0.5, 1.2504, 0.9))
SEGMENTS = (Segment(0.25, 1.2504, "你好", WORDS, 0.5), Segment(2.0, 3.0, "a", None, None, channel=1))
SPOKEN = Transcript("k", "你好 a", "中文", WORDS, SEGMENTS, duration=3.2004, confidence=0.5)


def test_seconds_that_are_paid_for_are_rounded_up() -> None:
    assert formats.usage(SPOKEN) == {"type": "duration", "seconds": 4}
    assert formats.usage(Transcript("k", duration=3.0))["seconds"] == 3


def test_funasr_has_seconds_in_an_answer_and_milliseconds_in_a_session() -> None:
    answer = formats.funasr(SPOKEN, with_words=True, wall_s=0.16002)
    assert (answer["duration"], answer["processing_time"], answer["rtf"]) == (3.2, 0.16, 0.05)
    assert answer["segments"][0]["words"][1] == {"word": "好", "start": 0.5, "end": 1.2504}
    assert answer["segments"][1] == {"text": "a", "start": 2.0, "end": 3.0, "channel": 1, "words": []}
    assert "words" not in formats.funasr(SPOKEN, with_words=False, wall_s=1.0)["segments"][0]
    assert formats.sentences(SPOKEN, offset_ms=1_000) == [
        {"text": "你好", "start": 1_250, "end": 2_250},
        {"text": "a", "start": 3_000, "end": 4_000},
    ]


def test_openais_segments_are_numbered_and_say_how_sure_they_are() -> None:
    answer = formats.verbose(SPOKEN, with_words=False, temperature=0.2)
    first, second = answer["segments"]
    assert (first["id"], first["avg_logprob"], first["temperature"]) == (0, round(math.log(0.5), 4), 0.2)
    assert (second["id"], second["avg_logprob"], second["channel"]) == (1, None, 1)
    assert "words" not in answer and "channel" not in first and answer["language"] == "中文"
    assert formats.verbose(Transcript("k"), with_words=True, temperature=0.0)["words"] == []


def test_log_probabilities_are_given_where_they_are_known() -> None:
    assert "logprobs" not in formats.plain(SPOKEN)
    answer = formats.plain(Transcript("k", "é", tokens=(Token("é", -0.5),)))
    assert answer["logprobs"] == [{"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]}]


# --- audio


@pytest.mark.parametrize(
    ("table", "values"),
    [  # ITU-T G.711: codes and what they stand for, of 16 bits
        (MU_LAW, {0x00: -32124, 0x80: 32124, 0x0F: -16764, 0x70: -120, 0xEF: 132, 0xFE: 8, 0x7F: 0, 0xFF: 0}),
        (A_LAW, {0x2A: -32256, 0xAA: 32256, 0x55: -8, 0xD5: 8, 0x85: 264 * 16, 0xC5: 264, 0x25: -264 * 64}),
    ],
)
def test_g711(table: np.ndarray, values: dict[int, int]) -> None:
    assert {code: round(float(table[code]) * 32768) for code in values} == values


def test_pcm_is_a_share_of_full_scale() -> None:
    decoder = PCMDecoder()
    assert decoder.decode(b"\x00\x80\xff\x7f\x00").tolist() == [-1.0, 32767 / 32768]
    assert decoder.decode(b"\x40").tolist() == [0.5]


def test_samples_of_other_rates_keep_their_length() -> None:
    for rate in (8_000, 16_000, 24_000):
        resampler = Resampler(rate)
        length = len(resampler.push(np.zeros(rate, np.float32))) + len(resampler.finish())
        assert length == pytest.approx(16_000, abs=1)
