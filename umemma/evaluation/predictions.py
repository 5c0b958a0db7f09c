"""The logits of a split, as an evaluation saves them in results/<dataset>/predictions.parquet.

Every number of a report is computed from this file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from umemma.evaluation.calibration import Calibration
from umemma.evaluation.classification import thresholds as class_thresholds
from umemma.evaluation.classification.thresholds import Thresholds
from umemma.evaluation.metrics import log_loss, score, task_of
from umemma.evaluation.regression import gaussian
from umemma.evaluation.tables.mapped import STORED, cut_rows, find_map, is_empty, release
from umemma.evaluation.tables.saved import Columns, read_columns, read_metadata, write_columns
from umemma.missing import list_patterns
from umemma.types import TargetScale, format_pattern

MODELS = ("ensemble", "unimodal", "probe")  # that have tables of logits
RAREST = 1e-6  # share of a class that no training sample has


@dataclass(frozen=True)
class Predictions:
    """Logits of a split, and what they are scored against.

    ensemble: {subset: (N, C)} for every non-empty subset; unimodal: {modality: (N, C)}, empty where
    an audit has no such models; probes: {modality: (N, C)}, of a linear classifier on the
    ensemble's own features of the modality, empty where none was fitted. All are float32 and as
    they are scored, so after `calibration` {"ensemble/<subset>": calibration}, whose `undo` gives
    the logits of the model. A row is NaN where nothing of the subset is present in the sample.

    keys: N; groups: {grouping: N groups}; target: (N,) classes or (N, C) sets of labels; classes: C
    names; prior: C shares of the training samples, [] where they are unknown; thresholds: those of
    the tables that have any, by the names of `calibration`. `decide` applies them.

    In regression logits are (N, 2T), see `regression.gaussian`; target is (N, T), standardized by
    `scales`; classes are the names of the targets.

    Tables may be larger than memory (see `tables.mapped`), so what is computed from them is
    computed in `blocks` of samples.
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
    scales: Sequence[TargetScale] = ()
    _log_losses: dict[tuple[str, str], np.ndarray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def modalities(self) -> list[str]:
        return sorted({m for subset in self.ensemble for m in subset.split("+")})

    @property
    def task(self) -> str:
        width = 0
        for outputs in self.ensemble.values():
            width = outputs.shape[-1]
        return task_of(self.target, width)

    @property
    def unit(self) -> float:
        """The unit of errors: that of the target. Of several targets, a standard deviation each."""
        if len(self.scales) == 1:
            return self.scales[0].std
        return 1.0

    @property
    def has_prior(self) -> bool:
        """Whether the constant answer of the training samples is known."""
        return bool(self.prior) or bool(self.scales)

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
        scales: Sequence[TargetScale] = (),
    ) -> Predictions:
        """Calibrate the models' own logits, (ensemble, unimodal) or (ensemble, unimodal, probes).

        A sample is calibrated by what is present of the subset, as it is where it is predicted
        alone. Mapped tables are calibrated in place, as the disk may have no room for them twice.
        """
        ensemble, unimodal, probes = [*map(dict, raw), {}][:3]
        uncalibrated = cls(
            keys,
            groups,
            target,
            ensemble,
            unimodal,
            classes,
            calibration,
            probes,
            prior,
            thresholds=thresholds or {},
            scales=scales,
        )
        made: dict[str, dict[str, np.ndarray]] = {}
        for model in MODELS:
            tables = uncalibrated._tables(model)
            made[model] = {name: _make_copy(table) for name, table in tables.items()}
        for rows, block in uncalibrated.blocks():
            for subset, logits in block.ensemble.items():
                made["ensemble"][subset][rows] = block._change(subset, logits, Calibration.apply)
            for model in ("unimodal", "probe"):
                for m, logits in block._tables(model).items():
                    fitted = calibration.get(f"{model}/{m}", Calibration())
                    made[model][m][rows] = fitted.apply(logits)
        return replace(
            uncalibrated,
            ensemble=made["ensemble"],
            unimodal=made["unimodal"],
            probes=made["probe"],
        )

    def blocks(self, at_once: int = 1) -> Iterator[tuple[slice, Predictions]]:
        """Yield consecutive samples, `at_once` blocks of them, and the predictions of these alone.

        Usually it is one block, of everything. Mapped tables are let go of after each block.
        """
        tables = [*self.ensemble.values(), *self.unimodal.values(), *self.probes.values()]
        widest = max((table.shape[1] for table in tables), default=1)
        for rows in cut_rows(len(self.keys), widest, at_once):
            block = self
            if rows != slice(0, len(self.keys)):
                block = self._select(rows)
            yield rows, block
            for table in tables:
                release(table)

    def _select(self, rows: slice) -> Predictions:
        return replace(
            self,
            keys=self.keys[rows],
            groups={name: groups[rows] for name, groups in self.groups.items()},
            target=self.target[rows],
            ensemble={subset: table[rows] for subset, table in self.ensemble.items()},
            unimodal={m: table[rows] for m, table in self.unimodal.items()},
            probes={m: table[rows] for m, table in self.probes.items()},
        )

    def map_blocks(self, function: Callable[[Predictions], np.ndarray]) -> np.ndarray:
        """Return the (N, ...) values of a function that gives one for each sample."""
        parts = [function(block) for _, block in self.blocks()]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts)

    def has_logits(self, model: str, subset: str) -> np.ndarray:
        """Return (N,) bool: which samples have logits, as something of the subset is present."""
        return self.map_blocks(lambda block: ~np.isnan(block._tables(model)[subset][:, 0]))

    def logits(self, model: str, subset: str) -> np.ndarray:
        """Return the (N, C) logits of "ensemble", "unimodal", "probe", "average" or "prior"."""
        if model == "average":
            return self.average(subset)
        if model == "prior":
            return self.class_prior()
        return self._tables(model)[subset]

    def _tables(self, model: str) -> dict[str, np.ndarray]:
        tables = {"ensemble": self.ensemble, "unimodal": self.unimodal, "probe": self.probes}
        return tables[model]

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

    def log_loss(self, model: str, subset: str) -> np.ndarray:
        """Return the (N,) log-losses of a model, as `metrics.log_loss`; they are computed once.

        The grid, the information and the contributions of modalities are made from them.
        """
        if (model, subset) not in self._log_losses:
            self._log_losses[model, subset] = self.map_blocks(
                lambda block: log_loss(block.logits(model, subset), block.target)
            )
        return self._log_losses[model, subset]

    def score(self, model: str, subset: str) -> np.ndarray:
        """Return the (N,) scores of the answers of a model, as `metrics.score`."""
        return self.map_blocks(lambda block: score(block.decide(model, subset), block.target))

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
        """Return (N, C): the same logits for every sample, those of `prior`.

        In regression N(0, 1), the distribution of the training samples.
        """
        if self.task == "regression":
            outputs = gaussian.prior_outputs(len(self.classes))
            return np.tile(outputs, (len(self.keys), 1))
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
        if not self.calibration:
            return changed
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
        calibration = {name: fitted.as_json() for name, fitted in self.calibration.items()}
        metadata = {
            "made_by": made_by,
            "classes": json.dumps(self.classes),
            "calibration": json.dumps(calibration),
            "prior": json.dumps(list(self.prior)),
        }
        if self.thresholds:
            metadata["thresholds"] = json.dumps(dict(self.thresholds))
        if self.scales:
            metadata["scales"] = json.dumps([scale.model_dump() for scale in self.scales])
        blocks = (block._as_columns() for _, block in self.blocks(STORED))
        write_columns(path, blocks, len(self.keys), metadata)

    def _as_columns(self) -> Columns:
        columns: Columns = {"key": self.keys}
        for name, groups in self.groups.items():
            column = "group"
            if len(self.groups) > 1:
                column = f"group_{name}"
            columns[column] = groups
        columns["target"] = self.target
        for model in MODELS:
            for subset, logits in self._tables(model).items():
                columns[f"{model}/{subset}"] = logits.astype(np.float32)
        return columns

    @classmethod
    def load(cls, path: Path, made_by: str) -> Predictions | None:
        """Read saved predictions.

        None where there are none, where they are damaged, and where others than `made_by` made
        them.
        """
        found = read_columns(path, made_by)
        if found is None:
            return None
        columns, metadata = found
        logits: dict[str, dict[str, Any]] = {model: {} for model in MODELS}
        groups: dict[str, Any] = {}
        for name, values in columns.items():
            model, _, subset = name.partition("/")
            if model in logits:
                logits[model][subset] = values
            elif name.startswith("group"):
                groups[name.removeprefix("group_")] = values
        calibration = {}
        for name, data in json.loads(metadata["calibration"]).items():
            calibration[name] = Calibration.of(data)
        return cls(
            keys=list(columns["key"]),
            groups=groups,
            target=np.asarray(columns["target"]),
            ensemble=logits["ensemble"],
            unimodal=logits["unimodal"],
            classes=json.loads(metadata["classes"]),
            calibration=calibration,
            probes=logits["probe"],
            prior=json.loads(metadata["prior"]),
            scales=[TargetScale(**scale) for scale in json.loads(metadata.get("scales", "[]"))],
            thresholds=_read_thresholds(metadata.get("thresholds", "{}")),
        )


def _make_copy(table: np.ndarray) -> np.ndarray:
    """Return what a calibrated table is written to: of a mapped one, the table itself."""
    if find_map(table) is not None:
        return table
    return np.empty(table.shape, np.float32)


def _read_thresholds(text: str) -> dict[str, Thresholds]:
    return {name: tuple(numbers) for name, numbers in json.loads(text).items()}


def name_tables(
    names: Sequence[str], tables: Sequence[np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return {subset: (N, C)} and {modality: (N, C)} of an ensemble's subsets and probes.

    tables: S + M of them, or S without probes.
    """
    subsets = list_patterns(names)
    ensemble = dict(zip(map(format_pattern, subsets), tables, strict=False))
    probes = {}
    for m, logits in zip(names, tables[len(subsets) :], strict=False):
        if not is_empty(logits):  # otherwise there was nothing to fit
            probes[m] = logits
    return ensemble, probes


def read_made_by(path: Path) -> str | None:
    """Return what saved predictions say they were made by; None where there are none."""
    return read_metadata(path).get("made_by")
