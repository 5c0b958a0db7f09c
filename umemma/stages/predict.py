"""predict: a trained model and new media -> predictions, of one sample or a table of any size."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from loguru import logger
from rich.markup import escape
from rich.table import Column, Table

from umemma.datasets import _table
from umemma.datasets._table import Row
from umemma.errors import UserError
from umemma.evaluation.metrics import count_decimals
from umemma.models import predictor
from umemma.models.answers import AnyPrediction, NumberPrediction
from umemma.models.explanation import Explanation
from umemma.models.predict_inputs import Failure
from umemma.models.predict_table import choose_workers, estimate_rows, list_columns, open_table
from umemma.models.predictor import Predictor
from umemma.system import log
from umemma.system.files import file_size, new_file, remove_leftovers
from umemma.training.reproducibility import set_threads
from umemma.types import BrokenPolicy, format_pattern

NOTHING_NAMED: Mapping[str, str] = MappingProxyType({})
ROW_GROUP = 4096  # rows that are written together
OUTPUTS = (".parquet", ".csv", ".jsonl")
LONGEST_PATH = 4096
NUMBERS = ("value", "deviation", "low", "high")  # columns of a regression


# One sample. ----------------------------------------------------------------------------------


def run(
    folder: Path,
    media: Mapping[str, str],
    text_files: bool = False,
    trust: bool = False,
    broken: BrokenPolicy = "absent",
    named: Mapping[str, str] = NOTHING_NAMED,
    explain: bool = False,
) -> AnyPrediction | Explanation:
    """Predict one sample, and warn of each medium that can't be read.

    media: {kind: path or words}, for a model with one modality of the kind; named: {modality: path
    or words}; explain: whether to say what each modality adds. UserError where no medium can be
    read, where `broken` says that the sample fails, and for a kind of which the model has several
    modalities.
    """
    if not media and not named:
        hint = (
            "Name the media of a sample, as --image FILE, "
            "or a table of samples, --manifest TABLE --out FILE."
        )
        raise UserError("nothing to predict from", "umemma predict", hint, usage=True)
    set_threads(None)
    model = predictor.load(folder, trust, broken=broken)
    sample: dict[str, str | Path] = {**_name_media(media, model.kinds), **named}
    if text_files:
        for m in sample:
            if model.kinds.get(m) == "text":
                sample[m] = Path(sample[m])
    for m, medium in sample.items():
        if not text_files and model.kinds.get(m) == "text" and _names_file(str(medium)):
            logger.warning(f"{m} {medium}: taken as words; --text-files reads the file")
    explanation = None
    if explain:
        explanation = model.explain(**sample)
        prediction = explanation.prediction
    else:
        prediction = model.predict(**sample)
    for reason_of_modality in prediction.broken:
        modality, _, reason = reason_of_modality.partition(": ")
        logger.warning(f"{modality} {sample[modality]}: {reason}; predicted without it")
    return explanation or prediction


def _names_file(text: str) -> bool:
    """Return whether words are the path of a file."""
    return len(text) < LONGEST_PATH and file_size(Path(text)) is not None


def _name_media(media: Mapping[str, str], kinds: Mapping[str, str]) -> dict[str, str]:
    """Return {modality: medium} of {kind: medium}.

    A kind that the model has no modality of stays, for the error of an unknown modality. kinds:
    {modality: its kind}.
    """
    by_name: dict[str, str] = {}
    for kind, medium in media.items():
        names = [m for m, its_kind in kinds.items() if its_kind == kind]
        if len(names) > 1:
            raise UserError(
                f"this model has several modalities of that kind: {', '.join(names)}",
                f"--{kind}",
                f"Name one: --input {names[0]}={medium}",
                usage=True,
            )
        by_name[names[0] if names else kind] = medium
    return by_name


def make_class_table(prediction: AnyPrediction, top: int) -> Table:
    """Return the `top` most likely classes as a table, the predicted ones in bold.

    In regression the value of each target with its standard deviation and interval.
    """
    if isinstance(prediction, NumberPrediction):
        return _make_target_table(prediction)
    labels = prediction.label
    if isinstance(labels, str):
        labels = (labels,)
    title = f"from {', '.join(prediction.present)}"
    table = Table(Column("class"), Column("probability", justify="right"), title=title)
    if isinstance(prediction.label, tuple):
        table.add_column("answer")
    most_likely = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    for label, probability in most_likely[:top]:
        style = "bold" if label in labels else ""
        cells = [escape(log.make_printable(label)), f"{probability:.1%}"]
        if isinstance(prediction.label, tuple):
            cells.append("yes" if label in labels else "")
        table.add_row(*cells, style=style)
    return table


def make_contribution_table(explanation: Explanation, top: int) -> Table:
    """Return what each modality adds to the `top` most likely classes, or to each target."""
    prediction = explanation.prediction
    if isinstance(prediction, NumberPrediction):
        title = "what adds up to the value"
        nothing = "mean of training"
        names = list(prediction.value)
    else:
        title = "what adds up to the logarithm of the probability"
        if isinstance(prediction.label, tuple):
            title = "what adds up to the log-odds"
        nothing = "frequency in training"
        by_probability = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
        names = [name for name, _ in by_probability[:top]]
    headings = [Column(escape(log.make_printable(name)), justify="right") for name in names]
    table = Table(Column(""), *headings, title=title)
    rows = {nothing: explanation.prior} | explanation.contributions
    for row, numbers in rows.items():
        cells = [f"{numbers[name]:+.2f}" for name in names]
        if row in explanation.contributions and row not in prediction.present:
            cells = ["absent"] * len(names)
        table.add_row(row, *cells)
    sums = [sum(numbers[name] for numbers in rows.values()) for name in names]
    table.add_row("together", *(f"{number:+.2f}" for number in sums), style="bold")
    return table


def _make_target_table(prediction: NumberPrediction) -> Table:
    headings = [Column("target")]
    for heading in ("value", "standard deviation", "95 % interval"):
        headings.append(Column(heading, justify="right"))
    table = Table(*headings, title=f"from {', '.join(prediction.present)}")
    for name, value in prediction.value.items():
        low, high = prediction.interval[name]
        deviation = prediction.deviation[name]
        digits = count_decimals(deviation)
        cells = [f"{number:.{digits}f}" for number in (value, deviation, low, high)]
        table.add_row(
            escape(log.make_printable(name)), cells[0], cells[1], f"{cells[2]} to {cells[3]}"
        )
    return table


def as_json(result: AnyPrediction | Explanation | RowCounts) -> str:
    return json.dumps(asdict(result), indent=2)


# A table. -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowCounts:
    """How many rows of a table have a prediction, and how many do not.

    broken: {reason: rows} of the rows with a prediction whose media could not all be read. failed:
    {reason: rows} of the rows without a prediction.
    """

    answered: int
    broken: dict[str, int]
    failed: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{self.answered:,} predicted, {sum(self.failed.values()):,} failed"]
        for reason, count in self.broken.items():
            lines.append(f"predicted without a medium that can't be read: {count:,} x {reason}")
        for reason, count in self.failed.items():
            lines.append(f"failed: {count:,} x {reason}")
        return "\n  ".join(lines)


def run_table(
    folder: Path,
    manifest: Path,
    out: Path,
    columns: Sequence[str] = (),
    text_files: bool = False,
    workers: int | None = None,
    batch_size: int = 64,
    trust: bool = False,
    broken: BrokenPolicy = "absent",
    options: Mapping[str, Any] = NOTHING_NAMED,
) -> RowCounts:
    """Write a prediction, or why there is none, of every row of `manifest`, in its order, to `out`.

    columns: "image=COLUMN"; by default those that are named as the model's modalities, or as
    `options`, those of the dataset, name them. workers:
    processes that decode; None = chosen automatically. broken: whether a row with a medium that
    can't be read is predicted from the rest, or fails. UserError for a table that lacks what is
    needed or is damaged, and where `out` can't be written.
    """
    _check_paths(manifest, out)
    set_threads(None)
    model = predictor.load(folder, trust, broken=broken)
    if options and not columns:
        columns = list_columns(manifest, options, model.kinds)
    samples = open_table(manifest, columns, text_files, model.kinds, model.specs)
    total = estimate_rows(manifest)
    if workers is None:
        workers = choose_workers(total, model.kinds)
    with log.make_progress() as bars:
        bar = bars.add_task("predict", total=total, note="")
        results = bars.track(
            model.predict_many(samples, batch_size, workers),
            total,
            task_id=bar,
        )
        counts = _write_rows(out, model, zip(samples.rows(), results, strict=True))
        bars.update(bar, total=counts.total())
    return _summarize_counts(counts)


def _check_paths(manifest: Path, out: Path) -> None:
    if manifest.suffix.lower() not in _table.READERS:
        hint = f"A table's name ends in {', '.join(_table.READERS)}."
        raise UserError("not a table by its name", f"--manifest {manifest}", hint, usage=True)
    if not manifest.is_file():
        hint = "Name a table of samples."
        raise UserError("no such file", f"--manifest {manifest}", hint, usage=True)
    if out.suffix not in OUTPUTS or out.resolve() == manifest.resolve():
        hint = f"Name another file, one that ends in {', '.join(OUTPUTS)}."
        raise UserError("can't be the predictions' file", f"--out {out}", hint, usage=True)


def _write_rows(
    out: Path,
    model: Predictor,
    results: Iterable[tuple[Row, AnyPrediction | Failure]],
) -> Counter[tuple[bool, str | None]]:
    """Write the rows of `out` in groups. UserError where that fails.

    Returns {(whether there is a prediction, reason): number of rows}.
    """
    counts: Counter[tuple[bool, str | None]] = Counter()
    rows = itertools.starmap(_make_row, results)
    try:
        remove_leftovers(out.parent)
        with new_file(out) as temporary, _open_writer(out, temporary, model) as write:
            group = list(itertools.islice(rows, ROW_GROUP))
            while group:
                write(group)
                counts.update(("present" in row, row["reason"]) for row in group)
                group = list(itertools.islice(rows, ROW_GROUP))
    except OSError as error:
        what = f"can't be written: {error.strerror or error}"
        raise UserError(what, str(out), "Free some space, or write elsewhere.") from error
    return counts


@contextlib.contextmanager
def _open_writer(
    out: Path, temporary: Path, model: Predictor
) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Yield a function that writes rows to `temporary`, in the format that `out` is named for."""
    if out.suffix == ".parquet":
        schema = _make_schema(model)
        with pq.ParquetWriter(temporary, schema) as parquet:
            yield lambda rows: parquet.write_table(pa.Table.from_pylist(rows, schema))
        return
    with temporary.open("w", encoding="utf-8", newline="") as file:
        if out.suffix == ".jsonl":
            yield lambda rows: file.writelines(f"{json.dumps(row)}\n" for row in rows)
            return
        lists = NUMBERS if model.task == "regression" else ("probabilities",)
        of_classes = {name: [f"{name}: {of}" for of in model.classes] for name in lists}
        names = _make_schema(model).names
        table = csv.writer(file, lineterminator="\n")
        table.writerow(itertools.chain(*(of_classes.get(name, [name]) for name in names)))
        yield lambda rows: table.writerows(_flatten(row, names, of_classes) for row in rows)


def _flatten(
    row: Mapping[str, Any], names: Sequence[str], of_classes: Mapping[str, Sequence[str]]
) -> list[Any]:
    """Return the cells of a row of a CSV. What is several labels has | between them.

    of_classes: {name of a list: its columns, one for each class}.
    """
    cells: list[Any] = []
    for name in names:
        value = row.get(name)
        if name in of_classes:
            cells.extend(value or [""] * len(of_classes[name]))
        elif isinstance(value, tuple):
            cells.append("|".join(map(str, value)))
        else:
            cells.append("" if value is None else value)
    return cells


def _make_schema(model: Predictor) -> pa.Schema:
    """Label and probability are lists in a multilabel task; `probabilities` are of the classes.

    The classes are in the schema's metadata. In regression `value`, `deviation`, `low` and `high`
    have a number for each target instead; the targets are in the metadata.
    """
    if model.task == "regression":
        numbers = [(name, pa.list_(pa.float64())) for name in NUMBERS]
        fields = [("key", pa.string()), *numbers, ("present", pa.string()), ("reason", pa.string())]
        return pa.schema(fields, metadata={"targets": json.dumps(model.classes)})
    label, probability = pa.string(), pa.float32()
    if model.task == "multilabel":
        label, probability = pa.list_(label), pa.list_(probability)
    fields = [
        ("key", pa.string()),
        ("label", label),
        ("probability", probability),
        ("probabilities", pa.list_(pa.float32())),
        ("present", pa.string()),
        ("reason", pa.string()),
    ]
    return pa.schema(fields, metadata={"classes": json.dumps(model.classes)})


def _make_row(row: Row, result: AnyPrediction | Failure) -> dict[str, Any]:
    key = row.cells.get("key", str(row.number))
    if isinstance(result, Failure):
        return {"key": key, "reason": result.reason}
    if isinstance(result, NumberPrediction):
        answer: dict[str, Any] = {
            "value": [*result.value.values()],
            "deviation": [*result.deviation.values()],
            "low": [low for low, _ in result.interval.values()],
            "high": [high for _, high in result.interval.values()],
        }
    else:
        answer = {
            "label": result.label,
            "probability": result.probability,
            "probabilities": [*result.probabilities.values()],
        }
    return {
        "key": key,
        **answer,
        "present": format_pattern(result.present),
        "reason": "; ".join(result.broken) or None,
    }


def _summarize_counts(counts: Counter[tuple[bool, str | None]]) -> RowCounts:
    complete = counts.pop((True, None), 0)
    broken: dict[str, int] = {}
    failed: dict[str, int] = {}
    for (is_predicted, reason), count in counts.most_common():
        if is_predicted:
            broken[str(reason)] = count
        else:
            failed[str(reason)] = count
    return RowCounts(complete + sum(broken.values()), broken, failed)
