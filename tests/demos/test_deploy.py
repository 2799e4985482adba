"""The files of demos/deploy: that their formats are right, and that they keep what they promise."""

import argparse
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import kubernetes_validate
import pytest
import yaml

from demos.deploy import healthcheck
from twostage_asr.engine.cli import batch
from twostage_asr.engine.cli.serve import add_parser

DEPLOY = Path(healthcheck.__file__).parent
KUBERNETES = ("1.32", "1.37")
WORST_EXPOSURE = 30  # tenths of systemd-analyze's scale


@pytest.fixture(scope="module")
def resources() -> dict[str, dict[str, Any]]:
    """By kind."""
    return {found["kind"]: found for found in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(resources: dict[str, dict[str, Any]], version: str) -> None:
    for resource in resources.values():
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_pod_may_do_nothing_but_serve(resources: dict[str, dict[str, Any]]) -> None:
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert resources["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    assert pod["automountServiceAccountToken"] is False
    assert (
        pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    )
    rights = server["securityContext"]
    assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert ":" in server["image"] and any(argument.startswith("--revision=") for argument in server["args"])
    writable = {mount["name"] for mount in server["volumeMounts"] if not mount.get("readOnly")}
    sized = {volume["name"] for volume in pod["volumes"] if volume.get("emptyDir", {}).get("sizeLimit")}
    assert writable - sized == {"models"}
    drain = next(int(argument.partition("=")[2]) for argument in server["args"] if argument.startswith("--drain-s="))
    assert pod["terminationGracePeriodSeconds"] > drain + server["lifecycle"]["preStop"]["sleep"]["seconds"]


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field_of_rays_pods(version: str) -> None:
    """KubeRay's own fields are checked against its CRDs by hand: no package has them."""
    job, service = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    for cluster in (job["spec"]["rayClusterSpec"], service["spec"]["rayClusterConfig"]):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": group["template"]["spec"]}
            kubernetes_validate.validate(pod, version, strict=True)
            assert pod["spec"]["securityContext"]["runAsNonRoot"]


def test_the_ray_job_has_options_that_there_are() -> None:
    job, _ = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    parser = argparse.ArgumentParser()
    batch.add_parser(parser.add_subparsers())
    parser.parse_args(job["spec"]["entrypoint"].split()[1:])


def test_the_parts_of_the_deployment_belong_together(resources: dict[str, dict[str, Any]]) -> None:
    labels = resources["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert resources["Service"]["spec"]["selector"] == labels
    assert resources["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert resources["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels


@pytest.mark.parametrize("service", ["cuda", "cpu"])
def test_compose_asks_for_keys_and_gives_few_rights(service: str) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    server = compose["services"][service]
    assert server["environment"]["TWOSTAGE_ASR_API_KEYS"].startswith("${TWOSTAGE_ASR_API_KEYS:?")
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert server["read_only"] and server["mem_limit"] and server["cap_drop"] == ["ALL"]
    assert "size=" in server["tmpfs"][0] and server["security_opt"] == ["no-new-privileges:true"]


def test_servers_are_started_with_options_that_there_are(
    resources: dict[str, dict[str, Any]], parser: argparse.ArgumentParser
) -> None:
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    unit = (DEPLOY / "twostage-asr.service").read_text()
    (command,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for arguments in (
        pod["containers"][0]["args"],
        command.split()[2:],
        compose["services"]["cuda"]["command"],
    ):
        parser.parse_args(["serve", *arguments])


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_the_unit_little_exposed() -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={WORST_EXPOSURE}", "--no-pager"]
    found = subprocess.run([*command, DEPLOY / "twostage-asr.service"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say() -> None:
    found = subprocess.run(["hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("twostage-asr serve --host 0.0.0.0 --model m", "http://127.0.0.1:8899/ready"),
        ("python twostage-asr serve --port 9000", "http://127.0.0.1:9000/ready"),
        ("twostage-asr serve --port=9000 --tls-certificate c.pem --tls-key k.pem", "https://127.0.0.1:9000/ready"),
        ("twostage-asr serve-realtime m --vllm {}", "http://127.0.0.1:10095/ready"),
        ("twostage-asr serve --config {config}", "http://127.0.0.1:11001/ready"),
        ("twostage-asr serve --config {toml}", "http://127.0.0.1:11002/ready"),
        ("twostage-asr serve --port 9000 --config {config}", "http://127.0.0.1:9000/ready"),
        ("docker-init -- sleep 5", None),
    ],
)
def test_the_healthcheck_asks_where_the_server_listens(tmp_path: Path, command: str, url: str | None) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("ASR: {id: m, port: 11001}\n")
    toml = tmp_path / "twostage-asr.toml"
    toml.write_text("[serve]\nport = 11002\n")
    files = {"{config}": str(config), "{toml}": str(toml)}
    words = [files.get(word, word) for word in command.split()]
    assert healthcheck.url_of(words) == url


@pytest.fixture
def probed() -> Iterator[HTTPServer]:
    """A server whose `status` is what it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.status)  # type: ignore[attr-defined]
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("status", "is_ready"), [(200, True), (503, False)])
def test_the_healthcheck_believes_the_answer(probed: Any, status: int, is_ready: bool) -> None:
    probed.status = status
    assert healthcheck.is_ready(f"http://127.0.0.1:{probed.server_port}/ready") is is_ready


def test_the_healthcheck_fails_where_nobody_listens() -> None:
    assert not healthcheck.is_ready("http://127.0.0.1:9/ready")
