"""Which records can be stored, and what a shard is made from."""

from __future__ import annotations

from umemma.data import shard_plan
from umemma.data.shard_plan import count_records, mark_problems
from umemma.datasets import manifest
from umemma.types import DatasetSpec, Record, Unreadable


def test_what_cannot_be_stored_is_a_problem_of_the_sample():
    spec = DatasetSpec("toy", "", ("text",), ("no", "yes"), "", "", ("train",))
    media = {"text": "word"}
    records = [
        Record("a", "train", 0, media),
        Record("a", "train", 1, media),
        Record("a.b", "train", 1, media),
        Record("c", "train", 2, media),
        Record("d", "train", (0,), media),
        Record("e", "train", None, media),
        Record("f", "train", None, {}, problem="no label"),
        Record("a", "train", 0, {}, left_out="by choice"),
    ]
    counts, repeated = count_records(records)
    assert (dict(counts), len(repeated)) == ({"train": 8}, 1)
    assert [record.problem for record in mark_problems(records, spec, repeated)] == [
        "",
        "duplicate id",
        "an id with other characters than letters, digits, '_' and '-'",
        "label out of range",
        "not the label of a multiclass task",
        "label out of range",
        "no label",
        "",
    ]


def test_why_a_medium_is_unreadable_is_part_of_what_a_shard_is_made_from(tmp_path):
    of = shard_plan.make_input_hash(manifest, tmp_path, {}, {})
    one, same, other = (
        Record("a", "train", 0, {"image": Unreadable(why)}) for why in ("x", "x", "y")
    )
    assert of([one]) == of([same]) != of([other])


def test_the_weight_of_a_sample_is_part_of_what_a_shard_is_made_from(tmp_path):
    of = shard_plan.make_input_hash(manifest, tmp_path, {}, {})
    plain, one, other = (Record("a", "train", 0, {}, weight=weight) for weight in (None, 1.0, 2.0))
    assert len({of([plain]), of([one]), of([other])}) == 3
