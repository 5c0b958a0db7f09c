"""A Hugging Face hub on this machine: the part of its API that downloads and uploads use."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse


class Hub:
    """Repositories by name; each has commits, {hash: {file: bytes}}, the last of which is main.

    created: {repository: whether it is private}; asked: the files that were downloaded.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.created: dict[str, bool] = {}
        self.asked: list[str] = []
        self.sizes: dict[str, int] = {}  # that it claims, in place of the real ones
        self.answer: object = ...  # what it says of any repository; ... = the truth
        self.url = ""

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit and return its hash."""
        content = [(name, hashlib.sha1(data).hexdigest()) for name, data in sorted(files.items())]
        commit = hashlib.sha1(json.dumps([repo, content]).encode()).hexdigest()
        self.commits.setdefault(repo, {})[commit] = files
        return commit

    def add_folder(self, repo: str, folder: Path, more: dict[str, bytes]) -> str:
        files = {}
        for path in folder.rglob("*"):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
        return self.add(repo, files | more)

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.commits.get(repo, {})
        if revision == "main" and commits:
            revision = list(commits)[-1]
        if revision not in commits:
            return None
        return revision, commits[revision]


def _make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = unquote(urlparse(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                revision = parts[5] if len(parts) > 4 else "main"
                self._describe("/".join(parts[2:4]), revision)
            else:
                self._send_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

        def _describe(self, repo: str, revision: str) -> None:
            if hub.answer is not ...:
                return self._json(hub.answer)
            found = hub.find(repo, revision)
            if found is None:
                code = "RevisionNotFound" if repo in hub.commits else "RepoNotFound"
                return self._reply(404, b"{}", {"X-Error-Code": code})
            commit, files = found
            siblings = []
            for name, data in files.items():
                size = hub.sizes.get(name, len(data))
                siblings.append({"rfilename": name, "size": size})
            return self._json({"id": repo, "sha": commit, "siblings": siblings})

        def _send_file(self, repo: str, revision: str, name: str) -> None:
            found = hub.find(repo, revision)
            if found is None or name not in found[1]:
                return self._reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            commit, files = found
            if self.command == "GET":
                hub.asked.append(name)
            tag = hashlib.sha1(files[name]).hexdigest()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{tag}"'}
            return self._reply(200, files[name], headers)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            parts = self.path.strip("/").split("/")
            if self.path == "/api/repos/create":
                wanted = json.loads(body)
                repo = f"{wanted['organization']}/{wanted['name']}"
                private = wanted.get("private") or wanted.get("visibility") == "private"
                hub.created[repo] = bool(private)
                return self._json({"url": f"{hub.url}/{repo}", "id": repo})
            if self.path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            if parts[-2] == "preupload":
                files = []
                for file in json.loads(body)["files"]:
                    plain = {"uploadMode": "regular", "shouldIgnore": False}
                    files.append({"path": file["path"], **plain})
                return self._json({"files": files})
            repo = "/".join(parts[2:4])
            files = {}
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    files[value["path"]] = base64.b64decode(value["content"])
            commit = hub.add(repo, files)
            url = f"{hub.url}/{repo}/commit/{commit}"
            return self._json({"commitUrl": url, "commitOid": commit})

        def _json(self, data: object) -> None:
            self._reply(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

        def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub for the duration of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
