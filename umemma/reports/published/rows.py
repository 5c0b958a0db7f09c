"""The rows of published.yaml, and the choice of those that may stand beside our own numbers.

A row fits where its dataset, its variant and its protocol are those of our numbers. The protocol is
what training misses, in the words of `compare.train`: `complete`, `audio=0.8`, `audio|image=0.7`.
A row whose source does not state one of the two fits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from umemma.errors import UserError, unknown_name
from umemma.evaluation.experiments import COMPLETE
from umemma.evaluation.metrics import USUAL
from umemma.missing import format_missing
from umemma.types import Plain, parse_alternatives
from umemma.validation import validate

FILE = "umemma/reports/published/published.yaml"
HINT = (
    "Correct this row. It has dataset, variant, protocol, method, metric, subset, value (in %), "
    "source and kind; a number without a source is left out."
)
MODALITIES = r"\w+(\+\w+)*"
SUBSET = rf"^({MODALITIES}|{MODALITIES}(\|{MODALITIES})* missing \d+ %)$"
ENTRY = r"[\w+|]+=(0|1|0\.\d+)"
PROTOCOL = f"^(complete|not stated|{ENTRY}(,{ENTRY})*)$"
Words = Annotated[str, Field(pattern=r"\S")]


class PublishedRow(Plain):
    """A published number.

    variant: as in DatasetSpec. protocol: what training misses. subset: the modalities present
    ("audio+image"), or the share of the test that loses something ("image|text missing 70 %").
    value: in %. source: the paper or the repository.
    """

    dataset: Words
    variant: str
    protocol: Annotated[str, Field(pattern=PROTOCOL)]
    method: Words
    metric: str
    subset: Annotated[str, Field(pattern=SUBSET)]
    value: Annotated[float, Field(ge=0, le=100)]
    source: Words
    kind: Literal["paper", "notes on the paper", "repository", "measured by us"]


def read_rows(text: str | None = None, where: str = FILE) -> list[PublishedRow]:
    """Return the rows of a YAML list, of published.yaml where text is None.

    Raises UserError for a row with a wrong or missing field, an unknown metric, and a duplicate.
    """
    if text is None:
        file = resources.files("umemma.reports.published").joinpath("published.yaml")
        text = file.read_text(encoding="utf-8")
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"not readable as YAML: {reason}", where, "Correct the file.") from None
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise UserError("is not a list of rows", where, HINT)
    rows = []
    numbers: dict[PublishedRow, int] = {}
    for number, fields in enumerate(data, 1):
        place = f"{where}, row {number}"
        row = _read_row(fields, place)
        key = row.model_copy(update={"value": 0.0})
        if key in numbers:
            problem = f"is row {numbers[key]} again: {row.method}, {row.subset}, {row.source}"
            raise UserError(problem, place, "Keep one of the two.")
        numbers[key] = number
        rows.append(row)
    return rows


def _read_row(fields: Mapping[str, object], place: str) -> PublishedRow:
    try:
        row = validate(PublishedRow, fields, place)
    except UserError as error:
        raise UserError(error.what, place, HINT) from None
    if not list_tasks(row.metric):
        known = {metric for usual in USUAL.values() for metric in usual}
        raise unknown_name("metric", row.metric, known, place)
    return row


def list_tasks(metric: str) -> list[str]:
    """Return the tasks whose usual metrics have this name."""
    return [task for task, usual in USUAL.items() if metric in usual]


def format_protocol(train_missing: Mapping[str, float]) -> str:
    """Return the protocol of {missing set: ratio}: `complete`, `audio=0.8`, `a=0.3,b=0.7`."""
    entries = []
    for text, ratio in train_missing.items():
        if ratio > 0:
            entries.append(f"{format_missing(parse_alternatives(text))}={ratio:g}")
    return ",".join(sorted(entries)) or COMPLETE


def normalize_protocol(text: str) -> str:
    """Return an entry of compare.train as `format_protocol` writes it; other words as they are."""
    if "=" not in text:
        return text
    pairs = [entry.split("=") for entry in text.split(",")]
    try:
        return format_protocol({missing: float(ratio) for missing, ratio in pairs})
    except ValueError:
        return text


def select_rows(
    rows: Iterable[PublishedRow], dataset: str, variant: str, protocols: Iterable[str]
) -> list[PublishedRow]:
    """Return the rows of exactly this dataset and variant, and of one of the protocols."""
    fitting = {normalize_protocol(protocol) for protocol in protocols}
    selected = []
    for row in rows:
        same_data = (row.dataset, row.variant) == (dataset, variant)
        if same_data and normalize_protocol(row.protocol) in fitting:
            selected.append(row)
    return selected
