"""Markers: those of earlier versions stay valid, and a shard is current by its input hash."""

from __future__ import annotations

import json
from dataclasses import replace

from toys.shards import SPEC, toy_records

from umemma.data import shard_marker, shard_plan, shard_writer
from umemma.system.storage import Store
from umemma.types import Packing

# As written by version 0.1 for the validation split of digits.
OLD = {
    "broken": {},
    "failed": 0,
    "itself": "ebd97e2999c5d845",
    "left_out": 0,
    "made_from": "da66665bc8950b61",
    "name": "val-000000.tar",
    "reasons": {},
    "rows_sha256": "c61ded6906f09378e6b053e6071f959145e6b7dcd02b94fbbb6dce5c6bd99d65",
    "samples": 269,
    "sha256": "cecf794f0973ef256d8f226a7de507ece0d32e8986fdbb03a3630f15c7bc017c",
    "size": 3799040,
}


def test_a_marker_of_an_earlier_version_is_valid(tmp_path):
    (tmp_path / "val-000000.json").write_text(json.dumps(OLD))
    marker = shard_marker.read_marker(Store(str(tmp_path)), "val-000000")
    assert marker is not None
    assert (marker.input_hash, marker.content_hash) == (OLD["made_from"], OLD["itself"])
    assert json.loads(shard_writer.to_json(marker)) == OLD
    for key, value in (("made_from", "another"), ("itself", ""), ("samples", 1)):
        (tmp_path / "val-000000.json").write_text(json.dumps({**OLD, key: value}))
        assert shard_marker.read_marker(Store(str(tmp_path)), "val-000000") is None


def test_a_shard_is_current_where_its_input_and_its_files_are_the_same(tmp_path):
    store = Store(str(tmp_path))
    job = next(shard_plan.plan_shards(toy_records(), SPEC, store, Packing(), 2, lambda _: "f"))

    def is_current(input_hash: str = "f", thorough: bool = False) -> bool:
        marker = shard_marker.read_marker(store, job.name)
        return shard_marker.is_current(store, marker, input_hash, thorough=thorough)

    assert not is_current()
    shard_writer.write_shard(job)
    assert is_current()
    assert is_current(thorough=True)
    assert not is_current("another")
    data = bytearray((tmp_path / f"{job.name}.tar").read_bytes())
    data[600] ^= 1  # the same size
    (tmp_path / f"{job.name}.tar").write_bytes(data)
    assert is_current()
    assert not is_current(thorough=True)
    (tmp_path / f"{job.name}.tar").write_bytes(data[:-1])
    assert not is_current()
    shard_writer.write_shard(replace(job, retry=True))
    (tmp_path / f"{job.name}.parquet").unlink()
    assert not is_current()
