"""What a server takes at most."""

from __future__ import annotations

from dataclasses import dataclass

MAX_VALUES = 2**21  # numbers, strings and brackets in JSON: each takes far more memory than bytes


@dataclass(frozen=True)
class Limits:
    """The bounds of a server.

    max_bytes: of the body of a request. max_requests: that are read or answered at one time; a
        further one is refused with 503. threads: that answer. seconds: in which a body has to come.
    """

    max_bytes: int
    max_requests: int
    threads: int
    seconds: float = 60.0
