"""A stand-in for the hub on this machine, so that the real network code of `huggingface_hub` and `datasets` runs in tests.

    with HubStandIn(models={"madebyollin/taesdxl": folder}, datasets={"romrawinjp/mscoco": folder}) as hub:
        subprocess.run([...], env=os.environ | hub.environment(cache_folder))

The libraries read HF_ENDPOINT when they are imported, hence the subprocess. Served are folders on disk, each at one
commit, whose hash follows from the content.
"""

import contextlib
import email.utils
import hashlib
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class HubStandIn:
    """Serves model and dataset folders by their ids. `requests` lists what was asked for, as "METHOD path"."""

    def __init__(self, models: Mapping[str, Path] | None = None, datasets: Mapping[str, Path] | None = None):
        self.repositories = {("models", name): Path(folder) for name, folder in (models or {}).items()}
        self.repositories |= {("datasets", name): Path(folder) for name, folder in (datasets or {}).items()}
        self.requests: list[str] = []
        self.bytes_sent = 0
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))

    def __enter__(self) -> "HubStandIn":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._server.connections:  # else those kept alive would still be answered
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables for a process that shall use this hub and a cache of its own."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "10",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def commit(self, kind: str, name: str) -> str:
        """40 hexadecimal digits that follow from the content of the folder."""
        folder = self.repositories[kind, name]
        return hashlib.sha1(b"".join(p.encode() + _oid(folder / p).encode() for p in _files(folder))).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments):
        self.connections: list[socket.socket] = []
        super().__init__(*arguments)

    def process_request(self, request: socket.socket, client_address: tuple) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: socket.socket, client_address: tuple) -> None:
        pass  # a client that goes away is no news


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/(.*))?", path):
            self._api(*match.groups(), body=body, query=urllib.parse.parse_qs(url.query))
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            prefix, name, revision, file = match.groups()
            self._file("datasets" if prefix else "models", name, revision, file)
        else:
            self._fail(404, "EntryNotFound", f"nothing at {path}")

    def _repository(self, kind: str, name: str, revision: str) -> tuple[Path, str] | None:
        folder = self.hub.repositories.get((kind, name))
        if folder is None:
            self._fail(404, "RepoNotFound", "Repository not found")
            return None
        commit = self.hub.commit(kind, name)
        if revision not in ("main", commit):
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return folder, commit

    def _api(self, kind: str, name: str, what: str | None, rest: str | None, *, body: bytes, query: dict) -> None:
        revision, _, inside = (rest or "main").partition("/")
        if (found := self._repository(kind, name, revision)) is None:
            return
        folder, commit = found
        if what in (None, "revision"):
            siblings = [{"rfilename": path} for path in _files(folder)]
            answer = {"_id": "0" * 24, "id": name, "sha": commit, "private": False, "gated": False, "disabled": False}
            answer |= {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
            answer |= {"lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z"}
        elif what == "paths-info":
            posted = json.loads(body) if body[:1] == b"{" else urllib.parse.parse_qs(body.decode())
            asked = posted["paths"] if isinstance(posted["paths"], list) else [posted["paths"]]
            answer = [_entry(folder, path.strip("/")) for path in asked if (folder / path.strip("/")).exists()]
        else:
            if not (folder / inside).is_dir():
                return self._fail(404, "EntryNotFound", f"no folder {inside}")
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            paths = sorted((folder / inside).rglob("*") if recursive else (folder / inside).iterdir())
            answer = [_entry(folder, path.relative_to(folder).as_posix()) for path in paths]
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, kind: str, name: str, revision: str, file: str) -> None:
        if (found := self._repository(kind, name, revision)) is None:
            return
        folder, commit = found
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        path = folder / file
        if ".." in Path(file).parts or not path.is_file():
            return self._fail(404, "EntryNotFound", f"{file} does not exist", headers)
        content = path.read_bytes()
        headers |= {"ETag": f'"{_oid(path)}"', "Content-Type": "application/octet-stream"}
        headers["Last-Modified"] = email.utils.formatdate(0, usegmt=True)
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return self._send(206, content[first : last + 1], headers)
        self._send(200, content, headers)

    def _fail(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
        self._send(status, json.dumps({"error": message}).encode(), {**named, **(headers or {})})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            self.hub.bytes_sent += len(content)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _entry(folder: Path, path: str) -> dict[str, object]:
    whole = folder / path
    if whole.is_dir():
        return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    return {"type": "file", "oid": _oid(whole), "size": whole.stat().st_size, "path": path}
