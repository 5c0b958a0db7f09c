"""What the probabilities are worth: bits of information, calibration, selective prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from umemma.evaluation import error_analysis
from umemma.evaluation.calibration import Calibration
from umemma.evaluation.error_analysis import CalibrationMeasures, SelectiveScore
from umemma.evaluation.information_report import Information, InformationBound, ModelDifference
from umemma.evaluation.metrics import USUAL, get
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import Outcome
from umemma.reports import figures
from umemma.reports.figures import Bar, Curve
from umemma.reports.html import Block, Figure, Table, Text
from umemma.reports.wording import (
    capitalize,
    describe_shown_subsets,
    format_percent,
    format_range,
)

ABOUT_REGRESSION = (
    "How many bits about the target the answers of a model show, summed over the targets: the "
    "uncertainty H(Y) before, that of a normal distribution with the mean and the variance of "
    "these samples, minus the cross entropy after. At 0 bits or below, the answers are no better "
    "than that constant answer."
)
PROBE = (
    "Where the ensemble with one modality alone is below the uni-modal model of it, a probe tells "
    "why: a linear classifier on the ensemble's own features of this modality, fitted on the "
    "training split's features with its strength chosen on validation. A probe below the uni-modal "
    "model means that the ensemble's encoder learned less; the ensemble below the probe means that "
    "the fusion loses what the encoder knows. The two differences add up to the whole gap."
)
RELIABILITY_AXES = {
    "multiclass": ("confidence", "share right"),
    "multilabel": ("probability", "share present"),
    "regression": ("level of the interval", "share within it"),
}
COVERAGES = (0.25, 0.5, 0.75, 1.0)  # shares of the samples that are answered, in the table

Points = list[tuple[float, float]]


# Information. -------------------------------------------------------------------------------------


def information(outcome: Outcome) -> Iterator[Block]:
    """Yield the bits of every model, and what models differ by."""
    report = outcome.information
    if report is None:
        return
    over_labels = ""
    if report.task == "multilabel":
        over_labels = ", summed over the labels"
    if report.task == "regression":
        yield Text(ABOUT_REGRESSION)
    else:
        yield Text(_describe_information(over_labels))
    yield _draw_bounds(report.bounds, report.task)
    if report.complementary:
        yield _draw_complementary(report.complementary)
    yield _make_bounds_table(report.bounds)
    yield from _make_difference_tables(report)


def _describe_information(over_labels: str) -> str:
    return (
        "How many bits about the label the answers of a model show that the modalities contain"
        f"{over_labels}: the uncertainty H(Y) before, minus the cross entropy after. The "
        "modalities may contain more. At 0 bits or below, the answers show no information: they "
        "are no better than the shares of the classes."
    )


def _draw_bounds(bounds: Sequence[InformationBound], task: str) -> Figure:
    """In regression there is no frame: the entropy of a number may be negative."""
    is_regression = task == "regression"
    unimodal = {row.modalities: row.bits for row in bounds if row.model == "unimodal"}
    ours = [row for row in bounds if row.model == "ensemble"]
    bars = []
    for row in ours:
        bar = Bar(
            row.modalities,
            row.bits,
            row.low,
            row.high,
            full=0.0 if is_regression else row.entropy,
            other=unimodal.get(row.modalities),
        )
        bars.append(bar)
    drawing = partial(
        figures.bars,
        rows=bars,
        xlabel="bits",
        full="H(Y), all there is to know",
        other="uni-modal model",
    )
    svg = figures.svg("information", drawing, 4, 1.3 + 0.28 * len(bars))
    best = max(ours, key=lambda row: row.bits)
    about = "No subset shows any information."
    if best.bits > 0 and is_regression:
        about = f"{best.modalities} shows most: {best.bits:.2f} bits."
    elif best.bits > 0:
        about = (
            f"{best.modalities} shows most: at least {best.bits:.2f} of {best.entropy:.2f} bits."
        )
    return Figure(svg, "Bits about the label that the ensemble shows, with each subset", about)


def _draw_complementary(differences: Sequence[ModelDifference]) -> Figure:
    bars = []
    for row in differences:
        bars.append(Bar(row.modality, row.bits, row.bits_low, row.bits_high))
    drawing = partial(figures.bars, rows=bars, xlabel="bits")
    svg = figures.svg("complementary", drawing, 4, 0.9 + 0.28 * len(bars))
    most = max(bars, key=lambda bar: bar.value)
    about = f"{most.label} adds most: {most.value:.2f} bits."
    return Figure(svg, "Bits that a modality adds to all others, estimated", about)


def _make_bounds_table(bounds: Sequence[InformationBound]) -> Table:
    headings = [
        "model",
        "modalities",
        "H(Y)",
        "cross entropy",
        "bits shown",
        "95 % interval",
        "samples",
    ]
    rows = []
    for row in bounds:
        cells = [
            row.model.replace("unimodal", "uni-modal"),
            row.modalities,
            f"{row.entropy:.3f}",
            f"{row.cross_entropy:.3f}",
            f"{row.bits:.3f}",
            format_range(row.low, row.high),
            str(row.n),
        ]
        rows.append(cells)
    return Table("Bits per model: H(Y) minus cross entropy", headings, rows, 2)


def _make_difference_tables(report: Information) -> Iterator[Block]:
    if report.fusion_gaps:
        yield Text(PROBE)
    tables = [
        ("All modalities minus all but this one", report.complementary),
        ("The ensemble with this modality alone, minus its uni-modal model", report.gaps),
        ("The encoder: the probe minus the uni-modal model", report.encoder_gaps),
        (
            "The fusion: the ensemble with this modality alone, minus the probe",
            report.fusion_gaps,
        ),
    ]
    for caption, differences in tables:
        if differences:
            yield _make_difference_table(caption, report.metric.label, differences)


def _make_difference_table(
    caption: str,
    metric: str,
    differences: Sequence[ModelDifference],
) -> Table:
    headings = [
        "modality",
        f"{metric}, points",
        "95 % interval",
        "bits",
        "95 % interval",
        "samples",
    ]
    rows = []
    for row in differences:
        cells = [
            row.modality,
            f"{100 * row.score:+.1f}",
            format_range(100 * row.score_low, 100 * row.score_high, 1),
            f"{row.bits:+.3f}",
            format_range(row.bits_low, row.bits_high),
            str(row.n),
        ]
        rows.append(cells)
    return Table(caption, headings, rows)


# Calibration. -------------------------------------------------------------------------------------


def calibration(outcome: Outcome, predictions: Predictions) -> Iterator[Block]:
    """Yield how calibrated the answers are, before and after calibration."""
    fitted: dict[str, Calibration] = {}
    measures = {}
    raw = {}
    for left in dict.fromkeys([*outcome.listed(), *outcome.shown]):
        fitted[left] = predictions.calibration.get(f"ensemble/{left}", Calibration())
        measures[left] = error_analysis.measure_calibration(predictions, left)
        raw[left] = error_analysis.measure_calibration(predictions, left, uncalibrated=True)
    tables = {"as scored": measures}
    if any(numbers != Calibration() for numbers in fitted.values()):
        tables["uncalibrated"] = raw
    curves: dict[str, dict[str, Points]] = {left: {} for left in outcome.shown}
    for label, of_subsets in tables.items():
        for left, lines in curves.items():
            points = [(row.confidence, row.right) for row in of_subsets[left].bins]
            if points:
                lines[label] = points
    for left, lines in curves.items():
        if lines:
            yield _draw_reliability(predictions.task, left, lines, measures[left].error)
    not_shown = describe_shown_subsets(outcome)
    if not_shown:
        yield Text(not_shown)
    if outcome.settings.source:
        yield _make_error_table(measures)
        return
    yield _make_calibration_table(predictions.task, raw, measures, fitted)
    if len(outcome.settings.folds) > 1 and outcome.settings.calibrated:
        yield Text(
            "Each fold is calibrated on its own validation samples, so there is no one temperature."
        )
    if not outcome.settings.calibrated:
        yield Text("Calibration is off in the settings (evaluate.calibrate).")


def _draw_reliability(
    task: str,
    left: str,
    lines: Mapping[str, Points],
    error: float,
) -> Figure:
    """lines: {label: (confidence, share that is right) of each bin}."""
    xlabel, ylabel = RELIABILITY_AXES[task]
    curves = []
    for label, points in lines.items():
        confidences, rights = zip(*sorted(points), strict=True)
        curves.append(Curve(label, confidences, rights))
    drawing = partial(
        figures.diagram,
        lines=curves,
        title=left,
        xlabel=xlabel,
        ylabel=ylabel,
    )
    subject = "a probability"
    if task == "regression":
        subject = "an interval"
    about = (
        f"On the diagonal {subject} means what it says; the mean distance from it is "
        f"{100 * error:.1f} %."
    )
    svg = figures.svg(f"reliability {left}", drawing, 4, 3.5)
    return Figure(svg, f"Reliability with {left}", about)


def _make_calibration_table(
    task: str,
    raw: Mapping[str, CalibrationMeasures],
    calibrated: Mapping[str, CalibrationMeasures],
    fitted: Mapping[str, Calibration],
) -> Table:
    headings = [
        "modalities present",
        "log-loss before",
        "after",
        "calibration error before, %",
        "after, %",
        "temperature",
        "bias" if task == "regression" else "bias per class",
    ]
    rows = []
    for left in fitted:
        cells = [left]
        both = (raw[left], calibrated[left])
        cells += [f"{measures.log_loss:.3f}" for measures in both]
        cells += [f"{100 * measures.error:.1f}" for measures in both]
        cells.append(f"{fitted[left].temperature:.2f}")
        cells.append(_describe_bias(fitted[left]))
        rows.append(cells)
    return Table("Before and after calibration", headings, rows)


def _make_error_table(measures: Mapping[str, CalibrationMeasures]) -> Table:
    """Return what the probabilities of an audit are worth, which nothing here has calibrated."""
    rows = []
    for left, of_subset in measures.items():
        rows.append([left, f"{of_subset.log_loss:.3f}", f"{100 * of_subset.error:.1f}"])
    headings = ["modalities present", "log-loss", "calibration error, %"]
    return Table("The numbers as the model gives them", headings, rows)


def _describe_bias(calibration: Calibration) -> str:
    if calibration.bias:
        return "yes"
    return "no"


# Selective prediction. ----------------------------------------------------------------------------


def selective(outcome: Outcome, predictions: Predictions) -> Iterator[Block]:
    """Yield the score against the share of the samples that is answered."""
    label = get(USUAL[predictions.task][0], predictions.task, 0).label
    ensemble = {left: predictions.ensemble[left] for left in outcome.shown}
    lines: dict[str, list[SelectiveScore]] = {}
    for score in error_analysis.selective_scores(replace(predictions, ensemble=ensemble)):
        lines.setdefault(score.modalities, []).append(score)
    yield _draw_selective(label, lines)
    not_shown = describe_shown_subsets(outcome)
    if not_shown:
        yield Text(not_shown)
    rows = []
    for left, line in lines.items():
        cells = [left]
        for coverage in COVERAGES:
            cells.append(format_percent(_find_nearest(line, coverage).score))
        area = error_analysis.aurc(predictions, left)
        cells.append(f"{area:.3f}")
        rows.append(cells)
    headings = ["modalities present"]
    for coverage in COVERAGES[:-1]:
        headings.append(f"most confident {100 * coverage:.0f} %")
    headings += ["all", "AURC"]
    yield Table(f"{capitalize(label)} in %, by the share that is answered", headings, rows)


def _draw_selective(label: str, lines: Mapping[str, Sequence[SelectiveScore]]) -> Figure:
    curves = []
    halves = []
    for left, line in lines.items():
        half = _find_nearest(line, 0.5)
        halves.append(f"{left}: {format_percent(half.score)} % where half is answered")
        shares = [score.coverage for score in line]
        scores = [score.score for score in line]
        curves.append(Curve(left, shares, scores))
    drawing = partial(
        figures.curves,
        lines=curves,
        xlabel="share answered, the most confident first",
        ylabel=label,
        xlim=(0, 1.02),
    )
    svg = figures.svg("selective", drawing, 4, 3 + 0.15 * len(lines))
    caption = f"{capitalize(label)} if only the most confident answers are given"
    return Figure(svg, caption, f"{'; '.join(halves)}.")


def _find_nearest(line: Sequence[SelectiveScore], coverage: float) -> SelectiveScore:
    return min(line, key=lambda score: abs(score.coverage - coverage))
