"""Who may do what: keys, quotas, names, pages and prompts, by those who want more than they may have."""

import asyncio
import contextlib
import http.client
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import websockets

from tests.audio_clips import encode
from tests.engine.server.conftest import Running, running
from tests.fake_model import fake_transcriber, samples
from tests.processes import wait_until
from twostage_asr.engine.audio.readers import AudioReaders
from twostage_asr.engine.cli import main
from twostage_asr.engine.errors import ConfigError
from twostage_asr.engine.server import api_keys, process
from twostage_asr.engine.server.api_keys import ApiKeys
from twostage_asr.engine.server.failures import Refusal
from twostage_asr.engine.server.ledger import Ledger
from twostage_asr.engine.server.process import Address
from twostage_asr.engine.server.quotas import Quota, client_of
from twostage_asr.engine.server.settings import ServerSettings

WAV = encode(samples(7), 16_000, "WAV", "PCM_16")
LONG = "x" * 20_000
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a server over a model of rules; several may run at once."""
    directory = tmp_path_factory.mktemp("model")
    readers = AudioReaders(2)

    def start(*arguments: Any, **settings: Any) -> contextlib.AbstractContextManager[Running]:
        transcriber = fake_transcriber(directory, readers=readers)
        return running(SimpleNamespace(transcriber=transcriber), *arguments, **settings)

    yield start
    readers.close()


@pytest.fixture(scope="module")
def plain(run: Start) -> Iterator[Running]:
    with run() as server:
        yield server


def transcribe(server: Running, **changes: Any) -> requests.Response:
    url = f"{server.http}/v1/audio/transcriptions"
    return requests.post(url, **{"files": {"file": ("a.wav", WAV)}, "timeout": 60, **changes})


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def bearer(key: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {key}"}}


def connect(server: Running, path: str = "/", **options: Any) -> websockets.connect:
    return websockets.connect(server.ws + path, **options)


def refusal_of(server: Running, **options: Any) -> int:
    """The status with which a WebSocket is refused; 101 if it is not."""

    async def attempt() -> int:
        try:
            async with connect(server, **options):
                return 101
        except websockets.InvalidStatus as refused:
            return refused.response.status_code

    return asyncio.run(attempt())


# Prompts


@pytest.mark.parametrize("field", ["hotwords", "prompt", "keywords[]", "language"])
def test_a_long_prompt_in_a_form_is_refused(plain: Running, field: str) -> None:
    answer = transcribe(plain, data={field: LONG})
    assert code(answer) == (400, "prompt_too_long") and "at most 16,384 are allowed" in answer.text


@pytest.mark.parametrize("takes_context", [True, False])
def test_a_long_prompt_is_refused_by_the_other_posts(
    plain: Running, monkeypatch: pytest.MonkeyPatch, takes_context: bool
) -> None:
    monkeypatch.setattr(plain.recognizer, "takes_context", takes_context)
    answer = requests.post(f"{plain.http}/asr", files={"file": WAV}, data={"hotwords": LONG}, timeout=60)
    assert code(answer) == (400, "prompt_too_long")
    body = {"messages": [{"role": "user", "content": LONG}, {"role": "user", "content": [AUDIO]}]}
    assert code(requests.post(f"{plain.http}/v1/chat/completions", json=body, timeout=60)) == (400, "prompt_too_long")


AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


@pytest.mark.parametrize("path", ["/", "/ws"])
@pytest.mark.parametrize("command", ["HOTWORDS", "LANGUAGE", "NONSENSE"])
def test_a_long_command_is_refused_and_the_session_goes_on(plain: Running, path: str, command: str) -> None:
    async def talk() -> None:
        async with connect(plain, path) as session:
            await session.send(f"{command}:{'a,' * (4 << 20)}")
            answer = json.loads(await session.recv())
            assert (answer["event"], answer["code"]) == ("error", "prompt_too_long") and len(answer["error"]) < 200
            await session.send("START")
            assert json.loads(await session.recv()) == {"event": "started"}

    asyncio.run(talk())


@pytest.mark.parametrize("field", [{"prompt": LONG}, {"keywords": ["word"] * 9_000}, {"language": LONG}])
def test_a_long_prompt_in_a_session_is_refused(plain: Running, field: dict[str, Any]) -> None:
    async def talk() -> None:
        async with connect(plain, "/v1/realtime") as session:
            await session.recv()
            config = {"type": "transcription", "audio": {"input": {"transcription": field}}}
            await session.send(json.dumps({"type": "session.update", "session": config}))
            assert json.loads(await session.recv())["error"]["code"] == "prompt_too_long"
            await session.send(json.dumps({"type": "input_audio_buffer.clear"}))
            assert json.loads(await session.recv())["type"] == "input_audio_buffer.cleared"

    asyncio.run(talk())


def test_nothing_is_read_of_the_audio_of_a_long_prompt(plain: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain.recognizer, "read", None)
    assert code(transcribe(plain, data={"hotwords": LONG})) == (400, "prompt_too_long")


# Keys


def test_names_stand_in_the_log_and_keys_do_not(run: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with run(api_keys=("lab:alpha-secret", "beta-secret")) as server:
        assert transcribe(server, **bearer("alpha-secret")).status_code == 200
        assert transcribe(server, **bearer("beta-secret")).status_code == 200
        assert code(transcribe(server, **bearer("lab:alpha-secret"))) == (401, "invalid_api_key")
    lines = [record.__dict__["fields"] for record in caplog.records if record.message == "request"]
    assert [line["key"] for line in lines[-3:]] == ["lab", "key-2", None]
    assert "secret" not in str([record.__dict__ for record in caplog.records])


def test_keys_need_not_be_ascii(run: Start) -> None:
    with run(api_keys=("schlüssel", "密钥", "Ā")) as server:  # U+0100 is the first that Latin-1 does not have
        for key in ("schlüssel".encode(), "schlüssel".encode("latin-1"), "密钥".encode()):
            assert transcribe(server, headers={"Authorization": b"Bearer " + key}).status_code == 200
        assert code(transcribe(server, headers={"Authorization": b"Bearer schl"})) == (401, "invalid_api_key")


def test_a_key_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "RECHECK_S", 0.0)
    path = tmp_path / "keys"
    path.write_text("old\n")
    keys = ApiKeys((), path)
    path.write_text("lab:newer\n\nlab:newest\n")
    assert [keys.name_of(key) for key in ("old", "newer", "newest", "", None)] == [None, "lab", "lab", None, None]
    for broken in (lambda: path.write_text("  \n"), lambda: path.write_text("lab:\n"), path.unlink):
        broken()
        assert keys.name_of("newer") == "lab"


def test_a_key_file_is_looked_at_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    path.write_text("old\n")
    keys = ApiKeys((), path)
    monkeypatch.setattr(api_keys, "_version", None)  # cannot be called
    assert keys.name_of("old") == "key-1"


@pytest.mark.parametrize("content", ["", " \n\n", "lab:\n"])
def test_a_key_file_without_keys_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"holds no API key|is empty"):
        ServerSettings(api_key_file=path)
    with pytest.raises(ConfigError, match="cannot be read"):
        ServerSettings(api_key_file=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("command", "variable", "message"),
    [
        ("--host 0.0.0.0", None, "whoever reaches 0.0.0.0 could use this server"),
        ("--host 192.0.2.1", None, "whoever reaches 192.0.2.1"),
        ("--host ::", None, "whoever reaches ::"),
        ("", "", "TWOSTAGE_ASR_API_KEYS is set but holds no key"),
        ("--no-auth", " ", "TWOSTAGE_ASR_API_KEYS is set but holds no key"),
        ("--no-auth", "secret", "--no-auth with API keys"),
        ("--api-key-file {empty}", None, "holds no API key"),
        ("--host 0.0.0.0 --no-auth --cors-origin friend.example", None, "a web page's origin is"),
        ("--host 0.0.0.0 --no-auth", None, "nowhere"),
        ("--host 0.0.0.0", "secret", "nowhere"),
        ("--host ::1", None, "nowhere"),
    ],
)
def test_what_a_server_is_started_with(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    variable: str | None,
    message: str,
) -> None:
    """The last three are refused for their model alone."""
    monkeypatch.delenv("TWOSTAGE_ASR_API_KEYS", raising=False)
    monkeypatch.setattr(process, "set_up_log", lambda level: None)
    monkeypatch.setattr(process, "bind", lambda address: [])
    if variable is not None:
        monkeypatch.setenv("TWOSTAGE_ASR_API_KEYS", variable)
    (tmp_path / "empty").touch()
    arguments = command.format(empty=tmp_path / "empty").split()
    assert main(["serve", "--model", str(tmp_path / "nowhere"), *arguments]) == 1
    said = capsys.readouterr().err
    assert message in said and "secret" not in said


# Quotas


def stalled_upload(server: Running, key: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/v1/audio/transcriptions")
    for name, value in (("Authorization", f"Bearer {key}"), ("Content-Type", "multipart/form-data; boundary=x")):
        connection.putheader(name, value)
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    return connection


def test_slow_bodies_of_one_key_leave_room_for_others(run: Start) -> None:
    with run(api_keys=("slow", "other"), max_requests=8) as server, contextlib.ExitStack() as uploads:
        for _ in range(2):  # a quarter of them
            uploads.enter_context(contextlib.closing(stalled_upload(server, "slow")))
        wait_until(lambda: server.recognizer.num_requests == 2, "the uploads are not seen")
        assert code(transcribe(server, **bearer("slow"))) == (429, "client_busy")
        assert transcribe(server, **bearer("other")).status_code == 200
        uploads.close()
        wait_until(lambda: not server.recognizer.num_requests, "the uploads are not forgotten")
        assert transcribe(server, **bearer("slow")).status_code == 200


def test_idle_sockets_of_one_key_leave_room_for_others(run: Start) -> None:
    def options(key: str) -> dict[str, Any]:
        return {"additional_headers": {"Authorization": f"Bearer {key}"}}

    async def statuses(server: Running) -> list[int]:
        async with connect(server, **options("idle")), connect(server, "/v1/realtime", **options("idle")):
            return [await asyncio.to_thread(refusal_of, server, **options(key)) for key in ("idle", "other")]

    with run(api_keys=("idle", "other"), max_sessions=9) as server:
        assert asyncio.run(statuses(server)) == [429, 101]
        wait_until(lambda: not server.recognizer.num_sessions, "the sessions are not forgotten")
        assert refusal_of(server, **options("idle")) == 101


def test_clients_without_keys_are_told_apart_by_their_addresses() -> None:
    assert client_of("lab", "192.0.2.1") == client_of("lab", "192.0.2.2") == "key lab"
    assert client_of(None, "192.0.2.1") == client_of(None, "::ffff:192.0.2.1") != client_of(None, "192.0.2.2")
    assert client_of(None, "2001:db8::1") == client_of(None, "2001:db8::ffff:2") != client_of(None, "2001:db8:0:1::1")
    assert {client_of(None, address) for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", None)} == {None}


@pytest.mark.parametrize(("most", "total", "allowed"), [(None, 16, 4), (None, 3, 1), (2, 16, 2)])
def test_a_client_has_a_quarter_and_at_least_one(most: int | None, total: int, allowed: int) -> None:
    quota = Quota("sessions", most, Ledger(), total=total)
    with contextlib.ExitStack() as held:
        for _ in range(allowed):
            held.enter_context(quota.held("lab"))
        with pytest.raises(Refusal, match=f"you have {allowed} sessions under way") as refused, quota.held("lab"):
            pass
        assert (refused.value.status_code, refused.value.code) == (429, "client_busy")
        with quota.held("other"), quota.held(None):
            pass
    with quota.held("lab"):
        pass


def test_readers_know_whose_audio_they_read(run: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = []
    with run(api_keys=("lab:secret",)) as server:
        read = server.recognizer.read

        async def note(*arguments: Any, client: Any = "nobody", **options: Any) -> Any:
            readers.append(client)
            return await read(*arguments, client=client, **options)

        monkeypatch.setattr(server.recognizer, "read", note)
        headers = bearer("secret")
        assert transcribe(server, **headers).status_code == 200
        for path, name in (("/asr", "file"), ("/asr/predict", "audio"), ("/asr/stream-predict", "audio")):
            assert requests.post(server.http + path, files={name: WAV}, timeout=60, **headers).ok

        async def session() -> None:
            async with connect(server, "/ws", additional_headers=headers["headers"]) as link:
                for message in ("START", WAV[44:], "STOP"):
                    await link.send(message)
                while json.loads(await link.recv()) != {"event": "stopped"}:
                    pass

        asyncio.run(session())
    assert readers == ["key lab"] * 5


# Names and pages


def answer_to(server: Running, host: str, path: str = "/health") -> int:
    return requests.get(server.http + path, headers={"Host": host}, timeout=60).status_code


def test_names_that_lead_here_unasked_are_refused(run: Start, plain: Running) -> None:
    refused = requests.get(f"{plain.http}/v1/models", headers={"Host": "rebound.example:8899"}, timeout=60)
    assert code(refused) == (421, "host_not_allowed") and "--allow-host" in refused.text
    for host in ("localhost", "localhost:8899", "127.0.0.1", "[::1]:80", "192.0.2.7:8899", "asr.localhost"):
        assert answer_to(plain, host) == 200
    for host in (
        "localhost.rebound.example",
        "127.0.0.1.rebound.example",
        "[::1].rebound.example",
        "localhost:x@y.z",
    ):
        assert answer_to(plain, host) == 421
    with run(allowed_hosts=("asr.example",)) as server:
        assert [answer_to(server, host) for host in ("ASR.example:443", "other.example")] == [200, 421]
        assert refusal_of(server, additional_headers={"Host": "other.example"}) == 400  # two Hosts are no HTTP


def test_a_server_with_keys_answers_to_any_name_unless_some_are_given(run: Start) -> None:
    with run(api_keys=("secret",)) as server:
        assert answer_to(server, "asr.example") == 200
    with run(api_keys=("secret",), allowed_hosts=("asr.example",)) as server:
        assert [answer_to(server, host) for host in ("asr.example", "other.example")] == [200, 421]


def test_pages_of_others_may_not_post(run: Start, plain: Running) -> None:
    own, other_port = plain.http, "http://127.0.0.1:1"
    foreign: list[dict[str, str]] = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "file://"},
        {"Origin": own.replace("http:", "https:")},
        {"Origin": other_port},
        {"Origin": f"{own}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ]
    for headers in foreign:
        for path in ("/asr", "/asr/predict", "/v1/audio/transcriptions", "/v1/audio/translations"):
            answer = requests.post(plain.http + path, files={"file": WAV}, headers=headers, timeout=60)
            assert code(answer) == (403, "origin_not_allowed"), (path, headers)
    for headers in ({"Origin": own}, {"Sec-Fetch-Site": "same-origin", "Origin": own}, {"Sec-Fetch-Site": "none"}):
        assert transcribe(plain, headers=headers).status_code == 200
    with run(cors_origins=("https://friend.example",)) as server:
        friend = {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"}
        assert transcribe(server, headers=friend).headers["access-control-allow-origin"] == "https://friend.example"
        refused = transcribe(server, headers=friend | {"Origin": "http://friend.example"})
        assert code(refused) == (403, "origin_not_allowed")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "file://", "https://127.0.0.1:{port}"])
def test_pages_of_others_may_not_connect(plain: Running, origin: str) -> None:
    assert refusal_of(plain, origin=origin.format(port=plain.port)) == 403
    assert refusal_of(plain, origin=plain.http) == 101


@pytest.mark.parametrize("origin", ["friend.example", "https://friend.example/", "https://friend.example/page"])
def test_an_origin_that_no_browser_sends_is_an_error(origin: str) -> None:
    with pytest.raises(ConfigError, match="scheme://host"):
        ServerSettings(cors_origins=(origin,))


FORWARDED = {"X-Forwarded-For": "198.51.100.9", "X-Forwarded-Proto": "https"}


def test_forwarded_headers_are_believed_of_trusted_proxies_alone(run: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for proxies in ((), ("127.0.0.1",)):
        with run(Address(port=0, trusted_proxies=proxies)) as server:
            origin = server.http.replace("http:", "https:")
            status = transcribe(server, headers={**FORWARDED, "Origin": origin}).status_code
            assert status == (200 if proxies else 403)
    lines = [record.__dict__["fields"] for record in caplog.records if record.message == "request"]
    assert [line["client"] for line in lines[-2:]] == ["127.0.0.1", "198.51.100.9"]


# Pages


def test_every_answer_has_the_headers_that_browsers_obey(plain: Running) -> None:
    answers = [requests.get(plain.http + path, timeout=60) for path in ("/", "/docs", "/health", "/nowhere")]
    answers.append(transcribe(plain, headers={"Origin": "https://evil.example"}))
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_documentation_loads_nothing_from_elsewhere(plain: Running) -> None:
    page = requests.get(f"{plain.http}/docs", timeout=60).text
    assert "http" not in page.replace("http-equiv", "") and 'src="/' in page
    for path in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/static-offline-docs/{path}" in page
        assert requests.get(f"{plain.http}/static-offline-docs/{path}", timeout=60).ok
    assert requests.get(f"{plain.http}/redoc", timeout=60).status_code == 404
