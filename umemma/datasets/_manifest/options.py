"""The options of `manifest`: which column of the table is what."""

from __future__ import annotations

import difflib
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from umemma.datasets import _table
from umemma.datasets._manifest import number_cells
from umemma.datasets._manifest.folds import Folds
from umemma.types import MODALITY_NAME, OWN, RESERVED_NAMES, Plain, PositiveFloat, Task

KINDS = ("audio", "image", "series", "spectrogram", "table", "text", "vector", "video")
SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}
Name = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Columns = Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
Names = Annotated[tuple[Name, ...], Field(strict=False)]


class Shares(Plain):
    """The shares of the groups in drawn splits; they add up to 1."""

    train: Share = 0.7
    val: Share = 0.15
    test: Share = 0.15

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        if not math.isclose(self.train + self.val + self.test, 1) or not self.train:
            raise ValueError("train, val and test have to add up to 1, and train can't be 0")
        return self


class Options(Plain):
    """Which column is what. null = there is no such column."""

    table: str = "table.csv"  # its name in the raw folder; the suffix tells the format
    columns: dict[Name, Name | Columns] = {}  # {modality: its column, or several of numbers}
    kinds: dict[Name, Name] = {}  # {modality: kind}, of columns that `modalities` doesn't name
    label: Name = "label"
    key: Name | None = None  # null = the number of the row: row-000001
    split: Name | None = None
    group: Name | Columns | None = None  # one column, or several
    start: Name | None = None  # s, of the event in a sound or video
    end: Name | None = None  # s
    task: Task | None = None  # null = multilabel or multiclass, as the option multilabel says
    targets: Columns | None = None  # of a regression; null = the column `label`
    weight: Name | None = None  # of the sample in the loss of a training, a number from 0 on
    multilabel: bool = False
    separator: Name = "|"  # of several labels in one cell; JSON and Parquet may hold lists
    classes: Names | None = None  # null = those of the table, sorted
    shares: Shares = Shares()
    folds: Folds | None = None  # in place of fixed splits
    text_files: bool = False  # a text cell is the path of a UTF-8 file, not the text
    rates: dict[Name, PositiveFloat | Name] = {}  # {series: Hz, or the column that holds it}
    categories: Names = ()  # columns of a table whose numbers are names, such as a zip code
    root: Name | None = None  # media stay here: absolute, or relative to the current directory

    @field_validator("table")
    @classmethod
    def _is_table(cls, value: str) -> str:
        if "/" in value or Path(value).suffix.lower() not in _table.READERS:
            raise ValueError(
                f"has to be a file name that ends in one of {', '.join(_table.READERS)}"
            )
        return value

    @field_validator("classes")
    @classmethod
    def _once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not 0 < len(value) == len(set(value)):
            raise ValueError("has to name each class once")
        return value

    @field_validator("group")
    @classmethod
    def _each_once(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(value, tuple) and len(value) > len(set(value)):
            raise ValueError("has to name each column once")
        return value

    @field_validator("targets")
    @classmethod
    def _each_target_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len(value) > len(set(value)):
            raise ValueError("has to name each column once")
        return value

    @model_validator(mode="after")
    def _one_task(self) -> Options:
        if self.multilabel and self.task not in (None, "multilabel"):
            raise ValueError(f"multilabel is true, but task is {self.task}")
        if self.targets is not None and self.task != "regression":
            raise ValueError("targets are of a regression: set task to regression")
        if self.task == "regression" and self.classes is not None:
            raise ValueError("a regression has no classes")
        return self

    @property
    def chosen_task(self) -> Task:
        """The task, which the option multilabel may also name."""
        if self.task is not None:
            return self.task
        if self.multilabel:
            return "multilabel"
        return "multiclass"

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The columns of the targets; none but in regression."""
        if self.task != "regression":
            return ()
        return self.targets or (self.label,)

    @model_validator(mode="after")
    def _known_kinds(self) -> Options:
        for name in self.columns:
            kind = self.kind(name)
            if not MODALITY_NAME.fullmatch(name) or name in RESERVED_NAMES:
                raise ValueError(f"columns: {name!r} can't be the name of a modality")
            if kind not in KINDS and not kind.startswith(OWN):
                nearest = difflib.get_close_matches(kind, KINDS, n=1)
                guess = f" (did you mean {nearest[0]!r}?)" if nearest else ""
                raise ValueError(
                    f"columns: {name!r} is of the unknown kind {kind!r}{guess}; say which of "
                    f"{', '.join(KINDS)} it is in modalities, such as {{{name}: image}}"
                )
            if kind not in number_cells.KINDS and isinstance(self.columns[name], tuple):
                raise ValueError(f"columns: {name!r} is of kind {kind!r}, which has one column")
        return self

    @model_validator(mode="after")
    def _numbers_fit(self) -> Options:
        tables = [name for name in self.columns if self.kind(name) == "table"]
        known = {column for name in tables for column in self.list_columns(name)}
        for column in self.categories:
            if column not in known:
                raise ValueError(f"categories: {column!r} is not a column of a table in columns")
        for name in self.rates:
            if name not in self.columns or self.kind(name) != "series":
                raise ValueError(f"rates: {name!r} is not a series in columns")
        return self

    def kind(self, name: str) -> str:
        """The kind of a modality: its name, where nothing else is said."""
        return self.kinds.get(name, name)

    def list_columns(self, name: str) -> tuple[str, ...]:
        """The columns of a modality."""
        columns = self.columns[name]
        return (columns,) if isinstance(columns, str) else columns

    @cached_property  # every row asks
    def files(self) -> list[str]:
        """The modalities whose cells are paths."""
        return sorted(name for name in self.columns if self._has_path(name))

    def _has_path(self, name: str) -> bool:
        kind = self.kind(name)
        if kind in number_cells.KINDS:
            return kind in number_cells.ARRAYS and isinstance(self.columns[name], str)
        return kind != "text" or self.text_files

    @property
    def roles(self) -> dict[str, str]:
        """{what a column is for, as Row has it: the column} of `columns` and `rates`."""
        roles = {}
        for name, columns in self.columns.items():
            if isinstance(columns, str) and self.kind(name) != "table":
                roles[name] = columns
                continue
            for place, column in enumerate(self.list_columns(name), 1):
                roles[number_cells.name_role(name, place)] = column
        for name, rate in self.rates.items():
            if isinstance(rate, str):
                roles[number_cells.name_rate_role(name)] = rate
        return roles

    @property
    def arrays(self) -> list[str]:
        """The modalities whose cells are paths or lists of numbers."""
        return [name for name in self.files if self.kind(name) in number_cells.ARRAYS]

    @property
    def lists(self) -> set[str]:
        """The columns whose cells may be lists of numbers."""
        columns: set[str] = set()
        for name in self.columns:
            if self.kind(name) in number_cells.ARRAYS:
                columns.update(self.list_columns(name))
        return columns

    @property
    def groupings(self) -> dict[str, str]:
        """{what a column is for, as Row has it: the column} of `group`.

        Without one, what is left out at a time is a group.
        """
        columns = self.group or ()
        if self.folds and self.folds.by:
            columns = self.group or (self.folds.by,)
        if isinstance(columns, str):
            columns = (columns,)
        names = ["group", *(f"group/{i}" for i in range(2, len(columns) + 1))]
        return dict(zip(names, columns, strict=False))
