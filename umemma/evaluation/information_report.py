"""The information report: its rows, and the advice that is drawn from them.

`information.estimate_information` computes the rows. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from umemma.evaluation.attribution.additions import Addition
from umemma.evaluation.attribution.right_answers import (
    Contribution,
    Interaction,
)
from umemma.evaluation.metrics import Metric

FEW_GROUPS = 10  # independent groups, below which intervals say nothing


class InformationBound(NamedTuple):
    """A model's lower bound of I(Y; X_S), with its 95 % interval.

    It is entropy - cross_entropy, in bits per sample.
    """

    model: str
    modalities: str
    n: int
    entropy: float
    cross_entropy: float
    bits: float
    low: float
    high: float


class ModelDifference(NamedTuple):
    """The difference of two models on the same samples, with 95 % intervals.

    score: in the leading metric; bits: in cross entropy.
    """

    modality: str
    n: int
    score: float
    score_low: float
    score_high: float
    bits: float
    bits_low: float
    bits_high: float


class Information(NamedTuple):
    """The rows of the report.

    metric: of the scores, the one that leads; smallest: the smallest difference of it that advice
    is given on.

    complementary: all modalities less all but this one, over samples that have this and another.
    singles: all modalities less the ensemble with only this one. gaps: the ensemble with only this
    modality less its uni-modal model. shortfalls: all modalities less that uni-modal model.
    encoder_gaps: a linear probe on the ensemble's own features of this modality less the uni-modal
    model. fusion_gaps: the ensemble with only this modality less the probe. Both are empty without
    probes; with probes they add up to `gaps`. contributions, interactions: what each modality and
    each pair adds to the probability of the right answer; additions: which answers each modality
    makes better and worse. is_ours: whether umemma trained the model; advice on another names no
    setting of a training.
    """

    task: str
    metric: Metric
    smallest: float
    entropy_bits: float
    bounds: list[InformationBound] = []
    complementary: list[ModelDifference] = []
    singles: list[ModelDifference] = []
    gaps: list[ModelDifference] = []
    shortfalls: list[ModelDifference] = []
    encoder_gaps: list[ModelDifference] = []
    fusion_gaps: list[ModelDifference] = []
    contributions: list[Contribution] = []
    interactions: list[Interaction] = []
    additions: list[Addition] = []
    advice: list[str] = []
    is_ours: bool = True

    def as_json(self) -> dict[str, Any]:
        """Return the content of information.json."""
        return {
            "metric": self.metric.name,
            "smallest_effect": self.smallest,
            "entropy_bits": self.entropy_bits,
            "information": [bound._asdict() for bound in self.bounds],
            "complementary": _as_dicts(self.complementary),
            "singles": _as_dicts(self.singles),
            "gaps": _as_dicts(self.gaps),
            "shortfalls": _as_dicts(self.shortfalls),
            "encoder_gaps": _as_dicts(self.encoder_gaps),
            "fusion_gaps": _as_dicts(self.fusion_gaps),
            "contributions": _as_dicts(self.contributions),
            "interactions": _as_dicts(self.interactions),
            "additions": _as_dicts(self.additions),
            "advice": self.advice,
        }


def describe_threshold(information: Information) -> str:
    """Return which differences advice is given on, in words."""
    return (
        f"Advice is given on differences in {information.metric.label} of at least "
        f"{100 * information.smallest:.1f} points (evaluate.smallest_effect) whose 95 % interval "
        "excludes 0."
    )


def advise(information: Information, groups: int) -> Iterator[str]:
    """Yield lines of advice on the differences that count (see `_effect`), each with a remedy.

    Nothing is said of the other differences, nor, of a model that umemma did not train, 3. and 4.

    1. What is most urgent: everything together is worse than one modality alone, be it its
       uni-modal model or the ensemble given nothing else.
    2. The modalities whose absence costs most, and those that do harm, by the score. Bits stand in
       a sentence of their own, and only where they point the same way.
    3. Where the ensemble with one modality is below that modality's own model: its encoder learnt
       less if a probe of its features is below that model, the fusion loses something if the
       ensemble is below the probe.
    4. The modality that is furthest behind all together, if 3. finds nothing wrong with it: what is
       left is its encoder.
    """
    if groups < FEW_GROUPS:
        yield (
            f"There are only {groups} independent groups of samples: too few for intervals, so no "
            "advice is given."
        )
        return
    urgent = list(_advise_on_harmful_fusion(information))
    yield from urgent
    yield from _advise_on_costly_absences(information)
    # Of two modalities it would say the same again.
    is_said = bool(urgent) and len(information.complementary) == 2
    if not is_said:
        yield from _advise_on_harmful_modalities(information)
    if not information.is_ours:
        return
    blamed: set[str] = set()
    for gap in information.gaps:
        lines = list(_advise_on_gap(information, gap))
        if lines:
            blamed.add(gap.modality)
        yield from lines
    yield from _advise_on_weakest(information, blamed)


def _advise_on_harmful_fusion(information: Information) -> Iterator[str]:
    better_models: list[tuple[ModelDifference, str]] = []
    for row in information.shortfalls:
        better_models.append((row, f"the model trained on {row.modality} alone"))
    for row in information.singles:
        better_models.append((row, f"the same ensemble given only {row.modality}"))
    harms = [pair for pair in better_models if _effect(pair[0], information.smallest) < 0]
    if not harms:
        return
    row, model = min(harms, key=lambda pair: pair[0].score)
    remedy = ""
    if information.is_ours:
        remedy = (
            " More weight on the complete set (finetune.pattern_weights), fewer epochs or more "
            "weight decay in fine-tuning may help; let validation decide."
        )
    yield (
        f"All modalities together do worse than {model}: {information.metric.label} is "
        f"{_format_points(row, -1)} lower. Until that is fixed, use {row.modality} alone wherever "
        f"it is there.{remedy}"
    )


def _advise_on_costly_absences(information: Information) -> Iterator[str]:
    smallest, metric = information.smallest, information.metric.label
    costly = [row for row in information.complementary if _effect(row, smallest) > 0]
    if not costly:
        return
    top = max(costly, key=lambda row: row.score)
    close = [row for row in costly if row.score_high >= top.score_low]
    names = " and ".join(row.modality for row in close)
    falls = " and ".join(f"by {_format_points(row)} without {row.modality}" for row in close)
    if len(close) == 1:
        advice = (
            f"Protect {names} most: {metric} falls {falls}. A second sensor or another fallback "
            "pays off there first."
        )
    else:
        advice = (
            f"Protect {names} alike, each by a second sensor or another fallback: {metric} falls "
            f"{falls}, and these intervals overlap."
        )
    bits = [f"{row.modality} {_format_bits(row)}" for row in close if row.bits_low > 0]
    if bits:
        advice += f" Estimated in bits, this much is told by nothing else: {', '.join(bits)}."
    yield advice


def _advise_on_harmful_modalities(information: Information) -> Iterator[str]:
    place = ""
    if information.is_ours:
        place = " of `modalities`"
    for row in information.complementary:
        if _effect(row, information.smallest) < 0:
            yield (
                f"The modality {row.modality} does harm: with it {information.metric.label} is "
                f"{_format_points(row, -1)} lower than without it. Use it only where the others "
                f"are missing, or leave it out{place}."
            )


def _advise_on_gap(information: Information, gap: ModelDifference) -> Iterator[str]:
    m, metric, smallest = gap.modality, information.metric.label, information.smallest
    fusion_losses = _losses_of(information.fusion_gaps, m, smallest)
    encoder_losses = _losses_of(information.encoder_gaps, m, smallest)
    for row in fusion_losses:
        yield (
            f"The fusion loses part of {m}: given only {m}, the ensemble's {metric} is "
            f"{_format_points(row, -1)} below that of a linear probe on its own {m} features. Give "
            f"{m} more weight in finetune.pattern_weights, with finetune.mma: all or drop, and "
            "keep evaluate.calibrate on."
        )
    for row in encoder_losses:
        yield (
            f"The ensemble's {m} encoder learnt less than it could: with a linear probe on its "
            f"features {metric} is {_format_points(row, -1)} below that of the model trained on "
            f"{m} alone. Start from the uni-modal models (finetune.init: unimodal), lower the "
            "encoder's learning rate in fine-tuning, or pretrain longer."
        )
    if _effect(gap, smallest) < 0 and not fusion_losses and not encoder_losses:
        yield (
            f"Given only {m}, the ensemble's {metric} is {_format_points(gap, -1)} below that of "
            f"the model trained on {m} alone. Whether its encoder or the fusion is to blame is not "
            "clear. Start from the uni-modal models (finetune.init: unimodal) and train with every "
            "subset (finetune.mma: all)."
        )


def _advise_on_weakest(information: Information, blamed: set[str]) -> Iterator[str]:
    """blamed: the modalities that other advice is given on already."""
    weakest = max(information.shortfalls, key=lambda row: row.score, default=None)
    if weakest is None or weakest.modality in blamed:
        return
    if _effect(weakest, information.smallest) > 0:
        m = weakest.modality
        yield (
            f"The model trained on {m} alone is {_format_points(weakest)} of "
            f"{information.metric.label} below all modalities together. If {m} has to do alone, "
            "try a stronger or pretrained encoder for it (umemma encoders); whether its data hold "
            "more is not known."
        )


def _losses_of(
    rows: Sequence[ModelDifference], modality: str, smallest: float
) -> list[ModelDifference]:
    return [row for row in rows if row.modality == modality and _effect(row, smallest) < 0]


def _effect(row: ModelDifference, smallest: float) -> int:
    """Return 1 for more and -1 for less.

    0 where the interval has 0 in it, or the difference is smaller than matters.
    """
    if row.score_low > 0 and row.score >= smallest:
        return 1
    if row.score_high < 0 and row.score <= -smallest:
        return -1
    return 0


def _format_points(row: ModelDifference, sign: int = 1) -> str:
    """Return the score with its interval; sign -1: of the difference the other way round."""
    low, high = sorted((sign * row.score_low, sign * row.score_high))
    return f"{100 * sign * row.score:z.1f} points ({100 * low:z.1f} to {100 * high:z.1f})"


def _format_bits(row: ModelDifference) -> str:
    return f"{row.bits:z.2f} bits ({row.bits_low:z.2f} to {row.bits_high:z.2f})"


def _as_dicts(
    rows: Sequence[ModelDifference | Contribution | Interaction | Addition],
) -> list[dict[str, Any]]:
    return [row._asdict() for row in rows]
