"""What a protocol leaves of each sample, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ruamel.yaml import YAML
from toys import documents
from toys.predictions import four_samples, predictions_in_letters

from umemma.errors import UserError
from umemma.evaluation.missingness.protocol import Protocol, weigh_subsets
from umemma.evaluation.predictions import Predictions
from umemma.missing import list_patterns
from umemma.types import format_pattern

ALL_THERE = {"audio+image": "yyyy", "audio": "yyyy", "image": "yyyy"}


def weigh(missing, predictions, table="", folder=None):
    weights = weigh_subsets(Protocol(missing=missing, table=table), predictions, folder)
    return {subset: chances.tolist() for subset, chances in weights.weights.items()}, weights


def of_three():
    """Return predictions of two samples, of classes x and y, with three modalities."""
    names = ["a", "b", "c"]
    ensemble = {format_pattern(p): np.zeros((2, 2), np.float32) for p in list_patterns(names)}
    alone = {m: ensemble[m] for m in names}
    return Predictions(
        ["k0", "k1"], {"room": ["r", "s"]}, np.array([0, 1]), ensemble, alone, ["x", "y", "z"]
    )


def test_independent_rates_by_hand():
    chances, weights = weigh({"audio": 0.5, "image": 0.2}, predictions_in_letters(ALL_THERE))
    # Both there .4, image alone .4, audio alone .1; nothing .1, which is not counted.
    assert chances["audio+image"] == pytest.approx([4 / 9] * 4)
    assert chances["image"] == pytest.approx([4 / 9] * 4)
    assert chances["audio"] == pytest.approx([1 / 9] * 4)
    assert weights.lost == pytest.approx(0.1)


def test_what_has_no_rate_is_never_taken_away():
    chances, _ = weigh({"audio": 0.25}, predictions_in_letters(ALL_THERE))
    assert chances == {"audio+image": [0.75] * 4, "image": [0.25] * 4}


def test_what_a_sample_really_lacks_can_not_be_left_alone():
    """The last of the four has no image: without audio nothing of it would be left."""
    chances, weights = weigh({"audio": 0.25}, four_samples())
    assert chances == {"audio+image": [0.75] * 3 + [1.0], "image": [0.25] * 3 + [0.0]}
    assert weights.lost == pytest.approx(0.25 / 4)
    _, weights = weigh({"audio": 1.0}, four_samples())
    assert weights.scored.tolist() == [True, True, True, False]


def test_a_rate_by_label_group_or_column(tmp_path):
    (tmp_path / "t.csv").write_text("key,light\nk1,dark\nk0,bright\n")
    by_label, _ = weigh({"a": {"by": "label", "rates": {"y": 0.5, "z": 1.0}}}, of_three())
    assert by_label == {"a+b+c": [1.0, 0.5], "b+c": [0.0, 0.5]}
    for name in ("room", "group"):
        by_group, _ = weigh({"a": {"by": name, "rates": {"r": 0.25}, "otherwise": 0.5}}, of_three())
        assert by_group["b+c"] == [0.25, 0.5]
    rule = {"by": "light", "rates": {"dark": 1.0}}
    by_column, _ = weigh({"a": rule}, of_three(), "t.csv", tmp_path)
    assert by_column == {"a+b+c": [1.0, 0.0], "b+c": [0.0, 1.0]}


def test_a_rate_by_another_modality():
    missing = {"a": 0.5, "b": {"by": "a", "rates": {"absent": 0.75, "present": 0.25}}}
    chances, _ = weigh(missing, of_three())
    first = {subset: numbers[0] for subset, numbers in chances.items()}
    assert first == {"a+b+c": 0.375, "a+c": 0.125, "b+c": 0.125, "c": 0.375}


def test_a_modality_that_is_really_absent_counts_as_absent():
    rule = {"by": "image", "rates": {"absent": 1.0}}
    chances, weights = weigh({"audio": rule}, four_samples())
    assert chances["audio+image"] == [1.0, 1.0, 1.0, 0.0]  # of the last nothing is left
    assert weights.scored.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"sound": 0.5}, "unknown modality 'sound'"),
        ({"a": {"by": "weather", "rates": {"x": 1.0}}}, "unknown thing that a rate depends on"),
        ({"a": {"by": "label", "rates": {"w": 1.0}}}, "unknown value of label 'w'"),
        ({"a": {"by": "b", "rates": {"gone": 1.0}}}, "unknown value of b 'gone'"),
        (
            {"a": {"by": "b", "rates": {"absent": 1}}, "b": {"by": "a", "rates": {"absent": 1}}},
            "in a circle: a, b, a",
        ),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "it leaves nothing of any sample"),
    ],
)
def test_what_can_not_be_is_said(missing, message):
    with pytest.raises(UserError, match=message):
        weigh(missing, of_three())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,light\nk0,dark\n", "1 of 2 samples have no row, first 'k1'"),
        ("key,light\nk0,dark\nk1,dark\nk0,dark\n", "row 3 has the key 'k0' again"),
        ("name,light\nk0,dark\n", "there is no column 'key'"),
    ],
)
def test_a_table_that_does_not_fit_is_said(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        weigh({"a": 0.5}, of_three(), "t.csv", tmp_path)


def test_the_protocol_of_the_docs_is_one():
    blocks = documents.blocks("docs/evaluation.md")
    (text,) = [block.text for block in blocks if block.language == "yaml" and block.marker]
    protocol = Protocol.model_validate(YAML(typ="safe", pure=True).load(text))
    assert set(protocol.missing) == {"audio", "image"}
    assert protocol.missing["image"].rates == {"7": 0.8, "1": 0.1}
