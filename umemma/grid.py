"""From kept predictions to results: every modality subset, and every (missing set, ratio).

One encoder pass gave the logits of each sample under each pattern; taking a set away from a share of the samples then
only mixes columns: a sample scores its complete answer where it keeps everything, and the lesser answer where it
doesn't. The expectation over all draws is exact, (1 - ratio) * complete + ratio * lesser, sample by sample. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma.contracts import ResultRow, joined
from umemma.errors import UserError
from umemma.files import new_file
from umemma.metrics import NAMES, Bootstrap, score, task
from umemma.missing import dropped, missing_sets, patterns


@dataclass(frozen=True)
class Predictions:
    """Logits of a split. ensemble: {subset: (N, C)} for every non-empty subset; unimodal: {modality: (N, C)}.

    A row is NaN where nothing of the subset is present in the sample. keys, groups: N; target: (N,) classes or
    (N, C) sets of labels.
    """

    keys: list[str]
    groups: list[str]
    target: np.ndarray
    ensemble: dict[str, np.ndarray]
    unimodal: dict[str, np.ndarray]

    @property
    def modalities(self) -> list[str]:
        return sorted(self.unimodal)

    def save(self, path: Path, made_by: str) -> None:
        """predictions.parquet: key, group, target, and one column of logits per model and subset."""
        columns: dict[str, pa.Array] = {"key": pa.array(self.keys), "group": pa.array(self.groups)}
        columns["target"] = _column(self.target)
        for model, tables in (("ensemble", self.ensemble), ("unimodal", self.unimodal)):
            for subset, logits in tables.items():
                columns[f"{model}/{subset}"] = _column(logits.astype(np.float32))
        with new_file(path) as aside:
            pq.write_table(pa.table(columns).replace_schema_metadata({"made_by": made_by}), aside)

    @classmethod
    def load(cls, path: Path, made_by: str) -> Predictions | None:
        """The kept predictions; None where there are none, or where other models than `made_by` made them."""
        try:
            table = pq.read_table(path)
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        if (table.schema.metadata or {}).get(b"made_by") != made_by.encode():
            return None
        logits: dict[str, dict[str, np.ndarray]] = {"ensemble": {}, "unimodal": {}}
        for name in table.column_names:
            model, slash, subset = name.partition("/")
            if slash:
                logits[model][subset] = _array(table[name])
        target = _array(table["target"])
        return cls(table["key"].to_pylist(), table["group"].to_pylist(), target, logits["ensemble"], logits["unimodal"])


class Grid:
    """Scores predictions. The interval of a value is over samples of the split (see Bootstrap), not over seeds."""

    def __init__(self, predictions: Predictions, seed: int, draws: int, bootstrap: int) -> None:
        self.predictions, self.seed, self.draws = predictions, seed, draws
        self.bootstrap = Bootstrap(predictions.groups, seed, bootstrap)
        self.metric = NAMES[task(predictions.target)]
        self.hits = {
            ("ensemble", subset): score(logits, predictions.target) for subset, logits in predictions.ensemble.items()
        } | {("unimodal", m): score(logits, predictions.target) for m, logits in predictions.unimodal.items()}

    def subsets(self) -> Iterator[ResultRow]:
        """The ensemble with every subset of the modalities, and each uni-modal model alone: the ceilings."""
        names = self.predictions.modalities
        for pattern in patterns(names):
            missing = joined({*names} - {*pattern})
            yield self._row(
                "ensemble", missing, joined(pattern), 1.0 if missing else 0.0, -1, self._of(joined(pattern))
            )
        for m in names:
            yield self._row("unimodal", joined({*names} - {m}), m, 1.0, -1, self.hits["unimodal", m])

    def ratios(self, missing: Sequence[str], ratios: Iterable[float]) -> Iterator[ResultRow]:
        """`missing` taken from each ratio of the samples: the expectation (draw -1), then the seeded draws.

        Samples of which nothing would be left are refused at every ratio, so that all ratios score the same samples.
        """
        names = self.predictions.modalities
        left = joined({*names} - {*missing})
        complete, lesser = self._of(joined(names)), self._of(left)
        complete = np.where(np.isnan(lesser), np.nan, complete)
        for ratio in ratios:
            expected = (1 - ratio) * complete + ratio * lesser
            yield self._row("ensemble", joined(missing), left, ratio, -1, expected)
            for number in range(self.draws):
                lost = dropped(self.predictions.keys, self.seed, number, ratio)
                drawn = np.where(lost, lesser, complete)
                yield self._row("ensemble", joined(missing), left, ratio, number, drawn)

    def all_ratios(self, ratios: Sequence[float]) -> Iterator[ResultRow]:
        for missing in missing_sets(self.predictions.modalities):
            yield from self.ratios(missing, ratios)

    def _of(self, subset: str) -> np.ndarray:
        return self.hits["ensemble", subset]

    def _row(self, model: str, missing: str, left: str, ratio: float, draw: int, values: np.ndarray) -> ResultRow:
        scored = int((~np.isnan(values)).sum())
        if not scored:
            raise UserError(f"no sample of the split has {left}", "evaluate", "Choose another missing set.")
        low, high = self.bootstrap.interval(values)
        refused = len(values) - scored
        return ResultRow(
            model, missing, left, ratio, draw, self.metric, float(np.nanmean(values)), low, high, scored, refused
        )


def write_rows(path: Path, rows: Sequence[ResultRow], constants: Mapping[str, str]) -> None:
    """Result rows as Parquet, each with what is the same for all of them (dataset, split, absence)."""
    table = pa.Table.from_pylist([{**constants, **row._asdict()} for row in rows])
    with new_file(path) as aside:
        pq.write_table(table, aside)


def _column(values: np.ndarray) -> pa.Array:
    """(N,) or (N, C) as a column."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _array(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) or (N, C) of a column."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1)
