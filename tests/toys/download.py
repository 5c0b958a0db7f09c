"""A toy dataset of two clips and a list, and a download of it."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import types
from pathlib import Path

from toys.web import Site
from umemma import datasets
from umemma.stages import download
from umemma.types import DatasetSpec, Plain, Source

RAW = Path("data/raw/toy")


CLIPS = {
    "Toy/clips/a.mp4": b"AAA",
    "Toy/clips/b.mp4": b"BB",
    "Toy/list.txt": b"a\nb\n",
    "Toy/readme": b"?",
}


LIST = "md5:" + hashlib.md5(b"a\nb\n").hexdigest()


STEPS = "Get clips.zip from its makers and put it into data/raw/toy/."


WHOLE = {"clips/a.mp4": (3, True), "clips/b.mp4": (2, True), "list.txt": (4, True)}


class Options(Plain):
    only: str = ""


def place(member: str) -> str | None:
    found = re.fullmatch(r"(?:Toy/)?(clips/\w+\.mp4|list\.txt)", member)
    return found[1] if found else None


def clips(site: Site, **more) -> Source:
    return Source(
        "clips.zip", (f"{site.url}/clips.zip",), unpack=place, media=True, steps=STEPS, **more
    )


def read_list() -> dict[str, tuple[int, bool]]:
    about = json.loads((RAW / "download.json").read_text())
    for name, file in about["files"].items():
        assert file["sha256"] == hashlib.sha256((RAW / name).read_bytes()).hexdigest()
    return {name: (file["size"], file["media"]) for name, file in about["files"].items()}


def run_toy(monkeypatch, sources, *, origin="", spec=None, **options) -> Path:
    """Download the dataset "toy", whose sources are `sources`, or what the function yields."""
    module = types.ModuleType("toy_dataset")
    about = {
        "summary": "",
        "modalities": ("video",),
        "classes": ("a", "b"),
        "licence": "CC0",
        "citation": "Toy",
    }
    module.SPEC = DatasetSpec(name="toy", **about, **(spec or {}))
    module.Options = Options
    module.sources = sources
    if not callable(sources):
        module.sources = lambda folder, options: iter(sources)
    monkeypatch.setitem(sys.modules, "toy_dataset", module)
    monkeypatch.setitem(datasets.NAMES, "toy", "toy_dataset")
    return download.run("toy", options, str(origin))
