"""Tables: the cells of a row, numbers and names, by their columns; JSON in the shards.

An empty cell is null, and a row whose every cell is empty is absent. Which columns hold numbers and
which hold names (categories) is found in the training samples.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from umemma.modalities.limits import Packed, read_file
from umemma.modalities.sampling import SampleDraws, Share, sample_uniform
from umemma.modalities.vector import Moments, standardise
from umemma.types import CategoryColumn, Media, Packing, Plain, TableInput

if TYPE_CHECKING:
    import torch

SUFFIXES = ("json",)
MAX_BYTES = 2**20
NOTHING = ("", "na", "n/a", "nan", "null")  # how an empty cell is written, in any case
EMPTY = 0  # the number of an empty cell in a column of names
UNSEEN = 1  # of a name that training did not show often enough
FIRST = 2  # of the first name
MIN_COUNT = 2  # training samples that show a name; rarer ones train what an unseen name means
MAX_VALUES = 256  # names of one column; the commonest
MAX_DISTINCT = 100_000  # names of one column that are counted
SHOWN = 5  # names in the log


# Packing and decoding. ----------------------------------------------------------------------------


def pack(media: Media, packing: Packing) -> Packed | None:
    """Encode {column: cell}, or a JSON file of it; None if every cell is empty.

    A cell is a text, a number, True, False or None. Raises ValueError for an infinite number.
    """
    if isinstance(media, Path):
        media = read_file(media)
    if isinstance(media, bytes):
        media = _parse(media)
    if not isinstance(media, Mapping):
        raise ValueError("not the cells of a row")
    cells = {str(column): _clean(cell) for column, cell in media.items()}
    if all(cell is None for cell in cells.values()):
        return None
    try:
        data = json.dumps(cells, sort_keys=True, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which a JSON escape can hold
        raise ValueError("text that is not UTF-8") from None
    if len(data) > MAX_BYTES:
        raise ValueError("row over the size bound")
    return Packed("json", data)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        cells = json.loads(data)
    except (ValueError, RecursionError):
        cells = None
    if not isinstance(cells, dict):
        raise ValueError("not a JSON object of cells")
    return cells


def _clean(cell: Any) -> str | float | None:
    """Return a cell as it is stored: a text without outer white space, a finite number or None."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    if cell is None:
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, str):
        cell = cell.strip()
        return None if cell.lower() in NOTHING else cell
    if not isinstance(cell, (int, float)):
        raise ValueError("a cell that is neither text nor number")
    try:
        number = float(cell)
    except OverflowError:
        number = math.inf
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise ValueError("a number that is infinite")
    return number


def parse_number(text: str) -> float | None:
    """Return the finite number that a text is, None for another text."""
    try:
        number = float(text)
    except ValueError:
        return None
    if "_" in text or not math.isfinite(number):
        return None
    return number


def _to_number(cell: str | float | None) -> float | None:
    return parse_number(cell) if isinstance(cell, str) else cell


def _to_name(cell: str | float | None) -> str | None:
    """Return a cell of a column of names; a whole number is "85255", not "85255.0"."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return None if cell is None else str(cell)


def decode(data: bytes, spec: TableInput) -> torch.Tensor:
    """Return (N + K,) float64: the numbers, NaN for an empty cell, then the numbers of the names.

    A text in a column of numbers counts as an empty cell. Raises ValueError for a column that
    training did not have.
    """
    import torch

    cells = _parse(data)
    if not cells.keys() <= set(spec.columns):
        raise ValueError("a column that the training samples did not have")
    values: list[float] = []
    for number_column in spec.numbers:
        number = _to_number(cells.get(number_column.name))
        values.append(math.nan if number is None else number)
    for column in spec.categories:
        values.append(_find_value(column, _to_name(cells.get(column.name))))
    return torch.tensor(values, dtype=torch.float64)


def _find_value(column: CategoryColumn, name: str | None) -> int:
    if name is None:
        return EMPTY
    if name in column.values:
        return FIRST + column.values.index(name)
    return UNSEEN


def make_blank(spec: TableInput) -> torch.Tensor:
    """Return a row of empty cells."""
    return decode(b"{}", spec)


def finish(x: torch.Tensor, spec: TableInput) -> torch.Tensor:
    """Return (B, 2 * N + K) float32, see TableInput."""
    import torch

    count = len(spec.numbers)
    numbers = x[:, :count]
    mean = x.new_tensor([column.mean for column in spec.numbers])
    std = x.new_tensor([column.std for column in spec.numbers])
    parts = [standardise(numbers, mean, std, spec.clip), numbers.isnan(), x[:, count:]]
    return torch.cat([part.float() for part in parts], 1)


# Augmentation. ------------------------------------------------------------------------------------


class Augment(Plain):
    """The augmentation of a row in training. The defaults change nothing.

    dropout: the probability that a cell becomes empty; at least one cell of a row stays.
    """

    dropout: Share = 0.0


def check(options: Augment, spec: TableInput) -> None:
    """Accept every option."""


def draw(options: Augment, numbers: np.ndarray, spec: TableInput) -> SampleDraws:
    """Draw dropout: (B, N + K) in [0, 1); a cell becomes empty below the option."""
    if not options.dropout:
        return {}
    return {"dropout": sample_uniform(numbers, "dropout", len(spec.columns))}


def augment(
    x: torch.Tensor,
    spec: TableInput,
    options: Augment,
    drawn: SampleDraws,
) -> torch.Tensor:
    """Empty cells of (B, N + K) float64."""
    import torch

    if "dropout" not in drawn:
        return x
    empty = x.new_tensor([math.nan] * len(spec.numbers) + [EMPTY] * len(spec.categories))
    is_full = ~x.isnan() & (x != empty)
    numbers = torch.from_numpy(drawn["dropout"]).to(x.device)
    highest = numbers.where(is_full, -1.0).amax(1, keepdim=True)
    keep = numbers >= highest.clamp(max=options.dropout)
    return x.where(keep, empty)


# What the training samples say. -------------------------------------------------------------------


class _Column:
    """What the training samples say about one column."""

    def __init__(self) -> None:
        self.moments = Moments(1)
        self.names: Counter[str] = Counter()
        self.texts = 0
        self.example = ""

    def add(self, cell: str | float) -> None:
        number = _to_number(cell)
        if isinstance(cell, str):
            self.texts += 1
            self.example = self.example or cell
        if number is not None:
            self.moments.add(np.array([[number]]))
        name = str(_to_name(cell))
        if name in self.names or len(self.names) < MAX_DISTINCT:
            self.names[name] += 1

    def find_values(self) -> list[str]:
        """Return the commonest names, sorted."""
        often = [name for name, count in self.names.items() if count >= MIN_COUNT]
        often.sort(key=lambda name: (-self.names[name], name))
        return sorted(often[:MAX_VALUES])


class Survey:
    """What the training samples say about a table: its columns, their types and statistics.

    A column is one of names where any of its training cells is a text. name: of the modality.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.columns: dict[str, _Column] = {}
        self.texts: Counter[str] = Counter()  # {column: texts in the other splits}

    def add(self, key: str, split: str, data: bytes) -> None:
        """Add the tar member of a sample."""
        for name, cell in _parse(data).items():
            column = self.columns.setdefault(name, _Column())
            if cell is None:
                continue
            if split == "train":
                column.add(cell)
            elif isinstance(cell, str) and parse_number(cell) is None:
                self.texts[name] += 1

    def find(self) -> dict[str, Any]:
        """Return fields of the TableInput, as JSON."""
        numbers = []
        categories = []
        for name, column in sorted(self.columns.items()):
            if column.texts:
                categories.append({"name": name, "values": column.find_values()})
                continue
            about = column.moments.describe()
            numbers.append({"name": name, "mean": about["mean"][0], "std": about["std"][0]})
        return {"numbers": numbers, "categories": categories}

    def summarize(self) -> list[str]:
        """Return lines about what was found, for the log."""
        lines = []
        for name, column in sorted(self.columns.items()):
            if not column.texts:
                lines.append(self._summarize_numbers(name, column))
                continue
            values = column.find_values()
            shown = ", ".join(values[:SHOWN]) + (", ..." if len(values) > SHOWN else "")
            text = f"{name}: names, {len(values)} of them in {MIN_COUNT} samples or more ({shown})"
            numbers = int(column.moments.count[0])
            if numbers > column.texts:
                text += (
                    f"; most of its cells are numbers, and {column.texts} are not, such as "
                    f"{column.example!r}: leave these empty if it is a column of numbers"
                )
            lines.append(text)
        return lines

    def _summarize_numbers(self, name: str, column: _Column) -> str:
        if not column.moments.count[0]:
            return f"{name}: empty in all training samples"
        about = column.moments.describe()
        text = f"{name}: numbers, mean {about['mean'][0]:.4g}, std {about['std'][0]:.4g}"
        if self.texts[name]:
            text += f"; {self.texts[name]} cells of other splits are texts, which count as empty"
        return text


# Preparing a row without umemma. ------------------------------------------------------------------


def make_recipe(spec: TableInput, packing: Packing) -> dict[str, Any]:
    """Describe how a row becomes the input without umemma."""
    steps = [
        f"A cell of nothing, NaN or one of {', '.join(NOTHING[1:])} in any case is empty. A row "
        "whose every cell is empty is absent.",
        "One value per column of `numbers`: (number - mean) / std within the bounds -clip and "
        "clip, 0 where the cell is empty or no number.",
        "Then for each of these columns 1 where that is so, else 0.",
        f"Then for each column of `categories`: {EMPTY} where the cell is empty, {FIRST} plus the "
        f"place of the cell's text in `values`, which counts from 0, or {UNSEEN} where it isn't "
        "there. A whole number is written without a point.",
    ]
    return {"steps": steps}
