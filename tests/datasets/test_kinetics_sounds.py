"""Kinetics-Sounds: both protocols on made lists in the official layouts; and OGM-GE's real lists
where they are at hand.
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path

import pytest
from toys.project import ROOT

from umemma import config
from umemma.datasets import kinetics_sounds as ks
from umemma.errors import UserError
from umemma.types import Clip
from umemma.validation import validate

REAL = ROOT.parent / "shared" / "mirror" / "kinetics-sounds"
KINETICS = "https://s3.amazonaws.com/kinetics/400"
# Ids that begin with "-", ids with "_", one format in train and another in test, as in OGM-GE's
# files.
TRAIN = """\
--4-0ihtnBU_000058_000068,10,4
-XWjsz_0_OE_000031_000041,10,5
_abcd_00010_000002_000012,10,0
"""
TEST = """\
-3Mwkq-7TV4_2,10,23
zu_dlgO_123_37,10,4
"""
HEADER = "label,youtube_id,time_start,time_end,split"
CSV = {
    "train": f"""\
{HEADER},is_cc
dribbling basketball,--4-0ihtnBU,58,68,train,0
laughing,-XWjsz_0_OE,31,41,train,0
blowing nose,_abcd_00010,2,12,train,0
strumming guitar,-Q8pn_086zo,202,212,train,0
"catching fish",zzzzzzzzzzz,0,10,train,0
""",
    "val": f"""\
{HEADER},is_cc
shoveling snow,CuDMAzj4AE-,62,72,val,0
dribbling basketball,zu_dlgO_123,37,47,val,0
""",
    "test": "youtube_id,time_start,time_end,split\n-3Mwkq-7TV4,2,12,test\n",
}
OGM_GE = ks.Options(val_share=1e-9)
ADAMML = ks.Options(protocol="adamml", val_share=1e-9)


@pytest.fixture
def raw(tmp_path) -> Path:
    """OGM-GE's lists alone."""
    (tmp_path / "my_train.txt").write_bytes(TRAIN.replace("\n", "\r\n").encode())
    (tmp_path / "my_test.txt").write_bytes(TEST.replace("\n", "\r\n").encode())
    return tmp_path


@pytest.fixture
def kinetics(raw) -> Path:
    """The same with the lists of Kinetics-400."""
    (raw / "annotations").mkdir()
    for part, text in CSV.items():
        (raw / "annotations" / f"{part}.csv").write_text(text)
        (raw / f"k400_{part}_path.txt").write_text(
            f"{KINETICS}/{part}/part_0.tar.gz\n{KINETICS}/{part}/part_1.tar.gz\n"
        )
    return raw


def listed(folder: Path, options: ks.Options = OGM_GE) -> dict:
    return {record.key: record for record in ks.records(folder, options)}


def places(folder: Path, options: ks.Options = OGM_GE) -> set[str]:
    return {
        str(r.media["video"].path.relative_to(folder))
        for r in ks.records(folder, options)
        if r.media
    }


def test_both_line_formats_of_ogm_ge(raw):
    found = {key: (record.split, record.label, record.group) for key, record in listed(raw).items()}
    assert found == {
        "--4-0ihtnBU_000058_000068": ("train", 4, "--4-0ihtnBU"),
        "-XWjsz_0_OE_000031_000041": ("train", 5, "-XWjsz_0_OE"),
        "_abcd_00010_000002_000012": ("train", 0, "_abcd_00010"),
        "-3Mwkq-7TV4_000002_000012": ("test", 23, "-3Mwkq-7TV4"),
        "zu_dlgO_123_000037_000047": ("test", 4, "zu_dlgO_123"),
    }
    clip = Clip(raw / "train" / "--4-0ihtnBU_000058_000068.mp4")
    assert listed(raw)["--4-0ihtnBU_000058_000068"].media == {"audio": clip, "video": clip}


def test_without_csv_a_clip_stands_with_its_list_or_where_it_is(raw):
    assert "test/-3Mwkq-7TV4_000002_000012.mp4" in places(raw)
    (raw / "val").mkdir()
    (raw / "val" / "-3Mwkq-7TV4_000002_000012.mp4").touch()
    assert "val/-3Mwkq-7TV4_000002_000012.mp4" in places(raw)


def test_with_csv_a_clip_stands_where_kinetics_has_it(kinetics):
    assert places(kinetics) == {
        "train/--4-0ihtnBU_000058_000068.mp4",
        "train/-XWjsz_0_OE_000031_000041.mp4",
        "train/_abcd_00010_000002_000012.mp4",
        "test/-3Mwkq-7TV4_000002_000012.mp4",
        "val/zu_dlgO_123_000037_000047.mp4",
    }


def test_lines_that_are_no_clip_of_the_classes(raw):
    (raw / "my_test.txt").write_text(
        TEST + "../../../etc/passwd_2,10,3\n\n-3Mwkq-7TV5_2,10,31\n-3Mwkq-7TV6_2,10\n"
    )
    problems = {record.key: record.problem for record in ks.records(raw, OGM_GE) if record.problem}
    assert problems == {
        "test-line-3": "malformed line",
        "test-line-5": "unknown label",
        "test-line-6": "malformed line",
    }


def test_a_line_twice_is_a_key_twice(raw):
    (raw / "my_test.txt").write_text(TEST + TEST)
    assert (
        Counter(record.key for record in ks.records(raw, OGM_GE))["-3Mwkq-7TV4_000002_000012"] == 2
    )


def test_labels_are_checked_against_the_csv(kinetics):
    with (kinetics / "my_train.txt").open("a") as file:
        file.write("aaaaaaaaaaa_000000_000010,10,4\n")
    with (kinetics / "annotations" / "train.csv").open("a") as file:
        file.write("bowling,aaaaaaaaaaa,0,10,train,0\n")
    wrong = {
        record.key: record.problem for record in ks.records(kinetics, OGM_GE) if record.problem
    }
    assert wrong == {"aaaaaaaaaaa_000000_000010": "of another class in Kinetics-400"}
    (kinetics / "my_train.txt").write_text(TRAIN.replace(",4\n", ",3\n"))
    with pytest.raises(
        UserError, match="label 3 is 'dribbling basketball' in Kinetics-400, not 'chopping wood'"
    ):
        listed(kinetics)


def test_adamml_takes_every_clip_of_the_classes(kinetics):
    found = {key: (record.split, record.label) for key, record in listed(kinetics, ADAMML).items()}
    assert found == {
        "--4-0ihtnBU_000058_000068": ("train", 4),
        "-XWjsz_0_OE_000031_000041": ("train", 5),
        "_abcd_00010_000002_000012": ("train", 0),
        "CuDMAzj4AE-_000062_000072": ("test", 23),
        "zu_dlgO_123_000037_000047": ("test", 4),
    }
    assert "val/CuDMAzj4AE-_000062_000072.mp4" in places(kinetics, ADAMML)
    more = ks.Options(variant="ks32", protocol="adamml", val_share=1e-9)
    strumming = listed(kinetics, more)["-Q8pn_086zo_000202_000212"]
    assert ks.spec(kinetics, more).classes[strumming.label] == "strumming guitar"


def test_a_csv_line_without_a_time_is_a_failure(kinetics):
    (kinetics / "annotations" / "val.csv").write_text(f"{HEADER}\nsinging,CuDMAzj4AE-\n")
    assert {r.key: r.problem for r in ks.records(kinetics, ADAMML) if r.problem} == {
        "test-line-2": "malformed line"
    }


def test_variants_and_their_expected_counts(raw):
    spec = ks.spec(raw, ks.Options(val_share=0.999999))
    assert (spec.variant, len(spec.classes)) == ("ks31/ogm-ge", 31)
    assert spec.expected == {"train": 14796, "val": 3, "test": 2597}
    spec = ks.spec(raw, ks.Options(variant="ks32", protocol="adamml"))
    assert (spec.variant, len(spec.classes)) == ("ks32/adamml", 32)
    assert spec.expected == {"test": 1594}
    assert ks.spec(raw / "empty", ks.Options()) == ks.SPEC


def test_ogm_ge_has_no_32_classes():
    with pytest.raises(UserError, match="the lists of ogm-ge have 31 classes") as error:
        validate(ks.Options, {"variant": "ks32"}, "settings")
    assert error.value.exit_status == 2


def test_val_is_drawn_from_the_training_videos_alone(raw):
    ids = [f"{number:011d}" for number in range(1000)]
    (raw / "my_train.txt").write_text(
        "".join(f"{i}_{s:06d}_{s + 10:06d},10,0\n" for i in ids for s in (0, 10))
    )
    found = list(ks.records(raw, ks.Options(val_share=0.2)))
    counts = Counter(record.split for record in found)
    assert counts["test"] == 2
    assert 350 < counts["val"] < 450
    splits = {
        split: {record.group for record in found if record.split == split}
        for split in ("train", "val")
    }
    assert not splits["train"] & splits["val"]


def test_sources_in_the_order_they_depend_on_one_another(kinetics):
    found = list(ks.sources(kinetics, OGM_GE))
    assert [source.path for source in found] == [
        *(f"annotations/{part}.csv" for part in ("train", "val", "test")),
        *("my_train.txt", "my_test.txt", "k400_train_path.txt", "k400_test_path.txt"),
        *(f"{part}/part_{number}.tar.gz" for part in ("train", "test") for number in (0, 1)),
        "replacement_for_corrupted_k400.tgz",
    ]
    assert found[0].urls == (f"{KINETICS}/annotations/train.csv",)
    assert found[3].urls[0].endswith("/OGM-GE_CVPR2022/main/data/KineticSound/my_train.txt")
    assert found[9].urls == (f"{KINETICS}/test/part_0.tar.gz",)
    assert found[-1].urls == (f"{KINETICS}/replacement_for_corrupted_k400.tgz",)
    assert [source.media for source in found] == [False] * 7 + [True] * 5
    assert [source.path for source in ks.sources(kinetics, ADAMML)][:4] == [
        *(
            "annotations/train.csv",
            "annotations/val.csv",
            "k400_train_path.txt",
            "k400_val_path.txt",
        )
    ]


def test_only_the_clips_of_the_lists_are_unpacked_into_their_split(kinetics):
    unpack = pickle.loads(pickle.dumps(list(ks.sources(kinetics, OGM_GE))[-1].unpack))  # noqa: S301
    for member in (
        "-3Mwkq-7TV4_000002_000012.mp4",
        "./test/-3Mwkq-7TV4_000002_000012.mp4",
        "replacement/replacement_for_corrupted_k400/-3Mwkq-7TV4_000002_000012.mp4",
    ):
        assert unpack(member) == "test/-3Mwkq-7TV4_000002_000012.mp4"
    assert unpack("train/zzzzzzzzzzz_000000_000010.mp4") is None
    assert unpack("my_train.txt") is None
    assert {unpack(place) for place in places(kinetics)} == places(kinetics)


@pytest.mark.parametrize(
    "line",
    [
        "http://s3.amazonaws.com/kinetics/400/train/part_0.tar.gz",
        "https://evil.example/kinetics/400/train/part_0.tar.gz",
        "https://s3.amazonaws.com@evil.example/kinetics/400/train/part_0.tar.gz",
        f"{KINETICS}/train/../part_0.tar.gz",
        f"{KINETICS}/val/part_0.tar.gz",
        f"{KINETICS}/train/part_0.zip",
        "train/part_0.tar.gz",
        "",
    ],
)
def test_a_list_of_tars_may_name_nothing_else(kinetics, line):
    (kinetics / "k400_train_path.txt").write_text(line + "\n")
    with pytest.raises(
        UserError,
        match=rf"k400_train_path\.txt: '{re.escape(line)}' is no tar of {KINETICS}/train/",
    ):
        list(ks.sources(kinetics, OGM_GE))


def test_lists_that_are_not_there_or_not_what_they_should_be(kinetics):
    (kinetics / "annotations" / "val.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        UserError, match=r"val\.csv: no column label, time_end, time_start, youtube_id: not a list"
    ):
        listed(kinetics, ADAMML)
    (kinetics / "annotations" / "val.csv").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"val\.csv: damaged: not text"):
        listed(kinetics, ADAMML)
    (kinetics / "my_test.txt").unlink()
    with pytest.raises(
        UserError, match=r"my_test\.txt: not there yet\nRun: umemma download kinetics-sounds"
    ):
        listed(kinetics)


def test_the_clip_is_the_file_of_the_official_layout(kinetics):
    unpack = list(ks.sources(kinetics, OGM_GE))[-1].unpack
    where = kinetics / unpack("./--4-0ihtnBU_000058_000068.mp4")
    where.parent.mkdir()
    where.write_bytes(b"a clip")
    assert (
        listed(kinetics)["--4-0ihtnBU_000058_000068"].media["audio"].path.read_bytes() == b"a clip"
    )


def test_the_recipe_is_valid():
    params = config.load_params(ROOT / "recipes" / "kinetics-sounds.yaml")
    assert params.dataset == ks.SPEC.name
    assert validate(ks.Options, params.preprocess.options, "recipe") == ks.Options()
    params.check_modalities(ks.SPEC.modalities)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real lists aren't at hand")
def test_the_real_lists():
    found = list(ks.records(REAL, ks.Options()))
    counts = Counter(record.split for record in found)
    assert counts["train"] + counts["val"] == 14799
    assert counts == ks.spec(REAL, ks.Options()).expected
    assert counts["test"] == 2597
    assert 0.09 < counts["val"] / 14799 < 0.11
    assert not any(record.problem for record in found)
    assert (
        len({record.key for record in found})
        == len({record.group for record in found})
        == 14799 + 2597
    )
    assert sum(record.group.startswith("-") for record in found if record.split != "test") == 290
    assert sum("_" in record.group for record in found if record.split != "test") == 2241
    assert {record.label for record in found} == set(range(31))
    assert len({record.label for record in found[:500]}) == 31
