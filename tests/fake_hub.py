"""A hub on this machine: enough of the Hugging Face API for listing a repository and fetching single files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    """`root/models/owner/name/...` and `root/datasets/owner/name/...`; what is asked for is kept in `asked`."""

    root: Path
    asked: list[str]
    refusal: tuple[int, str, str] | None

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        is_api = parts[0] == "api"
        parts = parts[1:] if is_api else parts
        kind = parts.pop(0) if parts[0] in ("models", "datasets") else "models"
        if self.refusal is not None:
            status, code, message = self.refusal
            self._send(status, b"{}", X_Error_Code=code, X_Error_Message=message, X_Request_Id="Root=1-67")
            return
        repo = self.root / kind / parts[0] / parts[1]
        if not repo.is_dir():
            self._send(404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return
        files = {path.relative_to(repo).as_posix(): path for path in sorted(repo.rglob("*")) if path.is_file()}
        if is_api and "tree" in parts:
            entries = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}
                for name, path in files.items()
            ]
            self._send(200, json.dumps(entries).encode(), Content_Type="application/json")
        elif is_api:
            siblings = [{"rfilename": name} for name in files]
            info = {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": siblings, "private": False}
            self._send(200, json.dumps(info).encode(), Content_Type="application/json")
        else:
            name = "/".join(parts[4:])  # owner/name/resolve/revision/...
            if self.command == "GET":
                self.asked.append(name)
            self._send(200, files[name].read_bytes(), ETag=f'"{_etag(files[name])}"', X_Repo_Commit=COMMIT)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serve_hub(root: Path, refusal: tuple[int, str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """`(address for HF_ENDPOINT, names of the files fetched so far)`. `refusal`: what it answers to everything, as
    status, the hub's code of the error and its message."""
    asked: list[str] = []
    fields = {"root": root, "asked": asked, "refusal": refusal}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), fields))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
