"""What a server does before it serves: its address is taken before a model is loaded, and its log is set up."""

import argparse
import asyncio
import logging
import re
import socket
from pathlib import Path

import pytest
import uvicorn
import websockets
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from tests.engine.server.certificates import write_certificate
from twostage_asr.engine import ConfigError
from twostage_asr.engine.cli import serve
from twostage_asr.engine.server.process import Address, LineFormatter, Sparse, bind


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot serve at 127.0.0.1, port {port}: Address already in use"):
            bind(Address(port=port))


def test_a_certificate_that_cannot_serve_is_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    junk, missing = tmp_path / "junk.pem", tmp_path / "none.pem"
    junk.write_text("junk")
    for address, message in (
        (Address(port=0, tls_key=key), f"key {key} needs its certificate"),
        (Address(port=0, tls_certificate=junk), f"with {junk}: not a certificate and its key"),
        (Address(port=0, tls_certificate=certificate, tls_key=certificate), f"{certificate} and {certificate}: not a"),
        (Address(port=0, tls_certificate=missing, tls_key=key), f"with {missing} and {key}: No such file"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            bind(address)
    for taken in bind(Address(port=0, tls_certificate=certificate, tls_key=key)):
        taken.close()


def test_nobody_can_connect_before_the_server_listens() -> None:
    (taken,) = bind(Address(port=0))
    with taken, pytest.raises(ConnectionRefusedError):
        socket.create_connection(taken.getsockname(), timeout=60)


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_what_is_no_port_is_refused_as_an_option(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["serve", f"--port={port}"])
    assert f"a port is 0 to 65535, got {port!r}" in capsys.readouterr().err


def record_of(level: int, message: str, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("twostage_asr", level, "", 0, message, (), None)
    record.fields = fields
    return record


def test_a_line_of_the_log_says_all_that_its_json_would() -> None:
    assert LineFormatter().format(record_of(logging.INFO, "request", status=200, path="/asr"))[8:] == (
        " INFO request status=200 path=/asr"
    )


def test_a_warning_that_comes_again_and_again_is_logged_once() -> None:
    sparse = Sparse()
    again = [sparse.filter(record_of(logging.WARNING, "no HTTP")) for _ in range(3)]
    assert again == [True, False, False]
    assert all(sparse.filter(record_of(logging.ERROR, "a fault")) for _ in range(3))


def test_a_refused_websocket_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await WebSocket(scope, receive, send).send_denial_response(Response(status_code=401))

    async def ask() -> None:
        (taken,) = bind(Address(port=0))
        taken.listen()  # so that the client can wait for the server
        server = uvicorn.Server(uvicorn.Config(refuse, lifespan="off", ws="websockets-sansio", log_config=None))
        served = asyncio.create_task(server.serve([taken]))
        with pytest.raises(websockets.InvalidStatus, match="401"):
            await websockets.connect(f"ws://127.0.0.1:{taken.getsockname()[1]}")
        server.should_exit = True
        await served

    log, sparse = logging.getLogger("uvicorn.error"), Sparse()
    log.addFilter(sparse)
    asyncio.run(ask())
    log.removeFilter(sparse)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
