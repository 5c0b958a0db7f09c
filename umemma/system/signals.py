"""SIGTERM and Ctrl-C: collected while a block of work runs, so that it can stop in good order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from umemma.errors import UserError

# The exit status after each stop signal; 75 is EX_TEMPFAIL, "try again".
STOP_EXIT_STATUS: dict[int, int] = {signal.SIGTERM: 75, signal.SIGINT: 130}
MOMENT = 0.05  # s


@contextlib.contextmanager
def catch_stop_signals(on_signal: Callable[[Sequence[int]], None]) -> Iterator[list[int]]:
    """Collect stop signals in the yielded list for the duration of the block.

    Python's default reaction, an immediate end, is suspended; the previous handlers return when
    the block ends. `on_signal` is called inside the handler with all signals received so far, the
    newest last. Outside the main thread, where Python allows no handlers, the list stays empty.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        on_signal(received)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous_handlers = {number: signal.signal(number, handle) for number in STOP_EXIT_STATUS}
    try:
        yield received
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def delay_stop_signals() -> Iterator[None]:
    """Let stop signals act at the end of the block.

    For calls of a C library that calls back into Python: an exception can't leave such a callback,
    so a KeyboardInterrupt there would be lost, and the library would take the call for a short
    read.
    """
    received: list[int] = []
    try:
        with catch_stop_signals(_ignore) as received:
            yield
    finally:
        for number in received:
            signal.raise_signal(number)


def _ignore(received: Sequence[int]) -> None:
    pass


@contextlib.contextmanager
def keep_interrupts() -> Iterator[None]:
    """Let a Ctrl-C that comes inside a finalizer or a callback act a moment later.

    Python itself would print that KeyboardInterrupt as ignored, and the command would go on.
    """
    previous = sys.unraisablehook

    def interrupt_again(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            previous(lost)
            return
        again = threading.Timer(MOMENT, os.kill, [os.getpid(), signal.SIGINT])
        again.daemon = True
        again.start()

    sys.unraisablehook = interrupt_again
    try:
        yield
    finally:
        sys.unraisablehook = previous


@contextlib.contextmanager
def start_without_interrupts() -> Iterator[None]:
    """Block Ctrl-C for the processes that start in the block, until they call `allow_interrupts`.

    It reaches all processes of a terminal, and one that has not come to its handlers yet would
    end with a traceback of Python's own start.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def allow_interrupts() -> None:
    """Let Ctrl-C act again in a process that was started without it, also one that came since."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def make_stop_error(number: int, when: str = "", where: str = "") -> UserError:
    """Return the error that ends a command after signal `number`. when: such as "at step 7"."""
    words = ["stopped by", signal.Signals(number).name, when]
    what = " ".join(words).rstrip()
    hint = "Run the same command to resume."
    return UserError(what, where, hint, status=STOP_EXIT_STATUS[number])
