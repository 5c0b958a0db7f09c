"""The one exception that users see as a message. Any other one is a bug and shows a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can correct.

    what: what is wrong.
    where: the file, the settings key or the option that it concerns.
    hint: what to do about it.
    usage: the command line or the settings are wrong, so the exit status is 2.
    status: the exit status of any other error.
    """

    def __init__(
        self,
        what: str,
        where: str = "",
        hint: str = "",
        *,
        usage: bool = False,
        status: int = 1,
    ) -> None:
        super().__init__(what, where, hint)
        self.what = what
        self.where = where
        self.hint = hint
        self.usage = usage
        self.exit_status = 2 if usage else status

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text = f"{self.where}: {text}"
        if self.hint:
            text = f"{text}\n{self.hint}"
        return text


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> UserError:
    """Return the error for an unknown name. Its hint has the nearest known name and all of them."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Known: {', '.join(known)}."
    if nearest:
        hint = f"Did you mean {nearest[0]!r}? {hint}"
    return UserError(f"unknown {kind} {name!r}", where, hint, usage=True)
