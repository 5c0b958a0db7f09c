"""`mmimdb`: MM-IMDb, the poster and the plots of 25,959 films; which of 23 genres each has
(multilabel).

Arevalo et al., Gated Multimodal Units for Information Fusion, ICLR workshop 2017
(github.com/johnarevalo/gmu-mmimdb). `split.json` lists 7-digit IMDb ids, `dataset/{id}.jpeg` is the
poster, `dataset/{id}.json` IMDb's whole entry, of which "genres" and "plot", a list of several
plots, count. What the files hide:

- The authors score each film once, with its longest plot; prompt-learning papers score every pair
  of a poster and a plot. `plots` chooses, and the variant says which: numbers of the two never
  share a table.
- Adult, News, Reality-TV and Talk-Show stand in the files but aren't among the 23 genres.
- "plot outline" is a field of its own, and isn't a plot.
- The lists go from the rarest genre to the commonest.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeGuard

from umemma.errors import UserError
from umemma.system.files import read_json
from umemma.system.seeds import uniform
from umemma.types import DatasetSpec, Media, Plain, Record, Source, Unreadable

# In the order of the authors' own count of them.
CLASSES = (
    *(
        "Drama",
        "Comedy",
        "Romance",
        "Thriller",
        "Crime",
        "Action",
        "Adventure",
        "Horror",
        "Documentary",
        "Mystery",
    ),
    *(
        "Sci-Fi",
        "Fantasy",
        "Family",
        "Biography",
        "War",
        "History",
        "Music",
        "Animation",
        "Musical",
        "Western",
    ),
    *("Sport", "Short", "Film-Noir"),
)
SPEC = DatasetSpec(
    name="mmimdb",
    summary="film posters and plots, 23 genres",
    modalities=("image", "text"),
    classes=CLASSES,
    licence="none stated; posters and plots are those of IMDb's contributors",
    citation="Arevalo et al., Gated Multimodal Units for Information Fusion, "
    "ICLR workshop 2017, arXiv:1702.01992",
    task="multilabel",
    variant="per movie",
    expected={"train": 15552, "val": 2608, "test": 7799},
    size=8_200_000_000,
    disk=17_000_000_000,
)
SPLITS = {"train": "train", "dev": "val", "test": "test"}
COMMIT = "4da8cc71ca2e24e1ed2409194978cdde61cd5b38"
LISTS = f"https://raw.githubusercontent.com/YiLunLee/missing_aware_prompts/{COMMIT}"
STEPS = """\
Get mmimdb.tar.gz (8.2 GB) from https://archive.org/download/mmimdb/mmimdb.tar.gz
and run: umemma download mmimdb --from FOLDER
where FOLDER holds the archive, or what is in it:
  split.json
  dataset/
    0106714.jpeg
    0106714.json
    ..."""
FILE = re.compile(r"(?:.*/)?(\d{7}\.(?:jpeg|json))", re.ASCII)
SPLIT = re.compile(r"(?:(?:.*/)?mmimdb/)?split\.json")  # other data sets have one too
AGAIN = "Run: umemma download mmimdb"


class Options(Plain):
    """plots: one sample per film, with its longest plot, or one for each of its plots."""

    plots: Literal["longest", "all"] = "longest"


def sources(folder: Path, options: Options) -> Iterator[Source]:
    """The archive of everything, then the split, which it holds too and which can be had by itself.

    The .json files come with the posters, and count as media like them: the labels and texts read
    from one stand in its film's records, so a change of one remakes only the shard that holds it.
    """
    archive = "https://archive.org/download/mmimdb/mmimdb.tar.gz"
    yield Source("mmimdb.tar.gz", (archive,), unpack=place, files=51_918, media=True, steps=STEPS)
    yield Source("split.json", (f"{LISTS}/datasets/mmimdb/split.json",), steps=STEPS)


def place(member: str) -> str | None:
    """`mmimdb/dataset/0106714.jpeg` -> `dataset/0106714.jpeg`, `mmimdb/split.json` -> `split.json`,
    else None.

    The folders' names don't matter: copies with `images/` and `labels/` are in use.
    """
    file = FILE.fullmatch(member)
    if file:
        return f"dataset/{file[1]}"
    if SPLIT.fullmatch(member):
        return "split.json"
    return None


def spec(folder: Path, options: Options) -> DatasetSpec:
    if options.plots == "longest":
        return SPEC
    return dataclasses.replace(SPEC, variant="per plot", expected={})


def records(folder: Path, options: Options) -> Iterator[Record]:
    """The films in the order of their ids' hashes, the pairs of one film side by side.

    UserError for a wrong split.json.
    """
    films = [
        (film, split) for split, ids in _read_split(folder / "split.json").items() for film in ids
    ]
    for film, split in sorted(films, key=lambda one: uniform(0, "order", one[0])):
        yield from _records(folder / "dataset", film, split, options)


def _records(folder: Path, film: str, split: str, options: Options) -> Iterator[Record]:
    per_plot = options.plots == "all"
    try:
        genres, plots = _read_film(folder / f"{film}.json")
    except ValueError as error:
        yield Record(f"{film}-0" if per_plot else film, split, None, {}, film, problem=str(error))
        return
    label = tuple(number for number, genre in enumerate(CLASSES) if genre in genres)
    if label:
        left_out = ""
    else:
        left_out = "no genre of the 23"
    poster: dict[str, Media] = {"image": folder / f"{film}.jpeg"}
    texts: list[Media] = []
    if plots is None:
        texts.append(Unreadable("plots that are not a list of texts"))
    elif per_plot:
        texts += plots
    elif plots:
        texts.append(max(plots, key=len))  # the first of the longest, as the authors'
    # A film without a plot lacks its text.
    for number, media in enumerate([{**poster, "text": text} for text in texts] or [poster]):
        yield Record(
            f"{film}-{number}" if per_plot else film, split, label, media, film, left_out=left_out
        )


def _read_film(path: Path) -> tuple[list[str], list[str] | None]:
    """The genres and those plots that aren't blank; None for plots that can't be read.

    ValueError, a fixed phrase, where the file or its genres can't be read.
    """
    try:
        entry: Any = json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ValueError("no .json") from None
    except (OSError, ValueError, RecursionError):
        raise ValueError("damaged .json") from None
    if not isinstance(entry, dict):
        raise ValueError("damaged .json")
    genres, plots = entry.get("genres"), entry.get("plot")
    if not _are_texts(genres):
        raise ValueError("genres that are not a list of names")
    if plots is not None and not _are_texts(plots):
        return genres, None
    return genres, [plot for plot in plots or [] if plot.strip()]


def _read_split(path: Path) -> dict[str, list[str]]:
    """{split: ids}. UserError where it isn't there, or isn't three lists of ids that each stand
    there once.
    """
    lists = read_json(path, AGAIN)
    if lists.keys() != SPLITS.keys() or not all(_are_texts(ids) for ids in lists.values()):
        raise UserError("damaged: not three lists of ids, train, dev and test", str(path), AGAIN)
    every = [film for ids in lists.values() for film in ids]
    wrong = next((film for film in every if not re.fullmatch(r"\d{7}", film, re.ASCII)), None)
    if wrong:
        raise UserError(f"damaged: {wrong!r} is not an id of 7 digits", str(path), AGAIN)
    if len(set(every)) < len(every):
        raise UserError("damaged: an id stands there twice", str(path), AGAIN)
    return {SPLITS[name]: ids for name, ids in lists.items()}


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
