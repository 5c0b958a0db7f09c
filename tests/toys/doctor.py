"""A toy dataset whose raw folder has every problem that `umemma doctor` finds."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from toys.media import film
from umemma import config, datasets
from umemma.stages.inspection import doctor

RAW = Path("data/raw/toy")
CODE = """
import json
from umemma.types import Clip, DatasetSpec, Plain, Record, Source
from umemma.errors import UserError

SPEC = DatasetSpec(
    "toy",
    "a [toy]",
    ("audio", "image", "text", "video"),
    ("cat", "[dog]", "owl"),
    "free",
    "none",
    expected={"train": 10, "test": 1},
    size=5_000_000_000,
    disk=6_000_000_000,
)
MEDIA_URL = "https://example.org/media.zip"

class Options(Plain):
    leaks: str = "keep"
    extra: bool = False

def place(member):
    return member if member.startswith(("clips/", "pictures/", "texts/")) else None

def place_extra(member):
    return member if member.startswith("extra/") else None

def sources(folder, options):
    yield Source("rows.json", steps="Write rows.json.")
    if options.extra:
        yield Source("extra.zip", unpack=place_extra, files=2)
    if not (folder / "rows.json").exists():
        raise UserError("not there yet", "rows.json")
    yield Source(
        "media.zip", (MEDIA_URL,), size=1_500_000, unpack=place, media=True, steps="Ask."
    )

def spec(folder, options):
    return SPEC

def records(folder, options):
    if not (folder / "rows.json").exists():
        raise UserError("not there yet", "rows.json")
    for row in json.loads((folder / "rows.json").read_text()):
        stretch = row.pop("stretch", (0.0, None))
        files = {name: folder / path for name, path in row.pop("files", {}).items()}
        clips = {name: Clip(folder / path, *stretch) for name, path in row.pop("clips", {}).items()}
        texts = row.pop("texts", {})
        yield Record(**row, media={**files, **clips, **texts})
"""


def both_clips(name: str) -> dict[str, str]:
    """Return the sound and the pictures of one clip."""
    return {"audio": f"clips/{name}.mp4", "video": f"clips/{name}.mp4"}


GOOD_PICTURE = {"image": "pictures/good.jpg"}
ROWS: list[dict[str, Any]] = [
    {
        "key": "a",
        "split": "train",
        "label": 0,
        "clips": both_clips("good"),
        "files": GOOD_PICTURE,
        "texts": {"text": "hi"},
    },
    {"key": "a", "split": "train", "label": 0, "clips": both_clips("good"), "group": "a"},
    {
        "key": "b",
        "split": "train",
        "label": 1,
        "clips": both_clips("mute"),
        "files": GOOD_PICTURE,
        "texts": {"text": " "},
    },
    {"key": "c", "split": "train", "label": 1, "clips": both_clips("cut"), "files": GOOD_PICTURE},
    {"key": "d", "split": "train", "label": 1, "clips": both_clips("empty")},
    {"key": "e", "split": "train", "label": 2, "clips": both_clips("nowhere")},
    {"key": "f", "split": "train", "label": 2, "files": {"image": "pictures/cut.jpg"}},
    {"key": "g", "split": "train", "label": 2, "files": {"text": "texts/latin.txt"}},
    {"key": "h", "split": "train", "label": 2, "texts": {"text": " "}},
    {"key": "i", "split": "train", "label": 0, "problem": "zero-length event"},
    {
        "key": "j",
        "split": "train",
        "label": 0,
        "clips": both_clips("good"),
        "left_out": "not wanted",
    },
    {
        "key": "k",
        "split": "train",
        "label": 0,
        "clips": both_clips("good"),
        "stretch": [8.0, 9.0],
    },
    {"key": "k.k", "split": "train", "label": 7, "texts": {"text": "hi"}},
    {"key": "l", "split": "val", "label": 0, "clips": both_clips("copy"), "group": "a"},
    {
        "key": "m",
        "split": "test",
        "label": 1,
        "clips": both_clips("other"),
        "files": GOOD_PICTURE,
        "texts": {"text": "hi"},
    },
]


def make_project(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Return a project with the raw folder of the dataset `toy`, which is not downloaded yet."""
    (folder / "code").mkdir()
    (folder / "code" / "toy_dataset.py").write_text(CODE)
    patch.syspath_prepend(folder / "code")
    patch.delitem(sys.modules, "toy_dataset", raising=False)
    patch.setitem(datasets.NAMES, "toy", "toy_dataset")
    project = folder / "project"
    raw = project / RAW
    for name in ("clips", "pictures", "texts"):
        (raw / name).mkdir(parents=True)
    good = film(raw / "clips" / "good.mp4", seconds=3.0)
    film(raw / "clips" / "mute.mp4", tone=None)
    film(raw / "clips" / "other.mp4", tone=0.2)
    truncate(film(folder / "whole.mkv", seconds=3.0), raw / "clips" / "cut.mp4", 0.6)
    (raw / "clips" / "empty.mp4").touch()
    shutil.copy(good, raw / "clips" / "copy.mp4")
    (raw / "pictures" / "good.jpg").write_bytes(make_jpeg())
    (raw / "pictures" / "cut.jpg").write_bytes(make_jpeg()[:1000])
    (raw / "texts" / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    (raw / "rows.json").write_text(json.dumps(ROWS))
    return project


def write_rows(rows: list[dict[str, Any]]) -> None:
    (RAW / "rows.json").write_text(json.dumps(rows))


def rows_of(keys: str) -> list[dict[str, Any]]:
    """Return the rows whose key is one of these letters."""
    return [dict(row) for row in ROWS if row["key"] in keys]


def make_jpeg(size: int = 40) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((size, size), 90).save(file, format="JPEG")
    return file.getvalue()


def truncate(path: Path, target: Path, share: float) -> Path:
    """Write the first part of a file."""
    target.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return target


def list_tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return {path: (content, time of change)} of all files."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def examine(capsys, *sets: str, name: str = "toy") -> tuple[int, dict[str, Any]]:
    """Return the exit status and what --json prints. Nothing may have changed."""
    before = list_tree(Path.cwd())
    capsys.readouterr()
    status = doctor.run(config.default_params(name, sets), True)
    report = json.loads(capsys.readouterr().out)
    assert list_tree(Path.cwd()) == before
    return status, report


def print_report(capsys, *sets: str, name: str = "toy") -> str:
    """Return what doctor prints for people."""
    capsys.readouterr()
    doctor.run(config.default_params(name, sets), False)
    return capsys.readouterr().out


def counts(examples: dict[str, Any]) -> dict[str, int]:
    return {name: entry["count"] for name, entry in examples.items()}


def both(reason: str) -> str:
    """Return the reason of a clip of which neither sound nor pictures can be read."""
    return f"audio: {reason}; video: {reason}"
