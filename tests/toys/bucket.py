"""A bucket of a real S3 server, behind a proxy that counts, cuts off and alters what it sends."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Iterator

HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to the port of an S3 server. sent: bytes of the objects that were read;
    cuts: answers to a range that are still to be cut off half-way; altered: whether a bit of each
    is flipped."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.target = port
        self.sent = 0
        self.cuts = 0
        self.altered = False

    def handle_error(self, *_) -> None:
        """Say nothing of clients that are gone."""


class _Passing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        there = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        there.request(self.command, self.path, body, dict(self.headers))
        answer = there.getresponse()
        data = answer.read()
        is_range = self.command == "GET" and "Range" in self.headers
        if is_range and self.server.altered:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if is_range and self.server.cuts > 0:
            self.server.cuts -= 1
            data = data[: len(data) // 2]
            self.close_connection = True
        if self.command == "GET":
            self.server.sent += len(data)
        self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, *_) -> None:
        pass


@contextlib.contextmanager
def serve_bucket(monkeypatch) -> Iterator[Proxy]:
    """Give the proxy of a new S3 server with the bucket "toys", where s3:// leads to inside."""
    import s3fs
    from moto.moto_api._internal.models import moto_api_backend
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    moto_api_backend.reset()  # what an earlier server of this process holds
    proxy = Proxy(server.get_host_and_port()[1])
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "toy")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "toy")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        s3fs.S3FileSystem().mkdir("toys")
        yield proxy
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        proxy.shutdown()
        proxy.server_close()
        server.stop()
