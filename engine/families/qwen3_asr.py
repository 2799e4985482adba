"""Qwen3-ASR: windowed audio tower, Qwen3 LLM, and an answer that names the detected language.

An answer reads `language English<asr_text>Hello.` If the request gives the language, the prompt ends with the first
half, and the answer is the text alone. Both forms, and the removal of repetitions from them, follow the qwen-asr
package 0.0.6.
"""

import re

from ...encoders.qwen3_asr import Qwen3ASRTower, Qwen3ASRTowerConfig
from ..checks import check_arguments
from ..errors import ConfigError
from ..prompt import PromptText
from .base import Answer, Request
from .languages import LANGUAGES, KnownLanguages
from .towers import TowerFamily

TEXT_TAG = "<asr_text>"  # between the language and the text
KNOWN_LANGUAGES = KnownLanguages(
    {
        code: LANGUAGES[code].english
        for code in (
            *("zh", "en", "yue", "ar", "de", "fr", "es", "pt", "id", "it", "ko", "ru", "th", "vi", "ja", "tr", "hi"),
            *("ms", "nl", "sv", "da", "fi", "pl", "cs", "fil", "fa", "el", "ro", "hu", "mk"),
        )
    }
)
_LANGUAGE_PREFIX = "language "
_CONTROL = re.compile(r"<\|[^|]*\|>|<asr_text>|<timestamp>")
# The package's rule: a character more than twenty times in a row, or a pattern twenty times, is a loop.
_CHARACTER_LOOP = re.compile(r"(.)\1{20,}", re.DOTALL)
_PATTERN_LOOP = re.compile(r"(?=.{40})(.{1,20}?)\1{19,}", re.DOTALL)


class Qwen3ASR(TowerFamily):
    """The family of Qwen/Qwen3-ASR-0.6B and Qwen/Qwen3-ASR-1.7B."""

    name = "qwen3_asr"
    languages = tuple(KNOWN_LANGUAGES.names)
    best_length_s = 60.0  # an answer to 60 s fits into the default of 512 tokens; the model itself accepts 1200 s
    tower, config, part = Qwen3ASRTower, Qwen3ASRTowerConfig, "tower of Qwen3-ASR"

    def prompt_text(self, request: Request) -> PromptText:
        """Context and hotwords are the system turn. A requested language begins the answer."""
        request.refuse("Qwen3-ASR", "itn")
        language = KNOWN_LANGUAGES.prompt_name(request.language)
        context = "\n".join(part for part in (request.context, ", ".join(request.hotwords)) if part)
        if found := _CONTROL.search(context):
            raise ConfigError(f"context or hotwords hold {found[0]!r}, which would be read as a part of the prompt")
        return PromptText(
            prefix=f"<|im_start|>system\n{context}<|im_end|>\n<|im_start|>user\n<|audio_start|>",
            suffix="<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
            + (f"{_LANGUAGE_PREFIX}{language}{TEXT_TAG}" if language else ""),
        )

    def parse_answer(self, answer: str, request: Request) -> Answer:
        asked = KNOWN_LANGUAGES.prompt_name(request.language)
        if asked is None and _is_unfinished_heading(answer):
            return Answer("", None)
        language, text = parse_asr_output(answer, asked)
        return Answer(text, language or None)


def parse_asr_output(raw: str | None, user_language: str | None = None) -> tuple[str, str]:
    """The model's answer -> (language, text), each "" if there is none.

    Args:
        raw: the decoded answer, including TEXT_TAG.
        user_language: the requested language, if any; then all of `raw` is text.

    Raises:
        ConfigError: an argument is neither a string nor None.
    """
    check_arguments(parse_asr_output, raw=raw, user_language=user_language)
    answer = without_loops((raw or "").strip())
    if not answer:
        return "", ""
    if user_language:
        return user_language, answer
    heading, tag, text = answer.partition(TEXT_TAG)
    if not tag:
        return "", answer
    text = text.strip()
    if "language none" in heading.lower():
        return "", text
    lines = (line.strip() for line in heading.splitlines())
    named = next((line for line in lines if line.lower().startswith(_LANGUAGE_PREFIX)), "")
    return named[len(_LANGUAGE_PREFIX) :].strip().capitalize(), text


def _is_unfinished_heading(answer: str) -> bool:
    """Whether a partial answer ends inside its heading, before any text."""
    written = answer.lstrip().lower()
    begun = written.startswith(_LANGUAGE_PREFIX) and TEXT_TAG not in written and len(written.split()) <= 2
    return _LANGUAGE_PREFIX.startswith(written) or begun


def without_loops(text: str) -> str:
    """Keep one copy of each character that occurs more than 20 times in a row, and of each pattern that does 20 times.

    A pattern has up to 20 characters.
    """
    return _PATTERN_LOOP.sub(r"\1", _CHARACTER_LOOP.sub(r"\1", text))
