"""The OpenAPI description: whatever it allows or forbids, no request is answered with a 5xx or without the schema."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.schemas import BaseSchema

from tests.engine.server.conftest import Running

PATHS = {
    "GET /health",
    "GET /ready",
    "GET /metrics",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "POST /v1/audio/transcriptions",
    "POST /v1/audio/translations",
    "POST /v1/chat/completions",
    "POST /asr",
    "POST /asr/predict",
    "POST /asr/stream-predict",
    "POST /detect-language",
    "POST /inference",
}


@pytest.fixture(scope="module")
def api(server: Running) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{server.http}/openapi.json")


def test_every_path_is_described(api: BaseSchema) -> None:
    assert {operation.ok().label for operation in api.get_all_operations()} == PATHS


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("label", sorted(PATHS))
def test_no_request_makes_the_server_fail(api: BaseSchema, label: str, mode: GenerationMode) -> None:
    (operation,) = [found.ok() for found in api.get_all_operations() if found.ok().label == label]
    if mode is GenerationMode.NEGATIVE and not operation.body:
        return  # there is nothing to be wrong

    @settings(max_examples=20, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        response = case.call()
        case.validate_response(response, checks=[not_a_server_error])
        if response.status_code >= 400:
            assert response.json()["error"].keys() == {"message", "type", "param", "code"}

    check()
