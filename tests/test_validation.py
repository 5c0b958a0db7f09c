"""Settings are validated with messages that name the place, compared, and named by a hash."""

from __future__ import annotations

import pytest

from umemma import validation
from umemma.datasets.manifest import Options
from umemma.errors import UserError


def test_a_wrong_key_of_a_mapping_is_named():
    options = {"columns": {"": "image"}, "label": "label"}
    with pytest.raises(UserError) as error:
        validation.validate(Options, options, "settings", "preprocess.options")
    assert "preprocess.options.columns: string should have at least 1" in error.value.what
    assert "but it is ''" in error.value.what
    assert "[key]" not in error.value.what


def test_difference_names_the_path():
    there = {"a": {"b": 1, "c": 2}}
    here = {"a": {"b": 1, "c": 3}, "d": 4}
    assert validation.list_differences(there, here) == [
        "a.c: 2 there, 3 here",
        "d: None there, 4 here",
    ]


def test_fingerprint_knows_no_order():
    assert validation.fingerprint({"a": 1, "b": 2}) == validation.fingerprint({"b": 2, "a": 1})
    assert validation.fingerprint({"a": 1}) != validation.fingerprint({"a": 2})
