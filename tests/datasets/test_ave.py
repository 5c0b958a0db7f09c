"""AVE: the official layout with its traps, on made lists; and the real lists where they are at
hand.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from toys.project import ROOT

from umemma import config
from umemma.datasets import ave
from umemma.errors import UserError
from umemma.types import Clip
from umemma.validation import validate

REAL = ROOT.parent / "shared" / "mirror" / "ave"
HEADER = "Category&VideoID&Quality&StartTime&EndTime\n"
TRAIN = """\
Church bell&RUhOCu3LNXM&good&0&10
Church bell&VWi2ENBuTbw&good&0&0
Fixed-wing aircraft, airplane&-9R4WPSKE3Q&good&3&10
Frying (food)&-9R4WPSKE3Q&good&3&10
Ukulele&0f_iTO5t3hU&good&0&10
Banjo&0f_iTO5t3hU&good&0&10
Bark&2qVuxENcRvw&good&0&10
"""
VAL = "Ukulele&0f_iTO5t3hU&good&2&10\n"
TEST = "Bark&2qVuxENcRvw&good&1&9\nMandolin&6SSbFLc-dfE&good&0&10\n"


@pytest.fixture
def raw(tmp_path) -> Path:
    (tmp_path / "trainSet.txt").write_text(TRAIN)
    (tmp_path / "valSet.txt").write_text(VAL)
    (tmp_path / "testSet.txt").write_text(TEST)
    return tmp_path


def listed(folder: Path, **options) -> dict:
    return {record.key: record for record in ave.records(folder, ave.Options(**options))}


def test_one_line_is_one_event_seen_and_heard(raw):
    found = listed(raw)
    assert len(found) == 10
    record = found["train--9R4WPSKE3Q-03"]
    assert ave.CLASSES[record.label] == "Fixed-wing aircraft, airplane"
    assert record.media == dict.fromkeys(
        ("audio", "video"), Clip(raw / "AVE" / "-9R4WPSKE3Q.mp4", 3.0, 10.0)
    )
    assert (record.split, record.group, record.problem) == ("train", "-9R4WPSKE3Q", "")
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in found)


def test_a_video_with_two_labels_is_two_samples_of_one_group(raw):
    both = [record for record in listed(raw).values() if record.group == "-9R4WPSKE3Q"]
    assert {record.key for record in both} == {"train--9R4WPSKE3Q-03", "train--9R4WPSKE3Q-10"}


def test_keys_do_not_depend_on_the_order_of_lines(raw):
    before = [record.key for record in ave.records(raw, ave.Options())]
    (raw / "trainSet.txt").write_text("".join(reversed(TRAIN.splitlines(keepends=True))))
    assert [record.key for record in ave.records(raw, ave.Options())] == before


def test_the_event_without_length_is_a_failure(raw):
    bad = [record for record in listed(raw).values() if record.problem]
    assert [(record.key, record.problem, record.media) for record in bad] == [
        ("train-VWi2ENBuTbw-00", "zero-length event", {})
    ]


def test_leaks_can_be_left_out_of_train_and_only_there(raw):
    assert not any(record.left_out for record in listed(raw).values())
    left_out = {key: r.left_out for key, r in listed(raw, leaks="drop").items() if r.left_out}
    assert left_out == dict.fromkeys(
        ("train-0f_iTO5t3hU-09", "train-0f_iTO5t3hU-17", "train-2qVuxENcRvw-02"),
        "also in val or test (leaks: drop)",
    )
    assert ave.spec(raw, ave.Options()) == ave.SPEC
    assert ave.spec(raw, ave.Options(leaks="drop")).variant == "leaks-dropped"


def test_what_is_no_line_is_a_failure_of_its_own(raw):
    lines = [
        "Bark&abc",
        "Meow&abcdefghijk&good&0&10",
        "Bark&../../etc&good&0&10",
        "Bark&abcdefghijk&good&x&10",
        "",
        VAL,
    ]
    (raw / "valSet.txt").write_text(HEADER + "\n".join(lines).replace("\n", "\r\n"))
    found = {key: record.problem for key, record in listed(raw).items() if record.split == "val"}
    assert found == {
        "val-line-2": "malformed line",
        "val-line-3": "unknown class",
        "val-line-4": "malformed line",
        "val-line-5": "malformed line",
        "val-0f_iTO5t3hU-09": "",
    }


@pytest.mark.parametrize("header", ["", HEADER])
def test_a_list_may_have_a_header(tmp_path, header):
    (tmp_path / "Annotations.txt").write_text(header + TRAIN)
    lines = [line for _, line in ave.read(tmp_path / "Annotations.txt")]
    assert len(lines) == 7
    assert lines[2]["category"] == "Fixed-wing aircraft, airplane"
    assert lines[2]["id"] == "-9R4WPSKE3Q"


def test_a_list_that_is_not_there_or_no_text(raw):
    (raw / "valSet.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"valSet\.txt: damaged"):
        listed(raw)
    (raw / "valSet.txt").unlink()
    with pytest.raises(UserError, match=r"valSet\.txt: not there yet\nRun: umemma download ave"):
        listed(raw)


@pytest.mark.parametrize(
    ("member", "where"),
    [
        ("AVE_Dataset/AVE/-9R4WPSKE3Q.mp4", "AVE/-9R4WPSKE3Q.mp4"),
        ("AVE/-9R4WPSKE3Q.mp4", "AVE/-9R4WPSKE3Q.mp4"),
        ("AVE_Dataset/trainSet.txt", "trainSet.txt"),
        ("trainSet.txt", "trainSet.txt"),
        ("AVE_Dataset/Annotations.txt", None),
        ("AVE_Dataset/ReadMe.txt", None),
        ("__MACOSX/AVE_Dataset/AVE/._-9R4WPSKE3Q.mp4", None),
        ("other/-9R4WPSKE3Q.mp4", None),
        ("NAVE/-9R4WPSKE3Q.mp4", None),
        ("-9R4WPSKE3Q.mp4", None),
    ],
)
def test_the_archive_goes_to_its_places(member, where):
    assert ave.place(member) == where


def test_sources_are_the_archive_and_each_list(tmp_path):
    archive, *lists = ave.sources(tmp_path, ave.Options())
    assert archive.urls == ("gdrive:1FjKwe79e0u96vdjIVwfRQ1V6SoDHe7kK",)
    assert archive.media
    assert [source.path for source in lists] == ["trainSet.txt", "valSet.txt", "testSet.txt"]
    assert not any(source.urls or source.media for source in lists)
    assert all("AVE/" in source.steps for source in (archive, *lists))


def test_the_clip_is_the_file_of_the_official_layout(raw):
    member = "AVE_Dataset/AVE/6SSbFLc-dfE.mp4"
    (raw / "AVE").mkdir()
    (raw / ave.place(member)).write_bytes(b"a clip")
    clip = listed(raw)["test-6SSbFLc-dfE-27"].media["audio"]
    assert clip.path.read_bytes() == b"a clip"


def test_the_recipe_is_valid():
    params = config.load_params(ROOT / "recipes" / "ave.yaml")
    assert params.dataset == ave.SPEC.name
    assert validate(ave.Options, params.preprocess.options, "recipe") == ave.Options()
    params.check_modalities(ave.SPEC.modalities)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real lists aren't at hand")
def test_the_real_lists():
    found = list(ave.records(REAL, ave.Options()))
    assert (
        Counter(record.split for record in found)
        == ave.SPEC.expected
        == {"train": 3339, "val": 402, "test": 402}
    )
    assert len({record.key for record in found}) == len(found)
    assert [record.key for record in found if record.problem] == ["train-VWi2ENBuTbw-00"]
    assert sum(record.group.startswith("-") for record in found) == 1030
    ids = {
        split: {record.group for record in found if record.split == split} for split in ave.LISTS
    }
    assert [len(ids["train"] & ids[split]) for split in ("test", "val")] == [8, 10]
    labels = Counter(group for group, _ in {(record.group, record.label) for record in found})
    assert Counter(labels.values()) == {1: 4052, 2: 44, 3: 1}
    assert {record.label for record in found} == set(range(28))
    assert list(ave.CLASSES) == (REAL / "categories.txt").read_text().splitlines()
    assert sum(bool(record.left_out) for record in listed(REAL, leaks="drop").values()) == 19
    # In an order that mixes the classes: the first shard has nearly all of them.
    assert len({record.label for record in found[:200]}) > 20


@pytest.mark.skipif(not REAL.is_dir(), reason="the real lists aren't at hand")
@pytest.mark.parametrize("name", ["Annotations.txt", "Annotations.noheader.txt"])
def test_the_real_annotations(name):
    lines = [line for _, line in ave.read(REAL / name)]
    assert len(lines) == 4143
    assert None not in lines
