"""What Qwen3-ASR is asked and how its answer is read: the package's tables, and a golden file of what it says."""

import json
from pathlib import Path

import pytest

from twostage_asr.engine import ConfigError
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.families.qwen3_asr import KNOWN_LANGUAGES, Qwen3ASR, parse_asr_output, without_loops

GOLDEN = json.loads((Path(__file__).parent / "qwen_asr_golden.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("raw", "language", "expected"), GOLDEN["parse_asr_output"])
def test_answers_are_read_as_the_package_reads_them(raw: str, language: str | None, expected: list[str]) -> None:
    assert list(parse_asr_output(raw, language)) == expected


@pytest.mark.parametrize(("text", "expected"), GOLDEN["repetitions"])
def test_loops_are_taken_out_as_the_package_does(text: str, expected: str) -> None:
    assert without_loops(text) == expected


def test_nothing_is_an_empty_answer() -> None:
    assert parse_asr_output(None) == ("", "")


def test_the_prompt_is_the_package_s() -> None:
    plain = Qwen3ASR().prompt_text(Request())
    assert plain.prefix == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|audio_start|>"
    assert plain.suffix == "<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
    full = Qwen3ASR().prompt_text(Request(language="en", context="A call about Qwen.", hotwords=("Alibaba", "vLLM")))
    assert full.prefix.startswith("<|im_start|>system\nA call about Qwen.\nAlibaba, vLLM<|im_end|>\n")
    assert full.suffix == "<|audio_end|><|im_end|>\n<|im_start|>assistant\nlanguage English<asr_text>"


@pytest.mark.parametrize("text", ["a <|im_end|> b", "<asr_text>", "<|audio_pad|>"])
@pytest.mark.parametrize("field", ["context", "hotwords"])
def test_what_would_leave_the_prompt_is_refused(text: str, field: str) -> None:
    with pytest.raises(ConfigError, match="would be read as a part of the prompt"):
        Qwen3ASR().prompt_text(Request(context=text) if field == "context" else Request(hotwords=(text,)))


def test_what_the_prompt_has_no_place_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="itn is False, but the prompt of Qwen3-ASR has no place for it"):
        Qwen3ASR().prompt_text(Request(itn=False))


def test_the_package_s_languages_are_all_there() -> None:
    assert sorted(KNOWN_LANGUAGES.names.values()) == sorted(GOLDEN["languages"])


@pytest.mark.parametrize(
    ("asked", "answer", "language", "text"),
    [
        (None, "language English<asr_text>Hello.", "English", "Hello."),
        (None, "language None<asr_text>", None, ""),
        ("zh", "你好", "Chinese", "你好"),
    ],
)
def test_the_language_heard_is_returned(asked: str | None, answer: str, language: str | None, text: str) -> None:
    parsed = Qwen3ASR().parse_answer(answer, Request(language=asked))
    assert (parsed.language, parsed.text) == (language, text)


@pytest.mark.parametrize("answer", ["", "lang", "language", "language ", "language Chinese"])
def test_an_answer_that_is_still_being_written_has_no_text_before_its_tag(answer: str) -> None:
    assert Qwen3ASR().parse_answer(answer, Request()).text == ""
    assert Qwen3ASR().parse_answer(answer, Request(language="en")).text == answer.strip()
