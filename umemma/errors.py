"""The one error a user is shown. Everything else stays a traceback, because it is our mistake and not the user's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right.

    `what` is wrong, `where` it stands (a file, a key, an option), `hint` is what to do about it. `usage=True` marks a
    wrong command line or wrong settings (exit status 2); the rest exits with `status`.
    """

    def __init__(
        self, what: str, where: str = "", hint: str = "", *, usage: bool = False, status: int = 1
    ) -> None:
        super().__init__(what, where, hint)
        self.what, self.where, self.hint = what, where, hint
        self.usage, self.exit_status = usage, 2 if usage else status

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        return "\n".join([*lines, self.hint] if self.hint else lines)


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> UserError:
    """The error for a name that stands in no table: the nearest known one, and all of them."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return UserError(
        f"unknown {kind} {name!r}", where, f"{guess}Known: {', '.join(known)}.", usage=True
    )
