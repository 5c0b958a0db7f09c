"""Every stage runs with the recipe of a dataset, on media that are made in its official layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys.media import film
from toys.project import ROOT

from umemma import config
from umemma.data.raw_folder import RawFolder
from umemma.stages import download, evaluate, finetune, preprocess, pretrain

# Only what takes long is shortened; the encoders are those of the recipe on smaller inputs.
SHORT = (
    "pretrain.epochs=1",
    "finetune.epochs=1",
    "evaluate.draws=1",
    "evaluate.bootstrap=20",
    "machine.workers=0",
)
CLIPS = (
    "encoders.video.input.size=32",
    "encoders.audio.input.seconds=2",
    "preprocess.media.side=32",
)
PICTURES = ("encoders.image.input.size=32", "preprocess.media.side=32")


def make_poster(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(noise).save(path)


def make_ave(folder: Path) -> None:
    lists: dict[str, list[str]] = {"trainSet": [], "valSet": [], "testSet": []}
    for split, lines in lists.items():
        for category in ("Bark", "Female speech, woman speaking"):
            name = f"{split}{category[:3]}x"[:11].ljust(11, "0")
            film(folder / "AVE" / f"{name}.mp4", seconds=2.0)
            lines.append(f"{category}&{name}&good&0&2")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (folder / "Annotations.txt").write_text("Category&VideoID&Quality&StartTime&EndTime\n")


def make_kinetics(folder: Path) -> None:
    """Two classes, four clips each in train and one in test."""
    rows: dict[str, list[str]] = {"train": [], "test": []}
    files: dict[str, list[str]] = {"train": [], "test": []}
    for number, label in enumerate(("blowing nose", "blowing out candles")):
        for split, clips in (("train", 4), ("test", 1)):
            for clip in range(clips):
                video = f"{split}{number}{clip}".ljust(11, "0")
                name = f"{video}_000001_000003"
                film(folder / split / f"{name}.mp4", seconds=2.0)
                rows[split].append(f"{label},{video},1,3,{split}")
                if split == "train":
                    files[split].append(f"{name},2,{number}")
                else:
                    files[split].append(f"{video}_1,2,{number}")
    header = "label,youtube_id,time_start,time_end,split"
    (folder / "annotations").mkdir()
    for split, lines in (*rows.items(), ("val", [])):
        text = "\n".join([header, *lines, ""])
        (folder / "annotations" / f"{split}.csv").write_text(text)
    for split, lines in files.items():
        (folder / f"my_{split}.txt").write_text("\n".join([*lines, ""]))
        address = f"https://s3.amazonaws.com/kinetics/400/{split}/part_0.tar.gz\n"
        (folder / f"k400_{split}_path.txt").write_text(address)


def make_mmimdb(folder: Path) -> None:
    split = {}
    for part in ("train", "dev", "test"):
        split[part] = [f"{part.encode().hex()[:5]}{number:02}" for number in range(3)]
        for number, name in enumerate(split[part]):
            name = split[part][number] = f"{int(name, 16) % 10**7:07}"
            make_poster(folder / "dataset" / f"{name}.jpeg")
            about = {"genres": [["Drama"], ["War", "Drama"], ["Comedy"]][number], "plot": ["Once."]}
            (folder / "dataset" / f"{name}.json").write_text(json.dumps(about))
    (folder / "split.json").write_text(json.dumps(split))


def make_food101(folder: Path) -> None:
    (folder / "texts").mkdir(parents=True)
    for part, numbers in (("train", range(8)), ("test", range(8, 9))):
        rows = []
        for dish in ("apple_pie", "sushi"):
            for number in numbers:
                name = f"{dish}_{number}.jpg"
                make_poster(folder / "images" / part / dish / name)
                rows.append(f"{name},{dish} at home,{dish}")
        (folder / "texts" / f"{part}_titles.csv").write_text("\n".join([*rows, ""]))


@pytest.fixture(autouse=True)
def _enough_space(monkeypatch):
    """The made media are small, but the datasets ask for the space of the real ones."""
    monkeypatch.setattr(RawFolder, "require_space", lambda folder, needed: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "changes", "samples"),
    [
        ("ave", make_ave, CLIPS, 2),
        ("kinetics-sounds", make_kinetics, (*CLIPS, "preprocess.options.val_share=0.5"), 2),
        ("mmimdb", make_mmimdb, PICTURES, 3),
        ("food101", make_food101, (*PICTURES, "preprocess.options.val_share=0.4"), 2),
    ],
)
def test_every_stage_runs_with_the_recipe(tmp_path, monkeypatch, name, make, changes, samples):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "media"
    source.mkdir()
    make(source)
    params = config.load_params(ROOT / "recipes" / f"{name}.yaml", [*SHORT, *changes])
    download.run(name, params.preprocess.options, str(source))
    index = preprocess.run(params, workers=1)
    assert index.samples("test") == samples
    for modality in params.modalities:
        pretrain.run(params, modality)
    finetune.run(params)
    outcome = evaluate.run(params)
    subsets = {"+".join(sorted(params.modalities)), *params.modalities}
    assert set(outcome.lead()) == subsets
    assert {row.n for row in outcome.lead().values()} == {samples}
