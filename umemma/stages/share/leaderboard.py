"""leaderboard: the results of several folders -> one page, and the same as Markdown.

It reads what umemma compare (compare.json), umemma evaluate and umemma audit (metrics.json) wrote.
Folders may come from other people: what they hold is checked, and names are cleaned.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from umemma.errors import UserError
from umemma.evaluation.comparison import LESSER, WORST
from umemma.evaluation.metrics import USUAL, Metric
from umemma.reports import html
from umemma.reports.leaderboard import (
    NOT_STATED,
    TITLE,
    Entry,
    Score,
    find_metric,
    make_sections,
)
from umemma.reports.published.rows import format_protocol, normalize_protocol
from umemma.system.files import new_file, read_json
from umemma.system.log import make_printable
from umemma.types import format_pattern
from umemma.validation import validate

METRICS, COMPARISON, PREDICTIONS = "metrics.json", "compare.json", "predictions.parquet"
LARGEST = 50_000_000  # bytes of a JSON file that is read
MOST_MODALITIES = 12
WORST_METRICS = tuple(usual[0] for usual in USUAL.values())  # what the worst case may be in
HINT = "Run umemma evaluate, umemma audit or umemma compare, or leave this folder out."
Name = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=0, le=10**12)]


class _Theirs(BaseModel):
    """A file of results, of which unknown keys don't matter."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class _Interval(_Theirs):
    value: float | None


class _Metrics(_Theirs):
    """What is read of metrics.json. That of an audit has `source`, and neither dataset nor preset.

    scores: the object that the file calls by the name of its metric.
    """

    metric: Name
    samples: Count
    worst_case: _Interval
    scores: dict[Name, float | None] = Field(min_length=1, max_length=4096)
    dataset: Name = ""
    variant: Name = ""
    split: Name = ""
    preset: Name = ""
    source: Name = ""
    train_missing: dict[Name, float] = {}


class _MethodScore(_Theirs):
    train: Name
    method: Name
    metric: Name
    column: Name
    mean: float | None
    std: float | None
    seeds: Count


class _About(_Theirs):
    dataset: Name
    variant: Name
    split: Name
    samples: Count


class _Comparison(_Theirs):
    about: _About
    scores: list[_MethodScore] = Field(min_length=1, max_length=100_000)


class Written(NamedTuple):
    """What was written: the page, the Markdown beside it, and how many rows they have."""

    page: Path
    markdown: Path
    rows: int


def run(folders: Sequence[Path], out: Path) -> Written:
    """Write the page `out` and the same as .md beside it. UserError before anything is written."""
    if out.suffix != ".html" or out.is_dir():
        hint = "Name a file that ends in .html."
        raise UserError("can't be the page", str(out), hint, usage=True)
    entries = _adopt(list(_read_folders(folders)))
    lead = (
        f"{len(entries)} rows from {len({entry.source for entry in entries})} folders. Only rows "
        "of the same dataset, split, number of samples and absences in training share a table."
    )
    sections = list(make_sections(entries))
    written = Written(out, out.with_suffix(".md"), len(entries))
    with new_file(written.markdown) as markdown, new_file(written.page) as page:
        markdown.write_text(html.markdown(TITLE, lead, sections), encoding="utf-8", newline="\n")
        page.write_text(html.render(TITLE, lead, sections), encoding="utf-8", newline="\n")
    return written


def _read_folders(folders: Sequence[Path]) -> Iterator[Entry]:
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    for folder, name in zip(distinct, _name_folders(distinct), strict=True):
        metrics = folder / METRICS
        comparisons = [folder / COMPARISON, folder / "compare" / COMPARISON]
        comparison = next((path for path in comparisons if path.exists()), None)
        if comparison is None and not metrics.exists():
            what = f"has neither {METRICS} nor {COMPARISON}"
            raise UserError(what, str(folder), HINT)
        if comparison is not None:
            yield from _read_comparison(comparison, name)
        if metrics.exists():
            yield _read_metrics(metrics, name)


def _name_folders(folders: Sequence[Path]) -> list[str]:
    """Return the name of each folder, with as many of its parents as tell it from the others."""
    parts = [folder.resolve().parts[1:] for folder in folders]
    names = []
    for own in parts:
        depth = 1
        while depth < len(own) and sum(own[-depth:] == other[-depth:] for other in parts) > 1:
            depth += 1
        names.append(_clean("/".join(own[-depth:])))
    return names


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LARGEST:
        what = f"is larger than {LARGEST // 10**6} MB, so these are no results of umemma"
        raise UserError(what, str(path), HINT)
    return read_json(path, HINT)


def _read_metrics(path: Path, source: str) -> Entry:
    data = _read_json(path)
    scores = data.get(str(data.get("metric")))
    found = _check(_Metrics, {**data, "scores": scores}, path)
    complete = max(found.scores, key=lambda left: left.count("+"))
    lesser = [_number(value) for left, value in found.scores.items() if left != complete]
    values = {left: Score(_number(value)) for left, value in found.scores.items()}
    if lesser:
        values[LESSER] = Score(sum(lesser) / len(lesser))
    values[WORST] = Score(_number(found.worst_case.value))
    protocol, seeds = format_protocol(found.train_missing), 1
    if found.source:
        protocol, seeds = NOT_STATED, 0
    worst = next((name for name in WORST_METRICS if name in data), found.metric)
    return Entry(
        dataset=_clean(found.dataset),
        variant=_clean(found.variant),
        split=_clean(found.split),
        protocol=_clean(protocol),
        modalities=_split(complete, path),
        metric=_find_metric(found.metric, path),
        worst_metric=_find_metric(worst, path),
        samples=found.samples,
        digest=_digest(path.with_name(PREDICTIONS)),
        method=_clean(found.source or found.preset),
        scores=_clean_columns(values),
        seeds=seeds,
        source=source,
    )


def _read_comparison(path: Path, source: str) -> Iterator[Entry]:
    found = _check(_Comparison, _read_json(path), path)
    leading = next((row.metric for row in found.scores if row.column != WORST), "")
    columns = {row.column for row in found.scores} - {WORST, LESSER}
    subsets = {column for column in columns if " " not in column}
    if not subsets:
        raise UserError("has no score of a modality subset", str(path), HINT)
    worst = next((row.metric for row in found.scores if row.column == WORST), leading)
    by_method: dict[tuple[str, str], list[_MethodScore]] = {}
    for row in found.scores:
        if row.column == WORST or row.metric == leading:
            by_method.setdefault((row.train, row.method), []).append(row)
    for (train, method), rows in by_method.items():
        values = {row.column: Score(_number(row.mean), _number(row.std)) for row in rows}
        yield Entry(
            dataset=_clean(found.about.dataset),
            variant=_clean(found.about.variant),
            split=_clean(found.about.split),
            protocol=_clean(normalize_protocol(train)),
            modalities=_split(max(subsets, key=lambda left: left.count("+")), path),
            metric=_find_metric(leading, path),
            worst_metric=_find_metric(worst, path),
            samples=found.about.samples,
            digest="",
            method=_clean(method),
            scores=_clean_columns(values),
            seeds=max(row.seeds for row in rows),
            source=source,
        )


def _adopt(entries: list[Entry]) -> list[Entry]:
    """Return the entries; an audit of samples that an evaluation has is of its dataset."""
    known = {entry.digest: entry for entry in entries if entry.digest and entry.dataset}
    adopted = []
    for entry in entries:
        twin = known.get(entry.digest)
        if not entry.dataset and twin:
            entry = replace(entry, dataset=twin.dataset, variant=twin.variant, split=twin.split)
        adopted.append(entry)
    return adopted


def _check(model: type[Any], data: Mapping[str, Any], path: Path) -> Any:
    try:
        return validate(model, data, str(path))
    except UserError as error:
        raise UserError(make_printable(error.what[:500]), str(path), HINT) from None


def _find_metric(name: str, path: Path) -> Metric:
    metric = find_metric(name)
    if metric is None:
        raise UserError(f"unknown metric {make_printable(name)!r}", str(path), HINT)
    return metric


def _digest(path: Path) -> str:
    """Return a digest of which samples were predicted; "" where there is no such table."""
    if not path.is_file():
        return ""
    try:
        table = pq.read_table(path, columns=["key", "target"], memory_map=True)
    except (OSError, ValueError, pa.ArrowException):
        return ""
    rows = sorted(zip(table["key"].to_pylist(), map(str, table["target"].to_pylist()), strict=True))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _clean(text: str) -> str:
    return make_printable(text).replace("\n", " ")


def _clean_columns(values: Mapping[str, Score]) -> dict[str, Score]:
    return {_clean(column): score for column, score in values.items()}


def _split(complete: str, path: Path) -> tuple[str, ...]:
    names = tuple(_clean(format_pattern(complete.split("+"))).split("+"))
    if len(names) > MOST_MODALITIES:  # whose subsets would be too many to list
        raise UserError(f"names more than {MOST_MODALITIES} modalities", str(path), HINT)
    return names


def _number(value: float | None) -> float:
    if value is None:
        return math.nan
    return value
