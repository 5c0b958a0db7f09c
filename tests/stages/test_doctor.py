"""The doctor: what it finds, what it says is to be done, that it agrees with packing, and that it changes nothing."""

from __future__ import annotations

import io
import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from toys.media import film, flac
from toys.project import ROOT

from umemma import cli, config, datasets, modalities
from umemma.errors import UserError
from umemma.modalities.av_decoder import CUT_OFF
from umemma.modalities.probe import EMPTY, SOUNDLESS, probe
from umemma.stages import doctor, download, preprocess
from umemma.types import Clip, Packing, Sound, Unreadable

REAL = ROOT.parent / "shared" / "mirror"
P = Packing(side=32)
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
TONE = Sound(np.sin(np.arange(800) / 5).astype(np.float32) / 2, 8000)

TOY = """
import json
from umemma.types import Clip, DatasetSpec, Plain, Record, Source
from umemma.errors import UserError

SPEC = DatasetSpec(
    "toy", "a [toy]", ("audio", "image", "text", "video"), ("cat", "[dog]", "owl"), "free", "none",
    expected={"train": 10, "test": 1}, size=5_000_000_000, disk=6_000_000_000,
)

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
    yield Source("media.zip", ("https://example.org/media.zip",), size=1_500_000, unpack=place, media=True, steps="Ask.")

def spec(folder, options):
    return SPEC

def records(folder, options):
    if not (folder / "rows.json").exists():
        raise UserError("not there yet", "rows.json")
    for row in json.loads((folder / "rows.json").read_text()):
        stretch = row.pop("stretch", (0.0, None))
        files = {name: folder / path for name, path in row.pop("files", {}).items()}
        clips = {name: Clip(folder / path, *stretch) for name, path in row.pop("clips", {}).items()}
        yield Record(**row, media={**files, **clips, **row.pop("texts", {})})
""".replace(
    'yield Record(**row, media={**files, **clips, **row.pop("texts", {})})',
    """texts = row.pop("texts", {})
        yield Record(**row, media={**files, **clips, **texts})""",
)


def picture(size: int = 40) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((size, size), 90).save(file, format="JPEG")
    return file.getvalue()


def cut(path: Path, to: Path, share: float) -> Path:
    to.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return to


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A project with the raw folder of a data set that has everything wrong that can be; not downloaded yet."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toy_dataset.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "toy_dataset", raising=False)
    monkeypatch.setitem(datasets.NAMES, "toy", "toy_dataset")
    project = tmp_path / "project"
    raw = project / "data" / "raw" / "toy"
    for name in ("clips", "pictures", "texts"):
        (raw / name).mkdir(parents=True)
    monkeypatch.chdir(project)
    good = film(raw / "clips" / "good.mp4", seconds=3.0)
    film(raw / "clips" / "mute.mp4", tone=None)
    film(raw / "clips" / "other.mp4", tone=0.2)
    cut(film(tmp_path / "whole.mkv", seconds=3.0), raw / "clips" / "cut.mp4", 0.6)
    (raw / "clips" / "empty.mp4").touch()
    shutil.copy(good, raw / "clips" / "copy.mp4")
    (raw / "pictures" / "good.jpg").write_bytes(picture())
    (raw / "pictures" / "cut.jpg").write_bytes(picture()[:1000])
    (raw / "texts" / "latin.txt").write_bytes("Grüße".encode("latin-1"))

    def both(name: str) -> dict[str, str]:
        return {"audio": f"clips/{name}.mp4", "video": f"clips/{name}.mp4"}

    good_picture = {"image": "pictures/good.jpg"}
    rows = [
        {
            "key": "a",
            "split": "train",
            "label": 0,
            "clips": both("good"),
            "files": good_picture,
            "texts": {"text": "hi"},
        },
        {"key": "a", "split": "train", "label": 0, "clips": both("good"), "group": "a"},
        {
            "key": "b",
            "split": "train",
            "label": 1,
            "clips": both("mute"),
            "files": good_picture,
            "texts": {"text": " "},
        },
        {"key": "c", "split": "train", "label": 1, "clips": both("cut"), "files": good_picture},
        {"key": "d", "split": "train", "label": 1, "clips": both("empty")},
        {"key": "e", "split": "train", "label": 2, "clips": both("nowhere")},
        {"key": "f", "split": "train", "label": 2, "files": {"image": "pictures/cut.jpg"}},
        {"key": "g", "split": "train", "label": 2, "files": {"text": "texts/latin.txt"}},
        {"key": "h", "split": "train", "label": 2, "texts": {"text": " "}},
        {"key": "i", "split": "train", "label": 0, "problem": "zero-length event"},
        {"key": "j", "split": "train", "label": 0, "clips": both("good"), "left_out": "not wanted"},
        {"key": "k", "split": "train", "label": 0, "clips": both("good"), "stretch": [8.0, 9.0]},
        {"key": "k.k", "split": "train", "label": 7, "texts": {"text": "hi"}},
        {"key": "l", "split": "val", "label": 0, "clips": both("copy"), "group": "a"},
        {
            "key": "m",
            "split": "test",
            "label": 1,
            "clips": both("other"),
            "files": good_picture,
            "texts": {"text": "hi"},
        },
    ]
    (raw / "rows.json").write_text(json.dumps(rows))
    return project


def examined(capsys, *sets: str, name: str = "toy") -> tuple[int, dict]:
    """The exit status and what --json prints; nothing may have changed."""
    before = tree(Path.cwd())
    capsys.readouterr()
    status = doctor.run(config.default_params(name, sets), True)
    found = json.loads(capsys.readouterr().out)
    assert tree(Path.cwd()) == before
    return status, found


def printed(capsys, *sets: str, name: str = "toy") -> str:
    capsys.readouterr()
    doctor.run(config.default_params(name, sets), False)
    return capsys.readouterr().out


def counts(found: dict) -> dict[str, int]:
    return {name: some["count"] for name, some in found.items()}


def both(reason: str) -> str:
    """Of a clip whose sound and pictures can't be read alike."""
    return f"audio: {reason}; video: {reason}"


# A look agrees with packing. ------------------------------------------------------------------------------------------


def packed(media) -> tuple[dict[str, str], set[str]]:
    """What packing says: why media can't be read, and the modalities that turn out to be absent."""
    members, broken = modalities.pack_readable(media, P)
    return broken, media.keys() - {name.split(".")[0] for name in members} - broken.keys()


def looked(media) -> tuple[dict[str, str], set[str]]:
    found = probe(media, P)
    return found.broken, set(found.absent)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    film(folder / "front.mp4", seconds=6.0, movflags="faststart")
    film(folder / "b-frames.mp4", seconds=6.0, codec="libx264", movflags="faststart")
    film(folder / "slow.mp4", seconds=6.0, fps=2, codec="libx264", movflags="faststart")
    for name in ("end.mp4", "a.mkv", "a.avi"):
        film(folder / name, seconds=6.0)
    film(folder / "mute.mp4", tone=None)
    film(folder / "sound.mp4", pictures=False)
    (folder / "empty.mp4").touch()
    (folder / "noise.mp4").write_bytes(b"no film at all")
    return folder


@pytest.mark.parametrize(
    "name", ["front.mp4", "b-frames.mp4", "slow.mp4", "end.mp4", "a.mkv", "a.avi"]
)
@pytest.mark.parametrize("stretch", [(0.0, None), (1.0, 3.0), (4.0, 6.0)])
def test_clips_that_were_cut_off_are_told_as_packing_tells_them(clips, tmp_path, name, stretch):
    for share in (0.0, 0.1, 0.4, 0.55, 0.7, 0.85, 0.95, 1.0):
        clip = Clip(cut(clips / name, tmp_path / name, share), *stretch)
        for names in (("audio", "video"), ("audio",), ("video",)):
            media = dict.fromkeys(names, clip)
            assert looked(media) == packed(media), (share, names)


def test_a_look_agrees_with_packing(clips, tmp_path):
    whole = picture()
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    soundfile.write(tmp_path / "a.wav", TONE.samples, 8000, subtype="PCM_16")
    (tmp_path / "a.flac").write_bytes(flac(TONE.samples))
    stereo = flac(np.stack([TONE.samples, TONE.samples], 1))
    good, mute = clips / "end.mp4", clips / "mute.mp4"
    noise = "not readable video or sound: Invalid data found when processing input"
    missing, latin, half = "file is missing", "text that is not UTF-8", whole[: len(whole) // 2]
    late, deaf = Clip(good, 8.0, 9.0), Clip(clips / "sound.mp4")
    cases = [
        ({"audio": Clip(good), "video": Clip(good)}, {}, set()),
        ({"audio": good, "video": good}, {}, set()),
        ({"audio": Clip(mute), "video": Clip(mute)}, {}, {"audio"}),
        ({"audio": mute, "video": mute}, {}, {"audio"}),
        ({"audio": Clip(good, 1.0, 2.0), "video": Clip(good, 2.0, 3.0)}, {}, set()),
        ({"audio": deaf, "video": Clip(good)}, {}, set()),
        ({"audio": deaf, "video": deaf}, {"video": "a video with no frames"}, set()),
        ({"video": clips / "nowhere.mp4"}, {"video": missing}, set()),
        ({"audio": clips / "nowhere.wav"}, {"audio": missing}, set()),
        ({"audio": Clip(clips / "nowhere.mp4"), "image": GREY}, {"audio": missing}, set()),
        ({"video": clips}, {"video": "file can't be read: Is a directory"}, set()),
        ({"video": late}, {"video": "the event lies after the end of the file"}, set()),
        (
            {"audio": late, "video": late},
            dict.fromkeys(("audio", "video"), "the event lies after the end of the file"),
            set(),
        ),
        ({"video": clips / "noise.mp4"}, {"video": noise}, set()),
        ({"audio": b"RIFF\x04\0\0\0????"}, {"audio": noise}, set()),
        (
            {"audio": b"RIFF\xff\0\0\0????"},
            {"audio": "cut off: it ends before its declared length"},
            set(),
        ),
        ({"video": "a text"}, {"video": "not a video"}, set()),
        ({"audio": tmp_path / "a.wav"}, {}, set()),
        ({"audio": tmp_path / "a.flac"}, {}, set()),
        ({"audio": stereo}, {}, set()),
        ({"audio": flac(np.zeros(50))}, {}, {"audio"}),
        ({"audio": TONE, "image": GREY}, {}, set()),
        ({"audio": Sound(np.zeros(50, np.float32), 8000)}, {}, {"audio"}),
        ({"audio": Sound(np.zeros(0, np.float32), 8000)}, {"audio": "no audio samples"}, set()),
        ({"image": whole, "spectrogram": GREY}, {}, set()),
        ({"image": half}, {"image": "not a readable image: truncated"}, set()),
        ({"image": b"no picture"}, {"image": "not a readable image: unknown format"}, set()),
        ({"image": clips / "nowhere.jpg"}, {"image": missing}, set()),
        ({"image": "a text"}, {"image": "not an image"}, set()),
        (
            {"image": Unreadable("path outside of root"), "text": "hi"},
            {"image": "path outside of root"},
            set(),
        ),
        ({"text": "  Grüße "}, {}, set()),
        ({"text": " \n"}, {}, {"text"}),
        ({"text": tmp_path / "latin.txt"}, {"text": latin}, set()),
        ({"text": b"\xff"}, {"text": latin}, set()),
        (
            {"image": half, "text": b"\xff"},
            {"image": "not a readable image: truncated", "text": latin},
            set(),
        ),
        (
            {"audio": flac(np.zeros(50)), "image": half},
            {"image": "not a readable image: truncated"},
            {"audio"},
        ),
    ]
    for media, broken, absent in cases:
        assert packed(media) == (broken, absent), media
        assert looked(media) == (broken, absent), media


def test_what_only_packing_finds(clips, tmp_path):
    data = bytearray((clips / "a.avi").read_bytes())
    start = data.index(b"movi") + 2000
    for place in range(
        start, len(data) - 3000, 97
    ):  # here and there, so that chunks keep their heads
        data[place] ^= 0xFF
    (tmp_path / "damaged.avi").write_bytes(data)
    media = {"audio": tmp_path / "damaged.avi"}
    assert packed(media)[0]["audio"].startswith("not readable video or sound")
    assert looked(media) == ({}, set())
    silent = {"audio": film(tmp_path / "silent.mp4", tone=0.0)}
    assert (packed(silent), looked(silent)) == (({}, {"audio"}), ({}, set()))
    made = probe({"image": lambda: b"no picture", "text": "word"}, P)
    assert (made.broken, made.unseen) == ({}, {"image"})


def test_why_a_modality_is_absent(clips):
    assert probe({"audio": clips / "mute.mp4", "text": " "}, P).absent == {
        "audio": SOUNDLESS,
        "text": EMPTY,
    }
    assert probe({"audio": flac(np.zeros(50))}, P).absent == {"audio": EMPTY}


# What is found. -------------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_found_and_counted(toy, capsys):
    download.run("toy", {})
    status, found = examined(capsys)
    assert status == 1
    assert (found["dataset"], found["licence"], found["described"], found["to_get"]) == (
        "toy",
        "free",
        True,
        [],
    )
    assert found["splits"] == {
        "train": {"expected": 10, "listed": 13, "left_out": 1, "unusable": 9, "usable": 3},
        "val": {"expected": None, "listed": 1, "left_out": 0, "unusable": 0, "usable": 1},
        "test": {"expected": 1, "listed": 1, "left_out": 0, "unusable": 0, "usable": 1},
    }
    assert found["classes"] == {
        "cat": {"train": [5, 1], "val": [1, 1], "test": [0, 0]},
        "[dog]": {"train": [3, 2], "val": [0, 0], "test": [1, 1]},
        "owl": {"train": [4, 0], "val": [0, 0], "test": [0, 0]},
    }
    empty = packed({"video": Path("data/raw/toy/clips/empty.mp4")})[0][
        "video"
    ]  # the reason is FFmpeg's
    assert counts(found["unusable"]) == {
        "duplicate id": 1,
        both(empty): 1,
        both("file is missing"): 1,
        "image: not a readable image: truncated": 1,
        "text: text that is not UTF-8": 1,
        "no modality at all": 1,
        "zero-length event": 1,
        both("the event lies after the end of the file"): 1,
        "an id with other characters than letters, digits, '_' and '-'": 1,
    }
    assert found["unusable"][both("file is missing")]["examples"] == [
        "e (data/raw/toy/clips/nowhere.mp4)"
    ]
    assert found["broken"] == {
        both(CUT_OFF): {"count": 1, "examples": ["c (data/raw/toy/clips/cut.mp4)"]}
    }
    assert counts(found["left_out"]) == {"not wanted": 1}
    assert found["duplicate_ids"] == {"count": 1, "examples": ["a"]}
    assert found["absent"] == {
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
    assert (found["soundless_files"], found["not_looked_into"]) == (1, 0)
    assert found["leaks"] == {"train and val": {"count": 1, "examples": ["a"]}}
    twins = "data/raw/toy/clips/good.mp4 = data/raw/toy/clips/copy.mp4"
    assert found["same_content"] == found["across_splits"] == {"count": 1, "examples": [twins]}
    assert [need.split(":")[0] for need in found["needs"]] == [
        "9 of 14 samples can't be used and 1 have a medium that can't be read, more than preprocess.max_failures",
        "Samples whose id another one has",
    ]
    assert (
        "preprocess.max_failures: 0.715 (the media count as absent then; preprocess.broken: fail"
        in found["needs"][0]
    )
    assert found["notes"][:5] == [
        "train: 13 samples are listed; the official number is 10.",
        "train: classes without a usable sample: 1 (owl).",
        "val: classes without a usable sample: 2 ([dog], owl).",
        "test: classes without a usable sample: 2 (cat, owl).",
        "Groups with samples in train and val: 1 (a). To leave them out: preprocess.options.leaks: drop",
    ]


@pytest.mark.parametrize(("policy", "broken"), [("absent", 1), ("fail", 0)])
def test_it_agrees_with_preprocess(toy, capsys, policy, broken):
    download.run("toy", {})
    sets = ["preprocess.max_failures=1.0", "modalities=[text]", f"preprocess.broken={policy}"]
    found = examined(capsys, *sets)[1]
    index = preprocess.run(config.default_params("toy", sets), workers=1)
    failed, kept = {}, {}
    for split, shards in index.splits.items():
        assert found["splits"][split]["usable"] == index.samples(split)
        for shard in shards:
            failed |= shard.reasons
            kept |= shard.broken
            assert found["splits"][split]["unusable"] == shard.failed
            assert found["splits"][split]["left_out"] == shard.left_out
    assert (counts(found["unusable"]), counts(found["broken"])) == (failed, kept)
    assert (sum(kept.values()), sum(failed.values())) == (broken, 10 - broken)


def test_leaks_and_losses_within_bounds_need_nobody(toy, capsys):
    rows = Path("data/raw/toy/rows.json")
    shutil.copy("data/raw/toy/clips/mute.mp4", "data/raw/toy/clips/quiet.mp4")
    kept = [row for row in json.loads(rows.read_text()) if row["key"] in "bcjlm"] + [
        {
            "key": "z",
            "split": "train",
            "label": 0,
            "clips": {"video": "clips/good.mp4"},
            "group": "a",
        },
        {"key": "y", "split": "train", "label": 0, "clips": {"video": "clips/quiet.mp4"}},
    ]
    rows.write_text(json.dumps(kept))
    download.run("toy", {})
    status, found = examined(
        capsys, "preprocess.max_failures=0.17"
    )  # 1 of 6 samples; one more is left out
    assert (status, found["needs"]) == (0, [])
    assert counts(found["leaks"]) == {"train and val": 1}
    assert (found["same_content"]["count"], found["across_splits"]["count"]) == (2, 1)
    assert "Nothing needs you." in printed(capsys, "preprocess.max_failures=0.17")
    assert examined(capsys, "preprocess.max_failures=0.16")[0] == 1
    assert "leaks: drop" not in printed(capsys, "preprocess.options.leaks=drop")


def test_broken_media_alone_are_over_the_bound(toy, capsys):
    rows = Path("data/raw/toy/rows.json")
    torn = {"files": {"image": "pictures/cut.jpg"}, "texts": {"text": "hi"}}
    whole = {"files": {"image": "pictures/good.jpg"}}
    kept = [
        {"key": split, "split": split, "label": 0, **whole} for split in ("train", "val", "test")
    ]
    rows.write_text(json.dumps([*kept, {"key": "torn", "split": "train", "label": 0, **torn}]))
    download.run("toy", {})
    status, found = examined(capsys)
    assert (status, len(found["needs"])) == (1, 1)
    assert found["needs"][0].startswith(
        "0 of 4 samples can't be used and 1 have a medium that can't be read, more than"
    )
    assert "preprocess.max_failures: 0.25 (" in found["needs"][0]
    assert examined(capsys, "preprocess.max_failures=0.25")[1]["needs"] == []


def test_each_grouping_is_looked_at(toy, capsys):
    rows = Path("data/raw/toy/rows.json")
    kept = [row for row in json.loads(rows.read_text()) if row["key"] in "bclm"]
    groups = [
        {"scene": "1", "voice": "af"},
        {"scene": "2", "voice": "bm"},
        {"scene": "3", "voice": "af"},
        {"scene": "4"},
    ]
    rows.write_text(
        json.dumps([row | {"group": group} for row, group in zip(kept, groups, strict=True)])
    )
    download.run("toy", {})
    found = examined(capsys, "preprocess.max_failures=1.0")[1]
    assert [row["split"] for row in kept] == ["train", "train", "val", "test"]
    assert found["leaks"] == {"train and val (voice)": {"count": 1, "examples": ["af"]}}
    assert any(
        note.startswith("Groups with samples in train and val (voice): 1 (af).")
        for note in found["notes"]
    )


def test_the_report_for_people(toy, capsys):
    download.run("toy", {})
    text = printed(capsys)
    for line in (
        "toy: a [toy]\n",
        "  raw files data/raw/toy: 10 files, ",
        ", all as download.json says\n",
        "│ [dog] │ 2 of 3 │   0 │    1 │\n",
        f"│ audio: {SOUNDLESS} │     1 │   0 │    0 │\n",
        f"  1 x {both('file is missing')}\n      e (data/raw/toy/clips/nowhere.mp4)\n",
        f"Usable samples with a medium that can't be read\n  1 x {both(CUT_OFF)}\n      c (data/raw/toy/clips/cut.mp4)\n",
        "Left out by the settings\n  1 x not wanted\n      j\n",
        "2 things need you:\n  1. 9 of 14 samples can't be used and 1 have a medium that can't be read",
        "\n  2. Samples whose id another one has: 1 (a).\n",
    ):
        assert line in text
    assert "Not in place" not in text


# The raw files. -------------------------------------------------------------------------------------------------------


def test_raw_files_that_are_gone_or_differ(toy, capsys):
    raw = Path("data/raw/toy")
    download.run("toy", {})
    (raw / "clips" / "mute.mp4").unlink()
    (raw / "clips" / "copy.mp4").write_bytes(b"shorter")
    (raw / "clips" / "other.mp4").write_bytes(
        (raw / "clips" / "other.mp4").read_bytes()[:-1] + b"?"
    )
    status, found = examined(capsys)
    assert status == 1
    assert found["missing"] == {"count": 1, "examples": ["clips/mute.mp4"]}
    assert found["altered"] == {"count": 2, "examples": ["clips/copy.mp4", "clips/other.mp4"]}
    assert (
        found["needs"][0] == "Raw files that are gone: 1 (clips/mute.mp4). Run: umemma download toy"
    )
    assert found["needs"][1].startswith(
        "Raw files that differ from download.json: 2 (clips/copy.mp4, clips/other.mp4). "
    )
    assert "1 gone, 2 altered\n" in printed(capsys)


def test_without_raw_files_it_says_what_to_get(toy, capsys):
    shutil.rmtree("data/raw/toy")
    status, found = examined(capsys)
    assert (status, found["splits"], found["files"]) == (1, {}, 0)
    assert [source["path"] for source in found["to_get"]] == [
        "rows.json"
    ]  # the next follows from it
    assert found["needs"] == [
        "Put the raw files in place, or have them verified. Run: umemma download toy"
    ]
    text = printed(capsys)
    assert (
        "Not in place (in all 5.0 GB to download, at the most 6.0 GB of disk)\n  rows.json: see the steps\n"
        in text
    )
    assert "Steps\n  Write rows.json.\n" in text
    assert "1 thing needs you:" in text
    Path("data/raw/toy").mkdir()
    Path("data/raw/toy/rows.json").write_text("[]")
    assert "\n  media.zip, 1.5 MB: https://example.org/media.zip\n\nSteps\n  Ask.\n" in printed(
        capsys
    )


def test_other_options_may_need_other_files(toy, capsys):
    download.run("toy", {})
    extra = Path("data/raw/toy/extra")
    extra.mkdir()
    (extra / "one").touch()
    found = examined(capsys, "preprocess.options.extra=true")[1]
    assert [source["path"] for source in found["to_get"]] == ["extra.zip"]
    assert found["needs"][0] == "Get the raw files that are not in place. Run: umemma download toy"
    (extra / "two").touch()
    assert examined(capsys, "preprocess.options.extra=true")[1]["to_get"] == []


def test_before_download_files_are_examined_all_the_same(toy, capsys):
    status, found = examined(capsys)
    assert (status, found["described"], found["to_get"], found["files"]) == (1, False, [], 10)
    assert (
        found["needs"][0]
        == "Put the raw files in place, or have them verified. Run: umemma download toy"
    )
    assert found["splits"]["train"]["usable"] == 3
    assert found["across_splits"]["count"] == 1  # read here, as no download.json has the checksums
    Path("data/raw/toy/download.json").write_text("{}")
    assert "download.json: damaged: lists no files" in examined(capsys)[1]["needs"][0]


def test_a_name_that_no_disk_can_hold_spoils_one_sample(toy, capsys):
    rows = Path("data/raw/toy/rows.json")
    row = {"key": "z", "split": "train", "label": 0, "clips": {"video": f"clips/{'x' * 300}.mp4"}}
    rows.write_text(
        json.dumps([row, {**row, "key": "y", "clips": {}, "files": {"image": "x" * 300}}])
    )
    download.run("toy", {})
    found = examined(capsys)[1]
    reason = "file can't be read: File name too long"
    assert counts(found["unusable"]) == {f"image: {reason}": 1, f"video: {reason}": 1}
    listed = json.loads(Path("data/raw/toy/download.json").read_text())
    listed["files"]["x" * 300] = {"sha256": "0" * 64, "size": 1, "media": True}
    Path("data/raw/toy/download.json").write_text(json.dumps(listed))
    assert examined(capsys)[1]["missing"]["count"] == 1


def test_of_many_classes_the_first_few_are_named(toy, capsys):
    code = Path("../code/toy_dataset.py")
    names = ", ".join(f'"class {number}"' for number in range(99))
    code.write_text(TOY.replace('"cat", "[dog]", "owl"', names))
    Path("data/raw/toy/rows.json").write_text(
        json.dumps([{"key": "a", "split": "train", "label": 0, "texts": {"text": "hi"}}])
    )
    download.run("toy", {})
    notes = examined(capsys)[1]["notes"]
    shown = ", ".join(f"class {number}" for number in range(1, 6))
    assert f"train: classes without a usable sample: 98 ({shown}, ...)." in notes


def test_lists_that_cannot_be_used(toy, capsys):
    rows = Path("data/raw/toy/rows.json")
    rows.write_text("[]")
    download.run("toy", {})
    assert examined(capsys)[1]["needs"] == [
        "No usable sample in train, val, test: preprocess needs some in each split."
    ]
    rows.write_text(json.dumps([{"key": "a", "split": "dev", "label": 0}]))
    assert "the split 'dev' is not one of the dataset's" in examined(capsys)[1]["needs"][1]
    with pytest.raises(UserError, match="names no column") as wrong:
        doctor.run(config.default_params("manifest"), True)
    assert wrong.value.exit_status == 2


def test_pictures_with_odd_metadata_leave_no_warning(toy, capsys):
    """Pillow warns of them; threads that catch warnings get into each other's way."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "a text that is longer than its entry"
    Image.new("RGB", (8, 8)).save(file, format="JPEG", exif=exif)
    data = bytearray(file.getvalue())
    data[data.index(b"Exif") + 20] = 0xFF  # the length of that text
    rows = []
    for number in range(300):
        Path(f"data/raw/toy/pictures/{number}.jpg").write_bytes(data)
        split = ("train", "val", "test")[number % 3]
        rows.append(
            {
                "key": f"n{number}",
                "split": split,
                "label": 0,
                "files": {"image": f"pictures/{number}.jpg"},
            }
        )
    Path("data/raw/toy/rows.json").write_text(json.dumps(rows))
    before, interval = list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads do meet inside of a picture
    try:
        assert examined(capsys)[1]["unusable"] == {}
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before


# Real ones. -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_digits_are_well(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    download.run("digits", {"utterances": 1})
    before = tree(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", "digits", "--set", "preprocess.options.utterances=1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (end.value.code, found["needs"], found["notes"], found["unusable"]) == (0, [], [], {})
    assert sum(split["usable"] for split in found["splits"].values()) == 1797
    assert {name: made for name, made in tree(tmp_path).items() if "/logs/" not in name} == before


@pytest.mark.skipif(not REAL.is_dir(), reason="the lists of AVE are not here")
def test_the_lists_of_ave(tmp_path, monkeypatch, capsys):
    raw = tmp_path / "data" / "raw" / "ave"
    raw.mkdir(parents=True)
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        shutil.copy(REAL / "ave" / name, raw)
    monkeypatch.chdir(tmp_path)
    status, found = examined(capsys, name="ave")
    assert (status, [source["path"] for source in found["to_get"]]) == (1, ["AVE_Dataset.zip"])
    assert {name: split["listed"] for name, split in found["splits"].items()} == {
        "train": 3339,
        "val": 402,
        "test": 402,
    }
    assert counts(found["leaks"]) == {"train and val": 10, "train and test": 8}
    assert counts(found["unusable"]) == {both("file is missing"): 4142, "zero-length event": 1}
    assert found["notes"][0].endswith("To leave them out: preprocess.options.leaks: drop")
    assert examined(capsys, "preprocess.options.leaks=drop", name="ave")[1]["leaks"] == {}
