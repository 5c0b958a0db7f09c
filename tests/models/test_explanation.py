"""What each modality adds to a prediction, beside the predictions from every subset of it."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from toys.models import call, make_noise, make_picture, save_model, write_media

import umemma
from umemma.errors import UserError
from umemma.models.explanation import Explanation
from umemma.models.predictor import Predictor
from umemma.types import Sound

PRIOR = (0.5, 0.3, 0.2)
FITTED = {
    "audio": {"temperature": 0.5, "bias": [1.0, 0.0, -1.0]},
    "audio+image": {"temperature": 2.0, "bias": []},
    "audio+image+text": {"temperature": 1.5, "bias": [0.0, 0.5, 0.0]},
}


def make_media() -> dict:
    return {"audio": Sound(make_noise(), 8000), "image": make_picture(), "text": "some words"}


def measure(model: Predictor, media: dict, name: str) -> float:
    """The worth of these media for a class: from the prediction, as a user would ask for it."""
    if not media:
        share = PRIOR[int(name.removeprefix("class "))]
    else:
        share = model.predict(**media).probabilities[name]
    if model.task == "multilabel":
        return math.log(share / (1 - share))
    return math.log(share)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("fusion", ["mean", "pattern-head", "gated"])
@pytest.mark.parametrize("left_out", [(), ("image",), ("audio", "text")])
def test_contributions_are_mean_gains_over_all_orders(tmp_path, task, fusion, left_out):
    folder = save_model(
        tmp_path / "m", "audio+image+text", "learned", task, (), fusion, FITTED, prior=PRIOR
    )
    model = umemma.load(folder, device="cpu")
    for parameter in model.model.fusion.parameters() if model.model.fusion else ():
        parameter.detach().mul_(0.1)  # a probability near 1 would say little of its log-odds
    media = {m: value for m, value in make_media().items() if m not in left_out}
    explanation = model.explain(**media)
    assert explanation.prediction == model.predict(**media)
    for name in model.classes:
        gains = dict.fromkeys(media, 0.0)
        orders = list(itertools.permutations(media))
        for order in orders:
            for i, m in enumerate(order):
                before = {other: media[other] for other in order[:i]}
                gain = measure(model, before | {m: media[m]}, name) - measure(model, before, name)
                gains[m] += gain / len(orders)
        for m, gain in gains.items():
            assert explanation.contributions[m][name] == pytest.approx(gain, abs=1e-5)
        added = sum(numbers[name] for numbers in explanation.contributions.values())
        together = explanation.prior[name] + added
        assert together == pytest.approx(measure(model, media, name), abs=1e-5)
        for m in left_out:
            assert explanation.contributions[m][name] == 0.0


def test_two_pictures_that_are_the_same_add_the_same(tmp_path):
    picture = {"name": "cnn:small", "kind": "image", "input": {"size": 16, "channels": 1}}
    folder = save_model(
        tmp_path / "m", "front+rear", "zero", prior=PRIOR, front=picture, rear=picture
    )
    model = umemma.load(folder, device="cpu")
    for part in (model.model.encoders, model.model.heads):
        part["rear"].load_state_dict(part["front"].state_dict())
    explanation = model.explain(front=make_picture(), rear=make_picture())
    front, rear = (explanation.contributions[m] for m in ("front", "rear"))
    assert front == pytest.approx(rear, abs=1e-6)
    alone = model.explain(front=make_picture())
    for name in model.classes:
        # The mean of two equal answers is that answer: what both tell is told twice.
        assert 2 * front[name] == pytest.approx(alone.contributions["front"][name], abs=1e-5)
        twice = explanation.interactions["front+rear"][name]
        assert twice == pytest.approx(-alone.contributions["front"][name], abs=1e-5)


def test_a_model_without_class_frequencies_says_so(tmp_path):
    model = umemma.load(save_model(tmp_path / "m"), device="cpu")
    with pytest.raises(UserError, match="does not say how frequent its classes are"):
        model.explain(image=make_picture())


def test_a_class_that_training_lacks_has_a_finite_prior(tmp_path):
    model = umemma.load(save_model(tmp_path / "m", prior=(0.7, 0.3, 0.0)), device="cpu")
    explanation = model.explain(image=make_picture())
    assert explanation.prior["class 2"] == pytest.approx(math.log(1e-9))


def test_an_explanation_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_media(tmp_path)
    save_model(tmp_path / "model", prior=PRIOR)
    words = ["predict", "--model", "model", "--image", "x.png", "--explain"]
    assert call(*words) == 0
    shown = capsys.readouterr().out
    explanation = umemma.load("model").explain(image="x.png")
    assert isinstance(explanation, Explanation)
    label = explanation.prediction.label
    assert f"{explanation.contributions['image'][label]:+.2f}" in shown
    assert f"{math.log(explanation.prediction.probability):+.2f}" in shown
    assert "frequency in training" in shown
    assert shown.count("absent") == 3  # audio adds nothing to any of the three classes
    assert call(*words, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["prediction"]["label"] == label
    assert answer["contributions"]["audio"][label] == 0.0
    table = ["predict", "--model", "model", "--manifest", "table.csv", "--out", "o.parquet"]
    assert call(*table, "--explain") == 2
    assert "cannot be combined" in capsys.readouterr().err
