"""What the probabilities are worth: bits of information, calibration, and answering only when sure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from umemma.evaluation import error_analysis
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.metrics import get, task_of
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import Outcome, describe_left_out, format_percent, format_range
from umemma.reports import figures
from umemma.reports.figures import Bar, Curve
from umemma.reports.html import Block, Figure, Table, Text, sentence


def information(outcome: Outcome) -> Iterator[Block]:
    """Bounds in bits, and what they differ by."""
    found = outcome.information
    if found is None:
        return
    summed = ", summed over the labels" if found.task == "multilabel" else ""
    yield Text(
        f"Bits about the label that a model's answers prove to be in the modalities, at least{summed}: the uncertainty "
        "H(Y) before, less the cross entropy after. 0 is as good as knowing the classes' shares alone."
    )
    ours = [row for row in found.bounds if row.model == "ensemble"]
    alone = {row.modalities: row.bits for row in found.bounds if row.model == "unimodal"}
    drawn = [
        Bar(r.modalities, r.bits, r.low, r.high, r.entropy, alone.get(r.modalities)) for r in ours
    ]
    drawing = partial(
        figures.bars,
        rows=drawn,
        xlabel="bits",
        full="H(Y), all there is to know",
        other="uni-modal model",
    )
    svg = figures.svg("information", drawing, 4, 1.2 + 0.28 * len(drawn))
    best = max(ours, key=lambda row: row.bits)
    about = f"Most is in {best.modalities}: {best.bits:.2f} of {best.entropy:.2f} bits."
    yield Figure(svg, "Bits about the label, at least", about)
    if found.complementary:
        adds = [
            Bar(row.modality, row.bits, row.bits_low, row.bits_high) for row in found.complementary
        ]
        drawing = partial(figures.bars, rows=adds, xlabel="bits")
        svg = figures.svg("complementary", drawing, 4, 0.9 + 0.28 * len(adds))
        most = max(adds, key=lambda bar: bar.value)
        about = f"Most: {most.label}, {most.value:.2f} bits."
        yield Figure(svg, "What a modality adds to all others, estimated", about)
    headings = [
        "model",
        "modalities",
        "H(Y)",
        "cross entropy",
        "bits, at least",
        "95 % interval",
        "samples",
    ]
    rows = [
        [
            r.model.replace("unimodal", "uni-modal"),
            r.modalities,
            *(f"{v:.3f}" for v in (r.entropy, r.cross_entropy, r.bits)),
            format_range(r.low, r.high),
            str(r.n),
        ]
        for r in found.bounds
    ]
    yield Table("Bits per model", headings, rows, 2)
    if found.fusion_gaps:
        yield Text(
            "Where the ensemble with one modality is below that modality's own model, a probe tells why: a linear classifier "
            "on the ensemble's own features of it, fitted on the training split's features with its strength chosen on "
            "validation. A probe below the uni-modal model means that the ensemble's encoder learnt less; the ensemble below "
            "the probe means that the fusion loses what the encoder knows. The two differences add up to the whole gap."
        )
    name = found.metric.label
    for caption, differences in (
        (
            "What a modality adds, estimated: all modalities, less all but this one",
            found.complementary,
        ),
        ("The ensemble with only this modality, less its uni-modal model", found.gaps),
        ("The encoder: the probe, less the uni-modal model", found.encoder_gaps),
        ("The fusion: the ensemble with only this modality, less the probe", found.fusion_gaps),
    ):
        cells = [
            [
                d.modality,
                f"{100 * d.score:+.1f}",
                format_range(100 * d.score_low, 100 * d.score_high, 1),
                f"{d.bits:+.3f}",
                format_range(d.bits_low, d.bits_high),
                str(d.n),
            ]
            for d in differences
        ]
        headings = [
            "modality",
            f"{name}, points",
            "95 % interval",
            "bits",
            "95 % interval",
            "samples",
        ]
        if cells:
            yield Table(caption, headings, cells)


def calibration(outcome: Outcome, predictions: Predictions) -> Iterator[Block]:
    """Before, which is what the calibration undone gives, and after."""
    fitted = {
        left: predictions.calibration.get(f"ensemble/{left}") for left in predictions.ensemble
    }
    raw = {left: predictions.uncalibrated(left) for left in fitted}
    before = replace(predictions, ensemble=raw)
    changed = any(one and (one.temperature != 1 or one.bias) for one in fitted.values())
    shown = outcome.shown
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for label, one in (("as scored", predictions), ("uncalibrated", before))[: 1 + changed]:
        for row in error_analysis.reliability_bins(
            replace(one, ensemble={left: one.ensemble[left] for left in shown})
        ):
            lines.setdefault(row.modalities, {}).setdefault(label, []).append(
                (row.confidence, row.right)
            )
    words = (
        ("confidence", "share right")
        if predictions.task == "multiclass"
        else ("probability", "share there")
    )
    for left, curves in lines.items():
        drawn = [
            Curve(label, *zip(*sorted(points), strict=True)) for label, points in curves.items()
        ]
        drawing = partial(
            figures.diagram, lines=drawn, title=left, xlabel=words[0], ylabel=words[1]
        )
        error = _measured("ece", predictions.ensemble[left], predictions.target)
        about = f"On the diagonal a probability means what it says; the mean distance from it is {100 * error:.1f} %."
        yield Figure(
            figures.svg(f"reliability {left}", drawing, 4, 3.4), f"Reliability with {left}", about
        )
    if some := describe_left_out(outcome):
        yield Text(some)
    rows = []
    for left, logits in predictions.ensemble.items():
        cells = [left]
        for name, digits, scale in (("log_loss", 3, 1), ("ece", 1, 100)):
            pair = [_measured(name, one, predictions.target) * scale for one in (raw[left], logits)]
            cells += [f"{value:.{digits}f}" for value in pair]
        used = fitted[left] or Calibration()
        rows.append([*cells, f"{used.temperature:.2f}", "yes" if used.bias else "no"])
    headings = [
        "modalities present",
        "log-loss before",
        "after",
        "calibration error before, %",
        "after, %",
    ]
    yield Table("Before and after calibration", [*headings, "temperature", "bias per class"], rows)
    if not outcome.about["calibrated"]:
        yield Text("Calibration is off in the settings (evaluate.calibrate).")


def _measured(name: str, logits: np.ndarray, target: np.ndarray) -> float:
    """A metric over the samples that have logits."""
    metric, there = get(name, task_of(target), logits.shape[1]), ~np.isnan(logits[:, 0])
    assert metric.stats
    assert metric.value
    return float(
        metric.value(metric.stats(logits[there], target[there]).total(np.ones(there.sum())))
    )


def selective(outcome: Outcome, predictions: Predictions) -> Iterator[Block]:
    """The score against the share that is answered."""
    shown = outcome.shown
    label = "accuracy" if predictions.task == "multiclass" else "F1 (samples)"
    asked = replace(predictions, ensemble={left: predictions.ensemble[left] for left in shown})
    points: dict[str, list[error_analysis.SelectiveScore]] = {left: [] for left in shown}
    for row in error_analysis.selective_scores(asked):
        points[row.modalities].append(row)
    drawn = [
        Curve(left, [p.coverage for p in line], [p.score for p in line])
        for left, line in points.items()
        if line
    ]
    drawing = partial(
        figures.curves,
        lines=drawn,
        xlabel="share answered, the surest first",
        ylabel=label,
        xlim=(0, 1.02),
    )
    half = {left: min(line, key=lambda p: abs(p.coverage - 0.5)) for left, line in points.items()}
    about = "; ".join(
        f"{left}: {format_percent(p.score)} % where half is answered" for left, p in half.items()
    )
    svg = figures.svg("selective", drawing, 4, 3 + 0.1 * len(shown))
    yield Figure(svg, f"{sentence(label)} where only the surest answers are given", about + ".")
    if some := describe_left_out(outcome):
        yield Text(some)
    rows = []
    for left, line in points.items():
        at = {
            share: min(line, key=lambda p: abs(p.coverage - share)).score
            for share in (0.25, 0.5, 0.75, 1.0)
        }
        area = error_analysis.aurc(predictions.ensemble[left], predictions.target)
        rows.append([left, *(format_percent(score) for score in at.values()), f"{area:.3f}"])
    headings = [
        "modalities present",
        *(f"surest {share} %" for share in (25, 50, 75)),
        "all",
        "AURC",
    ]
    yield Table(f"{sentence(label)} in %, by the share that is answered", headings, rows)
