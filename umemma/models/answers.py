"""What a Predictor answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Prediction:
    """The prediction for one sample.

    label: the most likely class; in a multilabel task, the classes with a probability over their
        threshold. A model whose training weighed classes has thresholds for single classes, too:
        then it is the class whose probability is the largest multiple of its own.
    probability: of the label, or of each of the labels. present: the modalities that were used.
    broken: the media that cannot be read, with the reason, as "image: file is missing".
    """

    label: str | tuple[str, ...]
    probability: float | tuple[float, ...]
    probabilities: dict[str, float]
    present: tuple[str, ...]
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class NumberPrediction:
    """The prediction of a regression for one sample, in the units of the targets.

    value: {target: mean of its predicted distribution}, a normal one; deviation: {target: standard
    deviation}; interval: {target: (low, high)}, which has the target in 95 % of the cases. present,
    broken: as in a Prediction.
    """

    value: dict[str, float]
    deviation: dict[str, float]
    interval: dict[str, tuple[float, float]]
    present: tuple[str, ...]
    broken: tuple[str, ...] = ()


AnyPrediction: TypeAlias = Prediction | NumberPrediction
