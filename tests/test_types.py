"""The nouns of the data: groups of a sample, names of sets of modalities."""

from __future__ import annotations

import pytest
from torch import nn

from umemma.types import (
    MODALITY_NAME,
    RESERVED_NAMES,
    Record,
    format_pattern,
    parse_alternatives,
)


@pytest.mark.parametrize(
    ("group", "groups"),
    [
        ("", {}),
        ("12", {"group": "12"}),
        ({"voice": "af", "image": "12"}, {"image": "12", "voice": "af"}),
        ({"voice": "af", "image": ""}, {"voice": "af"}),
    ],
)
def test_an_unnamed_group_is_called_group_and_an_empty_one_is_none(group, groups):
    assert Record("a", "train", 0, {}, group).groups == groups


def test_groupings_are_sorted_by_name():
    record = Record("a", "train", 0, {}, {"voice": "af", "image": "12"})
    assert list(record.groups) == ["image", "voice"]


def test_the_name_of_a_set_of_modalities_is_sorted():
    assert format_pattern(["image", "audio"]) == "audio+image"
    assert format_pattern([]) == ""


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("audio", (("audio",),)),
        ("image+audio", (("audio", "image"),)),
        ("image | audio", (("audio",), ("image",))),
        ("text|image+audio|text", (("audio", "image"), ("text",))),
    ],
)
def test_alternatives_are_sorted_sets_without_repetition(text, sets):
    assert parse_alternatives(text) == sets


def test_no_modality_is_named_like_a_part_of_torchs_module_dictionaries():
    """Other packages add methods to torch's modules; they are not looked at."""
    names = set()
    for dictionary in (nn.ModuleDict(), nn.ParameterDict()):
        for name in dir(dictionary):
            home = getattr(getattr(dictionary, name), "__module__", None) or "torch"
            if home.partition(".")[0] == "torch" or not callable(getattr(dictionary, name)):
                names.add(name)
    assert {name for name in names if MODALITY_NAME.fullmatch(name)} <= RESERVED_NAMES
