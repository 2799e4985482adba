"""A model hub on this machine: serves local directories to huggingface_hub and to modelscope.

    with HubMirror({"owner/name": directory}) as mirror:
        subprocess.run([...], env={**os.environ, **mirror.environment(tmp_path)})

Only what the two libraries ask for when they download a snapshot is implemented; any other request gets a 404.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

HF_BRANCH, MS_BRANCH = "main", "master"
LFS_SUFFIXES = (".bin", ".gguf", ".onnx", ".pt", ".safetensors")  # what repositories keep outside of git
PAGE = b"<!DOCTYPE html><html><body>Please log in to this network.</body></html>"
_MODEL = r"(?P<model>[^/]+/[^/]+)"


class Fetched(NamedTuple):
    """A file that was sent, or the part of it that was."""

    hub: str  # "hf" or "ms"
    model: str
    name: str
    start: int  # first byte
    num_bytes: int


class HubMirror:
    """Serve `models` (id -> directory) until the `with` block ends.

    Args:
        models: id -> directory.
        refused: ids that are answered with 403.
        pages: ids, and (id, file name)s, that are answered with a page of HTML.
        cuts: (id, file name) -> the connection that fetches it is closed after so many bytes, and the next fetch of it
            is answered with 503; later ones work.
        commits: id -> directory that becomes the newest commit as soon as one file has been fetched.
    """

    def __init__(
        self,
        models: Mapping[str, Path],
        *,
        refused: frozenset[str] = frozenset(),
        pages: frozenset[str | tuple[str, str]] = frozenset(),
        cuts: Mapping[tuple[str, str], int] | None = None,
        commits: Mapping[str, Path] | None = None,
    ) -> None:
        self.models = dict(models)
        self.commits = dict(commits or {})
        self._known = {self.commit(d): d for d in (*self.models.values(), *self.commits.values())}
        self.refused = refused
        self.pages = pages
        self.cuts = dict(cuts or {})
        self.requests: list[str] = []  # "GET /path", in the order of arrival
        self.fetched: list[Fetched] = []  # contents of files, in the order of arrival
        self.sent: Counter[tuple[str, str]] = Counter()  # (hub, model) -> bytes of all answers, headers left out
        handler = type("Handler", (_Handler,), {"mirror": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables for a child process: both hubs are here, and their caches below `cache`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache / "huggingface"),
            "HF_HUB_DISABLE_XET": "1",
            "MODELSCOPE_ENDPOINT": self.endpoint,
            "MODELSCOPE_CACHE": str(cache / "modelscope"),
            "MODELSCOPE_HOME": str(cache / "modelscope_home"),
        }

    def commit(self, directory: Path) -> str:
        """The id of the commit that a directory is."""
        return hashlib.sha1(bytes(directory)).hexdigest()

    def directory(self, model: str, revision: str | None) -> Path | None:
        """What a model is at a revision; None if it has no such revision."""
        return self.models[model] if revision in (None, HF_BRANCH, MS_BRANCH) else self._known.get(str(revision))


class _Handler(BaseHTTPRequestHandler):
    mirror: ClassVar[HubMirror]
    protocol_version = "HTTP/1.1"
    _asker = ("", "")  # hub and model of the request at hand
    routes: ClassVar[dict[str, str]] = {
        rf"/api/models/{_MODEL}": "hf_info",
        rf"/api/models/{_MODEL}/revision/(?P<revision>[^/]+)": "hf_info",
        rf"/api/models/{_MODEL}/tree/(?P<revision>[^/]+)": "hf_tree",
        rf"/{_MODEL}/resolve/(?P<revision>[^/]+)/(?P<name>.+)": "hf_file",
        rf"/api/v1/models/{_MODEL}/repo/files": "ms_tree",
        rf"/api/v1/models/{_MODEL}/repo": "ms_file",
    }

    def do_GET(self) -> None:
        self.mirror.requests.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        for pattern, method in self.routes.items():
            found = re.fullmatch(pattern, unquote(url.path))
            if found is not None:
                query = {key.lower(): values[0] for key, values in parse_qs(url.query).items()}
                self._serve(method, {**query, **found.groupdict()})
                return
        self._send(404, b"")

    do_HEAD = do_GET  # noqa: N815  (http.server's name)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: `requests` holds what was asked."""

    def _serve(self, method: str, asked: dict[str, str]) -> None:
        model = asked["model"]
        self._asker = (method[:2], model)
        if model in self.mirror.pages:
            self._send(200, PAGE, {"Content-Type": "text/html"})
        elif model in self.mirror.refused:
            self._fail(403, "GatedRepo", f"Access to model {model} is restricted")
        elif model not in self.mirror.models:
            self._fail(404, "RepoNotFound", "Repository not found")
        elif (directory := self.mirror.directory(model, asked.get("revision"))) is None:
            self._fail(404, "RevisionNotFound", "Invalid rev id")
        else:
            getattr(self, method)(asked, directory)

    def hf_info(self, asked: dict[str, str], directory: Path) -> None:
        siblings: list[dict[str, object]] = [{"rfilename": name} for name in _list_files(directory)]
        if "blobs" in asked:
            for sibling, file in zip(siblings, _list_files(directory).values(), strict=True):
                size, digest = file.stat().st_size, _sha256(file)
                lfs = {"sha256": digest, "size": size, "pointerSize": 134} if file.suffix in LFS_SUFFIXES else None
                sibling |= {"size": size, "blobId": digest[:40], "lfs": lfs}
        self._send_json({"id": asked["model"], "sha": self.mirror.commit(directory), "siblings": siblings})

    def hf_tree(self, asked: dict[str, str], directory: Path) -> None:
        files = _list_files(directory).items()
        self._send_json(
            [{"type": "file", "path": n, "size": f.stat().st_size, "oid": _sha256(f)[:40]} for n, f in files]
        )

    def hf_file(self, asked: dict[str, str], directory: Path) -> None:
        self._send_file(asked, directory, asked["name"])

    def ms_tree(self, asked: dict[str, str], directory: Path) -> None:
        files = [
            {
                "Type": "blob",
                "Path": name,
                "Name": file.name,
                "Size": file.stat().st_size,
                "Sha256": _sha256(file),
                "Revision": self.mirror.commit(directory),
                "CommittedDate": 1_700_000_000,
            }
            for name, file in _list_files(directory).items()
        ]
        self._send_json({"Code": 200, "Success": True, "Data": {"Files": files}})

    def ms_file(self, asked: dict[str, str], directory: Path) -> None:
        self._send_file(asked, directory, asked["filepath"])

    def _send_file(self, asked: dict[str, str], directory: Path, name: str) -> None:
        file = _list_files(directory).get(name)
        if file is None:
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        content = file.read_bytes()
        headers = {"ETag": f'"{_sha256(file)}"', "X-Repo-Commit": self.mirror.commit(directory)}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(span[1]) if span else 0
        if self.command == "GET":
            if (asked["model"], name) in self.mirror.pages:
                self._send(200, PAGE, {"Content-Type": "text/html"})
                return
            if not self._passes((asked["model"], name), content, start, headers):
                return
            self.mirror.fetched.append(Fetched(*self._asker, name, start, len(content) - start))
            if asked["model"] in self.mirror.commits:
                self.mirror.models[asked["model"]] = self.mirror.commits.pop(asked["model"])
        if span is None:
            self._send(200, content, {**headers, "Accept-Ranges": "bytes"})
            return
        end = min(int(span[2] or len(content)), len(content) - 1)
        self._send(206, content[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"})

    def _passes(self, file: tuple[str, str], content: bytes, start: int, headers: Mapping[str, str]) -> bool:
        """Whether a file that is to be cut off has been."""
        cut = self.mirror.cuts.get(file)
        if cut is None:
            return True
        if cut == 0:
            del self.mirror.cuts[file]
            self._fail(503, "Unavailable", "Try later")
            return False
        self.mirror.cuts[file] = 0
        self.mirror.fetched.append(Fetched(*self._asker, file[1], start, cut))
        self._send(200, content[:cut], headers, announced=len(content))
        self.close_connection = True
        return False

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"Code": status, "Success": False, "Message": message, "error": message}).encode()
        headers = {"Content-Type": "application/json", "X-Error-Code": code, "X-Error-Message": message}
        self._send(status, body, headers)

    def _send(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, *, announced: int | None = None
    ) -> None:
        """`announced`: the length that the headers promise, where it is not the body's."""
        self.send_response(status)
        length = len(body) if announced is None else announced
        for key, value in {**(headers or {}), "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.mirror.sent[self._asker] += len(body)


def _list_files(directory: Path) -> dict[str, Path]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): path for path in files}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
