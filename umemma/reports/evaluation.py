"""The files of an evaluation in results/: numbers, the tables of plots, a figure and the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from umemma.evaluation import error_analysis
from umemma.evaluation.information_report import (
    Information,
    InformationBound,
    describe_threshold,
)
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import MAX_CURVES, Outcome, find_ceiling, replace_nan, summarize
from umemma.reports import classes, confidence, figures, html, robustness
from umemma.reports.html import Block, Code, Points, Section, Table, Terms, Text
from umemma.reports.published.rows import format_protocol
from umemma.reports.published.section import make_section
from umemma.reports.verdict import give_verdict
from umemma.reports.wording import ABSENCE, describe_worst_case
from umemma.system.files import new_file, write_csv, write_json
from umemma.types import format_pattern

ROBUSTNESS_COLUMNS = ("missing", "ratio", "score", "low", "high", "ceiling", "average")
CONFUSION_COLUMNS = ("modalities", "right", "answered", "n")
NOTHING_TO_ADVISE = "There is nothing to advise."


def write(folder: Path, outcome: Outcome, predictions: Predictions, command: str) -> None:
    """Write the files.

    metrics.json, information.json, robustness.csv, information.csv, per_class.csv, confusion.csv,
    robustness.png, report.md and report.html.

    command: what creates them again.
    """
    assert outcome.information
    numbers = {**summarize(outcome), **outcome.settings.to_dict()}
    write_json(folder / "metrics.json", replace_nan(numbers))
    write_json(folder / "information.json", replace_nan(outcome.information.as_json()))

    tables = {
        "robustness": (ROBUSTNESS_COLUMNS, _list_ratio_rows(outcome)),
        "information": (InformationBound._fields, outcome.information.bounds),
        "per_class": (
            error_analysis.ClassScore._fields,
            error_analysis.score_classes(predictions),
        ),
        "confusion": (CONFUSION_COLUMNS, _list_confusions(outcome, predictions)),
    }
    for name, (headings, rows) in tables.items():
        write_csv(folder / f"{name}.csv", headings, rows, nan="nan")

    panels = list(robustness.panels(outcome).values())
    figures.png(folder / "robustness.png", panels or [figures.nothing])

    title = f"{outcome.title}: {outcome.metrics[0].label} with modalities missing"
    lead = f"{describe_worst_case(outcome)} The numbers are of {outcome.trained}."
    parts = list(sections(outcome, predictions, command))
    verdict = give_verdict(outcome)
    for name, write_report in (("report.md", html.markdown), ("report.html", html.render)):
        text = write_report(title, lead, parts, verdict)
        with new_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def _list_ratio_rows(outcome: Outcome) -> Iterator[list[Any]]:
    unimodal = outcome.unimodal_values()
    averages = outcome.curves("average")
    for missing, rows in outcome.curves().items():
        for row, average in zip(rows, averages[missing], strict=True):
            yield [
                missing,
                f"{row.ratio:g}",
                row.value,
                row.low,
                row.high,
                find_ceiling(row.left, unimodal),
                average.value,
            ]


def _list_confusions(outcome: Outcome, predictions: Predictions) -> Iterator[list[Any]]:
    """Yield the entries above 0, of the subsets that figures show; none for sets of labels."""
    if predictions.task != "multiclass":
        return
    names = predictions.classes
    for left in outcome.shown:
        matrix = error_analysis.confusion_matrix(predictions, left)
        for right, answered in np.argwhere(matrix).tolist():
            count = int(matrix[right, answered])
            yield [left, names[right], names[answered], count]


def sections(outcome: Outcome, predictions: Predictions, command: str) -> Iterator[Section]:
    """Yield the sections of the report, what matters most first."""
    yield Section("Results", list(robustness.results(outcome)))
    if outcome.information:
        yield Section("Advice", _list_advice(outcome.information))
    settings = outcome.settings
    yield from make_section(
        settings.dataset,
        settings.variant,
        settings.split,
        [format_protocol(settings.train_missing)],
    )
    yield Section("When modalities go missing", list(robustness.ratios(outcome)))
    class_blocks = list(classes.classes(outcome, predictions))
    if class_blocks:
        yield Section("Classes", class_blocks)
    if predictions.task == "multiclass":
        yield Section("Confusions", list(classes.confusions(outcome, predictions)))
    yield Section("Information", list(confidence.information(outcome)))
    yield Section("Calibration", list(confidence.calibration(outcome, predictions)))
    yield Section("Selective prediction", list(confidence.selective(outcome, predictions)))
    yield Section("Settings", list(_list_settings(outcome, command)))
    yield Section("Terms", [Terms(_define_terms(outcome))])


def _list_advice(information: Information) -> list[Block]:
    blocks: list[Block] = [Text(describe_threshold(information))]
    if information.advice:
        blocks.append(Points(information.advice))
    else:
        blocks.append(Text(NOTHING_TO_ADVISE))
    return blocks


def _list_settings(outcome: Outcome, command: str) -> Iterator[Block]:
    rows = []
    for name, value in outcome.settings.to_dict().items():
        if value not in ("", {}):
            rows.append([name, str(value)])
    yield Table("What the numbers belong to", ["setting", "value"], rows, 2)
    yield Text("This creates these files again, from the same shards, models and params.yaml:")
    yield Code(command)


def _define_terms(outcome: Outcome) -> dict[str, str]:
    complete = format_pattern(outcome.lead("unimodal"))
    absence = ABSENCE[outcome.settings.absent]
    return {
        "modalities present": f"What the model is given of a sample. {complete} is everything; the "
        f"rest is taken away: {absence}.",
        "missing": "What is taken away. a+b is both at once, a|b one of the two, each as likely.",
        "image alone": "The ensemble with image alone is the trained ensemble that is given "
        "nothing else. It is not the uni-modal model of image.",
        "uni-modal model, ceiling": "A model that was trained on one modality. The best of those "
        "of the modalities present is what an ensemble should not fall below.",
        "average": "The average of the logits of the uni-modal models, a baseline without fusion.",
        "class prior": "The shares of the classes in training, as the answer to every sample: what "
        "can be reached without looking at it.",
        "worst case": "Each sample is scored under the subset that is worst for it: a lower bound "
        "for any way to go missing.",
        "95 % interval": "From resampling whole groups of samples (bootstrap), of several "
        "groupings each of them; about this split, not about another training.",
        "gap": "The ensemble minus the ceiling, in points; the interval is of the difference, both "
        "resampled together.",
        "better, worse, not distinguishable": "The 95 % interval of the gap is above 0, is below "
        "0, or includes 0.",
        "probe": "A linear classifier on the features that the ensemble's own encoder makes of one "
        "modality, fitted on the training split with its strength chosen on validation.",
        "recall": "The share of the samples of a class that are classified as this class.",
        "F1": "The harmonic mean of recall and of the share of such answers that are right.",
        "log-loss": "The mean of minus the logarithm of the probability that was given to what is "
        "right; lower is better.",
        "calibration error": "How far confidence is from how often it is right, on average (ECE, "
        "15 bins).",
        "temperature, bias": "Logits are divided by the temperature, then the bias is added. Both "
        "are fitted on validation, for each subset.",
        "H(Y), cross entropy": "The uncertainty about the label before and after seeing the "
        "modalities, in bits.",
        "AURC": "The area under the risk-coverage curve: the mean risk (1 minus the score) over "
        "all shares answered; lower is better.",
        "figures": f"Show all modalities and at most {MAX_CURVES} incomplete subsets: each "
        "modality missing, then those with the lowest values.",
    }
