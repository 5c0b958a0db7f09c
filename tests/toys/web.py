"""A server on this machine that can fail in every way, and toy sources."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATA = bytes(range(256)) * 400  # 102,400 bytes


MD5 = f"md5:{hashlib.md5(DATA).hexdigest()}"


class Site:
    """What a server has and how it behaves; every request is noted as (path, Range)."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str]] = []
        self.conditions: list[str] = []  # If-Range
        self.cuts: list[int] = []  # bytes after which each of the next bodies is cut
        self.busy = 0  # answers of 503 before anything else
        self.redirects: dict[str, str] = {}  # {path: address}
        self.ranges = True
        self.etag = '"one"'
        self.kind = "application/octet-stream"
        self.length = True
        self.stall: threading.Event | None = (
            None  # waited for where a body is cut, instead of cutting
        )
        self.url = ""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            wanted = self.headers.get("Range", "")
            site.asked.append((self.path, wanted))
            condition = self.headers.get("If-Range", "")
            site.conditions.append(condition)
            if site.busy:
                site.busy -= 1
                self.send_error(503)
                return
            if self.path in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.path not in site.files:
                self.send_error(404)
                return
            data = site.files[self.path]
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
            if condition and condition != site.etag:
                start = 0
            if start >= len(data) > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if site.etag:
                self.send_header("ETag", site.etag)
            self.send_header("Content-Type", site.kind)
            if site.length:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            cut = site.cuts.pop(0) if site.cuts else len(data)
            self.wfile.write(data[start : start + cut])
            if cut < len(data) and site.stall:
                self.wfile.flush()
                site.stall.wait(30)

    return Handler


@contextlib.contextmanager
def serving(files: dict[str, bytes]):
    site = Site(files)
    server = _Quiet(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        if site.stall:
            site.stall.set()
        server.shutdown()
        server.server_close()
        thread.join()


KAGGLEHUB = """
def dataset_download(handle, path=None, *, force_download=False, output_dir=None):
    if handle == "owner/private":
        raise ValueError("403 Client Error.\\nMake sure you are authenticated.")
    return "/cache/" + handle
"""


def toy(monkeypatch, name, code):
    module = types.ModuleType(name)
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
