"""A Qwen3-ASR behind the server: the language that it hears is answered, and the context that it is given is read."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import openai
import pytest
import requests

from tests import tiny_models
from tests.audio_clips import encode
from tests.engine.server.conftest import running
from tests.tones import SAMPLE_RATE, clip
from twostage_asr.engine import AutoModelVLLM
from twostage_asr.engine.families.base import Request
from twostage_asr.engine.families.qwen3_asr import Qwen3ASR, parse_asr_output
from twostage_asr.engine.text import LLMTokenizer

CLIPS = [clip(1.0, 0), clip(2.5, 1)]
SAID = [("English", "hello"), ("Chinese", "好")]
CONTEXT = "A call about Qwen."


@dataclass(frozen=True)
class Served:
    client: openai.OpenAI
    with_context: str  # what the model writes offline of the first clip when it has the context


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A tiny model that has learned what is said in the clips, unless it is told what they are about."""
    directory = tmp_path_factory.mktemp("qwen3_asr")
    reference = tiny_models.qwen3_asr(directory)
    prompt, tokenizer = Qwen3ASR().prompt_text(Request()), LLMTokenizer(directory)
    answers = [tokenizer.encode(f"language {language}<asr_text>{text}<|im_end|>") for language, text in SAID]
    reference.fitted(CLIPS, answers, (tokenizer.encode(prompt.prefix), tokenizer.encode(prompt.suffix)))
    with AutoModelVLLM(directory, backend="torch", dtype="fp32", encoder_dtype="fp32") as model:
        (offline,) = model.generate([(CLIPS[0], SAMPLE_RATE)], context=CONTEXT, max_new_tokens=40)
        assert offline.text != SAID[0][1]
        with (
            running(model, max_new_tokens=40) as server,
            openai.OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client,
        ):
            yield Served(client, offline.text)


def wav(samples: np.ndarray) -> bytes:
    return encode(samples, SAMPLE_RATE, "WAV", "FLOAT")


def ask(client: openai.OpenAI, samples: np.ndarray, system: str = "") -> str:
    """What its users send to their own server."""
    url = f"data:audio/wav;base64,{base64.b64encode(wav(samples)).decode()}"
    audio = {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": url}}]}
    messages = [{"role": "system", "content": system}, audio]
    done = client.chat.completions.create(model="x", messages=messages)  # type: ignore[arg-type]
    assert not done.model_extra or not [w for w in done.model_extra["warnings"] if w["code"] == "text_not_used"]
    return done.choices[0].message.content or ""


@pytest.mark.parametrize("number", range(len(CLIPS)))
def test_the_language_that_is_heard_is_answered(served: Served, number: int) -> None:
    assert parse_asr_output(ask(served.client, CLIPS[number])) == SAID[number]
    file = ("a.wav", wav(CLIPS[number]))
    done = served.client.audio.transcriptions.create(model="x", file=file, response_format="verbose_json")
    assert (done.language, done.text) == SAID[number]
    url = f"{str(served.client.base_url).removesuffix('/v1/')}/detect-language"
    found = requests.post(url, files={"audio_file": wav(CLIPS[number])}, timeout=60).json()
    code, name = [("en", "english"), ("zh", "chinese")][number]
    assert found == {"detected_language": name, "language_code": code, "confidence": None}


def test_the_context_is_read(served: Served) -> None:
    assert parse_asr_output(ask(served.client, CLIPS[0], system=CONTEXT))[1] == served.with_context
    done = served.client.audio.transcriptions.create(model="x", file=("a.wav", wav(CLIPS[0])), prompt=CONTEXT)
    assert done.text == served.with_context


def test_a_language_that_is_asked_for_is_answered(served: Served) -> None:
    file = ("a.wav", wav(CLIPS[0]))
    done = served.client.audio.transcriptions.create(
        model="x", file=file, language="fr", response_format="verbose_json"
    )
    assert done.language == "French"
