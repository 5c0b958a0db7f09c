"""The files of an evaluation in results/: numbers, the tables of plots, a figure and the report."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from umemma.config import Params
from umemma.evaluation import error_analysis
from umemma.evaluation.grid import write_rows
from umemma.evaluation.information_report import (
    Information,
    InformationBound,
    describe_threshold,
)
from umemma.evaluation.metrics import show_significant
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import (
    MAX_CURVES,
    Outcome,
    find_ceiling,
    list_fold_rows,
    summarize,
)
from umemma.reports import attribution, classes, confidence, figures, html, robustness
from umemma.reports.html import Block, Code, Points, Section, Table, Terms, Text
from umemma.reports.mistakes import list_mistakes
from umemma.reports.published.rows import format_protocol
from umemma.reports.published.section import make_section
from umemma.reports.verdict import give_verdict
from umemma.reports.wording import describe_rule, describe_worst_case, format_percent
from umemma.system.files import new_file, replace_nan, write_csv, write_json

PREDICTIONS = "predictions.parquet"
ROBUSTNESS_COLUMNS = ("missing", "ratio", "score", "low", "high", "ceiling", "average")
CONFUSION_COLUMNS = ("modalities", "right", "answered", "n")
# Terms of what an audit does not have, and of what it has with uni-modal models only.
OF_TRAINING = ("class prior", "probe", "temperature, bias")
OF_UNIMODAL = (
    "image alone",
    "uni-modal model, ceiling",
    "average",
    "gap",
    "better, worse, not distinguishable",
)
NOTHING_TO_ADVISE = "There is nothing to advise."


def write_results(
    folder: Path,
    outcome: Outcome,
    predictions: Predictions,
    made_by: str,
    command: str,
    more: Sequence[Section] = (),
) -> None:
    """Write predictions.parquet, grid.parquet and the files of `write` to a folder of files.

    made_by: what the predictions belong to.
    """
    settings = outcome.settings
    constants = {
        "dataset": settings.dataset,
        "variant": settings.variant,
        "split": settings.split,
        "absent": settings.absent,
    }
    predictions.save(folder / PREDICTIONS, made_by)
    write_rows(folder / "grid.parquet", outcome.subsets + outcome.ratios, constants)
    write(folder, outcome, predictions, command, more)


def write(
    folder: Path,
    outcome: Outcome,
    predictions: Predictions,
    command: str,
    more: Sequence[Section] = (),
) -> None:
    """Write the files.

    metrics.json, information.json, robustness.csv, information.csv, per_class.csv, confusion.csv,
    robustness.png, report.md and report.html.

    command: what creates them again; more: sections that follow the results.
    """
    assert outcome.information
    numbers = {**summarize(outcome), **outcome.settings.to_dict()}
    write_json(folder / "metrics.json", replace_nan(numbers))
    write_json(folder / "information.json", replace_nan(outcome.information.as_json()))

    tables = {
        "robustness": (ROBUSTNESS_COLUMNS, list_ratio_rows(outcome)),
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
    results, *rest = sections(outcome, predictions, command)
    parts = [results, *more, *rest]
    verdict = give_verdict(outcome)
    for name, write_report in (("report.md", html.markdown), ("report.html", html.render)):
        text = write_report(title, lead, parts, verdict)
        with new_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def list_ratio_rows(outcome: Outcome) -> Iterator[list[Any]]:
    """Yield the rows of robustness.csv."""
    unimodal = outcome.unimodal_values()
    averages = {}
    for missing, rows in outcome.curves("average").items():
        for row in rows:
            averages[missing, row.ratio] = row.value
    for missing, rows in outcome.curves().items():
        for row in rows:
            yield [
                missing,
                f"{row.ratio:g}",
                row.value,
                row.low,
                row.high,
                find_ceiling(row.left, unimodal),
                averages.get((missing, row.ratio), math.nan),
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


def format_command(params: Params, folds: Sequence[int]) -> str:
    """Return the command line that makes the same files."""
    if params.place:  # an experiment of a comparison has its settings in a file
        run_folder = params.paths.runs / params.place / str(params.fold) / params.finetune.preset
        return f"umemma evaluate-missing --params {run_folder}/params.json"
    changes: dict[str, Any] = {"seed": params.seed}
    if params.fold != "":
        changes["fold"] = params.fold
    for name, value in params.evaluate.model_dump(mode="json", exclude_defaults=True).items():
        changes[f"evaluate.{name}"] = value
    words = ["umemma evaluate-missing"]
    if len(folds) > 1:
        words.append("--all-folds")
    for name, value in changes.items():
        words.append(f"--set {shlex.quote(f'{name}={json.dumps(value)}')}")
    return " ".join(words)


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
    if outcome.folds:
        yield Section("Folds", [_make_fold_table(outcome)])
    yield Section("When modalities go missing", list(robustness.ratios(outcome)))
    class_blocks = list(classes.classes(outcome, predictions))
    if class_blocks:
        title = "Classes"
        if predictions.task == "regression":
            title = "Targets"
            class_blocks.append(_make_error_table(outcome, predictions))
        yield Section(title, class_blocks)
    if predictions.task == "multiclass":
        yield Section("Confusions", list(classes.confusions(outcome, predictions)))
        yield Section("Samples that go wrong", list(list_mistakes(outcome, predictions)))
    if outcome.information and outcome.information.contributions:
        yield Section("Which modality decides", list(attribution.attribution(outcome.information)))
    yield Section("Information", list(confidence.information(outcome)))
    yield Section("Calibration", list(confidence.calibration(outcome, predictions)))
    yield Section("Selective prediction", list(confidence.selective(outcome, predictions)))
    yield Section("Settings", list(_list_settings(outcome, command)))
    terms = _define_terms(outcome)
    if predictions.task == "regression":
        terms = _define_regression_terms(terms)
    yield Section("Terms", [Terms(terms)])


def _make_error_table(outcome: Outcome, predictions: Predictions) -> Table:
    """Return the errors of each target in its own unit, with the subsets that figures show."""
    rows = []
    for left in outcome.shown:
        for error in error_analysis.measure_targets(predictions, left):
            numbers = (error.mean_absolute, error.root_mean_square, error.deviation)
            shown = [show_significant(number) for number in numbers]
            rows.append([error.name, left, *shown, format_percent(error.covered)])
    headings = [
        "target",
        "modalities present",
        "MAE",
        "RMSE",
        "standard deviation",
        "in 95 % interval, %",
    ]
    caption = "Errors in the units of the targets; the standard deviation is that of the samples"
    return Table(caption, headings, rows, 2)


def _make_fold_table(outcome: Outcome) -> Table:
    """Return the leading metric of each subset in every fold."""
    metric = outcome.metrics[0]
    subsets = list(outcome.listed())
    headings = ["fold", *subsets]
    rows = []
    for name, values in list_fold_rows(outcome, subsets):
        rows.append([name, *(metric.shown(value) for value in values)])
    caption = f"{metric.label} of each fold, by the modalities present"
    return Table(caption, headings, rows)


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
    if outcome.settings.source:
        yield Text("This creates these files again, in the folder of the table:")
    else:
        yield Text("This creates these files again, from the same shards, models and params.yaml:")
    yield Code(command)


def _define_terms(outcome: Outcome) -> dict[str, str]:
    complete = outcome.complete.left
    terms = {
        "modalities present": f"What the model is given of a sample. {complete} is everything; the "
        f"rest is taken away: {describe_rule(outcome)}.",
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
    if outcome.settings.source:
        for name in (*OF_TRAINING, *(() if outcome.unimodal_values() else OF_UNIMODAL)):
            del terms[name]
        terms["ensemble"] = f"The model whose answers are in {outcome.settings.source}."
    return terms


def _define_regression_terms(terms: Mapping[str, str]) -> dict[str, str]:
    """Return the terms, with those that mean something else in regression changed."""
    classes_only = ("recall", "F1", "class prior")
    kept = {name: text for name, text in terms.items() if name not in classes_only}
    return kept | {
        "average": "The product of the distributions that the uni-modal models predict, a baseline "
        "without fusion.",
        "training mean": "The mean and the variance of the targets in training, as the answer to "
        "every sample: what can be reached without looking at it.",
        "probe": "A linear regression on the features that the ensemble's own encoder makes of one "
        "modality, fitted on the training split with its strength chosen on validation.",
        "R2": "The share of the variance of the target that the answers explain, of several "
        "targets the mean; below 0 where they are worse than the mean of these samples. The score "
        "of a sample is 1 - squared error / variance.",
        "MAE, RMSE": "The mean absolute and the root mean squared error, in the unit of the "
        "target; of several targets the mean, in standard deviations of each in training.",
        "log-loss": "The mean of minus the logarithm of the density that was given to the target, "
        "in standard deviations in training; of several targets the mean. Lower is better.",
        "calibration error": "How far the share of targets within a predicted central interval is "
        "from its level, on average over 15 levels.",
        "temperature, bias": "The natural parameters of the predicted normal distribution are "
        "divided by the temperature, then the bias is added. Both are fitted on validation, for "
        "each subset.",
        "H(Y), cross entropy": "The uncertainty about the target before and after seeing the "
        "modalities, in bits. Before, it is the entropy of a normal distribution, which may be "
        "negative.",
    }
