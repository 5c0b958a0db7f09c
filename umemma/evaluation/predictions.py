"""What models answered on a split, as evaluations keep it: predictions.parquet, from which every number is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from umemma.evaluation.calibration import Calibration
from umemma.missing import patterns
from umemma.system.files import new_file
from umemma.types import joined


@dataclass(frozen=True)
class Predictions:
    """Logits of a split. ensemble: {subset: (N, C)} for every non-empty subset; unimodal: {modality: (N, C)}; probes:
    {modality: (N, C)}, of a linear classifier on the ensemble's own features of the modality, empty where none was fitted;
    all float32 and as they are scored, so after `calibration` {"ensemble/<subset>": ...}, whose `undo` gives those of the
    model.

    A row is NaN where nothing of the subset is present in the sample. keys: N; groups: {grouping: N groups}; target: (N,)
    classes or (N, C) sets of labels; classes: C names.
    """

    keys: list[str]
    groups: dict[str, list[str]]
    target: np.ndarray
    ensemble: dict[str, np.ndarray]
    unimodal: dict[str, np.ndarray]
    classes: list[str] = field(default_factory=list)
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    probes: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def modalities(self) -> list[str]:
        return sorted(self.unimodal)

    @property
    def task(self) -> str:
        return "multiclass" if self.target.ndim == 1 else "multilabel"

    @classmethod
    def calibrated(
        cls,
        keys: list[str],
        groups: dict[str, list[str]],
        target: np.ndarray,
        raw: Sequence[Mapping[str, np.ndarray]],
        classes: list[str],
        calibration: Mapping[str, Calibration],
    ) -> Predictions:
        """From the models' own logits, (ensemble, unimodal) or (ensemble, unimodal, probes). A sample's answer is calibrated
        by what is there of the subset, as it is where a single sample is predicted."""
        ensemble, unimodal, probes = (dict(tables) for tables in (*raw, {})[:3])
        made = cls(keys, groups, target, ensemble, unimodal, classes, calibration, probes)
        for subset, table in ensemble.items():
            ensemble[subset] = made._by_what_is_there(subset, table, Calibration.apply)
        for model, tables in (("unimodal", unimodal), ("probe", probes)):
            for m, table in tables.items():
                tables[m] = calibration.get(f"{model}/{m}", Calibration()).apply(table)
        return made

    def uncalibrated(self, subset: str) -> np.ndarray:
        """(N, C): the ensemble's own logits, but for rounding."""
        return self._by_what_is_there(subset, self.ensemble[subset], Calibration.undo)

    def _by_what_is_there(
        self,
        subset: str,
        logits: np.ndarray,
        change: Callable[[Calibration, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        names = subset.split("+")
        there = np.stack([~np.isnan(self.unimodal[m][:, 0]) for m in names], 1)
        changed = logits.astype(np.float32)
        for pattern in patterns(names):
            own = (there == [m in pattern for m in names]).all(1)
            changed[own] = change(
                self.calibration.get(f"ensemble/{joined(pattern)}", Calibration()), logits[own]
            )
        return changed

    def save(self, path: Path, made_by: str) -> None:
        """key, group (of several groupings group_<name>), target, and one column of logits per model and subset; the rest
        in the file's metadata."""
        columns: dict[str, pa.Array] = {"key": pa.array(self.keys)}
        for name, groups in self.groups.items():
            columns[f"group_{name}" if len(self.groups) > 1 else "group"] = pa.array(groups)
        columns["target"] = _column(self.target)
        for model, tables in (
            ("ensemble", self.ensemble),
            ("unimodal", self.unimodal),
            ("probe", self.probes),
        ):
            for subset, logits in tables.items():
                columns[f"{model}/{subset}"] = _column(logits.astype(np.float32))
        applied = {name: one.as_json() for name, one in self.calibration.items()}
        about = {
            "made_by": made_by,
            "classes": json.dumps(self.classes),
            "calibration": json.dumps(applied),
        }
        with new_file(path) as aside:
            pq.write_table(
                pa.table(columns).replace_schema_metadata(about), aside, write_page_checksum=True
            )

    @classmethod
    def load(cls, path: Path, made_by: str) -> Predictions | None:
        """The kept predictions; None where there are none, or where others than `made_by` made them."""
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except (OSError, pa.ArrowException):  # altered or cut short; what is written has checksums
            return None
        about = table.schema.metadata or {}
        if about.get(b"made_by") != made_by.encode():
            return None
        logits: dict[str, dict[str, np.ndarray]] = {"ensemble": {}, "unimodal": {}, "probe": {}}
        groups = {}
        for name in table.column_names:
            model, _, subset = name.partition("/")
            if model in logits:
                logits[model][subset] = _array(table[name])
            elif name.startswith("group"):
                groups[name.removeprefix("group_")] = table[name].to_pylist()
        return cls(
            table["key"].to_pylist(),
            groups,
            _array(table["target"]),
            logits["ensemble"],
            logits["unimodal"],
            json.loads(about[b"classes"]),
            {name: Calibration.of(one) for name, one in json.loads(about[b"calibration"]).items()},
            logits["probe"],
        )


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
