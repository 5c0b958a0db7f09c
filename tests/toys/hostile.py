"""What strangers send: names that lead somewhere, and bytes that are not what they were."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

COUNT = 60  # of each kind of input
DEEP = 100_000  # brackets
NAMES = (
    *("../evil", "a/../../evil", "/tmp/evil-of-umemma", "..\\evil", "C:evil", "\x00", "a\x00b"),
    *("x" * 300, "/".join("abcdefghij" * 30), ".", "..", "", "con", "\x1b[2J", "\u202egpj.a"),
    *("a/.", "a//b", "-rf", "~", "$HOME", "a\nb"),
)
EVIL = "<img src=x onerror=alert(1)>|\x1b[2J`x`\n# x"
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e400, 2**70, "", EVIL, "../../evil", [], {}, [[[]]], {"a": {"b": 1}}),
    *([EVIL], {EVIL: 1}, "x" * 10_000, list(range(1000)), {"value": EVIL}, float("nan")),
)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with some of them changed, at the start most of all, or cut, or doubled."""
    changed = bytearray(data)
    for _ in range(chance.choice((0, 1, 3, 30))):
        reach = chance.choice((len(changed), min(len(changed), 100)))
        changed[chance.randrange(reach)] = chance.choice((0, 1, 127, 128, 255))
    how = chance.random()
    if how < 0.4:
        return bytes(changed[: chance.randrange(len(changed))])
    if how < 0.5:
        return bytes(changed * 2)
    return bytes(changed)


def replace_each(data: Any) -> Iterator[Any]:
    """Yield a JSON document with each of its values replaced by each of VALUES."""
    for place in list_places(data):
        for value in VALUES:
            changed = copy.deepcopy(data)
            node = changed
            for part in place[:-1]:
                node = node[part]
            node[place[-1]] = value
            yield changed


def list_places(data: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value, of lists the first only."""
    items = []
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data))[:1]
    for key, value in items:
        yield (key,)
        for place in list_places(value):
            yield (key, *place)
