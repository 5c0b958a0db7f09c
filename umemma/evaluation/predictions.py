"""The logits of a split, as an evaluation saves them in results/<dataset>/predictions.parquet.

Every number of a report is computed from this file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma.evaluation.calibration import Calibration
from umemma.evaluation.classification import thresholds as class_thresholds
from umemma.evaluation.classification.thresholds import Thresholds
from umemma.system.files import new_file
from umemma.types import format_pattern

RAREST = 1e-6  # share of a class that no training sample has


@dataclass(frozen=True)
class Predictions:
    """Logits of a split, and what they are scored against.

    ensemble: {subset: (N, C)} for every non-empty subset; unimodal: {modality: (N, C)}; probes:
    {modality: (N, C)}, of a linear classifier on the ensemble's own features of the modality, empty
    where none was fitted. All are float32 and as they are scored, so after `calibration`
    {"ensemble/<subset>": calibration}, whose `undo` gives the logits of the model. A row is NaN
    where nothing of the subset is present in the sample.

    keys: N; groups: {grouping: N groups}; target: (N,) classes or (N, C) sets of labels; classes: C
    names; prior: C shares of the training samples, [] where they are unknown; thresholds: those of
    the tables that have any, by the names of `calibration`. `decide` applies them.
    """

    keys: list[str]
    groups: dict[str, list[str]]
    target: np.ndarray
    ensemble: dict[str, np.ndarray]
    unimodal: dict[str, np.ndarray]
    classes: list[str] = field(default_factory=list)
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    probes: dict[str, np.ndarray] = field(default_factory=dict)
    prior: Sequence[float] = ()
    thresholds: Mapping[str, Thresholds] = field(default_factory=dict)

    @property
    def modalities(self) -> list[str]:
        return sorted(self.unimodal)

    @property
    def task(self) -> str:
        if self.target.ndim == 1:
            return "multiclass"
        return "multilabel"

    @classmethod
    def calibrated(
        cls,
        keys: list[str],
        groups: dict[str, list[str]],
        target: np.ndarray,
        raw: Sequence[Mapping[str, np.ndarray]],
        classes: list[str],
        calibration: Mapping[str, Calibration],
        prior: Sequence[float] = (),
        thresholds: Mapping[str, Thresholds] | None = None,
    ) -> Predictions:
        """Calibrate the models' own logits, (ensemble, unimodal) or (ensemble, unimodal, probes).

        A sample is calibrated by what is present of the subset, as it is where it is predicted
        alone.
        """
        ensemble = dict(raw[0])
        unimodal = dict(raw[1])
        probes: dict[str, np.ndarray] = {}
        if len(raw) > 2:
            probes = dict(raw[2])
        predictions = cls(
            keys,
            groups,
            target,
            ensemble,
            unimodal,
            classes,
            calibration,
            probes,
            prior,
            thresholds or {},
        )
        for subset, logits in ensemble.items():
            ensemble[subset] = predictions._change(subset, logits, Calibration.apply)
        for model, tables in (("unimodal", unimodal), ("probe", probes)):
            for m, logits in tables.items():
                fitted = calibration.get(f"{model}/{m}", Calibration())
                tables[m] = fitted.apply(logits)
        return predictions

    def logits(self, model: str, subset: str) -> np.ndarray:
        """Return the (N, C) logits of "ensemble", "unimodal", "probe", "average" or "prior"."""
        if model == "average":
            return self.average(subset)
        if model == "prior":
            return self.class_prior()
        tables = {"ensemble": self.ensemble, "unimodal": self.unimodal, "probe": self.probes}
        return tables[model][subset]

    def decide(self, model: str, subset: str) -> np.ndarray:
        """Return the (N, C) `logits` after thresholds: their largest is the predicted class, or
        their signs are the predicted labels."""
        logits = self.logits(model, subset)
        if not self.thresholds:
            return logits
        if model not in ("ensemble", "average"):
            return class_thresholds.shift_logits(
                logits, self.thresholds_of(model, subset), self.task
            )
        shifted = logits.astype(np.float64)
        for name, rows in self._group_by_present(subset):
            found = self.thresholds_of(model, name)
            shifted[rows] = class_thresholds.shift_logits(logits[rows], found, self.task)
        return shifted

    def thresholds_of(self, model: str, subset: str) -> Thresholds:
        """Return the thresholds of a model where just this subset is present; () for none."""
        if model == "average":
            tables = [self.thresholds_of("unimodal", m) for m in subset.split("+")]
            return class_thresholds.average(tables, self.task)
        if model == "prior":
            if self.thresholds and self.task == "multilabel":
                return class_thresholds.of_prior(self.prior)
            return ()
        return self.thresholds.get(f"{model}/{subset}", ())

    def average(self, subset: str) -> np.ndarray:
        """Return (N, C): the mean of the uni-modal logits of what is present; NaN for nothing."""
        tables = [self.unimodal[m] for m in subset.split("+")]
        if len(tables) == 1:
            return tables[0]
        if not any(self._lacks_samples[m] for m in subset.split("+")):
            return np.asarray(sum(tables) / np.float32(len(tables)))
        total = np.zeros_like(tables[0])
        present = np.zeros_like(tables[0][:, :1])
        for table in tables:
            total += np.nan_to_num(table)
            present += ~np.isnan(table[:, :1])
        with np.errstate(invalid="ignore"):
            return np.asarray(total / present)

    @functools.cached_property
    def _lacks_samples(self) -> dict[str, bool]:
        """{modality: whether some samples have no uni-modal logits of it}."""
        return {m: bool(np.isnan(table[:, 0]).any()) for m, table in self.unimodal.items()}

    def class_prior(self) -> np.ndarray:
        """Return (N, C): the same logits for every sample, those of `prior`."""
        shares = np.clip(np.asarray(self.prior), RAREST, 1 - RAREST)
        logits = np.log(shares)
        if self.task == "multilabel":
            logits -= np.log1p(-shares)
        return np.tile(logits, (len(self.keys), 1))

    def uncalibrated(self, subset: str) -> np.ndarray:
        """Return the ensemble's own (N, C) logits, but for rounding."""
        return self._change(subset, self.ensemble[subset], Calibration.undo)

    def _change(
        self,
        subset: str,
        logits: np.ndarray,
        change: Callable[[Calibration, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Apply or undo the calibration that belongs to what is present of the subset."""
        changed = logits.astype(np.float32)
        for name, rows in self._group_by_present(subset):
            fitted = self.calibration.get(f"ensemble/{name}", Calibration())
            changed[rows] = change(fitted, logits[rows])
        return changed

    def _group_by_present(self, subset: str) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each pattern of a subset with (N,) bool: where it is what is present of it."""
        names = subset.split("+")
        present = np.stack([~np.isnan(self.unimodal[m][:, 0]) for m in names], 1)
        codes = present @ (2 ** np.arange(len(names)))
        for code in np.unique(codes[codes > 0]).tolist():  # few of the 2**M patterns occur
            pattern = [m for i, m in enumerate(names) if code >> i & 1]
            yield format_pattern(pattern), codes == code

    def save(self, path: Path, made_by: str) -> None:
        """Write key, group, target and a column of logits per model and subset.

        With several groupings the groups are in group_<name>; the rest is in the file's metadata.
        """
        columns: dict[str, pa.Array] = {"key": pa.array(self.keys)}
        for name, groups in self.groups.items():
            column = "group"
            if len(self.groups) > 1:
                column = f"group_{name}"
            columns[column] = pa.array(groups)
        columns["target"] = _make_column(self.target)
        models = {"ensemble": self.ensemble, "unimodal": self.unimodal, "probe": self.probes}
        for model, tables in models.items():
            for subset, logits in tables.items():
                columns[f"{model}/{subset}"] = _make_column(logits.astype(np.float32))
        calibration = {name: fitted.as_json() for name, fitted in self.calibration.items()}
        metadata = {
            "made_by": made_by,
            "classes": json.dumps(self.classes),
            "calibration": json.dumps(calibration),
            "prior": json.dumps(list(self.prior)),
        }
        if self.thresholds:
            metadata["thresholds"] = json.dumps(dict(self.thresholds))
        table = pa.table(columns).replace_schema_metadata(metadata)
        with new_file(path) as aside:
            pq.write_table(table, aside, write_page_checksum=True)

    @classmethod
    def load(cls, path: Path, made_by: str) -> Predictions | None:
        """Read saved predictions.

        None where there are none, where they are damaged, and where others than `made_by` made
        them.
        """
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException):  # altered or cut short: pages have checksums
            return None
        metadata = table.schema.metadata or {}
        if metadata.get(b"made_by") != made_by.encode():
            return None
        logits: dict[str, dict[str, np.ndarray]] = {"ensemble": {}, "unimodal": {}, "probe": {}}
        groups = {}
        for name in table.column_names:
            model, _, subset = name.partition("/")
            if model in logits:
                logits[model][subset] = _read_column(table[name])
            elif name.startswith("group"):
                groups[name.removeprefix("group_")] = table[name].to_pylist()
        calibration = {}
        for name, data in json.loads(metadata[b"calibration"]).items():
            calibration[name] = Calibration.of(data)
        return cls(
            keys=table["key"].to_pylist(),
            groups=groups,
            target=_read_column(table["target"]),
            ensemble=logits["ensemble"],
            unimodal=logits["unimodal"],
            classes=json.loads(metadata[b"classes"]),
            calibration=calibration,
            probes=logits["probe"],
            prior=json.loads(metadata.get(b"prior", b"[]")),
            thresholds=_read_thresholds(metadata.get(b"thresholds", b"{}")),
        )


def _read_thresholds(text: bytes) -> dict[str, Thresholds]:
    return {name: tuple(numbers) for name, numbers in json.loads(text).items()}


def read_made_by(path: Path) -> str | None:
    """Return what saved predictions say they were made by; None where there are none."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    made_by = metadata.get(b"made_by")
    if made_by is None:
        return None
    return str(made_by.decode())


def _make_column(values: np.ndarray) -> pa.Array:
    """Return (N,) or (N, C) values as a column."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _read_column(column: pa.ChunkedArray) -> np.ndarray:
    """Return the (N,) or (N, C) values of a column."""
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1)
