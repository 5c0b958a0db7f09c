"""The fast grid against the slow way, and its numbers by hand."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from toys.predictions import logits

from umemma.encoders import build
from umemma.errors import UserError
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.grid import Grid
from umemma.evaluation.metrics import Bootstrap, sample_f1, score
from umemma.evaluation.predictions import Predictions
from umemma.missing import asked, drawn, keep_table, patterns
from umemma.models.late_fusion import LateFusion
from umemma.system.seeds import hashes
from umemma.types import Batch, ImageInput, joined

NAMES = ["audio", "image", "video"]


def by_hand() -> Predictions:
    """Four samples, all of class 1; the last has no image."""
    ensemble = {
        "audio+image": logits([1, 1, 1, 0]),
        "audio": logits([1, 0, 0, 0]),
        "image": logits([1, 1, 0, None]),
    }
    alone = {"audio": logits([1, 1, 0, 0]), "image": logits([1, 0, 0, None])}
    return Predictions(
        list("abcd"), {"sample": list("abcd")}, np.ones(4, dtype=np.int64), ensemble, alone
    )


def ratios(
    predictions: Predictions,
    what: str,
    shares: list[float],
    draws: int = 0,
    seed: int = 0,
    names=("accuracy",),
):
    """The rows of the ensemble."""
    grid = Grid(predictions, seed, draws, 50, names)
    _, rows = grid.rows([asked(what, predictions.modalities, "it")], shares)
    return [row for row in rows if row.model == "ensemble"]


def test_subsets_by_hand():
    rows = {
        (row.model, row.left): row
        for row in Grid(by_hand(), 0, 2, 50, ["accuracy"]).rows([], [])[0]
    }
    assert rows["ensemble", "audio+image"].value == 0.75
    assert rows["ensemble", "audio"].value == 0.25
    assert rows["ensemble", "image"].value == pytest.approx(2 / 3)
    assert (rows["ensemble", "image"].n, rows["ensemble", "image"].refused) == (3, 1)
    assert rows["unimodal", "audio"].value == 0.5
    assert rows["unimodal", "image"].value == pytest.approx(1 / 3)
    assert (
        rows["average", "audio+image"].value == 0.25
    )  # a is right, b and c are undecided (the first class), d is wrong
    assert len(rows) == 7 + 3  # the gaps and the worst case


def test_the_worst_case_by_hand():
    """Right under every subset that a sample has: only a. By the F1 of sets of labels: the smallest."""
    row = Grid(by_hand(), 0, 0, 200).worst()
    assert (row.missing, row.left, row.metric, row.value, row.n) == (
        "any",
        "worst",
        "accuracy",
        0.25,
        4,
    )
    assert row.low == 0 < row.value < row.high
    target = np.array([[1, 0], [1, 1]], dtype=np.float32)
    tables = {
        "a": logits([0, 1]),
        "b": logits([1, 1]),
        "a+b": logits([0, 0]),
    }  # F1: 1 2/3, 0 2/3, 1 2/3
    sets = Predictions(
        list("xy"), {"sample": list("xy")}, target, tables, {m: tables[m] for m in "ab"}
    )
    assert Grid(sets, 0, 0, 50).worst().value == pytest.approx((0 + 2 / 3) / 2)


def test_gaps_by_hand():
    """All samples lie in groups of one; only in b the ensemble with audio differs from audio's own model. So a resample's gap
    is -k / 4, where b is drawn k times: -3/4 and 0 are the quantiles (k > 3 has 0.4 %, k > 2 has 5 %), the gap is -1/4."""
    one = by_hand()
    one.ensemble["audio"], one.unimodal["audio"] = logits([1, 0, 0, 0]), logits([1, 1, 0, 0])
    rows = {row.left: row for row in Grid(one, 0, 0, 2000).rows([], [])[0] if row.model == "gap"}
    few = (4 / 3) ** 0.5 * 3.18245 / 1.95996  # Student's t with 3 degrees of freedom
    assert rows["audio"].value == -0.25
    assert rows["audio"].low == -1.0  # -0.25 - few * 0.5 is less than a share can differ by
    assert rows["audio"].high == pytest.approx(-0.25 + few * 0.25, abs=1e-4)
    assert rows["audio+image"].value == 0.75 - 0.5  # the better of 1/2 and 1/3
    assert (rows["audio+image"].missing, rows["audio"].missing, rows["audio"].metric) == (
        "",
        "image",
        "accuracy",
    )
    one.unimodal["image"] = logits([1, 1, 1, None])
    grid = Grid(one, 0, 0, 50)
    assert next(grid.gaps(grid.metrics[0])).value == 0.75 - 1  # now the image's model is the better
    one.ensemble["audio"] = one.unimodal["audio"]
    same = next(
        row
        for row in Grid(one, 0, 0, 50).gaps(Grid(one, 0, 0, 50).metrics[0])
        if row.left == "audio"
    )
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_intervals_of_the_grid_are_those_of_its_groups():
    one = chance_answers(200)
    groups = {
        "image": [f"i{n // 2}" for n in range(200)],
        "voice": [f"v{n % 20}" for n in range(200)],
    }
    grouped = Predictions(one.keys, groups, one.target, one.ensemble, one.unimodal)
    row = Grid(grouped, 0, 0, 300).rows([], [])[0][0]
    right = score(one.ensemble["audio+image"], one.target)
    assert (row.low, row.high) == pytest.approx(Bootstrap(groups, 0, 300).interval(right))
    assert (row.low, row.high) != pytest.approx(
        Bootstrap({"sample": one.keys}, 0, 300).interval(right)
    )


def test_a_share_stays_a_share():
    """Two groups tell so little that the interval is stretched ninefold."""
    one = by_hand()
    grouped = Predictions(one.keys, {"group": list("aabb")}, one.target, one.ensemble, one.unimodal)
    rows = Grid(grouped, 0, 0, 200, ["accuracy", "log_loss"]).rows([], [])[0]
    whole = {row.metric: row for row in rows if (row.model, row.missing) == ("ensemble", "")}
    assert (whole["accuracy"].low, whole["accuracy"].high) == (0, 1)
    assert whole["log_loss"].low < 0 < 1 < whole["log_loss"].high  # which is no share


def test_ratios_by_hand():
    assert [row.value for row in ratios(by_hand(), "image", [0.0, 0.5, 1.0])] == [0.75, 0.5, 0.25]
    rows = ratios(by_hand(), "audio", [0.0, 0.5, 1.0])
    assert [row.value for row in rows] == pytest.approx(
        [1.0, 5 / 6, 2 / 3]
    )  # sample d would have nothing left
    assert {row.n for row in rows} == {3}


def test_one_of_two_by_hand():
    """Of samples a, b, c: complete 1 1 1, without audio 1 1 0, without image 1 0 0; each is taken from half of the share."""
    rows = ratios(by_hand(), "audio|image", [0.0, 0.5, 1.0])
    assert [row.value for row in rows] == pytest.approx(
        [1.0, (0.5 * 3 + 0.25 * 2 + 0.25 * 1) / 3, 0.5]
    )
    assert {(row.missing, row.left, row.n) for row in rows} == {("audio|image", "image|audio", 3)}


def test_a_sample_that_could_lose_everything_is_refused_at_every_ratio_and_draw():
    rows = ratios(by_hand(), "audio", [0.0, 0.3, 1.0], draws=4)
    assert {(row.n, row.refused) for row in rows} == {(3, 1)}


def chance_answers(
    n: int, names: tuple[str, ...] = ("audio+image", "audio", "image")
) -> Predictions:
    chance = np.random.default_rng(0)
    keys = [f"k{i}" for i in range(n)]
    answers = {name: chance.normal(size=(n, 3)).astype(np.float32) for name in names}
    alone = {m: answers[m] for m in ("audio", "image")}
    return Predictions(keys, {"sample": keys}, chance.integers(0, 3, n), answers, alone)


@pytest.mark.parametrize(
    "metric", ["accuracy", "top_2", "f1_macro", "f1_weighted", "log_loss", "ece", "map"]
)
@pytest.mark.parametrize("what", ["image", "audio|image"])
def test_draws_are_what_one_gets_by_mixing_the_answers(metric, what):
    """The fast way, by sums of levels, against taking the answers of a draw and scoring them."""
    predictions = chance_answers(300)
    shares = [0.7, 0.3, 0.3]  # in any order
    names = ["accuracy", metric] if metric != "accuracy" else ["accuracy"]
    rows = [row for row in ratios(predictions, what, shares, 2, 3, names) if row.metric == metric]
    for number in range(2):
        lost, which = drawn(hashes(predictions.keys), 3, number, 2)
        for share, row in zip(shares, [row for row in rows if row.draw == number], strict=True):
            left = np.where(which == 0, "image", "audio") if "|" in what else np.full(300, "audio")
            mixed = np.stack(
                [
                    predictions.ensemble["audio+image" if lost[i] >= share else left[i]][i]
                    for i in range(300)
                ]
            )
            whole = Predictions(predictions.keys, predictions.groups, predictions.target,
                                {**predictions.ensemble, "audio+image": mixed}, predictions.unimodal)  # fmt: skip
            direct = next(
                r for r in Grid(whole, 0, 0, 10, names).rows([], [])[0] if r.metric == metric
            )
            assert row.value == pytest.approx(direct.value, abs=1e-9)


def test_draws_average_to_the_expectation():
    (expected, *rows) = ratios(chance_answers(400), "image", [0.3], 20)
    assert np.mean([row.value for row in rows]) == pytest.approx(expected.value, abs=0.02)
    assert np.isnan(rows[0].low)  # the spread is over draws


def test_a_set_that_leaves_no_sample_is_refused():
    predictions = by_hand()
    predictions.ensemble["image"][:] = np.nan
    with pytest.raises(UserError, match="no sample of the split has image"):
        ratios(predictions, "audio", [0.5])


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_fast_grid_is_the_slow_way(absent):
    """Blank the input and encode again, for every pattern of three modalities, some of them really absent."""
    torch.manual_seed(0)
    spec = ImageInput(size=8, channels=1)
    modules: dict[str, nn.Module] = {}
    for name in NAMES:
        modules[name], dim = build("cnn:small", "image", spec)
    blanks = {name: torch.full((1, 8, 8), -2.0) for name in NAMES}
    model = LateFusion(modules, dict.fromkeys(NAMES, dim), blanks, 5, absent)
    if absent == "learned":
        for vector in model.vectors.values():
            nn.init.normal_(vector)
    inputs = {name: torch.randn(12, 1, 8, 8) for name in NAMES}
    present = torch.rand(12, 3) > 0.3
    present[:, 0] |= ~present.any(1)
    whole = Batch(inputs, present, torch.zeros(12, dtype=torch.int64))
    fast = model.eval().pattern_logits(whole, torch.from_numpy(keep_table(NAMES)))

    def slow(keep: torch.Tensor, sample: int) -> torch.Tensor:
        total = torch.zeros(5)
        for i, name in enumerate(NAMES):
            x = inputs[name][sample] if keep[i] else blanks[name]
            feature, head = model.encoders[name](x[None])[0], model.heads[name]
            if not keep[i] and absent != "blank":
                feature = model.vectors[name] if absent == "learned" else torch.zeros(dim)
            counts = keep[i] or absent == "blank"
            total += head(feature) if counts else head.weight @ feature
        return total / (len(NAMES) if absent == "blank" else keep.sum())

    with torch.no_grad():
        for s, pattern in enumerate(patterns(NAMES)):
            for sample in range(12):
                keep = present[sample] & torch.tensor([name in pattern for name in NAMES])
                if keep.any():
                    assert torch.allclose(fast[sample, s], slow(keep, sample), atol=1e-5), joined(
                        pattern
                    )
                else:
                    assert fast[sample, s].isnan().all()


def test_kept_predictions_come_back_and_belong_to_their_models(tmp_path):
    path = tmp_path / "predictions.parquet"
    by_hand().save(path, "these models")
    kept = Predictions.load(path, "these models")
    assert kept is not None
    assert kept.keys == list("abcd")
    np.testing.assert_array_equal(kept.ensemble["image"], by_hand().ensemble["image"])
    assert Predictions.load(path, "other models") is None
    assert Predictions.load(tmp_path / "none.parquet", "these models") is None
    path.write_bytes(b"PAR1 cut short")
    assert Predictions.load(path, "these models") is None


def test_bootstrap_resamples_groups():
    values = np.array([1.0, 1, 1, 1, 0, 0, 0, 0])
    alone = Bootstrap({"sample": [str(i) for i in range(8)]}, 0, 2000).interval(values)
    grouped = Bootstrap({"group": list("aaaabbbb")}, 0, 2000).interval(values)
    assert grouped == (0.0, 1.0)  # two groups: a quarter of the draws take the same one twice
    assert 0 < alone[0] < 0.5 < alone[1] < 1
    assert Bootstrap({"group": ["a", "b"]}, 0, 50).interval(np.array([1.0, np.nan])) == (1.0, 1.0)


def test_sets_of_labels_are_scored_by_f1_per_sample():
    target = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
    found = np.array([[1, 1, -1], [-1, 1, -1], [-1, -1, -1]], dtype=np.float32)
    assert sample_f1(found, target).tolist() == [
        0.5,
        1.0,
        0.0,
    ]  # 2 * 1 / (2 + 2); 2 * 1 / (1 + 1); nothing
    assert score(np.stack([found, target - 0.5], 1), target).tolist() == [
        [0.5, 1.0],
        [1.0, 1.0],
        [0.0, 0.0],
    ]
    assert np.isnan(sample_f1(np.full((1, 3), np.nan), target[:1])).all()


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
    assert Grid(loaded, 0, 1, 10).rows([], [])[0][0].metric == "f1_samples"


def test_groupings_and_probes_are_kept(tmp_path):
    one = by_hand()
    groups = {"image": list("aabb"), "voice": list("xyxy")}
    probes = {"audio": logits([1, 0, 1, 0]), "image": logits([1, 1, 1, None])}
    whole = Predictions(
        one.keys, groups, one.target, one.ensemble, one.unimodal, ["x", "y"], {}, probes
    )
    whole.save(tmp_path / "p.parquet", "x")
    columns = pq.read_schema(tmp_path / "p.parquet").names
    assert columns[:4] == ["key", "group_image", "group_voice", "target"]
    assert columns[-2:] == ["probe/audio", "probe/image"]
    kept = Predictions.load(tmp_path / "p.parquet", "x")
    assert kept.groups == groups
    np.testing.assert_array_equal(kept.probes["image"], probes["image"])
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
    """The second sample has no image: under both it is asked with audio, and calibrated so, as if it were predicted."""
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


def test_altered_predictions_are_not_used(tmp_path):
    path = tmp_path / "predictions.parquet"
    chance_answers(500).save(path, "x")
    data = path.read_bytes()
    for place in range(10, len(data) - 10, len(data) // 25):
        path.write_bytes(data[:place] + bytes(8) + data[place + 8 :])
        found = Predictions.load(path, "x")
        assert found is None or all(
            np.array_equal(found.ensemble[s], x) for s, x in chance_answers(500).ensemble.items()
        )
