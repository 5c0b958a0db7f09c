"""The doctor compares the raw files with download.json, and says what to download."""

from __future__ import annotations

import shutil

import pytest
from toys.doctor import RAW, examine, print_report

from umemma import config, datasets
from umemma.stages import download
from umemma.stages.inspection import doctor

NOT_VERIFIED = "The raw files are missing or not verified yet. Run: umemma download toy"


def test_raw_files_that_are_missing_or_differ(toy, capsys):
    download.run("toy", {})
    (RAW / "clips" / "mute.mp4").unlink()
    (RAW / "clips" / "copy.mp4").write_bytes(b"shorter")
    other = RAW / "clips" / "other.mp4"
    other.write_bytes(other.read_bytes()[:-1] + b"?")
    status, report = examine(capsys)
    assert status == 1
    assert report["missing"] == {"count": 1, "examples": ["clips/mute.mp4"]}
    assert report["altered"] == {"count": 2, "examples": ["clips/copy.mp4", "clips/other.mp4"]}
    assert report["needs"][:2] == [
        "Raw files that are missing: 1 (clips/mute.mp4). Run: umemma download toy",
        "Raw files that differ from download.json: 2 (clips/copy.mp4, clips/other.mp4). Delete "
        "the damaged ones, keep those that you changed yourself, and run: umemma download toy",
    ]
    assert "1 missing, 2 altered\n" in print_report(capsys)


def test_without_raw_files_it_says_what_to_get(toy, capsys):
    shutil.rmtree(RAW)
    status, report = examine(capsys)
    assert status == 1
    assert report["splits"] == {}
    assert report["files"] == 0
    assert report["to_get"] == [  # the next source depends on it
        {"path": "rows.json", "size": 0, "urls": [], "made": False, "steps": "Write rows.json."}
    ]
    assert report["needs"] == [NOT_VERIFIED]
    text = print_report(capsys)
    assert (
        "Missing raw files (5.0 GB to download in all, at most 6.0 GB of disk)\n"
        "  rows.json: see the steps\n"
    ) in text
    assert "Steps\n  Write rows.json.\n" in text
    assert "1 problem to correct:" in text
    RAW.mkdir()
    (RAW / "rows.json").write_text("[]")
    media = "\n  media.zip, 1.5 MB: https://example.org/media.zip\n\nSteps\n  Ask.\n"
    assert media in print_report(capsys)


def test_other_options_may_need_other_files(toy, capsys):
    download.run("toy", {})
    extra = RAW / "extra"
    extra.mkdir()
    (extra / "one").touch()
    report = examine(capsys, "preprocess.options.extra=true")[1]
    assert [source["path"] for source in report["to_get"]] == ["extra.zip"]
    assert report["needs"][0] == "Raw files are missing. Run: umemma download toy"
    (extra / "two").touch()
    assert examine(capsys, "preprocess.options.extra=true")[1]["to_get"] == []


def test_before_download_files_are_examined_all_the_same(toy, capsys):
    status, report = examine(capsys)
    assert status == 1
    assert not report["described"]
    assert report["to_get"] == []
    assert report["files"] == 10
    assert report["needs"][0] == NOT_VERIFIED
    assert report["splits"]["train"]["usable"] == 3
    # The files are read here, as no download.json has the checksums.
    assert report["across_splits"]["count"] == 1
    (RAW / "download.json").write_text("{}")
    assert "download.json: damaged: lists no files" in examine(capsys)[1]["needs"][0]


@pytest.mark.parametrize("name", datasets.NAMES)
def test_without_raw_files_every_dataset_says_what_to_do(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["preprocess.options.columns={image: photo}"] if name == "manifest" else []
    assert doctor.run(config.default_params(name, settings), as_json=False) == 1
    assert f"umemma download {name}" in capsys.readouterr().out
