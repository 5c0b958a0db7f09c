"""`ave`: Audio-Visual Events, 10 s clips of AudioSet with an event that is both heard and seen; 28
classes.

Tian et al., Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018
(github.com/YapengTian/AVE-ECCV18). A line of the lists is `category&youtube id&quality&start s&end
s`; each split's list says its labels. One sample is the event of one line, so audio and video are
the same stretch of the same file. What the lists hide:

- Names of classes contain commas, and many ids begin with "-".
- Copies of Annotations.txt with and without a header are in use, so a header is passed over in any
  list. That file isn't needed: its lines are those of the three lists.
- 45 videos carry two labels, one of them three, so a key names the class too, by its number.
- One event ends where it starts. Nothing can be cut out of that clip: it is a failure.
- 18 videos stand in train and again in val or test, 19 lines of train. `leaks: drop` leaves those
  lines out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from umemma.errors import UserError
from umemma.system.seeds import uniform
from umemma.types import Clip, DatasetSpec, Plain, Record, Source

# In the order of the authors' categories.txt, which is that of the first lines of every list.
CLASSES = (
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
)
SPEC = DatasetSpec(
    name="ave",
    summary="events both heard and seen in 10 s YouTube clips",
    modalities=("audio", "video"),
    classes=CLASSES,
    licence="none stated; the clips are YouTube's users'",
    citation="Tian et al., Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018, "
    "arXiv:1803.08842",
    expected={"train": 3339, "val": 402, "test": 402},
    size=5_700_000_000,
    disk=11_500_000_000,
)
LISTS = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}
DRIVE = "1FjKwe79e0u96vdjIVwfRQ1V6SoDHe7kK"
STEPS = f"""\
Get AVE_Dataset.zip (5.7 GB) from https://drive.google.com/file/d/{DRIVE}/view
and run: umemma download ave --from FOLDER
where FOLDER holds the zip, or what is in it:
  trainSet.txt
  valSet.txt
  testSet.txt
  AVE/
    RUhOCu3LNXM.mp4
    ..."""
HEADER = "Category&VideoID&Quality&StartTime&EndTime"
LINE = re.compile(
    r"(?P<category>.+)&(?P<id>[\w-]+)&(?P<quality>[^&]*)"
    r"&(?P<start>\d+(?:\.\d+)?)&(?P<end>\d+(?:\.\d+)?)",
    re.ASCII,
)
VIDEO = re.compile(r"(?:.*/)?(AVE/[\w-]+\.mp4)", re.ASCII)


class Options(Plain):
    """leaks: what becomes of training lines whose video is also in val or test."""

    leaks: Literal["keep", "drop"] = "keep"


def sources(folder: Path, options: Options) -> Iterator[Source]:
    """The archive of everything, then the lists: they are there once it is unpacked, and can be had
    by themselves.
    """
    yield Source("AVE_Dataset.zip", (f"gdrive:{DRIVE}",), unpack=place, media=True, steps=STEPS)
    for name in LISTS.values():
        yield Source(name, steps=STEPS)


def place(member: str) -> str | None:
    """`AVE_Dataset/AVE/x.mp4` -> `AVE/x.mp4`, a list -> its name; None for any other file."""
    video = VIDEO.fullmatch(member)
    if video:
        return video[1]
    name = PurePosixPath(member).name
    if name in LISTS.values():
        return name
    return None


def spec(folder: Path, options: Options) -> DatasetSpec:
    if options.leaks == "drop":
        return dataclasses.replace(SPEC, variant="leaks-dropped")
    return SPEC


def records(folder: Path, options: Options) -> Iterator[Record]:
    """The events, in the order of their keys' hashes: the lists go class by class.

    UserError for a list not there.
    """
    lists = {split: list(read(folder / name)) for split, name in LISTS.items()}
    held_out = {line["id"] for split in ("val", "test") for _, line in lists[split] if line}
    leaks: set[str] = set()
    if options.leaks == "drop":
        leaks = held_out
    events = [
        _record(folder, split, number, line, leaks if split == "train" else ())
        for split, lines in lists.items()
        for number, line in lines
    ]
    yield from sorted(events, key=lambda record: uniform(0, "order", record.key))


def _record(
    folder: Path, split: str, number: int, line: re.Match[str] | None, leaks: Collection[str]
) -> Record:
    if not line:
        return Record(f"{split}-line-{number}", split, None, {}, problem="malformed line")
    video = line["id"]
    if line["category"] not in CLASSES:
        return Record(
            f"{split}-line-{number}", split, None, {}, group=video, problem="unknown class"
        )
    label = CLASSES.index(line["category"])
    start, end = float(line["start"]), float(line["end"])
    clip = Clip(folder / "AVE" / f"{video}.mp4", start, end)
    media = {"audio": clip, "video": clip}
    left_out = ""
    problem = ""
    if video in leaks:
        left_out = "also in val or test (leaks: drop)"
    elif end <= start:
        problem = "zero-length event"
        media = {}
    return Record(f"{split}-{video}-{label:02d}", split, label, media, video, problem, left_out)


def read(path: Path) -> Iterator[tuple[int, re.Match[str] | None]]:
    """The number and the fields (category, id, quality, start s, end s) of each line of a list;
    None if malformed.

    UserError where the list isn't there or isn't text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError("not there yet", str(path), "Run: umemma download ave") from None
    except UnicodeDecodeError:
        raise UserError(
            "damaged: not text in UTF-8", str(path), "Get it again: umemma download ave"
        ) from None
    for number, line in enumerate(lines, 1):
        if line.strip() not in ("", HEADER):
            yield number, LINE.fullmatch(line.strip())
