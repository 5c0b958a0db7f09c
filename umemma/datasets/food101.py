"""`food101`: UPMC Food-101, web images of 101 dishes and the titles of the pages they stood on.

Wang et al., Recipe Recognition with Large Multimodal Food Dataset, ICME workshop 2015. The official
links are dead; the copy in use is Kaggle's gianmarco96/upmcfood101. A sample is the image
`images/{train,test}/{class}/{class}_{n}.jpg` and its row `{class}_{n}.jpg,title,{class}` in
`texts/{train,test}_titles.csv`, which has no header; whichever of the two there is makes a sample,
an image without a title lacks its text. What the files hide:

- A quote that is opened in the row of breakfast_burrito_730 is never closed, and the 16 rows after
  it name `.txt` files. A CSV reader makes one title of them all and finds 67,972 rows for 67,988
  images, which is why papers speak of 16 images without text. Here a row is a line, whatever its
  quotes, and all have their title.
- Fifteen animated images were exploded into 139 frames, `{class}_{n}-{frame}.jpg`, on both sides of
  the test split. The frames of one are a group; `leaks: drop` leaves those in train out whose group
  is in val or test too.
- There is no official validation split. `val: hash` draws one from train by a hash of the group,
  `val: list` reads the `split.json` of Lee et al., Missing-Aware Prompts, CVPR 2023.
- Titles hold HTML entities, "&#8217;", which the tokenizer resolves, and bits of Python, "[[",
  which nothing does.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from umemma.errors import UserError
from umemma.system.files import read_json
from umemma.system.seeds import uniform
from umemma.types import DatasetSpec, Media, Plain, Record, Source

DISHES = """
apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap
bread_pudding breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake ceviche
cheese_plate cheesecake chicken_curry chicken_quesadilla chicken_wings chocolate_cake
chocolate_mousse churros clam_chowder club_sandwich crab_cakes creme_brulee croque_madame cup_cakes
deviled_eggs donuts dumplings edamame eggs_benedict escargots falafel filet_mignon fish_and_chips
foie_gras french_fries french_onion_soup french_toast fried_calamari fried_rice frozen_yogurt
garlic_bread gnocchi greek_salad grilled_cheese_sandwich grilled_salmon guacamole gyoza hamburger
hot_and_sour_soup hot_dog huevos_rancheros hummus ice_cream lasagna lobster_bisque
lobster_roll_sandwich macaroni_and_cheese macarons miso_soup mussels nachos omelette onion_rings
oysters pad_thai paella pancakes panna_cotta peking_duck pho pizza pork_chop poutine prime_rib
pulled_pork_sandwich ramen ravioli red_velvet_cake risotto samosa sashimi scallops seaweed_salad
shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls steak strawberry_shortcake
sushi tacos takoyaki tiramisu tuna_tartare waffles
"""
# Sorted. Peers' class_idx.json numbers them in another order, which changes no metric.
CLASSES = tuple(DISHES.split())
NUMBERS = {name: number for number, name in enumerate(CLASSES)}
IN_LIST = {"train": 61142, "val": 6846, "test": 22716}
BY_HASH = {"train": 61198, "val": 6790, "test": 22716}  # with the default share
SPEC = DatasetSpec(
    name="food101",
    summary="web images of 101 dishes and the titles of their pages",
    modalities=("image", "text"),
    classes=CLASSES,
    licence="none stated; the images are those of the web pages they come from",
    citation="Wang et al., Recipe Recognition with Large Multimodal Food Dataset, ICME workshop "
    "2015, doi:10.1109/ICMEW.2015.7169757",
    variant="val by hash 0.1",
    expected=BY_HASH,
    size=6_000_000_000,  # about: an estimate, as is the next
    disk=12_500_000_000,
)
KAGGLE = "gianmarco96/upmcfood101"
COMMIT = "4da8cc71ca2e24e1ed2409194978cdde61cd5b38"
LISTS = f"https://raw.githubusercontent.com/YiLunLee/missing_aware_prompts/{COMMIT}"
STEPS = f"""\
Get upmcfood101.zip with a Kaggle account, from https://www.kaggle.com/datasets/{KAGGLE}
or, with the account's token in ~/.kaggle/kaggle.json, by
  pip install kaggle
  kaggle datasets download -d {KAGGLE} -p FOLDER
and run: umemma download food101 --from FOLDER
where FOLDER holds the zip, or what is in it:
  texts/
    train_titles.csv
    test_titles.csv
  images/
    train/
      apple_pie/
        apple_pie_0.jpg
        ...
      ...               (101 folders)
    test/
      ...               (the same 101)"""
AGAIN = "Run: umemma download food101"
NAME = r"[a-z_]+_\d+(?:-\d+)?"  # class, number, frame of an animation
FILE = re.compile(
    rf"(?:.*/)?(images/(?:train|test)/[a-z_]+/{NAME}\.jpg|texts/(?:train|test)_titles\.csv)",
    re.ASCII,
)
IMAGE = re.compile(rf"({NAME})\.jpg", re.ASCII)
ROW = re.compile(rf'"?(?P<name>{NAME})\.(?:jpg|txt)"?,(?P<title>.*),"?(?P<of>[a-z_]+)"?', re.ASCII)


class Options(Plain):
    """val: where the validation split comes from; val_share: of the official train split, for `val:
    hash`.

    leaks: what becomes of training frames whose animation is also in val or test.
    """

    val: Literal["hash", "list"] = "hash"
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    leaks: Literal["keep", "drop"] = "keep"


class Sample(NamedTuple):
    """What the files of one side of the official split, train or test, say of one image."""

    name: str
    side: str
    title: str = ""
    problem: str = ""


def sources(folder: Path, options: Options) -> Iterator[Source]:
    """The archive of everything, the titles, which are there once it is unpacked, and peers' split
    where asked for.
    """
    yield Source(
        "upmcfood101.zip",
        (f"kaggle:{KAGGLE}",),
        unpack=place,
        files=90_704,
        media=True,
        steps=STEPS,
    )
    for side in ("train", "test"):
        yield Source(f"texts/{side}_titles.csv", steps=STEPS)
    if options.val == "list":
        checksum = "sha256:e40cfcd7728496605e9f3832ec7df591ca819abec510bd1325da48f89cd9835c"
        yield Source(
            "split.json",
            (f"{LISTS}/datasets/Food101/split.json",),
            size=2_045_859,
            checksum=checksum,
        )


def place(member: str) -> str | None:
    """`any/folder/images/train/apple_pie/apple_pie_1.jpg` -> `images/train/...`, the titles
    likewise, else None.
    """
    file = FILE.fullmatch(member)
    if file:
        return file[1]
    return None


def spec(folder: Path, options: Options) -> DatasetSpec:
    variant = "val by list"
    expected = IN_LIST
    if options.val == "hash":
        variant = f"val by hash {options.val_share:g}"
        expected = BY_HASH
        if options.val_share != 0.1:
            expected = {"test": BY_HASH["test"]}
    if options.leaks == "drop":
        variant, expected = (
            f"{variant}, leaks dropped",
            {side: n for side, n in expected.items() if side != "train"},
        )
    return dataclasses.replace(SPEC, variant=variant, expected=expected)


def records(folder: Path, options: Options) -> Iterator[Record]:
    """The samples in the order of their names' hashes; the files go class by class.

    UserError for a wrong list.

    With `val: list`, samples that split.json doesn't name are left out, and those that only it
    names have no file.
    """
    listed = {}
    if options.val == "list":
        listed = _read_split(folder / "split.json")
    samples = [sample for side in ("train", "test") for sample in _samples(folder, side)]
    there = {sample.name for sample in samples}
    samples += [_sample(name, _side(split)) for name, split in listed.items() if name not in there]
    samples.sort(key=lambda sample: uniform(0, "order", sample.name))

    def split_of(sample: Sample) -> str:
        if options.val == "list":
            return listed.get(sample.name, sample.side)
        drawn = (
            sample.side == "train"
            and uniform(0, "food101", "val", _group(sample.name)) < options.val_share
        )
        if drawn:
            return "val"
        return sample.side

    held_out = {_group(sample.name) for sample in samples if split_of(sample) != "train"}
    for sample in samples:
        split, problem, left_out = split_of(sample), sample.problem, ""
        if options.val == "list" and sample.name not in listed:
            left_out = "not in split.json"
        elif _side(split) != sample.side:
            problem = problem or "in train and in test, by file and by split.json"
        elif options.leaks == "drop" and split == "train" and _group(sample.name) in held_out:
            left_out = "also in val or test (leaks: drop)"
        yield _record(folder, sample, split, problem, left_out)


def _record(folder: Path, sample: Sample, split: str, problem: str, left_out: str) -> Record:
    name, group = sample.name, _group(sample.name)
    if problem:
        return Record(name, split, None, {}, group, problem)
    media: dict[str, Media] = {
        "image": folder / "images" / sample.side / _class(name) / f"{name}.jpg"
    }
    if sample.title.strip():
        media["text"] = sample.title
    return Record(name, split, NUMBERS[_class(name)], media, group, left_out=left_out)


def _samples(folder: Path, side: str) -> Iterator[Sample]:
    """One for each row of the titles, then one for each image without a row."""
    images: dict[str, set[str]] = defaultdict(set)  # {name: the folders it is in}
    for entry in _scan(folder / "images" / side):
        for file in _scan(entry) if entry.is_dir() else ():
            image = IMAGE.fullmatch(file.name)
            if image:
                images[image[1]].add(entry.name)
    path = folder / "texts" / f"{side}_titles.csv"
    try:
        lines = (
            path.read_bytes().decode().split("\n")
        )  # as splitlines breaks at characters that titles hold
    except FileNotFoundError:
        raise UserError("not there yet", str(path), AGAIN) from None
    except UnicodeDecodeError:
        raise UserError("damaged: not text in UTF-8", str(path), AGAIN) from None
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        row = ROW.fullmatch(line.strip())
        if row and row["name"] in seen:
            yield Sample(row["name"], side, problem="repeated row")
        elif row:
            seen.add(row["name"])
            yield _sample(row["name"], side, row["title"], row["of"], *images.get(row["name"], ()))
        elif line.strip():
            yield Sample(f"{side}-line-{number}", side, problem="malformed row")
    for name in images.keys() - seen:
        yield _sample(name, side, "", *images[name])


def _sample(name: str, side: str, title: str = "", *classes: str) -> Sample:
    """`classes` are what the row and the folder say; the name says it too."""
    unquoted = title.removeprefix('"').removesuffix('"')
    if unquoted != title:
        title = unquoted.replace('""', '"')
    if set(classes) - {_class(name)}:
        return Sample(
            name, side, problem="class of the title or folder differs from that of the name"
        )
    return Sample(name, side, title, "" if _class(name) in NUMBERS else "unknown class")


def _read_split(path: Path) -> dict[str, str]:
    """{name: split}. UserError where it isn't there, or isn't three lists of names that each stand
    there once.
    """
    lists = read_json(path, f"{AGAIN} --set preprocess.options.val=list")
    listed: dict[str, str] = {}
    if lists.keys() != IN_LIST.keys() or not all(
        isinstance(names, list) for names in lists.values()
    ):
        raise UserError("damaged: not three lists of names, train, val and test", str(path), AGAIN)
    for split, names in lists.items():
        for name in names:
            image = None
            if isinstance(name, str):
                image = IMAGE.fullmatch(name)
            if image is None:
                raise UserError(f"damaged: {name!r} is not the name of an image", str(path), AGAIN)
            if listed.setdefault(image[1], split) != split:
                raise UserError(f"damaged: {name!r} stands in two splits", str(path), AGAIN)
    return listed


def _scan(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _side(split: str) -> str:
    if split == "test":
        return "test"
    return "train"


def _class(name: str) -> str:
    return name.rpartition("_")[0]


def _group(name: str) -> str:
    """The name without the frame of an animation."""
    return re.sub(r"(_\d+)-\d+$", r"\1", name)
