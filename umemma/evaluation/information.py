"""The information report: bits that each set of modalities tells, what one adds to the others, and what holds it back.

For answers p(y|x) the cross entropy CE (bits) bounds the information of the modalities S about the label from below:
I(Y; X_S) >= H(Y) - CE (Barber & Agakov, NIPS 2003; Poole et al., ICML 2019, arXiv 1905.06922). It is tight for the true
posterior; for a given family of models it is the V-information (Xu et al., ICLR 2020, arXiv 2002.10689). Below 0 the answers
are worse than the labels' shares alone. A difference of two bounds is an estimate, no bound.

For sets of labels H and CE are sums over labels: so is the information, of each label by itself. It is not that of the
whole set, as labels depend on one another.

Each number is a mean over the samples that it can be made on, told by `n`, and each difference over those that have both;
where samples really lack modalities, these are different samples. Intervals resample groups. The mean of -log2 of a
label's share is H, so H(Y) - CE is the mean of each sample's pointwise information (Ethayarajh et al., ICML 2022, arXiv
2110.08420) and H and CE are resampled together, without the bias that the entropy of a resample has. H(Y) of N samples
of C classes is itself low by about (C - 1) / 2N nats (Miller, 1955), so that the bound stays one. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import xlog1py, xlogy

from umemma.evaluation.metrics import USUAL, Bootstrap, Metric, get, log_loss
from umemma.evaluation.predictions import Predictions
from umemma.missing import patterns
from umemma.types import joined

FEW = 10  # independent groups, below which intervals say nothing


class Bound(NamedTuple):
    """A model's lower bound of I(Y; X_S), bits per sample: entropy - cross_entropy, with its 95 % interval."""

    model: str
    modalities: str
    n: int
    entropy: float
    cross_entropy: float
    bits: float
    low: float
    high: float


class Difference(NamedTuple):
    """Of two models' answers to the same samples: in the leading metric, and in bits; with 95 % intervals."""

    modality: str
    n: int
    score: float
    score_low: float
    score_high: float
    bits: float
    bits_low: float
    bits_high: float


class Information(NamedTuple):
    """metric: of the scores, the one that leads; smallest: the smallest difference of it that advice is given on.

    complementary: all modalities less all but this one, over samples that have this and another. singles: all modalities
    less the ensemble with only this one. gaps: the ensemble with only this modality less its uni-modal model. shortfalls:
    all modalities less that uni-modal model. encoder_gaps: a linear probe on the ensemble's own features of this modality
    less the uni-modal model. fusion_gaps: the ensemble with only this modality less the probe. Both are empty without
    probes; where they are there, they add up to `gaps`.
    """

    task: str
    metric: Metric
    smallest: float
    entropy_bits: float
    bounds: list[Bound] = []
    complementary: list[Difference] = []
    singles: list[Difference] = []
    gaps: list[Difference] = []
    shortfalls: list[Difference] = []
    encoder_gaps: list[Difference] = []
    fusion_gaps: list[Difference] = []
    advice: list[str] = []

    def as_json(self) -> dict[str, Any]:
        data = {
            "metric": self.metric.name,
            "smallest_effect": self.smallest,
            "entropy_bits": self.entropy_bits,
        }
        names = ("complementary", "singles", "gaps", "shortfalls", "encoder_gaps", "fusion_gaps")
        rows = {name: [row._asdict() for row in getattr(self, name)] for name in names}
        return {
            **data,
            "information": [row._asdict() for row in self.bounds],
            **rows,
            "advice": self.advice,
        }


def surprise(target: np.ndarray) -> np.ndarray:
    """(N,) bits: -log2 of the share that each sample's label has in `target`, summed over labels of a set."""
    if target.ndim == 1:
        return -np.log2(np.bincount(target)[target] / len(target))
    share = target.mean(0, dtype=np.float64)
    return -(xlogy(target, share) + xlog1py(1 - target, -share)).sum(1) / np.log(2)


def cross_entropy(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) bits, summed over labels of a set; NaN where the logits are NaN."""
    return log_loss(logits, target) * (1 if target.ndim == 1 else target.shape[1]) / np.log(2)


def bits(
    predictions: Predictions,
    bootstrap: Bootstrap,
    metric: Metric | None = None,
    smallest: float = 0.01,
) -> Information:
    """Everything that is told in bits, and the advice drawn from it. metric: of the scores, as can lead the tables; None =
    what the task is usually scored by; smallest: the smallest difference of it that counts."""
    target, names = predictions.target, predictions.modalities
    metric = metric or get(USUAL[predictions.task][0], predictions.task, 0)
    models = {
        ("ensemble", joined(pattern)): predictions.ensemble[joined(pattern)]
        for pattern in patterns(names)
    }
    models |= {("unimodal", m): predictions.unimodal[m] for m in names}
    bounds = []
    for (model, subset), logits in models.items():
        cost = cross_entropy(logits, target)
        scored = ~np.isnan(cost)
        prior = np.full(len(cost), np.nan)
        if scored.any():
            prior[scored] = surprise(target[scored])
            n, value, low, high = _mean(prior - cost, bootstrap)
            bounds.append(
                Bound(
                    model,
                    subset,
                    n,
                    float(np.nanmean(prior)),
                    float(np.nanmean(cost)),
                    value,
                    low,
                    high,
                )
            )

    models |= {("probe", m): logits for m, logits in predictions.probes.items()}
    less = _Differences(models, target, bootstrap, metric).less
    several = names if len(names) > 1 else []

    def everything(m: str) -> tuple[str, str]:
        return "ensemble", joined(names)

    def rest(m: str) -> tuple[str, str]:
        return "ensemble", joined({*names} - {m})

    def alone(m: str) -> tuple[str, str]:
        return "ensemble", m

    def unimodal(m: str) -> tuple[str, str]:
        return "unimodal", m

    def probe(m: str) -> tuple[str, str]:
        return "probe", m

    found = Information(
        predictions.task,
        metric,
        smallest,
        float(surprise(target).mean()),
        bounds,
        complementary=less(several, everything, rest),
        singles=less(several, everything, alone),
        gaps=less(names, alone, unimodal),
        shortfalls=less(several, everything, unimodal),
        encoder_gaps=less(sorted(predictions.probes), probe, unimodal),
        fusion_gaps=less(sorted(predictions.probes), alone, probe),
    )
    return found._replace(advice=list(advise(found, min(bootstrap.counts))))


class _Differences:
    """Between models {(kind, modalities): (N, C) logits}, resampled together."""

    def __init__(
        self,
        models: Mapping[tuple[str, str], np.ndarray],
        target: np.ndarray,
        bootstrap: Bootstrap,
        metric: Metric,
    ) -> None:
        assert metric.stats
        self.bootstrap, self.metric = bootstrap, metric
        self.there = {model: ~np.isnan(logits[:, 0]) for model, logits in models.items()}
        self.costs = {model: cross_entropy(logits, target) for model, logits in models.items()}
        self.stats = {
            model: metric.stats(np.nan_to_num(logits), target) for model, logits in models.items()
        }

    def less(
        self,
        names: Sequence[str],
        one: Callable[[str], tuple[str, str]],
        other: Callable[[str], tuple[str, str]],
    ) -> list[Difference]:
        """For each modality `one` less `other`, over the samples that have it and that both answer; none where none do."""
        return [row for m in names if (row := self._less(m, one(m), other(m)))]

    def _less(
        self, modality: str, one: tuple[str, str], other: tuple[str, str]
    ) -> Difference | None:
        both = self.there["ensemble", modality] & self.there[one] & self.there[other]
        if not both.any():
            return None
        assert self.metric.value
        weight = both.astype(np.float64)
        totals = [self.metric.value(self.stats[model].total(weight)) for model in (one, other)]
        draws = [
            self.metric.value(self.bootstrap.totals(self.stats[model], weight))
            for model in (one, other)
        ]
        score = float(totals[0] - totals[1])
        low, high = self.bootstrap.bounds(draws[0] - draws[1], score)
        n, *saved = _mean(
            np.where(both, self.costs[other] - self.costs[one], np.nan), self.bootstrap
        )
        return Difference(modality, n, score, max(low, -1.0), min(high, 1.0), *saved)


def advise(found: Information, groups: int) -> Iterator[str]:
    """Lines in plain words, on effects that count (see `_effect`); of the others nothing is said. Each names a remedy.

    1. What is most urgent: everything together is worse than one modality alone, be it its uni-modal model or the ensemble
       given nothing else.
    2. The modalities whose absence costs most, and those that do harm, by the score. Bits stand in a sentence of their own,
       and only where they point the same way.
    3. Where the ensemble with one modality is below that modality's own model: its encoder learnt less if a probe of its
       features is below that model, the fusion loses something if the ensemble is below the probe.
    4. The modality that is furthest behind all together, if 3. finds nothing wrong with it: what is left is its encoder.
    """
    if groups < FEW:
        yield f"There are only {groups} independent groups of samples: too few for intervals, so no advice is given."
        return
    urgent = list(_worse_together(found))
    yield from urgent
    yield from _costs(found)
    if not (
        urgent and len(found.complementary) == 2
    ):  # of two modalities it would say the same again
        yield from _harms(found)
    blamed = {gap.modality: list(_blames(found, gap)) for gap in found.gaps}
    for lines in blamed.values():
        yield from lines
    weakest = max(found.shortfalls, key=lambda row: row.score, default=None)
    if weakest and _effect(weakest, found.smallest) > 0 and not blamed.get(weakest.modality):
        m = weakest.modality
        yield (
            f"The model trained on {m} alone is {_points(weakest)} of {found.metric.label} below all modalities together. If "
            f"{m} has to do alone, try a stronger or pretrained encoder for it (umemma encoders); whether its data hold more "
            "is not known."
        )


def _worse_together(found: Information) -> Iterator[str]:
    rows = [(row, f"the model trained on {row.modality} alone") for row in found.shortfalls]
    rows += [(row, f"the same ensemble given only {row.modality}") for row in found.singles]
    worse = [one for one in rows if _effect(one[0], found.smallest) < 0]
    if worse:
        row, who = min(worse, key=lambda one: one[0].score)
        yield (
            f"All modalities together do worse than {who}: {found.metric.label} is {_points(row, -1)} lower. Until that is "
            f"fixed, use {row.modality} alone wherever it is there. More weight on the complete set "
            "(finetune.pattern_weights), fewer epochs or more weight decay in fine-tuning may help; let validation decide."
        )


def _costs(found: Information) -> Iterator[str]:
    costly = [row for row in found.complementary if _effect(row, found.smallest) > 0]
    if not costly:
        return
    top = max(costly, key=lambda row: row.score)
    close = [row for row in costly if row.score_high >= top.score_low]
    names = " and ".join(row.modality for row in close)
    falls = " and ".join(f"by {_points(row)} without {row.modality}" for row in close)
    if len(close) == 1:
        said = f"Protect {names} most: {found.metric.label} falls {falls}. A second sensor or another fallback pays off "
        said += "there first."
    else:
        said = f"Protect {names} alike, each by a second sensor or another fallback: {found.metric.label} falls {falls}, and "
        said += "these intervals overlap."
    if told := [f"{row.modality} {_bits(row)}" for row in close if row.bits_low > 0]:
        said += f" Estimated in bits, this much is told by nothing else: {', '.join(told)}."
    yield said


def _harms(found: Information) -> Iterator[str]:
    for row in found.complementary:
        if _effect(row, found.smallest) < 0:
            yield (
                f"The modality {row.modality} does harm: with it {found.metric.label} is {_points(row, -1)} lower than without "
                "it. Use it only where the others are missing, or leave it out of `modalities`."
            )


def _blames(found: Information, gap: Difference) -> Iterator[str]:
    m, metric = gap.modality, found.metric.label
    fusion = [
        row for row in found.fusion_gaps if row.modality == m and _effect(row, found.smallest) < 0
    ]
    encoder = [
        row for row in found.encoder_gaps if row.modality == m and _effect(row, found.smallest) < 0
    ]
    for row in fusion:
        yield (
            f"The fusion loses part of {m}: given only {m}, the ensemble's {metric} is {_points(row, -1)} below that of a "
            f"linear probe on its own {m} features. Give {m} more weight in finetune.pattern_weights, with "
            "finetune.mma: all or drop, and keep evaluate.calibrate on."
        )
    for row in encoder:
        yield (
            f"The ensemble's {m} encoder learnt less than it could: with a linear probe on its features {metric} is "
            f"{_points(row, -1)} below that of the model trained on {m} alone. Start from the uni-modal models "
            "(finetune.init: unimodal), lower the encoder's learning rate in fine-tuning, or pretrain longer."
        )
    if _effect(gap, found.smallest) < 0 and not fusion and not encoder:
        yield (
            f"Given only {m}, the ensemble's {metric} is {_points(gap, -1)} below that of the model trained on {m} alone. "
            "Whether its encoder or the fusion is to blame is not clear. Start from the uni-modal models (finetune.init: "
            "unimodal) and train with every subset (finetune.mma: all)."
        )


def what_counts(found: Information) -> str:
    """The rule of `_effect`, in words."""
    return (
        f"Advice is given on differences in {found.metric.label} of at least {100 * found.smallest:.1f} points "
        "(evaluate.smallest_effect) whose 95 % interval excludes 0."
    )


def _effect(row: Difference, smallest: float) -> int:
    """1 more, -1 less; 0 where the interval has 0 in it, or the difference is smaller than matters."""
    if row.score_low > 0 and row.score >= smallest:
        return 1
    return -1 if row.score_high < 0 and row.score <= -smallest else 0


def _points(row: Difference, sign: int = 1) -> str:
    """The score; -1: of the difference the other way round."""
    low, high = sorted((sign * row.score_low, sign * row.score_high))
    return f"{100 * sign * row.score:z.1f} points ({100 * low:z.1f} to {100 * high:z.1f})"


def _bits(row: Difference) -> str:
    return f"{row.bits:z.2f} bits ({row.bits_low:z.2f} to {row.bits_high:z.2f})"


def _mean(values: np.ndarray, bootstrap: Bootstrap) -> tuple[int, float, float, float]:
    """n, mean, low, high of (N,) values, NaN ones left out."""
    return int((~np.isnan(values)).sum()), float(np.nanmean(values)), *bootstrap.interval(values)
