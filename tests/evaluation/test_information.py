"""The information report on sources whose information is known in closed form, and by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.special import entr
from toys.predictions import ERRORS, channels, posterior

from umemma.evaluation import information
from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.information import estimate_information
from umemma.evaluation.information_report import Information, InformationBound, ModelDifference
from umemma.evaluation.metrics import get
from umemma.evaluation.predictions import Predictions

N = 20_000


def informations(errors: Mapping[str, float], classes: int) -> float:
    """I(Y; X) in bits, by summing over all outcomes."""
    outcomes = np.array(list(itertools.product(range(classes), repeat=len(errors))))
    seen = dict(zip(errors, outcomes.T, strict=True))
    joint = np.ones((len(outcomes), classes)) / classes
    for m, x in seen.items():
        hit = x[:, None] == np.arange(classes)
        joint *= np.where(
            hit,
            1 - errors[m],
            errors[m] / (classes - 1),
        )
    marginal = joint.sum(1)
    return float(
        (np.log(classes) + entr(marginal).sum() - entr(joint).sum()) / np.log(2)
    )  # H(Y) + H(X) - H(Y, X)


def estimate(predictions: Predictions) -> Information:
    return estimate_information(predictions, Bootstrap(predictions.groups, 0, 200))


def test_the_closed_forms_agree():
    h = float(entr([0.1, 0.9]).sum() / np.log(2))
    assert informations({"audio": 0.1}, 2) == pytest.approx(1 - h)
    assert informations({"audio": 0.1, "image": 0.5}, 2) == pytest.approx(
        1 - h
    )  # an even coin adds nothing


@pytest.mark.parametrize("classes", [2, 4])
def test_true_posteriors_tell_what_there_is(classes):
    """Within twice the interval: about four standard errors, as seven numbers are compared."""
    result = estimate(channels(classes=classes))
    assert result.entropy_bits == pytest.approx(np.log2(classes), abs=1e-3)
    assert len(result.bounds) == 5
    for row in result.bounds:
        truth = informations({m: ERRORS[m] for m in row.modalities.split("+")}, classes)
        assert abs(row.bits - truth) < row.high - row.low < 0.06
        assert row.bits == pytest.approx(row.entropy - row.cross_entropy)
    both = informations(ERRORS, classes)
    for row in result.complementary:
        rest = {m: p for m, p in ERRORS.items() if m != row.modality}
        truth = both - informations(rest, classes)
        assert abs(row.bits - truth) < row.bits_high - row.bits_low < 0.06


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 40 sources, each with its bounds and complementary information; on 400 each stands at
    91 to 95 %.
    """
    both = informations(ERRORS, 4)
    alone = {m: informations({m: p}, 4) for m, p in ERRORS.items()}
    truth = {"audio+image": both} | alone
    inside = []
    for seed in range(40):
        result = estimate(channels(n=1000, seed=seed))
        inside += [
            row.low < truth[row.modalities] < row.high
            for row in result.bounds
            if row.model == "ensemble"
        ]
        others = {"audio": alone["image"], "image": alone["audio"]}
        inside += [
            row.bits_low < both - others[row.modality] < row.bits_high
            for row in result.complementary
        ]
    assert 0.88 < np.mean(inside) < 0.99


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_wrong_confidence_only_lowers_the_bound(scale):
    for wrong, right in zip(
        estimate(channels(scale=scale)).bounds, estimate(channels()).bounds, strict=True
    ):
        assert wrong.high < right.low


def test_sets_of_labels_are_summed_over_labels():
    """Two labels, each through its own channels: twice the information of one."""
    one = channels(classes=2)
    chance = np.random.default_rng(0).permutation(N)

    def pair(logits: np.ndarray) -> np.ndarray:
        each = logits[:, 1] - logits[:, 0]
        return np.stack([each, each[chance]], 1)

    target = np.stack([one.target, one.target[chance]], 1).astype(np.float32)
    ensemble = {s: pair(logits) for s, logits in one.ensemble.items()}
    alone = {m: pair(logits) for m, logits in one.unimodal.items()}
    result = estimate(
        Predictions(
            one.keys,
            one.groups,
            target,
            ensemble,
            alone,
            ["x", "y"],
        )
    )
    assert result.entropy_bits == pytest.approx(2, abs=1e-3)
    single = estimate(one)
    for row, half in zip(result.bounds, single.bounds, strict=True):
        assert row.bits == pytest.approx(2 * half.bits, abs=1e-5)


def test_absent_modalities_by_hand():
    """Four samples; the last has no image. Sure answers of probability 1/2 and 1."""
    half, sure = np.log([0.5, 0.5]), np.array([50.0, 0.0])
    none = np.full(2, np.nan)
    target = np.array([0, 1, 0, 1])
    image = np.stack([sure, half, half, none]).astype(np.float32)
    audio = np.stack([half, half, half, sure[::-1]]).astype(np.float32)
    whole = np.stack([sure, sure[::-1], half, sure[::-1]]).astype(np.float32)
    ensemble = {"audio+image": whole, "audio": audio, "image": image}
    result = estimate(
        Predictions(
            list("abcd"),
            {"group": list("aabb")},
            target,
            ensemble,
            {"audio": audio, "image": image},
            ["x", "y"],
        )
    )
    rows = {row.modalities: row for row in result.bounds if row.model == "ensemble"}
    assert (rows["image"].n, rows["audio"].n) == (3, 4)
    share = entr([1 / 3, 2 / 3]).sum() / np.log(2)  # of the labels of a, b and c
    assert (rows["image"].entropy, rows["image"].cross_entropy) == pytest.approx(
        (share, 2 / 3), abs=1e-6
    )
    assert rows["audio"].bits == pytest.approx(1 - 3 / 4, abs=1e-6)
    adds = {row.modality: row for row in result.complementary}
    assert (adds["audio"].n, adds["image"].n) == (
        3,
        3,
    )  # d has nothing besides audio, and no image to lose
    assert adds["audio"].bits == pytest.approx(1 / 3, abs=1e-6)
    assert adds["image"].bits == pytest.approx(2 / 3, abs=1e-6)
    assert all(row.bits == row.score == 0 for row in result.gaps)
    assert "too few" in result.advice[0]


def test_surprise_by_hand():
    assert information.label_surprise(np.array([0, 0, 3, 0])) == pytest.approx(
        [np.log2(4 / 3)] * 2 + [2, np.log2(4 / 3)]
    )
    labels = np.array([[1, 1, 0], [1, 0, 0]], dtype=np.float32)  # always, half of the time, never
    assert information.label_surprise(labels) == pytest.approx([1, 1])


def test_gap_by_hand():
    one = channels(n=400)
    weaker = one.ensemble["audio"].copy()
    weaker[:40] = np.roll(
        weaker[:40],
        1,
        axis=1,
    )
    right = one.ensemble["audio"].argmax(1) == one.target
    one.ensemble["audio"] = weaker
    gap = estimate(one).gaps[0]
    assert gap.score == pytest.approx((weaker.argmax(1) == one.target).mean() - right.mean())
    assert gap.score < gap.score_high < 0
    assert gap.bits < gap.bits_high < 0
    assert estimate(one).gaps[1][2:] == (0,) * 6


def two_stages(lazy: bool, n: int = 4000) -> Predictions:
    """Audio answers a label of two through a channel with 10 % errors; image through one with
    30 %. The ensemble's features of audio are what its encoder heard. lazy: the encoder hears
    worse (35 % errors), and the fusion answers with what it heard. Else the encoder hears as
    well as the uni-modal model, but the fusion swaps a quarter of the answers.
    """
    chance = np.random.default_rng(0)
    target = chance.integers(0, 2, n)

    def heard(errors: float, of: np.ndarray) -> np.ndarray:
        return np.where(chance.random(n) < errors, 1 - of, of)

    def answer(x: np.ndarray, errors: float) -> np.ndarray:
        return posterior(
            {"x": x},
            {"x": errors},
            2,
        ).astype(np.float32)

    audio, image = heard(0.1, target), answer(heard(0.3, target), 0.3)
    feature = heard(0.28, audio) if lazy else audio  # 0.1 * 0.72 + 0.9 * 0.28 = 0.324 wrong
    probe = answer(feature, 0.324 if lazy else 0.1)
    fused = (
        probe if lazy else answer(heard(0.25, feature), 0.3)
    )  # 0.1 * 0.75 + 0.9 * 0.25 = 0.3 wrong
    keys = [f"k{i}" for i in range(n)]
    alone = {"audio": answer(audio, 0.1), "image": image}
    ensemble = {"audio+image": fused + image, "audio": fused, "image": image}
    return Predictions(
        keys,
        {"sample": keys},
        target,
        ensemble,
        alone,
        ["x", "y"],
        probes={"audio": probe, "image": image},
    )


def test_a_probe_blames_the_lazy_encoder():
    result = estimate(two_stages(lazy=True))
    (encoder, of_image), (fusion, _) = result.encoder_gaps, result.fusion_gaps
    assert encoder.score == pytest.approx(-0.224, abs=0.03)
    assert encoder.score_low < encoder.score < encoder.score_high < 0
    assert encoder.bits < encoder.bits_high < 0
    assert fusion[2:] == of_image[2:] == (0,) * 6
    assert any(
        line.startswith("The ensemble's audio encoder learnt less") for line in result.advice
    )
    assert not any("The fusion loses" in line for line in result.advice)


def test_a_probe_blames_the_broken_fusion():
    result = estimate(two_stages(lazy=False))
    (encoder, _), (fusion, _) = result.encoder_gaps, result.fusion_gaps
    assert fusion.score == pytest.approx(-0.2, abs=0.03)
    assert fusion.score_low < fusion.score < fusion.score_high < 0
    assert fusion.bits < fusion.bits_high < 0
    assert encoder[2:] == (0,) * 6
    assert any(line.startswith("The fusion loses part of audio") for line in result.advice)
    assert not any("encoder learnt less" in line for line in result.advice)
    for gap, own, lost in zip(
        result.gaps,
        result.encoder_gaps,
        result.fusion_gaps,
        strict=True,
    ):
        assert gap.score == pytest.approx(own.score + lost.score)
        assert gap.bits == pytest.approx(own.bits + lost.bits)


def test_the_leading_metric_is_what_advice_follows():
    """99 of 100 samples are of one class, which the image always answers: F1 over classes falls
    where accuracy doesn't.
    """
    one = channels(n=2000, classes=2)
    rare = np.where(
        np.arange(2000) % 100 == 0,
        1,
        0,
    )
    sure = np.eye(2, dtype=np.float32)[rare]
    common = np.eye(2, dtype=np.float32)[np.zeros(2000, np.int64)]
    ensemble = {"audio+image": sure, "audio": sure, "image": common}
    alone = {"audio": sure, "image": common}
    made = Predictions(
        one.keys,
        {"sample": one.keys},
        rare,
        ensemble,
        alone,
        ["x", "y"],
    )
    bootstrap = Bootstrap(made.groups, 0, 100)
    by_f1 = estimate_information(made, bootstrap, get("f1_macro", "multiclass", 2))
    assert by_f1.complementary[0].score == pytest.approx(
        1 - 0.5 * 2 * 0.99 / 1.99, abs=1e-6
    )  # recall 1 and 0
    assert estimate_information(made, bootstrap).complementary[0].score == pytest.approx(0.01)
    assert by_f1.as_json()["metric"] == "f1_macro"
    assert by_f1.advice[0].startswith("Protect audio most: F1 (macro) falls by 50.3 points")
    assert estimate_information(made, bootstrap, smallest=0.02).advice == []
    everything = by_f1.singles[1]  # all less the ensemble with only image
    assert everything.score == by_f1.complementary[0].score


def test_json_holds_every_number():
    result = estimate(channels(n=500))
    data = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert [InformationBound(**row) for row in data["information"]] == result.bounds
    assert [ModelDifference(**row) for row in data["gaps"]] == result.gaps
    assert [ModelDifference(**row) for row in data["singles"]] == result.singles
    assert (data["metric"], data["smallest_effect"], data["encoder_gaps"]) == ("accuracy", 0.01, [])


def test_one_modality_has_nothing_to_complement():
    result = estimate(channels(n=100, errors={"audio": 0.1}))
    assert len(result.bounds) == 2
    assert (result.complementary, result.shortfalls, result.singles) == ([], [], [])
    probed = channels(n=100, errors={"audio": 0.1})
    probed.probes["audio"] = probed.unimodal["audio"]
    assert [row.score for row in estimate(probed).fusion_gaps] == [0]
