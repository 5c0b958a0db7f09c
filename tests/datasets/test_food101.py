"""UPMC Food-101: a small tree in the official layout, every trap, and the real split where it is at
hand.
"""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from toys.project import ROOT

from umemma import config, modalities
from umemma.datasets import food101
from umemma.errors import UserError
from umemma.types import Packing, Record
from umemma.validation import validate

REAL = ROOT.parent / "shared" / "mirror" / "food101"

TRAIN = """\
apple_pie_851.jpg,Crock-Pot Ladies  Crock-Pot Apple Pie Moonshine,apple_pie
"apple_pie_12.jpg","Crème brûlée &#8211; ""the best"", they say","apple_pie"
apple_pie_13.jpg,"[[""Grandma Ople's  Apple Pie""]]",apple_pie
apple_pie_14.jpg,a title, cut nowhere,apple_pie
apple_pie_15.jpg,a\u2028line\x85of\x0cits own,apple_pie
apple_pie_16.jpg,,apple_pie
apple_pie_17.jpg,"",apple_pie
apple_pie_18.jpg,  ,apple_pie
apple_pie_19.jpg,"The only title\\'\\',apple_pie
apple_pie_20.txt,- quoteko.com,apple_pie
apple_pie_21.txt,[[Marie's Recipe""]]",apple_pie
cheese_plate_717-2.jpg,A plate,cheese_plate

not a row
apple_pie_30,no suffix,apple_pie
"""
TEST = """\
baklava_1.jpg,Baklava,baklava
cheese_plate_717-11.jpg,A plate,cheese_plate
"""


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 6), (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


def image(raw: Path, place: str) -> None:
    (raw / "images" / place).parent.mkdir(parents=True, exist_ok=True)
    (raw / "images" / place).write_bytes(jpeg())


def write(raw: Path, train: str = TRAIN, test: str = TEST) -> None:
    (raw / "texts").mkdir(exist_ok=True)
    (raw / "texts" / "train_titles.csv").write_bytes(
        train.replace("\n", "\r\n").encode()
    )  # as the real ones end lines
    (raw / "texts" / "test_titles.csv").write_bytes(test.encode())


@pytest.fixture
def raw(tmp_path) -> Path:
    write(tmp_path)
    for number in (851, *range(12, 22)):
        image(tmp_path, f"train/apple_pie/apple_pie_{number}.jpg")
    for place in (
        "train/cheese_plate/cheese_plate_717-2.jpg",
        "test/cheese_plate/cheese_plate_717-11.jpg",
    ):
        image(tmp_path, place)
    image(tmp_path, "test/baklava/baklava_1.jpg")
    image(tmp_path, "train/baklava/baklava_2.jpg")  # has no row
    (tmp_path / "images" / "train" / "apple_pie" / ".DS_Store").write_bytes(b"")
    (tmp_path / "images" / "train" / "Thumbs.db").write_bytes(b"")
    return tmp_path


def listed(raw: Path, **options: Any) -> dict[str, Record]:
    found = list(food101.records(raw, food101.Options(**options)))
    assert len({record.key for record in found}) == len(found)
    return {record.key: record for record in found}


def test_a_sample_is_an_image_its_title_and_its_class(raw):
    found = listed(raw)
    record = found["apple_pie_851"]
    assert record.media == {
        "image": raw / "images" / "train" / "apple_pie" / "apple_pie_851.jpg",
        "text": "Crock-Pot Ladies  Crock-Pot Apple Pie Moonshine",
    }
    assert (record.label, record.group, record.problem) == (0, "apple_pie_851", "")
    assert record.split in ("train", "val")
    assert (found["baklava_1"].split, found["baklava_1"].label) == (
        "test",
        food101.CLASSES.index("baklava"),
    )
    packed = modalities.pack(record.media, Packing())
    assert sorted(packed) == ["image.jpg", "text.txt"]


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("apple_pie_12", 'Crème brûlée &#8211; "the best", they say'),
        ("apple_pie_13", '[["Grandma Ople\'s  Apple Pie"]]'),
        ("apple_pie_14", "a title, cut nowhere"),
        ("apple_pie_15", "a\u2028line\x85of\x0cits own"),
    ],
)
def test_quotes_commas_and_other_characters(raw, key, title):
    assert listed(raw)[key].media["text"] == title


def test_a_quote_that_is_never_closed_swallows_nothing(raw):
    """As the real train_titles.csv has it: the rows that a CSV reader would swallow name .txt
    files.
    """
    found = listed(raw)
    assert [found[f"apple_pie_{number}"].media["text"] for number in (19, 20, 21)] == [
        "The only title\\'\\'",
        "- quoteko.com",
        "[[Marie's Recipe\"]]",
    ]


@pytest.mark.parametrize("key", ["apple_pie_16", "apple_pie_17", "apple_pie_18", "baklava_2"])
def test_an_image_without_a_title_lacks_its_text(raw, key):
    record = listed(raw)[key]
    assert list(record.media) == ["image"]
    assert (record.problem, record.left_out) == ("", "")


def test_a_line_that_is_no_row_is_counted(raw):
    found = listed(raw)
    problems = {key: record.problem for key, record in found.items() if record.problem}
    assert problems == {"train-line-14": "malformed row", "train-line-15": "malformed row"}
    assert len(found) == 17  # 12 + 2 rows, an image without one, 2 lines that aren't rows


def test_a_row_without_its_image_is_left_to_packing(raw):
    (raw / "images" / "train" / "apple_pie" / "apple_pie_12.jpg").unlink()
    record = listed(raw)["apple_pie_12"]
    assert not record.problem
    with pytest.raises(ValueError, match="file is missing"):
        modalities.pack(record.media, Packing())
    shutil.rmtree(raw / "images")
    assert len(listed(raw)) == 16  # the rows alone


def test_a_repeated_row_is_a_problem_of_the_second(raw):
    write(raw, TRAIN + "apple_pie_851.jpg,Another,apple_pie\n")
    first, second = (r for r in food101.records(raw, food101.Options()) if r.key == "apple_pie_851")
    assert (first.problem, first.media["text"][:5]) == ("", "Crock")
    assert (second.problem, second.media) == ("repeated row", {})


def test_a_class_that_differs_is_a_problem(raw):
    write(
        raw,
        TRAIN
        + "apple_pie_40.jpg,Whose?,baklava\ntacos_1.jpg,Tacos,tacos\nmud_pie_1.jpg,Mud,mud_pie\n",
    )
    image(raw, "train/pizza/tacos_1.jpg")
    image(raw, "train/baklava/churros_1.jpg")  # without a row
    image(raw, "train/tacos/tacos_2.jpg")
    image(raw, "train/pizza/tacos_2.jpg")  # in two folders
    found = listed(raw)
    differs = "class of the title or folder differs from that of the name"
    for key in ("apple_pie_40", "tacos_1", "tacos_2", "churros_1"):
        assert (found[key].problem, found[key].label, found[key].media) == (differs, None, {})
    assert found["mud_pie_1"].problem == "unknown class"


def test_validation_is_drawn_by_a_hash_of_the_group(raw):
    names = [f"tacos_{number}" for number in range(400)]
    names += [f"tacos_{n}-{frame}" for n in (900, 901) for frame in range(9)]
    write(raw, "".join(f"{name}.jpg,Tacos,tacos\n" for name in names))
    splits = {
        key: record.split for key, record in listed(raw, val_share=0.25).items() if key in names
    }
    assert (
        60 < sum(split == "val" for key, split in splits.items() if "-" not in key) < 140
    )  # 100 expected
    assert all(len({splits[f"tacos_{n}-{frame}"] for frame in range(9)}) == 1 for n in (900, 901))
    fewer = {key for key, record in listed(raw, val_share=0.05).items() if record.split == "val"}
    assert fewer < {
        key for key, record in listed(raw, val_share=0.25).items() if record.split == "val"
    }


def test_the_order_mixes_the_classes(raw):
    rows = [
        f"{dish}_{number}.jpg,A title,{dish}" for dish in ("pho", "tacos") for number in range(40)
    ]
    write(raw, "\n".join(rows))
    dishes = [key.split("_")[0] for key in listed(raw) if key.startswith(("pho", "tacos"))]
    assert 5 < dishes[:40].count("pho") < 35
    assert list(listed(raw)) == list(listed(raw))  # the same every time


def test_frames_of_an_animation_are_a_group(raw):
    """As in the real data, one has frames in train and in test."""
    frames = [listed(raw)[key] for key in ("cheese_plate_717-2", "cheese_plate_717-11")]
    assert [frame.group for frame in frames] == ["cheese_plate_717"] * 2
    assert not any(frame.left_out for frame in frames)
    split = {"train": ["cheese_plate_717-2.jpg"], "val": [], "test": ["cheese_plate_717-11.jpg"]}
    (raw / "split.json").write_text(json.dumps(split))
    dropped = listed(raw, val="list", leaks="drop")
    assert dropped["cheese_plate_717-2"].left_out == "also in val or test (leaks: drop)"
    assert not dropped["cheese_plate_717-11"].left_out


def test_validation_by_the_list(raw):
    names = {
        "train": ["apple_pie_851.jpg", "apple_pie_12.jpg", "tacos_5.jpg", "mud_pie_5.jpg"],
        "val": ["apple_pie_13.jpg", "cheese_plate_717-11.jpg"],
        "test": ["baklava_1.jpg"],
    }
    (raw / "split.json").write_text(json.dumps(names))
    found = listed(raw, val="list")
    assert [found[key].split for key in ("apple_pie_851", "apple_pie_13", "baklava_1")] == [
        "train",
        "val",
        "test",
    ]
    # What it doesn't name is left out; lines that can't be read stay problems.
    left_out = {key for key, record in found.items() if record.left_out == "not in split.json"}
    assert left_out == {f"apple_pie_{n}" for n in range(14, 22)} | {
        "cheese_plate_717-2",
        "baklava_2",
    }
    assert found["train-line-14"].problem == "malformed row"
    # What only it names has no file; what it puts on the other side can't be used.
    assert found["tacos_5"].media == {"image": raw / "images" / "train" / "tacos" / "tacos_5.jpg"}
    assert found["mud_pie_5"].problem == "unknown class"
    assert found["cheese_plate_717-11"].problem == "in train and in test, by file and by split.json"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "not there yet"),
        ('{"train": [], "test": []}', "not three lists"),
        ('{"train": [], "val": "x", "test": []}', "not three lists"),
        ('{"train": [3], "val": [], "test": []}', "3 is not the name of an image"),
        ('{"train": ["../x.jpg"], "val": [], "test": []}', "is not the name of an image"),
        ('{"train": ["pho_1.jpg"], "val": ["pho_1.jpg"], "test": []}', "two splits"),
    ],
)
def test_a_wrong_split_is_refused(raw, text, what):
    if text is not None:
        (raw / "split.json").write_text(text)
    with pytest.raises(UserError, match=what) as error:
        listed(raw, val="list")
    assert error.value.where.endswith("split.json")
    assert "umemma download food101" in error.value.hint


def test_titles_that_are_not_there_or_not_text_are_refused(raw):
    (raw / "texts" / "test_titles.csv").write_bytes("baklava_1.jpg,Café,baklava".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8") as error:
        listed(raw)
    assert error.value.where.endswith("test_titles.csv")
    (raw / "texts" / "test_titles.csv").unlink()
    with pytest.raises(UserError, match="not there yet"):
        listed(raw)


@pytest.mark.parametrize(
    ("member", "where"),
    [
        ("images/train/apple_pie/apple_pie_1.jpg", "images/train/apple_pie/apple_pie_1.jpg"),
        ("upmc/images/test/apple_pie/apple_pie_1.jpg", "images/test/apple_pie/apple_pie_1.jpg"),
        (
            "images/images/train/cheese_plate/cheese_plate_717-2.jpg",
            "images/train/cheese_plate/cheese_plate_717-2.jpg",
        ),
        ("texts/train_titles.csv", "texts/train_titles.csv"),
        ("upmc/texts/test_titles.csv", "texts/test_titles.csv"),
        ("split.json", None),
        ("images/val/apple_pie/apple_pie_1.jpg", None),
        ("images/train/apple_pie/apple_pie_1.png", None),
        ("__MACOSX/images/train/apple_pie/._apple_pie_1.jpg", None),
        ("images/train/../apple_pie_1.jpg", None),
        ("images/train/apple_pie_1.jpg", None),
    ],
)
def test_the_archive_goes_to_its_places(member, where):
    assert food101.place(member) == where


def test_sources_are_the_archive_the_titles_and_the_split_where_asked_for(tmp_path):
    archive, *titles = food101.sources(tmp_path, food101.Options())
    assert archive.urls == ("kaggle:gianmarco96/upmcfood101",)
    assert (archive.media, archive.files) == (True, 90704)
    assert archive.unpack is food101.place
    assert [source.path for source in titles] == ["texts/train_titles.csv", "texts/test_titles.csv"]
    assert not any(source.media for source in titles)
    assert all(
        "kaggle datasets download -d gianmarco96/upmcfood101" in one.steps
        for one in (archive, *titles)
    )
    *_, split = food101.sources(tmp_path, food101.Options(val="list"))
    assert (split.path, split.size) == ("split.json", 2045859)


def test_the_variant_says_where_validation_comes_from(tmp_path):
    specs = [
        food101.spec(tmp_path, food101.Options(**options))
        for options in ({}, {"val_share": 0.2}, {"val": "list"}, {"val": "list", "leaks": "drop"})
    ]
    assert [spec.variant for spec in specs] == [
        "val by hash 0.1",
        "val by hash 0.2",
        "val by list",
        "val by list, leaks dropped",
    ]
    assert [sum(spec.expected.values()) for spec in specs] == [90704, 22716, 90704, 6846 + 22716]
    assert len(specs[0].classes) == 101
    assert list(specs[0].classes) == sorted(specs[0].classes)


def test_the_recipe_is_valid():
    params = config.load_params(ROOT / "recipes" / "food101.yaml")
    assert params.dataset == food101.SPEC.name
    assert validate(food101.Options, params.preprocess.options, "recipe") == food101.Options()
    params.check_modalities(food101.SPEC.modalities)
    for wrong in ({"val_share": 0.0}, {"val_share": 1.0}, {"val": "file"}):
        with pytest.raises(UserError, match="val"):
            validate(food101.Options, wrong, "recipe")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real split isn't at hand")
def test_the_real_split(tmp_path):
    """Titles for every name of the real lists, which then hold what the official files do."""
    lists = json.loads((REAL / "split.json").read_text())
    for side, splits in (("train", ("train", "val")), ("test", ("test",))):
        names = [name for split in splits for name in lists[split]]
        (tmp_path / "texts").mkdir(exist_ok=True)
        rows = [f"{name},A title,{name.rpartition('_')[0]}" for name in names]
        (tmp_path / "texts" / f"{side}_titles.csv").write_text("\n".join(rows))
    shutil.copyfile(REAL / "split.json", tmp_path / "split.json")
    for options in (food101.Options(), food101.Options(val="list")):
        found = list(food101.records(tmp_path, options))
        assert Counter(record.split for record in found) == food101.spec(tmp_path, options).expected
        assert not any(record.problem or record.left_out for record in found)
        assert len({record.key for record in found}) == 90704
        assert {record.label for record in found} == set(range(101))
    assert set(json.loads((REAL / "class_idx.json").read_text())) == set(food101.CLASSES)
    frames = Counter(record.group for record in found if record.group != record.key)
    assert (len(frames), frames.total()) == (15, 139)
    *_, source = food101.sources(tmp_path, food101.Options(val="list"))
    assert source.size == (REAL / "split.json").stat().st_size
    # In an order that mixes the classes: the first shard has nearly all of them.
    assert len({record.label for record in found[:1000]}) > 95
