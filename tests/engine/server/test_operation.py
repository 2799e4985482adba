"""The port for orchestrators answers without a key and beside the event loop, and knows a loop that stands still."""

import argparse
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.engine.server.conftest import ANY_PORT, Running, running
from tests.fake_model import fake_transcriber
from tests.paths import ROOT
from twostage_asr.engine.cli import serve
from twostage_asr.engine.errors import ConfigError
from twostage_asr.engine.server import connections, operation
from twostage_asr.engine.server.metrics import Metrics
from twostage_asr.engine.server.operation import OperationServer
from twostage_asr.engine.server.settings import ServerSettings


def ask(server: OperationServer, path: str) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{server.port}{path}", timeout=60)


def test_it_answers_without_a_key_and_while_the_loop_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = OperationServer("127.0.0.1", 0)

    class Model:
        transcriber = fake_transcriber(tmp_path)

    with running(
        Model(), ANY_PORT, beside=lambda recognizer: [beside.watching(recognizer)], api_keys=("secret",)
    ) as server:
        assert ask(beside, "/health").json() == {"status": "ok"}
        assert ask(beside, "/ready").status_code == 200
        assert b"twostage_loop_lag_seconds" in ask(beside, "/metrics").content
        assert ask(beside, "/v1/models").status_code == 404
        server.recognizer.is_draining.set()
        assert (ask(beside, "/ready").status_code, ask(beside, "/health").status_code) == (503, 200)
        monkeypatch.setattr(operation, "LOOP_LIMIT_S", -1.0)
        stands = ask(beside, "/health")
        assert stands.status_code == 503 and "the event loop stands" in stands.json()["status"]
    with pytest.raises(requests.ConnectionError):
        ask(beside, "/health")


def test_a_port_that_is_taken_is_named(faked: Running) -> None:
    with pytest.raises(ConfigError, match=f"port {faked.port}: Address already in use"):
        OperationServer("127.0.0.1", faked.port)


def test_the_help_names_every_limit_with_the_default_that_it_has() -> None:
    defaults = {field.name: field.default for field in fields(ServerSettings)}
    for name, kind, _, shown, _ in serve._LIMITS:
        assert defaults[name] == (None if shown == "a quarter of them" else kind(shown)), name
    limited = {name for name in defaults if name.startswith(("max_", "min_")) or name.endswith("_s")}
    assert limited <= {name for name, *_ in serve._LIMITS}


def test_the_documentation_can_be_left_out(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    assert parser.parse_args(["serve", "--no-docs"]).no_docs


def test_alerts_are_about_metrics_that_there_are(faked: Running) -> None:
    rules: Any = yaml.safe_load((ROOT / "demos/deploy/alerts.yaml").read_text(encoding="utf-8"))
    text = requests.get(f"{faked.http}/metrics", timeout=60).text
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(expressions) >= 5
    for expression in expressions:
        (name,) = re.findall(r"twostage_\w+", expression)
        assert name.removesuffix("_bucket") in known, expression


def test_too_few_open_files_are_said(faked: Running, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(connections, "file_limit", lambda: 300)
    recognizer = faked.recognizer
    found = connections.Connections(recognizer.settings, Metrics(), recognizer.session_bytes, recognizer.ledger)
    assert found.max_open == 300 - connections.SPARE_FILES == 44
    (line,) = caplog.messages
    assert line.startswith("connections are limited to 44, not to 2048: this process may open 300 files (ulimit -n)")
