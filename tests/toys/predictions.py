"""Predictions whose metrics, or whose information, can be computed by hand."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import log_softmax

from umemma.evaluation.predictions import Predictions

CODES = {"y": [0.0, 1.0], "n": [1.0, 0.0], "-": [np.nan, np.nan]}
ERRORS = {"audio": 0.1, "image": 0.3}


def logits(answers: list[int | None]) -> np.ndarray:
    """Return (N, 2) logits that answer as given; None = nothing to answer from."""
    table = {0: [1.0, 0.0], 1: [0.0, 1.0], None: [np.nan, np.nan]}
    return np.array([table[answer] for answer in answers], dtype=np.float32)


def predictions_in_letters(
    right: Mapping[str, str], alone: Mapping[str, str] | None = None, groups: str = "abcd"
) -> Predictions:
    """Return predictions of 4 samples of two classes, all of class 1.

    right, alone: a letter per sample that says whether the ensemble, or the uni-modal model, is
    right (y), wrong (n), or has nothing to answer from (-); groups: a letter per sample.
    """
    keys = [f"k{i}" for i in range(4)]
    return Predictions(
        keys,
        {"group": list(groups)},
        np.ones(4, np.int64),
        _tables(right),
        _tables(alone or {"audio": "yyyy", "image": "nnnn"}),
        ["a", "b"],
    )


def _tables(letters: Mapping[str, str]) -> dict[str, np.ndarray]:
    tables = {}
    for subset, row in letters.items():
        tables[subset] = np.array([CODES[letter] for letter in row], np.float32)
    return tables


def four_samples() -> Predictions:
    """Return predictions of four samples, all of class 1; the last has no image."""
    ensemble = {
        "audio+image": logits([1, 1, 1, 0]),
        "audio": logits([1, 0, 0, 0]),
        "image": logits([1, 1, 0, None]),
    }
    alone = {"audio": logits([1, 1, 0, 0]), "image": logits([1, 0, 0, None])}
    target = np.ones(4, dtype=np.int64)
    return Predictions(list("abcd"), {"sample": list("abcd")}, target, ensemble, alone)


def random_predictions(
    n: int, subsets: Sequence[str] = ("audio+image", "audio", "image")
) -> Predictions:
    """Return random logits of three classes, which the uni-modal models share."""
    generator = np.random.default_rng(0)
    keys = [f"k{i}" for i in range(n)]
    ensemble = {}
    for subset in subsets:
        ensemble[subset] = generator.normal(size=(n, 3)).astype(np.float32)
    unimodal = {m: ensemble[m] for m in ("audio", "image")}
    return Predictions(keys, {"sample": keys}, generator.integers(0, 3, n), ensemble, unimodal)


def posterior(
    seen: Mapping[str, np.ndarray], errors: Mapping[str, float], classes: int
) -> np.ndarray:
    """Return (N, K) log p(y | x) of a uniform label seen through independent channels.

    A channel changes the label, to any other, with the probability of its error.
    """
    samples = len(next(iter(seen.values())))
    total = np.zeros((samples, classes))
    for m, x in seen.items():
        hit = x[:, None] == np.arange(classes)
        total += np.log(np.where(hit, 1 - errors[m], errors[m] / (classes - 1)))
    return log_softmax(total, axis=1)


def channels(
    n: int = 20_000,
    classes: int = 4,
    errors: Mapping[str, float] = ERRORS,
    scale: float = 1.0,
    seed: int = 5,
) -> Predictions:
    """Return predictions that are the true posteriors, `scale` times as confident."""
    generator = np.random.default_rng(seed)
    target = generator.integers(0, classes, n)
    seen = {}
    for m, p in errors.items():
        other = (target + generator.integers(1, classes, n)) % classes
        seen[m] = np.where(generator.random(n) < p, other, target)
    ensemble = {}
    for size in range(len(errors), 0, -1):
        for names in itertools.combinations(errors, size):
            inputs = {m: seen[m] for m in names}
            answers = scale * posterior(inputs, errors, classes)
            ensemble["+".join(names)] = answers.astype(np.float32)
    keys = [f"k{i}" for i in range(n)]
    unimodal = {m: ensemble[m].copy() for m in errors}
    class_names = list("abcd")[:classes]
    return Predictions(keys, {"sample": keys}, target, ensemble, unimodal, class_names)


def five_samples() -> Predictions:
    """Return probabilities .9, .8, .8, .6 of the first class, and a sample with none.

    The answers are right, right, wrong, wrong.
    """
    p = np.array([0.9, 0.8, 0.8, 0.6, np.nan])
    answers = np.log(np.stack([p, 1 - p], 1)).astype(np.float32)
    return Predictions(
        list("abcde"),
        {"sample": list("abcde")},
        np.array([0, 0, 1, 1, 0]),
        {"x": answers},
        {"x": answers},
        ["u", "v"],
    )


# Which answers of two methods are right, for `predictions_in_letters`.
OURS = {"audio+image": "yyyn", "audio": "ynyn", "image": "yn-n"}
THEIRS = {"audio+image": "yyyy", "audio": "ynnn", "image": "nn-n"}
