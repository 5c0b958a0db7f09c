"""What a training shows: a line per epoch, and a bar where there is a terminal."""

from __future__ import annotations

import io

import pytest
from loguru import logger
from rich.console import Console

from umemma.system import log
from umemma.system.log import TrainingProgress, estimate_remaining, format_duration

BAR = "━"


def run_two_epochs() -> None:
    """Show a training of three epochs of two steps, resumed after the first epoch."""
    with TrainingProgress("toy", 3, 6, done_steps=2) as progress:
        for epoch in (2, 3):
            progress.start_epoch(epoch)
            progress.advance()
            progress.advance()
            progress.end_epoch(f"loss 0.{epoch}")


def test_every_epoch_is_a_line_with_what_is_left(messages, monkeypatch):
    seconds = iter([100.0, 163.0, 170.0])
    monkeypatch.setattr(log.time, "monotonic", lambda: next(seconds, 170.0))
    monkeypatch.setattr(log, "console", Console(file=io.StringIO()))
    run_two_epochs()
    lines = [message.strip() for message in messages]
    # Two steps took 63 s, and two are left; those of the earlier run do not count.
    assert lines == [
        "toy: epoch 2/3: loss 0.2, 1:03 left",
        "toy: epoch 3/3: loss 0.3, 0:00 left",
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_bar_is_only_drawn_on_a_terminal(monkeypatch, is_terminal):
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=is_terminal, color_system=None)
    monkeypatch.setattr(log, "console", console)
    run_two_epochs()
    assert (BAR in screen.getvalue()) == is_terminal
    assert "…" not in screen.getvalue()


def test_other_ranks_draw_nothing(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    screen = io.StringIO()
    monkeypatch.setattr(log, "console", Console(file=screen, force_terminal=True))
    run_two_epochs()
    assert BAR not in screen.getvalue()


def test_the_time_left_is_that_of_the_steps_left_at_the_mean_speed():
    assert estimate_remaining(10.0, 5, 20) == 40.0
    assert estimate_remaining(0.0, 0, 20) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (42.0, "0:42"), (59.6, "1:00"), (3723.0, "1:02:03")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_a_folder_that_cannot_be_written_costs_the_log_file_only(tmp_path, capsys):
    (tmp_path / "logs").write_text("a file in its place")
    log.start_logging("doctor", tmp_path / "logs")
    logger.info("goes on")
    errors = capsys.readouterr().err
    assert "no log file" in errors
    assert "goes on" in errors
    assert "Traceback" not in errors
    assert "Logging error" not in errors


def test_what_opens_a_door_is_shown_nowhere(tmp_path, capsys):
    log.start_logging("download", tmp_path)
    for text in (
        "https://me:hunter2@host.example/a.zip: 404",
        "https://me:at@hunter2@host.example/a.zip: 404",
        "s3://me@bucket and ftp://hunter2@host/x",
        "https://host.example/a.zip?X-Amz-Signature=hunter2&part=3",
        "['download', '--from', 'https://host.example/?part=3&access_token=hunter2']",
    ):
        logger.info(text)
        shown = log.make_printable(text)
        assert "hunter2" not in shown
        assert "***" in shown
    secret = "hunter2"
    try:
        raise ValueError(secret[:1])
    except ValueError:
        logger.exception("a traceback shows no variables")
    (file,) = tmp_path.iterdir()
    for text in (file.read_text(), capsys.readouterr().err):
        assert "hunter2" not in text
        assert "part=3" in text
    for text in ("a@b.example", "https://host.example/user@2x.png", "key=3, token=4"):
        assert log.make_printable(text) == text
