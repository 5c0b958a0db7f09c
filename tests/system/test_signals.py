"""Stop signals are collected while a block runs, and handled as before after it."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from umemma.system.signals import catch_stop_signals, keep_interrupts, make_stop_error


def test_signals_are_collected_in_order_and_the_handlers_return():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    seen: list[list[int]] = []
    with catch_stop_signals(lambda received: seen.append(list(received))) as received:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGTERM, signal.SIGINT]
    assert seen == [[signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_the_handlers_return_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="broken"), catch_stop_signals(lambda received: None):
        raise ValueError("broken")
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    handlers = []

    def work() -> None:
        with catch_stop_signals(lambda received: None) as received:
            handlers.append(signal.getsignal(signal.SIGTERM))
            assert received == []

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_the_error_names_the_signal_and_how_to_resume(number, status):
    error = make_stop_error(number, "at step 7", "pretrain image")
    assert str(error) == (
        f"pretrain image: stopped by {signal.Signals(number).name} at step 7\n"
        "Run the same command to resume."
    )
    assert error.exit_status == status
    assert make_stop_error(number).what == f"stopped by {signal.Signals(number).name}"


def test_ctrl_c_in_a_finalizer_acts_a_moment_later():
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), keep_interrupts():
            Interrupted()
            time.sleep(10)
    finally:
        signal.signal(signal.SIGINT, previous)
