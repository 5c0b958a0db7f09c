"""`kinetics-sounds`: the classes of Kinetics-400 that can be both heard and seen, in 10 s clips.

Arandjelovic & Zisserman, Look, Listen and Learn, ICCV 2017, chose 34 classes; later papers use 27
to 33 of them and differ in the lists too. `variant` is the set of classes and `protocol` the lists;
numbers of two of them aren't comparable:

- ogm-ge: the lists of Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation,
  CVPR 2022; 31 classes, 14,799 train and 2,597 test. `my_train.txt` has lines
  `{id}_{start:06d}_{end:06d},{seconds},{label}`, `my_test.txt` `{id}_{start},{seconds},{label}`.
  The test clips are those of Kinetics-400's test split.
- adamml: the protocol of Panda et al., AdaMML, ICCV 2021: every clip of the classes in
  Kinetics-400's train split, tested on its validation split. The csv lists 1,544 test clips of the
  31 classes; the paper could still get 22,521 and 1,532.

Neither has a validation split, so `val_share` of the training videos is drawn by their ids' hashes.
Kinetics-400 (Kay et al., arXiv:1705.06950): github.com/cvdfoundation/kinetics-dataset, a list of
clips per split (`label,youtube_id,time_start,time_end,split`, in test.csv often without label) and
tars of `{id}_{start:06d}_{end:06d}.mp4`, of which only the clips of the lists are kept.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from umemma.errors import UserError
from umemma.system.seeds import uniform
from umemma.types import Clip, DatasetSpec, Plain, Record, Source

# fmt: off
KS31 = (
    "blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball",
    "laughing", "mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar",
    "playing clarinet", "playing drums", "playing guitar", "playing harmonica", "playing keyboard",
    "playing organ", "playing piano", "playing saxophone", "playing trombone", "playing trumpet",
    "playing violin", "playing xylophone", "ripping paper", "shoveling snow", "shuffling cards",
    "singing", "stomping grapes", "tap dancing", "tapping guitar", "tapping pen", "tickling",
)
# fmt: on
# OGM-GE's labels 0-30 are these in this order: no list says so, but the Kinetics-400 csv does, and
# is checked for it.
CLASSES = {"ks31": KS31, "ks32": tuple(sorted((*KS31, "strumming guitar")))}
# What the lists hold before the validation split is drawn. No list of AdaMML's own is in use.
EXPECTED = {
    ("ks31", "ogm-ge"): {"train": 14799, "test": 2597},
    ("ks31", "adamml"): {"test": 1544},
    ("ks32", "adamml"): {"test": 1594},
}
SPLITS = ("train", "val", "test")  # of Kinetics-400
TEST = {"ogm-ge": "test", "adamml": "val"}  # where a protocol's test clips stand
SPEC = DatasetSpec(
    name="kinetics-sounds",
    summary="human actions that can be heard, 10 s YouTube clips of Kinetics-400 (ks31 or ks32)",
    modalities=("audio", "video"),
    classes=KS31,
    licence="lists CC BY 4.0 (Kinetics-400); the clips are YouTube's users'",
    citation="Arandjelovic & Zisserman, Look, Listen and Learn, ICCV 2017; "
    "Kay et al., The Kinetics Human Action Video Dataset, arXiv:1705.06950",
    variant="ks31/ogm-ge",
    expected=EXPECTED["ks31", "ogm-ge"],
    size=436_000_000_000,
    disk=45_000_000_000,  # the clips needed, and one tar at a time
)
KINETICS = "https://s3.amazonaws.com/kinetics/400"
OGM_GE = "https://raw.githubusercontent.com/GeWu-Lab/OGM-GE_CVPR2022/main/data/KineticSound"
DOWNLOAD = "Run: umemma download kinetics-sounds"
STEPS = f"""\
Get Kinetics-400 as github.com/cvdfoundation/kinetics-dataset says (436 GB, of which about 30 GB are
needed)
and run: umemma download kinetics-sounds --from FOLDER
where FOLDER holds these, the clips in any folders or still in their tars:
  annotations/train.csv, val.csv, test.csv      from {KINETICS}/annotations/
  k400_train_path.txt, k400_test_path.txt       from {KINETICS}/train/ and test/ (adamml: val/)
  my_train.txt, my_test.txt                     from {OGM_GE}/ (ogm-ge only)
  train/--4-0ihtnBU_000058_000068.mp4
  test/-3Mwkq-7TV4_000002_000012.mp4            (adamml: val/)
  ..."""
LINE = re.compile(
    r"([\w-]{11})_(\d{1,6})(?:_(\d{1,6}))?,(\d{1,6}),(\d{1,6})", re.ASCII
)  # either format of OGM-GE
CLIP = re.compile(r"([\w-]{11})_(\d{1,6})_(\d{1,6})", re.ASCII)


class Options(Plain):
    """val_share: the share of the training videos that becomes the validation split.

    UserError for ks32 with ogm-ge.
    """

    variant: Literal["ks31", "ks32"] = "ks31"
    protocol: Literal["ogm-ge", "adamml"] = "ogm-ge"
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _exists(self) -> Options:
        if (self.variant, self.protocol) not in EXPECTED:
            raise UserError(
                f"the lists of {self.protocol} have 31 classes, not those of {self.variant}",
                "preprocess.options",
                "Set variant to ks31, or protocol to adamml.",
                usage=True,
            )
        return self


class Row(NamedTuple):
    """A line of a list. split: train or test, val not drawn yet; part: the split of Kinetics-400
    that has the clip.
    """

    split: str
    key: str  # also the clip's file name
    part: str = ""
    video: str = ""
    label: int | None = None
    problem: str = ""


def sources(folder: Path, options: Options) -> Iterator[Source]:
    """The lists, then each tar that the lists of tars name.

    UserError for a list not there when its turn has come.
    """
    ogm_ge = options.protocol == "ogm-ge"
    for part in SPLITS if ogm_ge else ("train", "val"):
        yield Source(
            f"annotations/{part}.csv", (f"{KINETICS}/annotations/{part}.csv",), steps=STEPS
        )
    for name in ("my_train.txt", "my_test.txt") if ogm_ge else ():
        yield Source(name, (f"{OGM_GE}/{name}",), steps=STEPS)
    parts = ("train", TEST[options.protocol])
    for part in parts:
        yield Source(
            f"k400_{part}_path.txt", (f"{KINETICS}/{part}/k400_{part}_path.txt",), steps=STEPS
        )
    needed = {
        f"{row.key}.mp4": f"{row.part}/{row.key}.mp4" for row in _rows(folder, options) if row.part
    }
    unpack = functools.partial(place, needed)
    tars = [tar for part in parts for tar in _tars(folder, part)]
    # The replacements come last: good copies of clips that are corrupt in the tars before.
    for tar in (*tars, "replacement_for_corrupted_k400.tgz"):
        yield Source(tar, (f"{KINETICS}/{tar}",), unpack=unpack, media=True, steps=STEPS)


def place(needed: Mapping[str, str], member: str) -> str | None:
    """Any folders and `x.mp4` -> `train/x.mp4`, the split being the one in the lists; None for a
    clip not needed.
    """
    return needed.get(PurePosixPath(member).name)


def _tars(folder: Path, part: str) -> list[str]:
    """`train/part_0.tar.gz`, ... of a list of tars.

    It comes over the net: nothing but tars of its folder is accepted.
    """
    path = folder / f"k400_{part}_path.txt"
    tars = []
    for line in _text(path).split() or [""]:
        tar = re.fullmatch(rf"{re.escape(KINETICS)}/({part}/\w[\w.-]*\.tar\.gz)", line, re.ASCII)
        if not tar:
            raise UserError(f"{line[:200]!r} is no tar of {KINETICS}/{part}/", str(path), DOWNLOAD)
        tars.append(tar[1])
    return list(dict.fromkeys(tars))


def spec(folder: Path, options: Options) -> DatasetSpec:
    """SPEC of the chosen variant; where OGM-GE's list is there, what is expected of train is shared
    out with val.
    """
    expected = dict(EXPECTED[options.variant, options.protocol])
    if options.protocol == "ogm-ge" and (folder / "my_train.txt").is_file():
        expected["val"] = sum(_drawn(row, options) == "val" for row in _ogm_ge(folder))
        expected["train"] -= expected["val"]
    variant = f"{options.variant}/{options.protocol}"
    return dataclasses.replace(
        SPEC, classes=CLASSES[options.variant], variant=variant, expected=expected
    )


def records(folder: Path, options: Options) -> Iterator[Record]:
    """The clips, in the order of their keys' hashes.

    UserError for a list not there or not what it should be.
    """
    for row in sorted(_rows(folder, options), key=lambda row: uniform(0, "order", row.key)):
        media = {}
        if not row.problem:
            clip = Clip(_find(folder, row))
            media = {"audio": clip, "video": clip}
        yield Record(row.key, _drawn(row, options), row.label, media, row.video, row.problem)


def _drawn(row: Row, options: Options) -> str:
    """The split of a row after val is drawn."""
    drawn = (
        row.split == "train"
        and row.video
        and uniform(0, "kinetics-sounds", "val", row.video) < options.val_share
    )
    if drawn:
        return "val"
    return row.split


def _find(folder: Path, row: Row) -> Path:
    """Where the clip is: with its own split, or with another where a copy was sorted
    differently.
    """
    places = [folder / part / f"{row.key}.mp4" for part in (row.part, *SPLITS)]
    return next((path for path in places if path.is_file()), places[0])


def _rows(folder: Path, options: Options) -> list[Row]:
    if options.protocol == "adamml":
        return list(_adamml(folder, CLASSES[options.variant]))
    return _joined(list(_ogm_ge(folder)), folder)


def _adamml(folder: Path, classes: tuple[str, ...]) -> Iterator[Row]:
    for split, part in (("train", "train"), ("test", "val")):
        for number, line in _annotations(
            folder, part, {"label", "youtube_id", "time_start", "time_end"}
        ):
            if (name := line["label"]) in classes:
                clip = CLIP.fullmatch(
                    f"{line['youtube_id']}_{line['time_start']}_{line['time_end']}"
                )
                if clip:
                    key = f"{clip[1]}_{clip[2]:0>6}_{clip[3]:0>6}"
                    yield Row(split, key, part, clip[1], classes.index(name))
                else:
                    yield Row(split, f"{split}-line-{number}", problem="malformed line")


def _ogm_ge(folder: Path) -> Iterator[Row]:
    for split in ("train", "test"):
        for number, text in enumerate(_text(folder / f"my_{split}.txt").splitlines(), 1):
            line = LINE.fullmatch(text.strip())
            if line and int(line[5]) < len(KS31):
                start = int(line[2])
                if line[3]:
                    end = int(line[3])
                else:
                    end = start + int(line[4])
                yield Row(split, f"{line[1]}_{start:06d}_{end:06d}", split, line[1], int(line[5]))
            elif text.strip():
                yield Row(
                    split,
                    f"{split}-line-{number}",
                    problem="unknown label" if line else "malformed line",
                )


def _joined(rows: list[Row], folder: Path) -> list[Row]:
    """The rows of OGM-GE with what Kinetics-400 says of the same videos, as far as its csv are
    there: class and split.

    UserError where a label's videos are mostly of another class: then the labels don't mean what
    KS31 says.
    """
    kinetics = {
        line["youtube_id"]: (line.get("label") or "", part)
        for part in SPLITS
        if (folder / "annotations" / f"{part}.csv").is_file()
        for _, line in _annotations(folder, part, {"youtube_id"})
    }
    joined, names = [], [Counter[str]() for _ in KS31]
    for row in rows:
        name, part = kinetics.get(row.video, ("", row.part))
        if row.label is not None and name:
            names[row.label][name] += 1
            if name != KS31[row.label]:
                row = row._replace(problem="of another class in Kinetics-400")
        joined.append(row._replace(part=part))
    for label, counts in enumerate(names):
        for name, _ in counts.most_common(1):
            if name != KS31[label]:
                what = f"label {label} is {name!r} in Kinetics-400, not {KS31[label]!r}"
                raise UserError(
                    what, str(folder / "my_train.txt"), "These are not OGM-GE's lists. " + DOWNLOAD
                )
    return joined


def _annotations(folder: Path, part: str, needed: set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The number and the columns of each line of a Kinetics-400 csv; UserError unless it has the
    `needed` columns.
    """
    path = folder / "annotations" / f"{part}.csv"
    reader = csv.DictReader(_text(path).splitlines())
    absent = needed - set(reader.fieldnames or ())
    if absent:
        raise UserError(
            f"no column {', '.join(sorted(absent))}: not a list of Kinetics-400",
            str(path),
            DOWNLOAD,
        )
    try:
        for line in reader:
            yield reader.line_num, line
    except csv.Error as error:
        raise UserError(f"damaged: {error}", str(path), DOWNLOAD) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("not there yet", str(path), DOWNLOAD) from None
    except UnicodeDecodeError:
        raise UserError("damaged: not text in UTF-8", str(path), DOWNLOAD) from None
