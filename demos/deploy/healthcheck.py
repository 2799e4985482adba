"""Whether the server in this container takes requests: exit code 0 if so. It is asked where its own arguments say.

The server is the process whose command line holds "serve": the first one, or a child of `docker run --init`.
"""

import argparse
import ssl
import sys
import tomllib
import urllib.request
from collections.abc import Sequence
from pathlib import Path

PORTS = {"serve": 8899, "serve-realtime": 10095}
TIMEOUT_S = 4.0


def url_of(command: Sequence[str]) -> str | None:
    """Where a server of this command line says that it is ready; None if it is no server."""
    name = next((argument for argument in command if argument in PORTS), None)
    if name is None:
        return None
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--port", type=int)
    parser.add_argument("--tls-certificate")
    parser.add_argument("--config", type=Path)
    args, _ = parser.parse_known_args(list(command))
    port = args.port or _port_in(args.config, name) or PORTS[name]
    return f"{'https' if args.tls_certificate else 'http'}://127.0.0.1:{port}/ready"


def _port_in(config: Path | None, name: str) -> int | None:
    if config is None:
        return None
    text = config.read_text(encoding="utf-8")
    if config.suffix == ".toml":
        port: int | None = tomllib.loads(text).get(name, {}).get("port")
        return port
    import yaml  # takes a moment

    port = yaml.safe_load(text)["ASR"].get("port")
    return port


def is_ready(url: str) -> bool:
    """Whether the server says so."""
    context = ssl._create_unverified_context()  # the certificate is of another name than 127.0.0.1
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context):
            return True
    except OSError as error:  # refused, too late, or answered 503
        print(f"{url}: {error}", file=sys.stderr)
        return False


def main() -> int:
    commands = (path.read_bytes().decode(errors="replace").split("\0") for path in Path("/proc").glob("[0-9]*/cmdline"))
    url = next(filter(None, map(url_of, commands)), None)
    return 0 if url is not None and is_ready(url) else 1


if __name__ == "__main__":
    sys.exit(main())
