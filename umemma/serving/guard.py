"""What stands before every request: bounds of size, time and number, and the host it is meant for.

An ASGI middleware. It answers what is refused, here or further in, and logs a line per request.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from loguru import logger
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from umemma.serving.limits import Limits
from umemma.serving.refusals import Refusal

LINGER = 2.0  # s in which the rest of a refused body is discarded, so that its sender can read why
READING = ("GET", "HEAD")  # these cost nothing
SHOWN = 200  # characters of a path in the log
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class BoundedBody:
    """The body of a request. `receive` raises Refusal for one that is too large or too slow."""

    def __init__(self, receive: Receive, headers: Headers, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        self._deadline = asyncio.get_running_loop().time() + limits.seconds
        self._bytes = 0
        self.is_complete = False
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > limits.max_bytes:
            raise self._refuse_size()

    def _refuse_size(self) -> Refusal:
        hint = "Send less: a smaller picture, a shorter sound."
        return Refusal(413, f"a request over {self._limits.max_bytes:,} bytes", hint)

    async def receive(self) -> Message:
        if self.is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            what = f"the request did not come within {self._limits.seconds:g} s"
            raise Refusal(408, what, headers={"Connection": "close"}) from None
        self._bytes += len(message.get("body", b""))
        self.is_complete = not message.get("more_body", False)
        if self._bytes > self._limits.max_bytes:
            raise self._refuse_size()
        return message


class Guard:
    """Refuses what is over the limits and, on loopback, what is meant for another host.

    A page of another site that resolves its own name to this machine would otherwise be taken for
    the same origin, and could read the answers.
    """

    def __init__(self, app: ASGIApp, limits: Limits, host: str) -> None:
        self._app = app
        self._limits = limits
        self._is_local = is_loopback(host)
        self._open_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 500

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._answer(scope, receive, send_noted)
        finally:
            seconds = time.monotonic() - started
            where = f"{scope['method']} {scope['path'][:SHOWN]!r}"
            logger.info(f"{where}: {status}, {1000 * seconds:.0f} ms")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        body: BoundedBody | None = None
        try:
            self._check_origin(scope["method"], headers)
            with self._count(scope["method"]):
                body = BoundedBody(receive, headers, self._limits)
                await self._app(scope, body.receive, send)
        except Refusal as refusal:
            if body is not None and body.is_complete:
                await refusal.as_response()(scope, receive, send)
            else:
                await _refuse_early(refusal, receive, send)

    @contextlib.contextmanager
    def _count(self, method: str) -> Iterator[None]:
        """Count the requests that are not finished. Refusal for one too many."""
        counts = int(method not in READING)
        if counts and self._open_requests >= self._limits.max_requests:
            hint = "Try again in a second."
            raise Refusal(503, "too many requests at one time", hint, {"Retry-After": "1"})
        self._open_requests += counts
        try:
            yield
        finally:
            self._open_requests -= counts

    def _check_origin(self, method: str, headers: Headers) -> None:
        if method not in READING and headers.get("sec-fetch-site") == "cross-site":
            raise Refusal(403, "a request that the page of another site makes")
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        except ValueError:
            host = ""
        if self._is_local and not is_loopback(host):
            raise Refusal(403, "a request for another host", "Use the address of `umemma serve`.")


async def _refuse_early(refusal: Refusal, receive: Receive, send: Send) -> None:
    """Answer before the body has come, and discard what comes of it for a moment.

    Where a connection is closed on bytes that were not read, its sender may lose the answer.
    """
    response = refusal.as_response()
    response.headers["Connection"] = "close"
    start = {"type": "http.response.start", "status": response.status_code}
    await send({**start, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b""})
