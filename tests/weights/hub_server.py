"""A hub of folders that speaks HTTP on this machine: as much of the hub's protocol as reading files needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repos: dict[str, Path]
    ranges: list[str]

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:  # noqa: N802, named by http.server
        self._answer()

    do_HEAD = do_GET  # noqa: N815

    def _files(self, folder: Path) -> dict[str, Path]:
        return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if api := re.fullmatch(r"/api/models/(\w[\w.-]*/[\w.-]+?)(?:/revision/(\w+))?", path):
            return self._info(api[1], api[2])
        if file := re.fullmatch(r"/(\w[\w.-]*/[\w.-]+)/resolve/(\w+)/(.+)", path):
            folder = self.repos.get(file[1])
            if folder is not None and (folder / file[3]).is_file():
                return self._file((folder / file[3]).read_bytes())
        return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _info(self, repo: str, revision: str | None) -> None:
        if repo not in self.repos:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in (None, "main", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for name, path in self._files(self.repos[repo]).items():
            data = path.read_bytes()
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append({"rfilename": name, "size": len(data), "blobId": "0" * 40, "lfs": lfs})
        info = {"id": repo, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": siblings}
        return self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _file(self, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        headers = {"X-Repo-Commit": COMMIT, "ETag": '"0"', "Accept-Ranges": "bytes"}
        if asked is None:
            return self._send(200, data, headers)
        self.ranges.append(asked[0])
        start, end = int(asked[1]), min(int(asked[2]), len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return self._send(206, data[start : end + 1], headers)

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(repos: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Address of a hub with these repositories, and the ranges of bytes that it was asked for."""
    ranges: list[str] = []
    handler = type("FolderHandler", (Handler,), {"repos": repos, "ranges": ranges})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", ranges
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
