"""The fixture that counts for the table at the end of the drill."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Count = Callable[[str, int, int], None]


@pytest.fixture
def count(record_property) -> Count:
    """A function of a kind of fault, how many were tried, and after how many something was lost."""

    def add(fault: str, tried: int, lost: int) -> None:
        record_property("drill", (fault, tried, tried - lost, lost))

    return add
