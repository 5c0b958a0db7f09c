"""predict: answers to new media from a trained model; of one sample, or of a table of any size -> a Parquet file."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from loguru import logger
from rich.markup import escape
from rich.table import Column
from rich.table import Table as Shown

from umemma.datasets import _table
from umemma.datasets._table import Row
from umemma.errors import UserError, unknown
from umemma.models import predictor
from umemma.models.predict_inputs import Failure
from umemma.models.predictor import Prediction, Predictor
from umemma.system import log
from umemma.system.files import new_file
from umemma.types import BrokenPolicy, joined

GROUP = 4096  # rows that are written together
MANY = 1000  # rows from which on further processes pay: one takes seconds to start


def run(
    folder: Path,
    media: Mapping[str, str],
    text_files: bool = False,
    trust: bool = False,
    broken: BrokenPolicy = "absent",
) -> Prediction:
    """The answer to one sample, with a warning for each medium that can't be read. UserError where none is left, and where
    `broken` says that the sample fails."""
    if not media:
        hint = "Name what there is of a sample, as --image FILE, or a table of samples, --manifest TABLE --out FILE."
        raise UserError("nothing to predict from", "umemma predict", hint, usage=True)
    given = {m: Path(value) if m == "text" and text_files else value for m, value in media.items()}
    answer = predictor.load(folder, trust, broken=broken).predict(**given)
    for reason in answer.broken:
        modality, _, why = reason.partition(": ")
        logger.warning(f"{modality} {given[modality]}: {why}; answered without it")
    return answer


def as_json(result: Prediction | Counts) -> str:
    return json.dumps(asdict(result), indent=2)


def shown(prediction: Prediction, top: int) -> Shown:
    """The `top` likeliest classes."""
    title = f"from {', '.join(prediction.present)}"
    table = Shown(Column("class"), Column("probability", justify="right"), title=title)
    given = (prediction.label,) if isinstance(prediction.label, str) else prediction.label
    likeliest = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    for label, chance in likeliest[:top]:
        table.add_row(escape(label), f"{chance:.1%}", style="bold" if label in given else "")
    return table


@dataclass(frozen=True)
class Counts:
    """Rows that were answered, {reason: rows} of those among them with media that can't be read, and of those that failed."""

    answered: int
    broken: dict[str, int]
    failed: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{self.answered:,} answered, {sum(self.failed.values()):,} failed"]
        lines += [
            f"answered without a medium that can't be read: {n:,} x {reason}"
            for reason, n in self.broken.items()
        ]
        lines += [f"failed: {n:,} x {reason}" for reason, n in self.failed.items()]
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
) -> Counts:
    """An answer, or why there is none, to every row of `manifest`, in its order -> `out`.

    columns: "image=COLUMN"; by default those that are named as the model's modalities. workers: processes that decode;
    None = as it pays. broken: a row with a medium that can't be read is answered from the rest, or fails. UserError for a
    table that lacks what is needed or is damaged, and where `out` can't be written.
    """
    if manifest.suffix.lower() not in _table.READERS:
        hint = f"It has to be a table: {', '.join(_table.READERS)}."
        raise UserError("not a table by its name", f"--manifest {manifest}", hint, usage=True)
    if not manifest.is_file():
        raise UserError(
            "no such file", f"--manifest {manifest}", "Name a table of samples.", usage=True
        )
    if out.suffix != ".parquet" or out.resolve() == manifest.resolve():
        hint = "Name another file, that ends in .parquet."
        raise UserError("can't be the predictions' file", f"--out {out}", hint, usage=True)
    model = predictor.load(folder, trust, broken=broken)
    samples = _samples(manifest, columns, text_files, model.modalities)
    total = _length(manifest)
    if workers is None:
        cores = len(os.sched_getaffinity(0))
        workers = cores if total >= MANY and cores > 1 else 0
    counts: Counter[tuple[bool, str | None]] = Counter()  # (whether there is an answer, reason)
    try:
        with (
            new_file(out) as aside,
            pq.ParquetWriter(aside, schema := _schema(model)) as writer,
            log.progress() as bars,
        ):
            bar = bars.add_task("predict", total=total, note="")
            found = bars.track(model.predict_many(samples, batch_size, workers), total, task_id=bar)
            answers = itertools.starmap(_row, zip(samples.rows(), found, strict=True))
            while rows := list(itertools.islice(answers, GROUP)):
                writer.write_table(pa.Table.from_pylist(rows, schema))
                counts.update(("label" in row, row["reason"]) for row in rows)
            bars.update(bar, total=counts.total())
    except OSError as error:
        hint = "Make room, or write elsewhere."
        raise UserError(f"can't be written: {error.strerror or error}", str(out), hint) from error
    whole = counts.pop((True, None), 0)
    rest = counts.most_common()
    without = {str(reason): count for (answered, reason), count in rest if answered}
    failed = {str(reason): count for (answered, reason), count in rest if not answered}
    return Counts(whole + sum(without.values()), without, failed)


def _schema(model: Predictor) -> pa.Schema:
    """label and probability are lists where a sample can have several; the classes of `probabilities` are metadata."""
    label, number = pa.string(), pa.float32()
    several = model.task == "multilabel"
    columns = {"key": pa.string(), "label": pa.list_(label) if several else label}
    columns |= {
        "probability": pa.list_(number) if several else number,
        "probabilities": pa.list_(number),
    }
    columns |= {"present": pa.string(), "reason": pa.string()}
    return pa.schema(list(columns.items()), metadata={"classes": json.dumps(model.classes)})


def _row(row: Row, found: Prediction | Failure) -> dict[str, Any]:
    key = {"key": row.cells.get("key", str(row.number))}
    if isinstance(found, Failure):
        return key | {"reason": found.reason}
    answer = {
        "label": found.label,
        "probability": found.probability,
        "probabilities": [*found.probabilities.values()],
    }
    return (
        key | answer | {"present": joined(found.present), "reason": "; ".join(found.broken) or None}
    )


# The table that is asked about. ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Samples:
    """The rows of a table as what predict_many takes; each process reads it by itself. roles: {what for: column}."""

    path: Path
    roles: Mapping[str, str]
    text_files: bool

    def rows(self) -> Iterator[Row]:
        column = next(iter(self.roles.values()))  # as `rows` wants a label, at which nobody looks
        return _table.rows(self.path, {"label": column, **self.roles}, (), "|")

    def __iter__(self) -> Iterator[Mapping[str, Any] | Failure]:
        for row in self.rows():
            yield (
                Failure(row.problem)
                if row.problem
                else {m: self._media(m, row.cells[m]) for m in self._there(row)}
            )

    def _there(self, row: Row) -> list[str]:
        return [m for m in self.roles if m in row.cells and m != "key"]

    def _media(self, modality: str, cell: str) -> str | Path:
        return cell if modality == "text" and not self.text_files else self.path.parent / cell


def _samples(
    path: Path, columns: Sequence[str], text_files: bool, known: Sequence[str]
) -> _Samples:
    """UserError for a column that isn't there, and where no column is a modality of the model (`known`)."""
    header = _header(path)
    roles = {
        m: m for m in known if m in header or not header
    }  # without a header `rows` will say what is wrong
    if columns:
        roles = dict(_column(given, header, known) for given in columns)
    if not roles:
        hint = (
            f"The table has {', '.join(header)}. Say which is which: --columns {known[0]}=COLUMN."
        )
        raise UserError(
            f"no column is named {' or '.join(known)}", f"--manifest {path}", hint, usage=True
        )
    return _Samples(path, roles | ({"key": "key"} if "key" in header else {}), text_files)


def _column(given: str, header: Sequence[str], known: Sequence[str]) -> tuple[str, str]:
    modality, equals, column = given.partition("=")
    if not equals:
        raise UserError(
            f"can't read {given!r}", "--columns", "Write it as --columns image=COLUMN.", usage=True
        )
    if modality not in known:
        raise unknown("modality", modality, known, "--columns")
    if header and column not in header:
        raise unknown("column", column, header, f"--columns {modality}")
    return modality, column


def _header(path: Path) -> list[str]:
    """The names of the columns; none where the table can't be read."""
    found: list[str] = []

    def note(names: Collection[str]) -> list[str]:
        found.extend(names)
        return list(names)

    with contextlib.suppress(OSError, pa.ArrowException):
        for _ in _table.READERS[path.suffix.lower()](path, note):
            if found:  # JSON lines are known only at their end: a row may leave out what it lacks
                break
    return found


def _length(path: Path) -> int:
    """About how many rows there are, for the bar: of text, its lines."""
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_metadata(path).num_rows
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except (OSError, pa.ArrowException):  # as reading it will say
        return 0
