"""The doctor finds every problem, agrees with preprocess, and changes nothing."""

from __future__ import annotations

import io
import json
import shutil
import sys
import warnings

import pytest
from PIL import Image
from toys.doctor import (
    RAW,
    both,
    counts,
    examine,
    list_tree,
    print_report,
    rows_of,
    write_rows,
)
from toys.project import ROOT

from umemma import cli, config, modalities
from umemma.errors import UserError
from umemma.modalities.files.wholeness import CUT_OFF
from umemma.modalities.probe import EMPTY, SOUNDLESS
from umemma.stages import download, preprocess
from umemma.stages.inspection import doctor
from umemma.types import Packing

MIRROR = ROOT.parent / "shared" / "mirror"


# What is found. -----------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_found_and_counted(toy, capsys):
    download.run("toy", {})
    status, report = examine(capsys)
    assert status == 1
    assert report["dataset"] == "toy"
    assert report["licence"] == "free"
    assert report["described"]
    assert report["to_get"] == []
    assert report["splits"] == {
        "train": {"expected": 10, "listed": 13, "left_out": 1, "unusable": 9, "usable": 3},
        "val": {"expected": None, "listed": 1, "left_out": 0, "unusable": 0, "usable": 1},
        "test": {"expected": 1, "listed": 1, "left_out": 0, "unusable": 0, "usable": 1},
    }
    assert report["classes"] == {
        "cat": {"train": [5, 1], "val": [1, 1], "test": [0, 0]},
        "[dog]": {"train": [3, 2], "val": [0, 0], "test": [1, 1]},
        "owl": {"train": [4, 0], "val": [0, 0], "test": [0, 0]},
    }
    empty_clip = {"video": RAW / "clips" / "empty.mp4"}
    _, broken = modalities.pack_readable(empty_clip, Packing(side=32))  # the reason is FFmpeg's
    assert counts(report["unusable"]) == {
        "duplicate id": 1,
        both(broken["video"]): 1,
        both("file is missing"): 1,
        "image: not a readable image: truncated": 1,
        "text: text that is not UTF-8": 1,
        "no modality at all": 1,
        "zero-length event": 1,
        both("the event lies after the end of the file"): 1,
        "an id with other characters than letters, digits, '_' and '-'": 1,
    }
    missing_file = report["unusable"][both("file is missing")]
    assert missing_file["examples"] == ["e (data/raw/toy/clips/nowhere.mp4)"]
    cut_clip = {"count": 1, "examples": ["c (data/raw/toy/clips/cut.mp4)"]}
    assert report["broken"] == {both(CUT_OFF): cut_clip}
    assert counts(report["left_out"]) == {"not wanted": 1}
    assert report["duplicate_ids"] == {"count": 1, "examples": ["a"]}


def test_absent_modalities_leaks_and_equal_files_are_counted(toy, capsys):
    download.run("toy", {})
    report = examine(capsys)[1]
    assert report["absent"] == {
        "audio": {
            SOUNDLESS: {"train": 1, "val": 0, "test": 0},
            CUT_OFF: {"train": 1, "val": 0, "test": 0},
        },
        "video": {CUT_OFF: {"train": 1, "val": 0, "test": 0}},
        "text": {
            EMPTY: {"train": 1, "val": 0, "test": 0},
            doctor.UNLISTED: {"train": 1, "val": 1, "test": 0},
        },
        "image": {doctor.UNLISTED: {"train": 0, "val": 1, "test": 0}},
    }
    assert report["soundless_files"] == 1
    assert report["not_looked_into"] == 0
    assert report["leaks"] == {"train and val": {"count": 1, "examples": ["a"]}}
    equal_files = "data/raw/toy/clips/good.mp4 = data/raw/toy/clips/copy.mp4"
    assert report["same_content"] == {"count": 1, "examples": [equal_files]}
    assert report["across_splits"] == report["same_content"]


def test_what_the_user_has_to_know_and_to_correct(toy, capsys):
    download.run("toy", {})
    report = examine(capsys)[1]
    assert report["needs"] == [
        "9 of 14 samples cannot be used, and in 1 more a medium cannot be read. "
        "preprocess.max_failures: 0 does not allow this. Correct the causes that are listed "
        "above, or accept them with preprocess.max_failures: 0.715 (the media then count as "
        "absent; preprocess.broken: fail drops their samples).",
        "Samples with the id of another sample: 1 (a).",
    ]
    assert report["notes"] == [
        "train: 13 samples are listed; the official number is 10.",
        "train: classes without a usable sample: 1 (owl).",
        "val: classes without a usable sample: 2 ([dog], owl).",
        "test: classes without a usable sample: 2 (cat, owl).",
        "Groups with samples in train and val: 1 (a). "
        "To leave them out: preprocess.options.leaks: drop",
        "Sets of media files with the same content: 1, 1 of them across splits.\n"
        "  clips/good.mp4 = clips/copy.mp4",
        "Files without sound, of samples with audio: 1.",
    ]


@pytest.mark.parametrize(("policy", "broken"), [("absent", 1), ("fail", 0)])
def test_it_agrees_with_preprocess(toy, capsys, policy, broken):
    download.run("toy", {})
    sets = ["preprocess.max_failures=1.0", "modalities=[text]", f"preprocess.broken={policy}"]
    report = examine(capsys, *sets)[1]
    index = preprocess.run(config.default_params("toy", sets), workers=1)
    failed_reasons = {}
    broken_reasons = {}
    for split, shards in index.splits.items():
        assert report["splits"][split]["usable"] == index.samples(split)
        for shard in shards:
            failed_reasons |= shard.reasons
            broken_reasons |= shard.broken
            assert report["splits"][split]["unusable"] == shard.failed
            assert report["splits"][split]["left_out"] == shard.left_out
    assert counts(report["unusable"]) == failed_reasons
    assert counts(report["broken"]) == broken_reasons
    assert sum(broken_reasons.values()) == broken
    assert sum(failed_reasons.values()) == 10 - broken


def test_leaks_and_failures_within_the_bound_are_no_problem(toy, capsys):
    shutil.copy(RAW / "clips" / "mute.mp4", RAW / "clips" / "quiet.mp4")
    good = {"key": "z", "split": "train", "label": 0, "clips": {"video": "clips/good.mp4"}}
    quiet = {"key": "y", "split": "train", "label": 0, "clips": {"video": "clips/quiet.mp4"}}
    write_rows([*rows_of("bcjlm"), {**good, "group": "a"}, quiet])
    download.run("toy", {})
    status, report = examine(capsys, "preprocess.max_failures=0.17")  # 1 of 6; j is left out
    assert status == 0
    assert report["needs"] == []
    assert counts(report["leaks"]) == {"train and val": 1}
    assert report["same_content"]["count"] == 2
    assert report["across_splits"]["count"] == 1
    assert "No problem found." in print_report(capsys, "preprocess.max_failures=0.17")
    assert examine(capsys, "preprocess.max_failures=0.16")[0] == 1
    assert "leaks: drop" not in print_report(capsys, "preprocess.options.leaks=drop")


def test_broken_media_alone_are_over_the_bound(toy, capsys):
    whole = {"files": {"image": "pictures/good.jpg"}}
    torn = {"files": {"image": "pictures/cut.jpg"}, "texts": {"text": "hi"}}
    rows = []
    for split in ("train", "val", "test"):
        rows.append({"key": split, "split": split, "label": 0, **whole})
    write_rows([*rows, {"key": "torn", "split": "train", "label": 0, **torn}])
    download.run("toy", {})
    status, report = examine(capsys)
    assert status == 1
    (need,) = report["needs"]
    assert need.startswith("0 of 4 samples cannot be used, and in 1 more a medium cannot be read. ")
    assert "preprocess.max_failures: 0.25 (" in need
    assert examine(capsys, "preprocess.max_failures=0.25")[1]["needs"] == []


def test_each_grouping_is_looked_at(toy, capsys):
    groups = [
        {"scene": "1", "voice": "af"},
        {"scene": "2", "voice": "bm"},
        {"scene": "3", "voice": "af"},
        {"scene": "4"},
    ]
    rows = rows_of("bclm")
    assert [row["split"] for row in rows] == ["train", "train", "val", "test"]
    for row, group in zip(rows, groups, strict=True):
        row["group"] = group
    write_rows(rows)
    download.run("toy", {})
    report = examine(capsys, "preprocess.max_failures=1.0")[1]
    assert report["leaks"] == {"train and val (voice)": {"count": 1, "examples": ["af"]}}
    beginning = "Groups with samples in train and val (voice): 1 (af)."
    assert any(note.startswith(beginning) for note in report["notes"])


# Odd data. ----------------------------------------------------------------------------------------


def test_a_name_that_no_disk_can_hold_spoils_one_sample(toy, capsys):
    name = "x" * 300
    row = {"split": "train", "label": 0}
    clip = {**row, "key": "z", "clips": {"video": f"clips/{name}.mp4"}}
    write_rows([clip, {**row, "key": "y", "files": {"image": name}}])
    download.run("toy", {})
    report = examine(capsys)[1]
    reason = "file can't be read: File name too long"
    assert counts(report["unusable"]) == {f"image: {reason}": 1, f"video: {reason}": 1}
    listed = json.loads((RAW / "download.json").read_text())
    listed["files"][name] = {"sha256": "0" * 64, "size": 1, "media": True}
    (RAW / "download.json").write_text(json.dumps(listed))
    assert examine(capsys)[1]["missing"]["count"] == 1


def test_lists_that_cannot_be_used(toy, capsys):
    write_rows([])
    download.run("toy", {})
    assert examine(capsys)[1]["needs"] == [
        "No usable sample in train, val, test: preprocess needs some in each split."
    ]
    write_rows([{"key": "a", "split": "dev", "label": 0}])
    assert "the split 'dev' is not one of the dataset's" in examine(capsys)[1]["needs"][1]
    with pytest.raises(UserError, match="names no column") as wrong:
        doctor.run(config.default_params("manifest"), True)
    assert wrong.value.exit_status == 2


def test_images_with_odd_metadata_leave_no_warning(toy, capsys):
    """Pillow warns about them, and threads that catch warnings interfere with one another."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "a text that is longer than its entry"
    Image.new("RGB", (8, 8)).save(file, format="JPEG", exif=exif)
    data = bytearray(file.getvalue())
    data[data.index(b"Exif") + 20] = 0xFF  # the length of that text
    rows = []
    for number in range(300):
        name = f"pictures/{number}.jpg"
        (RAW / name).write_bytes(data)
        split = ("train", "val", "test")[number % 3]
        rows.append({"key": f"n{number}", "split": split, "label": 0, "files": {"image": name}})
    write_rows(rows)
    filters = list(warnings.filters)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads do switch while they read an image
    try:
        assert examine(capsys)[1]["unusable"] == {}
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == filters


# Real datasets. -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_digits_have_no_problem(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    download.run("digits", {"utterances": 1})
    before = list_tree(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", "digits", "--set", "preprocess.options.utterances=1", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert report["needs"] == []
    assert report["notes"] == []
    assert report["unusable"] == {}
    assert sum(split["usable"] for split in report["splits"].values()) == 1797
    after = {name: entry for name, entry in list_tree(tmp_path).items() if "/logs/" not in name}
    assert after == before


@pytest.mark.skipif(not MIRROR.is_dir(), reason="the lists of AVE are not here")
def test_the_lists_of_ave(tmp_path, monkeypatch, capsys):
    raw = tmp_path / "data" / "raw" / "ave"
    raw.mkdir(parents=True)
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        shutil.copy(MIRROR / "ave" / name, raw)
    monkeypatch.chdir(tmp_path)
    status, report = examine(capsys, name="ave")
    assert status == 1
    assert [source["path"] for source in report["to_get"]] == ["AVE_Dataset.zip"]
    listed = {name: split["listed"] for name, split in report["splits"].items()}
    assert listed == {"train": 3339, "val": 402, "test": 402}
    assert counts(report["leaks"]) == {"train and val": 10, "train and test": 8}
    assert counts(report["unusable"]) == {both("file is missing"): 4142, "zero-length event": 1}
    assert report["notes"][0].endswith("To leave them out: preprocess.options.leaks: drop")
    assert examine(capsys, "preprocess.options.leaks=drop", name="ave")[1]["leaks"] == {}
