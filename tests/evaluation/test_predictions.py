"""Predictions are saved and loaded whole, and calibrated by what is present."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
from toys.predictions import four_samples, logits, random_predictions

from umemma.evaluation.calibration import Calibration
from umemma.evaluation.grid import Grid
from umemma.evaluation.predictions import Predictions, read_made_by


def test_kept_predictions_come_back_and_belong_to_their_models(tmp_path):
    path = tmp_path / "predictions.parquet"
    four_samples().save(path, "these models")
    kept = Predictions.load(path, "these models")
    assert kept is not None
    assert kept.prior == []
    assert kept.keys == list("abcd")
    np.testing.assert_array_equal(kept.ensemble["image"], four_samples().ensemble["image"])
    assert Predictions.load(path, "other models") is None
    assert Predictions.load(tmp_path / "none.parquet", "these models") is None
    path.write_bytes(b"PAR1 cut short")
    assert Predictions.load(path, "these models") is None


def test_predictions_of_sets_of_labels_are_kept(tmp_path):
    target = np.array([[1, 0], [1, 1]], dtype=np.float32)
    tables = {"audio": logits([0, 1]), "image": logits([1, 1]), "audio+image": logits([0, 0])}
    kept = Predictions(
        ["a", "b"],
        {"sample": ["a", "b"]},
        target,
        tables,
        {m: tables[m] for m in ("audio", "image")},
    )
    kept.save(tmp_path / "p.parquet", "x")
    loaded = Predictions.load(tmp_path / "p.parquet", "x")
    np.testing.assert_array_equal(loaded.target, target)
    assert (
        Grid(
            loaded,
            0,
            1,
            10,
        )
        .rows([], [])[0][0]
        .metric
        == "f1_samples"
    )


def test_groupings_and_probes_are_kept(tmp_path):
    one = four_samples()
    groups = {"image": list("aabb"), "voice": list("xyxy")}
    probes = {"audio": logits([1, 0, 1, 0]), "image": logits([1, 1, 1, None])}
    whole = Predictions(
        one.keys, groups, one.target, one.ensemble, one.unimodal, ["x", "y"], {}, probes, [0.1, 0.9]
    )
    whole.save(tmp_path / "p.parquet", "x")
    columns = pq.read_schema(tmp_path / "p.parquet").names
    assert columns[:4] == ["key", "group_image", "group_voice", "target"]
    assert columns[-2:] == ["probe/audio", "probe/image"]
    kept = Predictions.load(tmp_path / "p.parquet", "x")
    assert kept.groups == groups
    np.testing.assert_array_equal(kept.probes["image"], probes["image"])
    assert kept.prior == [0.1, 0.9]
    one.save(tmp_path / "p.parquet", "x")
    assert pq.read_schema(tmp_path / "p.parquet").names[:3] == ["key", "group", "target"]
    kept = Predictions.load(tmp_path / "p.parquet", "x")
    assert (kept.groups, kept.probes) == ({"group": list("abcd")}, {})


def test_a_probe_has_its_own_calibration():
    raw = np.array([[1.0, 0.0], [np.nan, np.nan]], dtype=np.float32)
    tables = ({"audio": raw}, {"audio": raw}, {"audio": raw})
    applied = {
        "ensemble/audio": Calibration(0.1),
        "unimodal/audio": Calibration(0.25),
        "probe/audio": Calibration(0.5),
    }
    made = Predictions.calibrated(
        list("ab"), {"sample": list("ab")}, np.zeros(2, int), tables, ["x", "y"], applied
    )
    assert made.probes["audio"][0].tolist() == [2, 0]
    assert made.unimodal["audio"][0].tolist() == [4, 0]
    assert np.isnan(made.probes["audio"][1]).all()
    made = Predictions.calibrated(
        list("ab"), {"sample": list("ab")}, np.zeros(2, int), tables[:2], ["x", "y"], applied
    )
    assert made.probes == {}


def test_an_answer_is_calibrated_by_what_is_there():
    """The second sample has no image: under both it is asked with audio, and calibrated so, as
    if it were predicted.
    """
    raw = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    image = np.array([[1.0, 0.0], [np.nan, np.nan]], dtype=np.float32)
    applied = {
        "ensemble/audio": Calibration(0.5),
        "ensemble/audio+image": Calibration(1.0, (0.0, 3.0)),
    }
    ensemble = {"audio+image": raw, "audio": raw, "image": image}
    target = np.zeros(2, dtype=np.int64)
    made = Predictions.calibrated(
        ["a", "b"],
        {"sample": ["a", "b"]},
        target,
        (ensemble, {"audio": raw, "image": image}),
        ["x", "y"],
        applied,
    )
    assert made.ensemble["audio+image"].tolist() == [[1, 3], [2, 0]]
    assert made.ensemble["audio"].tolist() == [[2, 0], [2, 0]]
    np.testing.assert_array_equal(made.ensemble["image"], image)
    assert made.uncalibrated("audio+image").tolist() == raw.tolist()


def test_a_flipped_bit_of_the_footer_is_found(tmp_path):
    """Names, types, places and the metadata: no checksum of a page covers these."""
    path = tmp_path / "predictions.parquet"
    random_predictions(50).save(path, "x")
    data = path.read_bytes()
    whole = Predictions.load(path, "x")
    assert whole is not None
    footer = int.from_bytes(data[-8:-4], "little") + 8
    found = 0
    for place in range(len(data) - footer, len(data), 7):
        flipped = data[place] ^ 1 << place % 8
        path.write_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
        altered = Predictions.load(path, "x")
        found += altered is None
        # What remains are the least and greatest values of columns, which are not read.
        assert altered is None or repr(altered) == repr(whole), place
        assert read_made_by(path) != "y"
    assert found > footer / 7 / 2


def test_altered_predictions_are_not_used(tmp_path):
    path = tmp_path / "predictions.parquet"
    random_predictions(500).save(path, "x")
    data = path.read_bytes()
    for place in range(
        10,
        len(data) - 10,
        len(data) // 25,
    ):
        path.write_bytes(data[:place] + bytes(8) + data[place + 8 :])
        found = Predictions.load(path, "x")
        assert found is None or all(
            np.array_equal(found.ensemble[s], x)
            for s, x in random_predictions(500).ensemble.items()
        )
