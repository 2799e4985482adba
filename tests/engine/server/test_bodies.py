"""What the body of a request may cost: its values, and its bytes as they come."""

import asyncio
import math

import pytest
import requests
from starlette.datastructures import Headers

from tests.engine.server.conftest import Running
from twostage_asr.engine.server.bodies import Body, Complexity, is_form, require_few_values
from twostage_asr.engine.server.budget import Budget
from twostage_asr.engine.server.failures import Refusal
from twostage_asr.engine.server.ledger import Ledger
from twostage_asr.engine.server.settings import ServerSettings


def test_values_are_counted_over_all_parts_of_a_body() -> None:
    body = Complexity(4)
    body.add(b"[1,2,")
    body.add(b"3]")
    body.add(b"{")
    with pytest.raises(Refusal, match="5 values and 0 escapes, or more; at most 4 and 256 are taken") as refused:
        body.add(b"&")
    assert (refused.value.status_code, refused.value.code) == (413, "body_too_complex")


def test_64_escapes_count_as_a_value() -> None:
    require_few_values(b"\\" * 128, 2)
    with pytest.raises(Refusal, match="0 values and 129 escapes"):
        require_few_values(b"\\" * 129, 2)


def test_a_form_of_files_is_not_counted() -> None:
    Complexity(math.inf).add(b"," * 1_000)


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "Multipart/Form-Data;boundary=x"])
def test_the_kind_of_a_body_may_have_capital_letters(kind: str) -> None:
    assert is_form(Headers({"content-type": kind})) and not is_form(Headers({"content-type": "application/json"}))


def test_bytes_are_counted_as_they_come_whatever_their_header_says() -> None:
    body = Body(ServerSettings(max_json_bytes=10), Budget("upload_bytes", 100, Ledger()), is_form=False)
    sent = {"type": "http.request", "body": b"x" * 6}

    async def receive() -> dict[str, object]:
        return sent

    async def twice() -> None:
        assert await body.receive(receive) is sent
        with pytest.raises(Refusal, match="the body has 12 bytes or more, at most 10 are allowed") as refused:
            await body.receive(receive)
        assert (refused.value.status_code, refused.value.code) == (413, "body_too_large")

    asyncio.run(twice())


@pytest.mark.parametrize("part", [b"x" * 20, b"," * 8])
def test_audio_without_a_form_is_told_how_it_is_taken(part: bytes) -> None:
    settings = ServerSettings(max_json_bytes=10, max_json_values=2)
    body = Body(settings, Budget("upload_bytes", 99, Ledger()), is_form=False)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": part}

    with pytest.raises(Refusal, match=r"; audio comes as a part of a form, .* up to 268,435,456 bytes"):
        asyncio.run(body.receive(receive))


def test_a_file_that_is_put_is_told_how_it_is_taken(faked: Running) -> None:
    for method, path, status, message in (
        ("PUT", "/v1/audio/transcriptions", 405, "PUT is not allowed at /v1/audio/transcriptions, but POST; audio"),
        ("PUT", "/health", 405, "PUT is not allowed at /health, but GET"),
        ("POST", "/v1/audio/transcribe", 404, "this server has nothing at /v1/audio/transcribe"),
    ):
        answer = requests.request(method, faked.http + path, data=bytes(1_000_000), timeout=20)
        assert answer.status_code == status
        assert answer.json()["error"]["message"].startswith(message)
