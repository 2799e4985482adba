"""/docs can be used: files can be chosen, errors are those that come, and each example is what the server answers."""

import json
from typing import Any

import pytest
import requests

from tests.engine.server.conftest import Running
from tests.engine.server.requests_of_clients import FAKE_BASE64, FAKE_WAV
from twostage_asr.engine.server.app import create_app
from twostage_asr.engine.server.openapi import EXAMPLES, FORM, JSON, LINES, Example

PARTS = {"/asr/predict": "audio", "/asr/stream-predict": "audio", "/detect-language": "audio_file"}
WITHOUT_EXAMPLE = {"/metrics", "/v1/audio/translations"}  # a page of counters; a refusal


@pytest.fixture(scope="module")
def described(faked: Running) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{faked.http}/openapi.json", timeout=60).json()
    return found


def send(server: Running, path: str, example: Example) -> requests.Response:
    """The example's request, with a clip and this server's model."""
    model = requests.get(f"{server.http}/v1/models", timeout=60).json()["data"][0]["id"]
    url = server.http + path.replace("{model}", model)
    if example.request is None:
        return requests.get(url, timeout=60)
    if "messages" in example.request:
        return requests.post(
            url, json=json.loads(json.dumps(example.request).replace("BASE64", FAKE_BASE64)), timeout=60
        )
    files = {PARTS.get(path, "file"): ("a.wav", FAKE_WAV)}
    return requests.post(url, files=files, data=dict(example.request), timeout=60)


def shape(value: Any) -> Any:
    """Names of fields, and the first entry of each list; values do not count."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_is_what_the_server_answers(faked: Running, path: str) -> None:
    example = EXAMPLES[path]
    answer = send(faked, path, example)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith(example.media_type)
    if example.media_type == JSON:
        assert shape(answer.json()) == shape(example.answer)
    elif example.media_type == LINES:
        last, shown = (shape(json.loads(text.splitlines()[-1])) for text in (answer.text, example.answer))
        assert last == shown
    else:
        assert len(answer.text.splitlines()) == len(example.answer.splitlines())


def test_every_route_has_an_example(described: dict[str, Any]) -> None:
    assert set(described["paths"]) == set(EXAMPLES) | WITHOUT_EXAMPLE
    for path, example in EXAMPLES.items():
        (operation,) = described["paths"][path].values()
        assert operation["responses"]["200"]["content"][example.media_type]["example"] == example.answer


def test_forms_with_files_are_multipart_and_have_a_place_for_the_file(described: dict[str, Any]) -> None:
    for operation in (each for path in described["paths"].values() for each in path.values()):
        for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
            name = body["schema"]["$ref"].rpartition("/")[2]
            fields = described["components"]["schemas"][name]["properties"].values()
            has_file = any(field.get("format") == "binary" for field in fields)
            assert has_file == (media_type == FORM)
            assert not has_file or next(iter(fields)).get("format") == "binary"  # where it is seen first


def test_wrong_requests_are_described_as_they_are_answered(faked: Running, described: dict[str, Any]) -> None:
    operation = described["paths"]["/v1/audio/transcriptions"]["post"]
    assert "422" not in operation["responses"] and "ValidationError" not in json.dumps(described)
    files = {"file": ("a.wav", FAKE_WAV)}
    url = f"{faked.http}/v1/audio/transcriptions"
    answer = requests.post(url, files=files, data={"response_format": "xml"}, timeout=60)
    assert answer.status_code == 400
    assert shape(answer.json()) == shape(operation["responses"]["400"]["content"][JSON]["example"])


def test_a_server_of_live_audio_alone_describes_what_it_has(faked: Running) -> None:
    paths = create_app(faked.recognizer, offline=False).openapi()["paths"]
    assert set(paths) == {"/health", "/ready", "/metrics"}


def test_fields_that_a_web_form_leaves_empty_are_not_there(faked: Running) -> None:
    """As /docs sends them."""
    empty = {
        "url": "",
        "seed": "",
        "languages": "",
        "timestamp_granularities[]": "",
        "response_format": "",
        "num_speakers": "",
    }
    answer = requests.post(
        f"{faked.http}/v1/audio/transcriptions", files={"file": ("a.wav", FAKE_WAV)}, data=empty, timeout=60
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == "clip 7."
