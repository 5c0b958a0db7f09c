"""A protocol: with which probability each modality is missing, of which samples.

A rate is a number, or depends on something: on the label, a grouping, a column of a table (missing
not at random), or on whether another modality is there. Given what they depend on, modalities go
missing independently of one another. A sample always keeps something: what would leave nothing is
left out, and the other ways have their probabilities in proportion.

Imbalanced rates, one for each modality, are those of MissBench (arXiv 2603.09874); for missing at
random and not at random see Rubin, Inference and missing data, Biometrika 1976. No torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from umemma.errors import UserError, unknown_name
from umemma.evaluation.audit.answer_table import KEY, read_table
from umemma.evaluation.predictions import Predictions

LABEL, GROUP = "label", "group"
PRESENT, ABSENT = STATES = ("present", "absent")
HINT = "docs/evaluation.md#protocols-of-missingness says what a protocol is."

Share = Annotated[float, Field(ge=0, le=1)]


class Rule(BaseModel):
    """A rate that depends on something.

    by: "label", the name of a grouping, "group" if there is one, a column of `table`, or another
    modality, which is "present" or "absent". otherwise: the rate of what `rates` does not name.
    """

    model_config = ConfigDict(extra="forbid")

    by: str
    rates: dict[str, Share]
    otherwise: Share = 0.0


class Protocol(BaseModel):
    """A protocol, as it is written in YAML.

    missing: {modality: its rate}; those that are not named are never taken away. table: a file with
    a row per sample and the column "key", whose other columns rates may depend on.
    """

    model_config = ConfigDict(extra="forbid")

    missing: dict[str, Share | Rule] = Field(min_length=1)
    table: str = ""


class SubsetWeights(NamedTuple):
    """What a protocol leaves of each sample.

    weights: {subset: (N,) its probability}, which add up to 1, or to 0 for a refused sample; lost:
    the mean probability of what would have left nothing.
    """

    weights: dict[str, np.ndarray]
    lost: float

    @property
    def scored(self) -> np.ndarray:
        """(N,) whether something can be left of a sample."""
        return np.sum([*self.weights.values()], 0) > 0


class _Rates(NamedTuple):
    """The rates of a modality: numbers, or (N,) of each sample.

    by: the modality that they depend on, "" for none; then both are the same.
    """

    by: str
    if_present: np.ndarray | np.float64
    if_absent: np.ndarray | np.float64


def weigh_subsets(protocol: Protocol, predictions: Predictions, folder: Path) -> SubsetWeights:
    """Return the probability of each subset for each sample.

    folder: where `table` is looked for. UserError for a modality, a column, a value or a key that
    is not there, and for modalities that depend on one another in a circle.
    """
    names = predictions.modalities
    for modality in protocol.missing:
        if modality not in names:
            raise unknown_name("modality", modality, names, "missing")
    values = _Values(predictions, protocol.table, folder)
    _check_circles(protocol.missing, names)
    here = {m: predictions.has_logits("ensemble", m) for m in names}
    rates = {}
    for modality in names:
        rate = protocol.missing.get(modality, 0.0)
        if not isinstance(rate, Rule):
            rates[modality] = _Rates("", np.float64(rate), np.float64(rate))
        elif rate.by in names:
            both = _look_up(rate, np.array(STATES), modality, STATES)
            rates[modality] = _Rates(rate.by, *both)
        else:
            found = _look_up(rate, *values.take(rate.by, modality))
            rates[modality] = _Rates("", found, found)
    weights = {}
    for subset in predictions.ensemble:
        left = subset.split("+")
        chance = np.ones(len(predictions.keys))
        for modality, (by, if_present, if_absent) in rates.items():
            missing = if_present
            if by:
                missing = np.where(here[by] & (by in left), if_present, if_absent)
            chance *= 1 - missing if modality in left else missing
        weights[subset] = chance
    return normalize(weights, predictions)


def normalize(weights: Mapping[str, np.ndarray], predictions: Predictions) -> SubsetWeights:
    """Return the weights of what leaves something of a sample, in proportion."""
    answered = {}
    for subset, chance in weights.items():
        is_there = predictions.has_logits("ensemble", subset)
        answered[subset] = np.where(is_there, chance, 0.0)
    total = np.sum([*answered.values()], 0)
    divisor = np.where(total > 0, total, 1.0)
    kept = {subset: chance / divisor for subset, chance in answered.items() if chance.any()}
    if not kept:
        raise UserError("it leaves nothing of any sample", "the protocol", HINT, usage=True)
    return SubsetWeights(kept, float(1 - total.mean()))


def _check_circles(missing: Mapping[str, float | Rule], names: Sequence[str]) -> None:
    for first in missing:
        seen = [first]
        rate = missing[first]
        while isinstance(rate, Rule) and rate.by in names:
            if rate.by in seen:
                what = f"rates depend on one another in a circle: {', '.join([*seen, rate.by])}"
                raise UserError(what, "missing", HINT, usage=True)
            seen.append(rate.by)
            rate = missing.get(rate.by, 0.0)


def _look_up(rule: Rule, values: np.ndarray, modality: str, known: Collection[str]) -> np.ndarray:
    """Return the (N,) rates of these values; UserError for a rate of a value that is not known."""
    for name in rule.rates:
        if name not in known:
            where = f"missing.{modality}.rates"
            raise unknown_name(f"value of {rule.by}", name, sorted(known), where)
    names, place = np.unique(values, return_inverse=True)
    rates = [rule.rates.get(name, rule.otherwise) for name in names.tolist()]
    return np.array(rates, np.float64)[place]


class _Values:
    """What rates may depend on, besides other modalities, of each sample."""

    def __init__(self, predictions: Predictions, table: str, folder: Path) -> None:
        self.predictions = predictions
        self.columns: dict[str, np.ndarray] = {}
        if table:
            self.columns = _read_columns(folder / table, predictions.keys)

    def take(self, name: str, modality: str) -> tuple[np.ndarray, str, Collection[str]]:
        """Return the (N,) texts of a column of the table, of a grouping, or of the labels.

        After the modality whose rate asks for them, the texts that there are.
        """
        groups = self.predictions.groups
        if name == GROUP and len(groups) == 1:
            (name,) = groups
        if name == LABEL and name not in self.columns and self.predictions.task == "multiclass":
            classes = self.predictions.classes
            return np.array(classes)[self.predictions.target], modality, classes
        if name in self.columns or name in groups:
            values = self.columns.get(name, np.array(groups.get(name, [])))
            return values, modality, {*values.tolist()}
        known = [*self.columns, *groups, *self.predictions.modalities]
        if self.predictions.task == "multiclass":
            known.append(LABEL)
        raise unknown_name("thing that a rate depends on", name, known, f"missing.{modality}.by")


def _read_columns(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the columns of a table as text, in the order of the keys."""
    table = read_table(path, HINT)
    if KEY not in table.column_names:
        raise UserError(f"there is no column {KEY!r}", str(path), HINT, usage=True)
    rows = place_keys([str(key) for key in table[KEY].to_pylist()], keys, str(path))
    columns = {}
    for name in table.column_names:
        texts = np.array([str(value) for value in table[name].to_pylist()])
        columns[name] = texts[rows]
    return columns


def place_keys(found: Sequence[str], keys: Sequence[str], where: str) -> list[int]:
    """Return the row of each key. UserError for a key that is there twice or not at all."""
    row_of: dict[str, int] = {}
    for row, key in enumerate(found):
        if key in row_of:
            raise UserError(f"row {row + 1} has the key {key!r} again", where, HINT, usage=True)
        row_of[key] = row
    lacking = [key for key in keys if key not in row_of]
    if lacking:
        what = f"{len(lacking)} of {len(keys)} samples have no row, first {lacking[0]!r}"
        raise UserError(what, where, HINT, usage=True)
    return [row_of[key] for key in keys]


def describe(protocol: Protocol) -> str:
    """Return a protocol in a line: "audio 0.3, image by label"."""
    parts = []
    for modality, rate in protocol.missing.items():
        text = f"by {rate.by}" if isinstance(rate, Rule) else f"{rate:g}"
        parts.append(f"{modality} {text}")
    return ", ".join(parts)
