"""audit: the report of an evaluation, for anybody's model -> the folder --out.

The answers come from a table, or from a function that `umemma.audit` calls for every subset. No
torch, no shards and no trained model are needed.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from umemma.config import Params, default_params
from umemma.errors import UserError
from umemma.evaluation import comparison
from umemma.evaluation.audit.alignment import align, make_predictions
from umemma.evaluation.audit.answer_table import read_answers, take_columns
from umemma.evaluation.audit.collection import Predict, collect_answers
from umemma.evaluation.comparison import MethodDifference
from umemma.evaluation.grid import Grid
from umemma.evaluation.metrics import USUAL
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import (
    EvaluationSettings,
    Outcome,
    measure_outcome,
    name_worst_case,
    summarize,
)
from umemma.reports import evaluation
from umemma.reports.comparison.report import LEVEL, MARK, format_difference, format_test_interval
from umemma.reports.html import Section, Table, Text
from umemma.system.files import new_files, read_json, replace_nan, write_csv

DIFFERENCES, METRICS = "differences.csv", "metrics.json"
# A folder with a report has some of these. That of `umemma compare` has no metrics.json.
REPORT_FILES = (METRICS, DIFFERENCES, "report.md", "report.html", "compare.md", "grid.parquet")
USED = (
    "seed",
    "evaluate.metrics",
    "evaluate.ratios",
    "evaluate.draws",
    "evaluate.bootstrap",
    "evaluate.smallest_effect",
)
ABOUT_TESTS = (
    "The test is that of umemma compare: paired by sample, with groups of samples as clusters, and "
    "Holm's adjustment for all rows. It is about these two models, not about other trainings of "
    "them. The lesser average is the mean over all subsets but the complete one."
)


class TestTable(NamedTuple):
    """A table of tests: its caption, its headings, and a row of text per test."""

    caption: str
    headings: list[str]
    rows: list[list[str]]


class Audit(NamedTuple):
    """The outcome of an audit. differences: to the second table, [] without one."""

    outcome: Outcome
    differences: list[MethodDifference]


def run(
    table: Path,
    out: Path,
    sets: Sequence[str] = (),
    against: Path | None = None,
    modalities: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> Audit:
    """Write the report of a table of answers to the folder `out`.

    sets: changes of settings, "evaluate.draws=2"; against: a second table of answers to the same
    samples; modalities, classes: their names, () = those of the table. UserError for a mistake in a
    table, before anything is written.
    """
    params = _read_settings(sets)
    predictions = make_predictions(read_answers(table, classes), modalities)
    words = ["umemma", "audit", table.name, "--out", out.name]
    others: dict[str, Predictions] = {}
    if against is not None:
        other = make_predictions(read_answers(against, classes), modalities)
        name = against.name
        if name == table.name:
            name = f"other {name}"
        others[name] = align(other, predictions, str(against))
        words += ["--against", against.name]
    if modalities:
        words += ["--modalities", ",".join(modalities)]
    if classes:
        words += ["--classes", ",".join(classes)]
    for text in sets:
        words += ["--set", text]
    return _write(predictions, out, params, table.name, shlex.join(words), others)


def run_function(
    predict: Predict,
    inputs: Mapping[str, Sequence[Any]],
    target: Sequence[Any],
    out: Path,
    keys: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    classes: Sequence[str] = (),
    logits: bool = False,
) -> dict[str, Any]:
    """Write the report of a function's answers, and return what metrics.json holds.

    The arguments are those of `umemma.audit`.
    """
    name = getattr(predict, "__name__", "predict")
    table = collect_answers(predict, inputs, target, keys, groups, logits)
    predictions = make_predictions(take_columns(table, f"{name}()", classes), list(inputs))
    command = f"umemma.audit({name}, ...)"
    return as_json(_write(predictions, out, default_params("audit"), f"{name}()", command, {}))


def as_json(audit: Audit) -> dict[str, Any]:
    """Return the content of metrics.json, and `differences` to the second table if there is one."""
    numbers = {**summarize(audit.outcome), **audit.outcome.settings.to_dict()}
    if audit.differences:
        numbers["differences"] = [test._asdict() for test in audit.differences]
    return dict(replace_nan(numbers))


def make_test_table(audit: Audit) -> TestTable:
    """Return the differences to the second table, a row per subset or mean of subsets."""
    rows = []
    for test in audit.differences:
        points = f"{format_difference(test)} ({format_test_interval(test)})"
        rows.append([test.column, points, f"{test.p:.4f}", f"{test.p_holm:.4f}"])
    first = audit.differences[0]
    caption = (
        f"{first.method} minus {first.baseline}: {name_worst_case(audit.outcome)}, points; "
        f"{MARK} p < {LEVEL} after Holm's adjustment"
    )
    return TestTable(caption, ["modalities present", "difference (95 %)", "p", "p (Holm)"], rows)


def _read_settings(sets: Sequence[str]) -> Params:
    for text in sets:
        name = text.partition("=")[0]
        if name not in USED:
            hint = f"It reads {', '.join(USED)}."
            raise UserError(f"an audit has no setting {name!r}", "--set", hint, usage=True)
    return default_params("audit", sets)


def _write(
    predictions: Predictions,
    out: Path,
    params: Params,
    source: str,
    command: str,
    others: Mapping[str, Predictions],
) -> Audit:
    """Score the predictions and write everything. others: {name: what to test against}, or {}."""
    _check_folder(out, source)
    section = params.evaluate
    grid = Grid(predictions, params.seed, section.draws, section.bootstrap, section.metrics)
    settings = EvaluationSettings(
        dataset=source,
        metric=grid.metrics[0].name,
        samples=len(predictions.keys),
        seed=params.seed,
        source=source,
    )
    outcome = measure_outcome(grid, settings, section.ratios, section.smallest_effect)
    differences: list[MethodDifference] = []
    more: list[Section] = []
    for name, other in others.items():
        differences = _test(predictions, other, source, name)
        table = Table(*make_test_table(Audit(outcome, differences)))
        more.append(Section(f"Against {name}", [table, Text(ABOUT_TESTS)]))
    with new_files(out) as folder:
        made_by = f"audit of {source}"
        evaluation.write_results(folder, outcome, predictions, made_by, command, more)
        if differences:
            write_csv(folder / DIFFERENCES, MethodDifference._fields, differences)
    if not differences:  # those of an earlier audit would be of other answers
        (out / DIFFERENCES).unlink(missing_ok=True)
    return Audit(outcome, differences)


def _check_folder(out: Path, source: str) -> None:
    """Raise UserError where the folder has a report that is not of an audit of this source."""
    if out.exists() and not out.is_dir():
        raise UserError("is no folder", str(out), "Name another with --out.", usage=True)
    if not any((out / name).exists() for name in REPORT_FILES):
        return
    hint = "Name another folder with --out, or remove that report."
    was = ""
    if (out / METRICS).exists():
        was = read_json(out / METRICS, hint).get("source", "")
    if was != source:
        what = f"the folder has the report of {was or 'something else'}, not of {source}"
        raise UserError(what, str(out), hint, usage=True)


def _test(
    ours: Predictions, theirs: Predictions, name: str, other_name: str
) -> list[MethodDifference]:
    """Return the difference of our answers to theirs in every column, tested sample by sample."""
    metric = USUAL[ours.task][0]
    results = []
    for method, predictions in ((name, ours), (other_name, theirs)):
        results.append(
            comparison.summarize_experiment("", method, 0, predictions, [metric], (), None)
        )
    return list(
        comparison.compare_methods(results, name, ours.task, ours.groups, baseline=other_name)
    )
