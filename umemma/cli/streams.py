"""stdout and stderr: what they cannot show is spelled out, and what they cannot take is an error.

No import is slow, as `--help` goes through here, too.
"""

from __future__ import annotations

import codecs
import io
import os
import sys

SPELLINGS = {
    "\N{EN DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "\N{PLUS-MINUS SIGN}": "+-",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{BLACK UP-POINTING TRIANGLE}": "^",
    "\N{BLACK DOWN-POINTING TRIANGLE}": "v",
}


def spell_in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that a terminal cannot show: an error handler of codecs."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(SPELLINGS.get(character, "?") for character in text), error.end


def prepare_streams() -> None:
    """Let stdout and stderr take any text, whatever the locale of the terminal can show."""
    codecs.register_error("umemma-ascii", spell_in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="umemma-ascii")


def flush_stdout() -> None:
    """Write what is left of the results. OSError where stdout is full or closed, and then what
    Python writes at its end goes nowhere."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OSError(error.errno, error.strerror, "standard output") from None
