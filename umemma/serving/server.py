"""Listening on a port, and ending in good order at Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator, Sequence

import uvicorn
from fastapi import FastAPI
from loguru import logger

from umemma.errors import UserError
from umemma.system.signals import STOP_EXIT_STATUS, catch_stop_signals

BACKLOG = 128  # connections that wait to be accepted
MAX_CONNECTIONS = 512
GRACE = 10  # s for the requests that are being answered when the server stops


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port, 0 for any free one. UserError where none can be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with contextlib.ExitStack() as on_error:
            listener = on_error.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            on_error.pop_all()
            return listener
    except OSError as error:
        what = f"can't listen there: {error.strerror or error}"
        hint = "Choose another --port, 0 for any that is free, and an address of this machine."
        raise UserError(what, f"--host {host} --port {port}", hint, usage=True) from None


def get_address(listener: socket.socket) -> str:
    """Return where a browser finds the server."""
    host, port, *_ = listener.getsockname()
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `serve`, whose exit status is that of every command."""
        yield


def make_server(app: FastAPI) -> uvicorn.Server:
    """Return a server for `app`, which logs with loguru."""
    _log_with_loguru("uvicorn", "asyncio")
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
    )
    return _Server(config)


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer until Ctrl-C or SIGTERM, which ends in a UserError as it does for every command.

    Requests that are being answered get GRACE seconds; a second signal ends them, too.
    """
    server = make_server(app)

    def stop(received: Sequence[int]) -> None:
        server.should_exit = True
        server.force_exit = len(received) > 1

    with catch_stop_signals(stop) as received:
        server.run([listener])
    if received:
        number = received[0]
        what = f"stopped by {signal.Signals(number).name}"
        raise UserError(what, status=STOP_EXIT_STATUS[number])


class _ToLoguru(logging.Handler):
    """Hands the records of Python's logging on; what a library says of its work is for the file."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname
        if record.levelno <= logging.INFO:
            level = "DEBUG"
        logger.opt(exception=record.exc_info).log(level, record.getMessage())


def _log_with_loguru(*names: str) -> None:
    for name in names:
        log = logging.getLogger(name)
        log.handlers = [_ToLoguru()]
        log.propagate = False
        log.setLevel(logging.INFO)
