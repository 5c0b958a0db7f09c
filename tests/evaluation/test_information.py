"""The information report on sources whose information is known in closed form, and tables by hand."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.special import entr, log_softmax

from umemma.evaluation import error_analysis, information
from umemma.evaluation.information import Bound, Difference, Information, advise, bits
from umemma.evaluation.metrics import Bootstrap, get
from umemma.evaluation.predictions import Predictions

N = 20_000


def posterior(
    seen: Mapping[str, np.ndarray], errors: Mapping[str, float], classes: int
) -> np.ndarray:
    """(N, K) log p(y | x) of a uniform label seen through independent channels that change it, to any other, with p."""
    found = np.zeros((len(next(iter(seen.values()))), classes))
    for m, x in seen.items():
        hit = x[:, None] == np.arange(classes)
        found += np.log(np.where(hit, 1 - errors[m], errors[m] / (classes - 1)))
    return log_softmax(found, axis=1)


def informations(errors: Mapping[str, float], classes: int) -> float:
    """I(Y; X) in bits, by summing over all outcomes."""
    outcomes = np.array(list(itertools.product(range(classes), repeat=len(errors))))
    seen = dict(zip(errors, outcomes.T, strict=True))
    joint = np.ones((len(outcomes), classes)) / classes
    for m, x in seen.items():
        hit = x[:, None] == np.arange(classes)
        joint *= np.where(hit, 1 - errors[m], errors[m] / (classes - 1))
    marginal = joint.sum(1)
    return float(
        (np.log(classes) + entr(marginal).sum() - entr(joint).sum()) / np.log(2)
    )  # H(Y) + H(X) - H(Y, X)


ERRORS = {"audio": 0.1, "image": 0.3}


def channels(
    n: int = N,
    classes: int = 4,
    errors: Mapping[str, float] = ERRORS,
    scale: float = 1.0,
    seed: int = 5,
) -> Predictions:
    """Predictions that are the true posteriors, `scale` times as sure."""
    chance = np.random.default_rng(seed)
    target = chance.integers(0, classes, n)
    seen = {}
    for m, p in errors.items():
        other = (target + chance.integers(1, classes, n)) % classes
        seen[m] = np.where(chance.random(n) < p, other, target)

    def told(*names: str) -> np.ndarray:
        logits = scale * posterior({m: seen[m] for m in names}, errors, classes)
        return logits.astype(np.float32)

    ensemble = {
        "+".join(s): told(*s)
        for k in range(len(errors), 0, -1)
        for s in itertools.combinations(errors, k)
    }
    keys = [f"k{i}" for i in range(n)]
    return Predictions(
        keys,
        {"sample": keys},
        target,
        ensemble,
        {m: told(m) for m in errors},
        list("abcd")[:classes],
    )


def found(predictions: Predictions) -> Information:
    return bits(predictions, Bootstrap(predictions.groups, 0, 200))


def test_the_closed_forms_agree():
    h = float(entr([0.1, 0.9]).sum() / np.log(2))
    assert informations({"audio": 0.1}, 2) == pytest.approx(1 - h)
    assert informations({"audio": 0.1, "image": 0.5}, 2) == pytest.approx(
        1 - h
    )  # an even coin adds nothing


@pytest.mark.parametrize("classes", [2, 4])
def test_true_posteriors_tell_what_there_is(classes):
    """Within twice the interval: about four standard errors, as seven numbers are compared."""
    result = found(channels(classes=classes))
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
    """Of 40 sources, each with its bounds and complementary information; on 400 each stands at 91 to 95 %."""
    both = informations(ERRORS, 4)
    alone = {m: informations({m: p}, 4) for m, p in ERRORS.items()}
    truth = {"audio+image": both} | alone
    inside = []
    for seed in range(40):
        result = found(channels(n=1000, seed=seed))
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
        found(channels(scale=scale)).bounds, found(channels()).bounds, strict=True
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
    result = found(Predictions(one.keys, one.groups, target, ensemble, alone, ["x", "y"]))
    assert result.entropy_bits == pytest.approx(2, abs=1e-3)
    single = found(one)
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
    result = found(
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
    assert information.surprise(np.array([0, 0, 3, 0])) == pytest.approx(
        [np.log2(4 / 3)] * 2 + [2, np.log2(4 / 3)]
    )
    labels = np.array([[1, 1, 0], [1, 0, 0]], dtype=np.float32)  # always, half of the time, never
    assert information.surprise(labels) == pytest.approx([1, 1])


def test_gap_by_hand():
    one = channels(n=400)
    weaker = one.ensemble["audio"].copy()
    weaker[:40] = np.roll(weaker[:40], 1, axis=1)
    right = one.ensemble["audio"].argmax(1) == one.target
    one.ensemble["audio"] = weaker
    gap = found(one).gaps[0]
    assert gap.score == pytest.approx((weaker.argmax(1) == one.target).mean() - right.mean())
    assert gap.score < gap.score_high < 0
    assert gap.bits < gap.bits_high < 0
    assert found(one).gaps[1][2:] == (0,) * 6


def told(groups: int = 100, smallest: float = 0.01, **rows: list[tuple]) -> list[str]:
    """Advice. Each row as (modality, score, score_low, score_high, bits, bits_low, bits_high)."""
    differences = {
        name: [Difference(m, 100, *numbers) for m, *numbers in each] for name, each in rows.items()
    }
    metric = get("accuracy", "multiclass", 2)
    return list(advise(Information("multiclass", metric, smallest, 1.0, [], **differences), groups))


CLEAR, CLOSE, SMALL = (
    (0.3, 0.2, 0.4, 1.0, 0.9, 1.1),
    (0.2, 0.15, 0.25, 0.5, 0.4, 0.6),
    (0.05, 0.01, 0.1, 0.1, 0.05, 0.2),
)
NOTHING, HARM = (0.0, -0.01, 0.01, 0.0, -0.1, 0.1), (-0.1, -0.2, -0.05, 0.0, -0.1, 0.1)


def test_advice_says_what_to_protect():
    assert told(complementary=[("audio", *SMALL), ("image", *CLEAR)]) == [
        "Protect image most: accuracy falls by 30.0 points (20.0 to 40.0) without image. A second sensor or another fallback "
        "pays off there first. Estimated in bits, this much is told by nothing else: image 1.00 bits (0.90 to 1.10)."
    ]
    assert told(complementary=[("audio", *CLEAR), ("image", *CLOSE), ("text", *SMALL)]) == [
        "Protect audio and image alike, each by a second sensor or another fallback: accuracy falls by 30.0 points (20.0 to "
        "40.0) without audio and by 20.0 points (15.0 to 25.0) without image, and these intervals overlap. Estimated in "
        "bits, this much is told by nothing else: audio 1.00 bits (0.90 to 1.10), image 0.50 bits (0.40 to 0.60)."
    ]
    (points_only,) = told(complementary=[("audio", 0.3, 0.2, 0.4, -0.5, -0.6, -0.4)])
    assert "Protect audio" in points_only
    assert "bits" not in points_only  # which say otherwise


def test_harm_is_of_the_score():
    (line,) = told(complementary=[("audio", *NOTHING), ("image", *HARM)])
    assert line == (
        "The modality image does harm: with it accuracy is 10.0 points (5.0 to 20.0) lower than without it. Use it only "
        "where the others are missing, or leave it out of `modalities`."
    )
    assert (
        told(complementary=[("image", 0.018, -0.012, 0.05, -0.98, -1.33, -0.65)]) == []
    )  # bits alone are no harm
    assert told(complementary=[("image", -0.018, -0.05, 0.012, 0.98, 0.65, 1.33)]) == []


def test_nothing_is_said_of_what_does_not_matter():
    tiny = (-0.004, -0.006, -0.002, -0.04, -0.05, -0.03)  # surely below 0, but by less than a point
    assert (
        told(
            complementary=[("image", *tiny)], gaps=[("image", *tiny)], shortfalls=[("image", *tiny)]
        )
        == []
    )
    assert told(complementary=[("image", 0.009, 0.002, 0.012, 0, 0, 0)]) == []
    assert len(told(smallest=0.003, complementary=[("image", *tiny)])) == 1
    assert told(gaps=[("spectrogram", 0.001, -0.002, 0.005, -0.04, -0.05, -0.03)]) == []


def test_what_is_most_urgent_comes_first():
    """Everything together is worse than one part: its own model, or the ensemble with nothing else."""
    lines = told(
        complementary=[("image", *HARM), ("text", *CLEAR)],
        singles=[("image", *CLEAR), ("text", *HARM)],
        shortfalls=[("image", *CLEAR), ("text", -0.061, -0.09, -0.03, 0, 0, 0)],
    )
    assert lines[0].startswith(
        "All modalities together do worse than the same ensemble given only text: accuracy is 10.0 points (5.0 to 20.0) lower. "
        "Until that is fixed, use text alone wherever it is there."
    )
    assert lines[1].startswith("Protect text most")
    assert not any("does harm" in line for line in lines)  # of two it is the same once more
    (own,) = told(
        singles=[("text", *NOTHING)], shortfalls=[("text", -0.061, -0.09, -0.03, 0, 0, 0)]
    )
    assert own.startswith(
        "All modalities together do worse than the model trained on text alone: accuracy is 6.1 points (3.0 to 9.0) lower."
    )
    of_three = [("audio", *NOTHING), ("image", *HARM), ("text", *CLEAR)]
    assert any(
        "image does harm" in line
        for line in told(complementary=of_three, singles=[("text", *HARM)])
    )


def test_advice_tells_the_fusion_from_the_encoder():
    whole = {"gaps": [("audio", *HARM)], "shortfalls": [("audio", *CLEAR)]}
    (fusion,) = told(**whole, fusion_gaps=[("audio", *HARM)], encoder_gaps=[("audio", *NOTHING)])
    assert fusion == (
        "The fusion loses part of audio: given only audio, the ensemble's accuracy is 10.0 points (5.0 to 20.0) below that of "
        "a linear probe on its own audio features. Give audio more weight in finetune.pattern_weights, with "
        "finetune.mma: all or drop, and keep evaluate.calibrate on."
    )
    (encoder,) = told(**whole, fusion_gaps=[("audio", *NOTHING)], encoder_gaps=[("audio", *HARM)])
    assert encoder.startswith(
        "The ensemble's audio encoder learnt less than it could: with a linear probe on its features accuracy is 10.0 points "
        "(5.0 to 20.0) below that of the model trained on audio alone. Start from the uni-modal models"
    )
    assert len(told(**whole, fusion_gaps=[("audio", *HARM)], encoder_gaps=[("audio", *HARM)])) == 2
    (unclear,) = told(**whole)
    assert unclear.startswith(
        "Given only audio, the ensemble's accuracy is 10.0 points (5.0 to 20.0) below"
    )
    assert "not clear" in unclear
    (weak,) = told(
        gaps=[("audio", *NOTHING), ("image", *NOTHING)],
        shortfalls=[("audio", *CLEAR), ("image", *CLOSE)],
    )
    assert weak.startswith(
        "The model trained on audio alone is 30.0 points (20.0 to 40.0) of accuracy below all"
    )
    assert told(gaps=[("audio", *NOTHING)], shortfalls=[("audio", *NOTHING)]) == []
    assert told(gaps=[("audio", *NOTHING)]) == []  # a single modality


def test_few_groups_give_no_advice():
    (line,) = told(groups=9, complementary=[("image", *CLEAR)])
    assert (
        line
        == "There are only 9 independent groups of samples: too few for intervals, so no advice is given."
    )
    assert told(groups=10, complementary=[("image", *CLEAR)])[0].startswith("Protect image")
    one = channels(n=400)
    crossed = {
        "image": [f"i{i // 2}" for i in range(400)],
        "voice": [f"v{i % 9}" for i in range(400)],
    }
    both = Predictions(one.keys, crossed, one.target, one.ensemble, one.unimodal)
    assert "only 9 independent groups" in found(both).advice[0]


def two_stages(lazy: bool, n: int = 4000) -> Predictions:
    """Audio answers a label of two through a channel with 10 % errors; image through one with 30 %. The ensemble's features
    of audio are what its encoder heard. lazy: the encoder hears worse (35 % errors), and the fusion answers with what it
    heard. Else the encoder hears as well as the uni-modal model, but the fusion swaps a quarter of the answers."""
    chance = np.random.default_rng(0)
    target = chance.integers(0, 2, n)

    def heard(errors: float, of: np.ndarray) -> np.ndarray:
        return np.where(chance.random(n) < errors, 1 - of, of)

    def answer(x: np.ndarray, errors: float) -> np.ndarray:
        return posterior({"x": x}, {"x": errors}, 2).astype(np.float32)

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
    result = found(two_stages(lazy=True))
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
    result = found(two_stages(lazy=False))
    (encoder, _), (fusion, _) = result.encoder_gaps, result.fusion_gaps
    assert fusion.score == pytest.approx(-0.2, abs=0.03)
    assert fusion.score_low < fusion.score < fusion.score_high < 0
    assert fusion.bits < fusion.bits_high < 0
    assert encoder[2:] == (0,) * 6
    assert any(line.startswith("The fusion loses part of audio") for line in result.advice)
    assert not any("encoder learnt less" in line for line in result.advice)
    for gap, own, lost in zip(result.gaps, result.encoder_gaps, result.fusion_gaps, strict=True):
        assert gap.score == pytest.approx(own.score + lost.score)
        assert gap.bits == pytest.approx(own.bits + lost.bits)


def test_the_leading_metric_is_what_advice_follows():
    """99 of 100 samples are of one class, which the image always answers: F1 over classes falls where accuracy doesn't."""
    one = channels(n=2000, classes=2)
    rare = np.where(np.arange(2000) % 100 == 0, 1, 0)
    sure = np.eye(2, dtype=np.float32)[rare]
    common = np.eye(2, dtype=np.float32)[np.zeros(2000, np.int64)]
    ensemble = {"audio+image": sure, "audio": sure, "image": common}
    alone = {"audio": sure, "image": common}
    made = Predictions(one.keys, {"sample": one.keys}, rare, ensemble, alone, ["x", "y"])
    bootstrap = Bootstrap(made.groups, 0, 100)
    by_f1 = bits(made, bootstrap, get("f1_macro", "multiclass", 2))
    assert by_f1.complementary[0].score == pytest.approx(
        1 - 0.5 * 2 * 0.99 / 1.99, abs=1e-6
    )  # recall 1 and 0
    assert bits(made, bootstrap).complementary[0].score == pytest.approx(0.01)
    assert by_f1.as_json()["metric"] == "f1_macro"
    assert by_f1.advice[0].startswith("Protect audio most: F1 (macro) falls by 50.3 points")
    assert bits(made, bootstrap, smallest=0.02).advice == []
    everything = by_f1.singles[1]  # all less the ensemble with only image
    assert everything.score == by_f1.complementary[0].score


def test_advice_on_a_known_source():
    lines = found(
        channels(errors={"audio": 0.1, "image": 0.3, "text": 0.75})
    ).advice  # 0.75 of 4: text is noise
    assert lines[0].startswith("Protect audio most")
    assert not any(
        "Given only" in line or "The fusion" in line or "does harm" in line for line in lines
    )


def test_json_holds_every_number():
    result = found(channels(n=500))
    data = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert [Bound(**row) for row in data["information"]] == result.bounds
    assert [Difference(**row) for row in data["gaps"]] == result.gaps
    assert [Difference(**row) for row in data["singles"]] == result.singles
    assert (data["metric"], data["smallest_effect"], data["encoder_gaps"]) == ("accuracy", 0.01, [])


def test_one_modality_has_nothing_to_complement():
    result = found(channels(n=100, errors={"audio": 0.1}))
    assert len(result.bounds) == 2
    assert (result.complementary, result.shortfalls, result.singles) == ([], [], [])
    probed = channels(n=100, errors={"audio": 0.1})
    probed.probes["audio"] = probed.unimodal["audio"]
    assert [row.score for row in found(probed).fusion_gaps] == [0]


def small() -> Predictions:
    """Probabilities 0.9, 0.8, 0.8, 0.6 of the first class, and a sample with none; right, right, wrong, wrong."""
    p = np.array([0.9, 0.8, 0.8, 0.6, np.nan])
    logits = np.log(np.stack([p, 1 - p], 1)).astype(np.float32)
    return Predictions(
        list("abcde"),
        {"sample": list("abcde")},
        np.array([0, 0, 1, 1, 0]),
        {"x": logits},
        {"x": logits},
        ["u", "v"],
    )


def test_selective_by_hand():
    rows = error_analysis.selective(small(), points=4)
    assert [row.n for row in rows] == [1, 2, 3, 4]
    assert [row.score for row in rows] == pytest.approx(
        [1, 0.75, 2 / 3, 0.5]
    )  # the two of 0.8 stand in no order
    assert [row.confidence for row in rows] == pytest.approx([0.9, 0.8, 0.8, 0.6])
    area = error_analysis.aurc(small().ensemble["x"], small().target)
    assert area == pytest.approx(1 - np.mean([1, 0.75, 2 / 3, 0.5]))


def test_confident_answers_of_a_true_posterior_are_better():
    one = channels(n=2000)
    rows = error_analysis.selective(one, points=10)
    assert len(rows) == 30
    scores = [row.score for row in rows if row.modalities == "audio+image"]
    assert scores[0] > scores[-1]
    assert error_analysis.aurc(one.ensemble["audio+image"], one.target) < error_analysis.aurc(
        one.ensemble["image"], one.target
    )


def test_reliability_by_hand():
    rows = error_analysis.reliability(
        small()
    )  # 15 bins: 0.6 falls into the 10th, 0.8 into the 13th, 0.9 into the 14th
    assert [row.n for row in rows] == [1, 2, 1]
    assert [row.confidence for row in rows] == pytest.approx([0.6, 0.8, 0.9])
    assert [row.right for row in rows] == [0, 0.5, 1]


def test_classes_by_hand():
    one = small()
    assert [(row.name, row.n, row.score) for row in error_analysis.per_class(one)] == [
        ("u", 2, 1.0),
        ("v", 2, 0.0),
    ]
    matrix = error_analysis.confusion(one.ensemble["x"], one.target)
    assert matrix.tolist() == [[2, 0], [2, 0]]
    assert error_analysis.confused(matrix, one.classes) == [("v", "u", 2, 1.0)]


def test_labels_by_hand():
    """F1 of three labels: found twice and right once of one, missed, and neither there nor found."""
    target = np.array([[1, 1, 0], [0, 0, 0]], dtype=np.float32)
    logits = np.array([[1, -1, -1], [1, -1, -1]], dtype=np.float32)
    one = Predictions(
        list("ab"), {"sample": list("ab")}, target, {"x": logits}, {"x": logits}, ["u", "v", "w"]
    )
    assert [row.score for row in error_analysis.per_class(one)] == pytest.approx([2 / 3, 0, None])
    assert sum(row.n for row in error_analysis.reliability(one)) == 6
