"""OpenAI's API with OpenAI's own client."""

import base64
import math
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pysubs2
import pytest
import requests

from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import plain, wav, waveform
from tests.pipeline import Clip
from twostage_asr.engine import Transcript
from twostage_asr.engine.server.chat import ChatForm, ChatRequest, Message

TAGS: dict[str | None, Any] = {"中文": "zh-TW", "英文": "en_US"}  # as clients write the languages of the clips


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def clip(clips: list[Clip]) -> Clip:
    return plain(clips)[1]


def test_every_clip_has_its_text(client: openai.OpenAI, clips: list[Clip]) -> None:
    for clip in plain(clips):
        done = client.audio.transcriptions.create(
            model="fun-asr-nano", file=("a.wav", wav(clip)), language=TAGS.get(clip["language"], openai.omit)
        )
        assert done.text == clip["text"]
        assert done.usage is not None and done.usage.type == "duration"
        assert done.usage.seconds == math.ceil(len(waveform(clip)) / 16_000)


def test_verbose_json_has_segments_and_words_in_order(client: openai.OpenAI, clip: Clip) -> None:
    done = client.audio.transcriptions.create(
        model="x",
        file=("a.wav", wav(clip)),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert (done.text, done.duration) == (clip["text"], pytest.approx(len(waveform(clip)) / 16_000))
    assert done.words is not None and done.segments is not None
    assert [word.word for word in done.words] == re.findall(r"\w+", clip["text"])
    times = [time for word in done.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= done.duration
    (segment,) = done.segments
    assert (segment.id, segment.text) == (0, clip["text"])
    assert segment.start <= times[0] and times[-1] <= segment.end
    assert -1 < segment.avg_logprob <= 0
    only_segments = client.audio.transcriptions.create(
        model="x", file=("a.wav", wav(clip)), response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert only_segments.words is None and only_segments.segments is not None


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_are_read_back(client: openai.OpenAI, clip: Clip, form: str) -> None:
    written = client.audio.transcriptions.create(model="x", file=("a.wav", wav(clip)), response_format=form)  # type: ignore[call-overload]
    cues = pysubs2.SSAFile.from_string(str(written), format_=form)
    assert " ".join(cue.plaintext.replace("\n", " ") for cue in cues) == clip["text"]
    shape: dict[str, Any] = {"max_line_width": 12, "max_lines": 1, "max_words_per_cue": 2, "highlight_words": True}
    written = client.audio.transcriptions.create(
        model="x", file=("a.wav", wav(clip)), response_format=form, extra_body=shape
    )  # type: ignore[call-overload]
    shown = re.sub(r"<\d[^>]*>", "", str(written))
    assert shown.count("<c>" if form == "vtt" else "<u>") == len(clip["text"].split())
    with pytest.raises(openai.BadRequestError, match="max_lines"):
        client.audio.transcriptions.create(model="x", file=("a.wav", wav(clip)), extra_body={"max_lines": 0})


def test_text_is_the_text_alone(client: openai.OpenAI, clip: Clip) -> None:
    written = client.audio.transcriptions.create(model="x", file=("a.wav", wav(clip)), response_format="text")
    assert str(written) == clip["text"]


def test_streamed_deltas_together_are_the_text(client: openai.OpenAI, clips: list[Clip]) -> None:
    for clip in plain(clips)[:6]:
        events = list(client.audio.transcriptions.create(model="x", file=("a.wav", wav(clip)), stream=True))
        *deltas, done = events
        assert len(deltas) > 1
        assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == clip["text"]
        assert done.type == "transcript.text.done" and done.text == clip["text"]


def test_log_probabilities_of_the_tokens(client: openai.OpenAI, clip: Clip) -> None:
    done = client.audio.transcriptions.create(model="x", file=("a.wav", wav(clip)), include=["logprobs"])
    assert done.logprobs is not None
    assert "".join(token.token or "" for token in done.logprobs) == clip["text"]
    assert all(token.logprob is not None and -5 < token.logprob <= 0 for token in done.logprobs)
    assert client.audio.transcriptions.create(model="x", file=("a.wav", wav(clip))).logprobs is None


@pytest.mark.parametrize("how", ["keywords", "prompt", "hotwords"])
def test_hotwords_change_the_spelling(client: openai.OpenAI, clips: list[Clip], how: str) -> None:
    clip = next(c for c in clips if c["hotwords"] == ["颜峰"])
    spelling = {
        "keywords": {"keywords": clip["hotwords"]},
        "prompt": {"prompt": "北京，颜峰"},
        "hotwords": {"extra_body": {"hotwords": "颜峰"}},
    }[how]
    done = client.audio.transcriptions.create(model="x", file=("a.wav", wav(clip)), **spelling)  # type: ignore[call-overload]
    assert done.text == clip["text"]


def test_chat_messages_with_audio(client: openai.OpenAI, clip: Clip) -> None:
    content = base64.b64encode(wav(clip)).decode()
    parts = [
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{content}"}},
        {"type": "input_audio", "input_audio": {"data": content, "format": "wav"}},
    ]
    for part in parts:
        messages = [{"role": "user", "content": [part]}]
        done = client.chat.completions.create(model="x", messages=messages)  # type: ignore[call-overload]
        assert done.choices[0].message.content == clip["text"]
        assert done.choices[0].finish_reason == "stop"
        chunks = client.chat.completions.create(model="x", messages=messages, stream=True)  # type: ignore[call-overload]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == clip["text"]


def test_what_cannot_be_done_is_an_error_of_openais_schema(client: openai.OpenAI, clip: Clip) -> None:
    file = ("a.wav", wav(clip))
    with pytest.raises(openai.BadRequestError, match="does not translate") as translation:
        client.audio.translations.create(model="x", file=file)
    assert (translation.value.code, translation.value.type) == ("unsupported_task", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="'Klingon' is unknown"):
        client.audio.transcriptions.create(model="x", file=file, language="Klingon")
    with pytest.raises(openai.BadRequestError, match="not audio that can be read here") as garbage:
        client.audio.transcriptions.create(model="x", file=("a.wav", b"RIFFgarbage"))
    assert garbage.value.code == "unsupported_audio"
    with pytest.raises(openai.BadRequestError, match="response_format") as streamed:
        client.audio.transcriptions.create(model="x", file=file, response_format="verbose_json", stream=True)
    assert streamed.value.param == "response_format"
    with pytest.raises(openai.BadRequestError, match="fetching URLs is off"):
        url = {"type": "audio_url", "audio_url": {"url": "http://127.0.0.1:1/secret.wav"}}
        client.chat.completions.create(model="x", messages=[{"role": "user", "content": [url]}])  # type: ignore[list-item]


def test_models(client: openai.OpenAI, server: Running) -> None:
    (model,) = client.models.list()
    assert model.id == server.recognizer.settings.model_name
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_answers_name_their_request(server: Running) -> None:
    ours = requests.get(f"{server.http}/v1/models", headers={"X-Request-ID": "abc-1"}, timeout=60)
    assert ours.headers["x-request-id"] == "abc-1"
    forged = requests.get(f"{server.http}/v1/models", headers={"X-Request-ID": "a b\tc" * 100}, timeout=60)
    assert re.fullmatch(r"[0-9a-f]{32}", forged.headers["x-request-id"])


def test_qwens_chat_answers_name_the_language() -> None:
    """As its users parse them."""
    recognizer: Any = SimpleNamespace(settings=SimpleNamespace(model_name="m"), family="qwen3_asr")
    body = ChatRequest(messages=[Message(role="user")])
    form = ChatForm(recognizer, body, num_prompt_tokens=3, has_text=False)
    answer = form.whole(Transcript("a", text="Hi.", language="English"))
    assert answer["choices"][0]["message"]["content"] == "language English<asr_text>Hi."
