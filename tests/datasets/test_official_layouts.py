"""Four datasets from media in their official layout to shards: clips with sound, without, cut off,
lost; broken posters.
"""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from toys.media import film

from umemma import config
from umemma.data.raw_folder import RawFolder
from umemma.data.shard_reader import read_index, read_split
from umemma.stages import download, preprocess
from umemma.stages.inspection import doctor
from umemma.system.storage import Store

# The cut falls between two packets or into one.
CUT = r"1 x audio: (cut off|not readable video or sound).*; video: cut off"
SETTINGS = """
dataset: {name}
modalities: {modalities}
preprocess:
  max_failures: 0.6
  media: {{side: 32, frames: 2}}
  options: {options}
"""


@pytest.fixture(autouse=True)
def _enough_space(monkeypatch):
    """The made media are small, but the datasets ask for the space of the real ones."""
    monkeypatch.setattr(RawFolder, "require_space", lambda folder, needed: None)


def clips(folder: Path, names: list[str]) -> None:
    """Of four clips the first is whole, the second silent, the third without a sound track, the
    fourth cut off.
    """
    tones = (0.3, 0.0, None, 0.3)
    for name, tone in zip(names, tones, strict=True):
        film(folder / f"{name}.mp4", seconds=4.0, tone=tone, movflags="faststart")
    last = folder / f"{names[-1]}.mp4"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])


def packed(
    name: str, options: str, origin: Path, modalities: str = "[audio, video]"
) -> tuple[dict[str, list[str]], str, config.Params]:
    """({key: the modalities that its sample has}, the reasons of failures and of broken media, the
    settings) of a run.
    """
    Path("params.yaml").write_text(
        SETTINGS.format(name=name, options=options, modalities=modalities)
    )
    params = config.load_params()
    download.run(name, params.preprocess.options, str(origin))
    index = preprocess.run(params, workers=1)
    store = Store(params.paths.shards)
    found = {
        record.key: sorted(record.media)
        for split in index.splits
        for record in read_split(store, index, split)
    }
    return found, f"{index.failures()} | {index.broken()}", params


def test_ave(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ids = ["-loud000001", "silent00001", "-mute000001", "broken00001"]
    source = tmp_path / "AVE_Dataset"
    clips(source / "AVE", ids)
    speech = "Male speech, man speaking"
    (source / "Annotations.txt").write_text("Category&VideoID&Quality&StartTime&EndTime\n")
    train = [
        f"{speech}&{ids[0]}&good&0&2",
        f"Bark&{ids[0]}&good&2&4",
        f"Bark&{ids[3]}&good&0&4",
        f"Bark&{ids[2]}&good&1&1",
    ]
    (source / "trainSet.txt").write_text("\n".join([*train, "Bark&lost0000001&good&0&4", ""]))
    (source / "valSet.txt").write_text(f"Bark&{ids[1]}&good&0&4\n")
    (source / "testSet.txt").write_text(f"{speech}&{ids[2]}&good&1&3\nBark&{ids[0]}&good&0&4\n")
    found, failures, params = packed("ave", "{}", source)
    assert found == {
        f"train-{ids[0]}-01": ["audio", "video"],
        f"train-{ids[0]}-02": ["audio", "video"],
        f"val-{ids[1]}-02": ["video"],
        f"test-{ids[2]}-01": ["video"],
        f"test-{ids[0]}-02": ["audio", "video"],
    }
    for reason in (
        CUT,
        "1 x zero-length event",
        "1 x audio: file is missing; video: file is missing",
    ):
        assert re.search(reason, failures)
    assert doctor.run(params, as_json=False) == 0
    said = capsys.readouterr().out
    assert "train and test: 1" in said
    assert "Files without sound" in said


@pytest.mark.parametrize("flat", [True, False])
def test_kinetics_sounds(tmp_path, monkeypatch, flat):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "kinetics"
    names = [
        "-loud000001_000001_000011",
        "silent00001_000002_000012",
        "-mute000001_000003_000013",
        "broken00001_000004_000014",
    ]
    clips(source if flat else source / "train", names)
    film((source if flat else source / "test") / "tested00001_000005_000015.mp4", seconds=2.0)
    lists = source / "annotations"
    lists.mkdir(parents=True)
    header = "label,youtube_id,time_start,time_end,split\n"
    rows = [
        f"blowing nose,{name[:11]},{int(name[12:18])},{int(name[19:25])},train\n" for name in names
    ]
    (lists / "train.csv").write_text(header + "".join(rows))
    (lists / "val.csv").write_text(header)
    (lists / "test.csv").write_text(header + "blowing nose,tested00001,5,15,test\n")
    (source / "my_train.txt").write_text(
        "".join(f"{name},10,0\n" for name in names) + "lost0000001_000001_000011,10,1\n"
    )
    (source / "my_test.txt").write_text("tested00001_5,10,0\n")
    for part in ("train", "test"):
        address = f"https://s3.amazonaws.com/kinetics/400/{part}/part_0.tar.gz"
        (source / f"k400_{part}_path.txt").write_text(address + "\n")
    found, failures, _ = packed("kinetics-sounds", "{val_share: 0.5}", source)
    whole = {names[0]: ["audio", "video"], names[1]: ["video"], names[2]: ["video"]}
    assert found == {**whole, "tested00001_000005_000015": ["audio", "video"]}
    assert re.search(CUT, failures)
    assert "1 x audio: file is missing; video: file is missing" in failures


def poster(path: Path, cut: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((40, 60), 90).convert("RGB").save(path)
    if cut:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_mmimdb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    top = tmp_path / "made" / "mmimdb"
    films = {
        "0000001": {"genres": ["Drama", "News"], "plot": ["Short.", "A longer plot."]},
        "0000002": {"genres": ["War"], "plot": ["It begins."]},
        "0000003": {"genres": ["Comedy", "Drama"]},
        "0000004": {"genres": ["Western"], "plot": ["High noon."]},
    }
    for name, film_ in films.items():
        poster(top / "dataset" / f"{name}.jpeg", cut=name == "0000002")
        (top / "dataset" / f"{name}.json").write_text(json.dumps(film_))
    split = {"train": ["0000001", "0000002"], "dev": ["0000003"], "test": ["0000004"]}
    (top / "split.json").write_text(json.dumps(split))
    archive = tmp_path / "mmimdb.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(top, "mmimdb")
    found, failures, params = packed("mmimdb", "{}", archive, "[image, text]")
    whole = {"0000001": ["image", "text"], "0000003": ["image"], "0000004": ["image", "text"]}
    assert found == {**whole, "0000002": ["text"]}
    assert failures == " | 1 x image: not a readable image: truncated"
    store = Store(params.paths.shards)
    films_ = {film_.key: film_ for film_ in read_split(store, read_index(store), "train")}
    assert (films_["0000001"].label, films_["0000001"].media["text"]) == ((0,), b"A longer plot.")


def test_food101(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "food"
    for n in range(8):
        poster(source / "images" / "train" / "apple_pie" / f"apple_pie_{n}.jpg", cut=n == 7)
    poster(source / "images" / "test" / "sushi" / "sushi_1.jpg")
    (source / "texts").mkdir()
    rows = [
        f'apple_pie_{n}.jpg,"Pie, the {n}th",apple_pie' for n in range(1, 8)
    ]  # the first has no title
    (source / "texts" / "train_titles.csv").write_text(
        "\n".join([*rows, "apple_pie_99.jpg,Lost,apple_pie", ""])
    )
    (source / "texts" / "test_titles.csv").write_text("sushi_1.jpg,Sushi  at home,sushi\n")
    found, failures, _ = packed("food101", "{val_share: 0.4}", source, "[image, text]")
    titled = {f"apple_pie_{n}": ["image", "text"] for n in range(1, 7)}
    broken = {"apple_pie_7": ["text"], "apple_pie_99": ["text"]}
    assert found == {"apple_pie_0": ["image"], **titled, **broken, "sushi_1": ["image", "text"]}
    assert sorted(failures.removeprefix(" | ").split("; ")) == [
        "1 x image: file is missing",
        "1 x image: not a readable image: truncated",
    ]
