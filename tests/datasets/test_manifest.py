"""The data set of a user: where its files may lie, its splits, and a long and a real table."""

from __future__ import annotations

import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.project import ROOT
from toys.tables import clips, options, read, unreadable, write

from umemma import config
from umemma.datasets import _table, manifest
from umemma.errors import UserError
from umemma.types import AudioInput, Record, VideoInput
from umemma.validation import validate

FIGHTS = ROOT.parent / "shared" / "mirror" / "fight_av"


# Where files may lie. -----------------------------------------------------------------------------


def test_paths_stay_beside_the_table(tmp_path):
    write(tmp_path, clips("inside/x", "../x", "inside/../x", str(tmp_path / "x"), "nul\0x"))
    outside = "path outside of root"
    absolute = "absolute path: preprocess.options.root has to name a folder above it"
    found = unreadable(tmp_path, "video", columns={"video": "file"})
    assert found == ["", outside, outside, absolute, outside]


def test_paths_stay_in_root(tmp_path):
    raw, root = tmp_path / "raw", tmp_path / "clips"
    (root / "deep").mkdir(parents=True)
    (tmp_path / "clips-other").mkdir()
    raw.mkdir()
    (root / "link").symlink_to(tmp_path / "clips-other")
    (root / "round").symlink_to(root / "deep")
    inside = ["x", "deep/../x", str(root / "x"), "round/y"]
    outside = ["../x", "link/x", "../clips-other/x", "/x", "nul\0x"]
    write(raw, clips(*inside, *outside))
    settings = {"columns": {"video": "file"}, "root": str(root)}
    assert unreadable(raw, "video", **settings) == [""] * 4 + ["path outside of root"] * 5
    found = read(raw, **settings)
    paths = [found[f"row-00000{n}"].media["video"].path for n in (1, 2, 3, 4)]
    assert paths == [root / "x.mp4", root / "x.mp4", root / "x.mp4", root / "deep/y.mp4"]
    with pytest.raises(UserError, match="no such folder"):
        read(raw, root=str(tmp_path / "nowhere"))


def test_sources_are_the_table_and_what_it_names(tmp_path):
    rows = [
        {"file": "v/1.mp4", "other": "./p/1.png"},
        {"file": "../2.mp4"},
        {"other": "/3.png"},
        {"file": "v/1.mp4"},
    ]
    write(tmp_path, [row | {"label": "a", "said": "v/words"} for row in rows])
    settings = {"columns": {"video": "file", "image": "other", "text": "said"}}
    table, media = manifest.sources(tmp_path, options(**settings))
    assert (table.path, table.urls, table.media) == ("table.csv", (), False)
    assert (media.path, media.urls, media.media, media.files) == ("media", (), True, 2)
    assert "table.csv" in table.steps
    assert "--from" in media.steps
    assert media.unpack is not None
    names = [
        "v/1.mp4",
        "p/1.png",
        "./p/1.png",
        "v/words",
        "table.csv",
        "../2.mp4",
        "2.mp4",
        "/3.png",
    ]
    assert [media.unpack(name) for name in names] == ["v/1.mp4", "p/1.png", *[None] * 6]
    _, media = manifest.sources(tmp_path, options(text_files=True, **settings))
    assert media.unpack is not None
    assert media.unpack("v/words") == "v/words"


def test_sources_without_media(tmp_path):
    write(tmp_path, [{"file": "a.png", "said": "a word", "label": "x"}])
    assert len(list(manifest.sources(tmp_path, options(root=str(tmp_path))))) == 1
    assert len(list(manifest.sources(tmp_path, options(columns={"text": "said"})))) == 1
    assert len(list(manifest.sources(tmp_path, options()))) == 2
    write(tmp_path, [{"file": "../a.png", "label": "x"}])
    assert len(list(manifest.sources(tmp_path, options()))) == 1


def test_the_table_comes_before_it_is_read(tmp_path):
    (tmp_path / "from").mkdir()
    write(tmp_path / "from", clips("one"))
    raw = tmp_path / "raw"
    raw.mkdir()
    found = manifest.sources(raw, options())
    table = next(found)
    (tmp_path / "from" / table.path).rename(raw / table.path)
    assert next(found).path == "media"


# Splits. ------------------------------------------------------------------------------------------


def sides(records: dict[str, Record]) -> dict[str, set[str]]:
    found = defaultdict(set)
    for record in records.values():
        found[record.group].add(record.split)
    return found


def test_splits_are_drawn_by_group(tmp_path):
    write(tmp_path, [{"file": f"{n}.png", "label": "a", "pack": f"g{n // 3}"} for n in range(1500)])
    found = read(tmp_path, group="pack", shares={"train": 0.5, "val": 0.3, "test": 0.2})
    assert len(sides(found)) == 500
    assert all(len(splits) == 1 for splits in sides(found).values())
    counts = Counter(record.split for record in found.values())
    assert [counts[split] / 1500 for split in ("train", "val", "test")] == pytest.approx(
        [0.5, 0.3, 0.2], abs=0.06
    )
    assert manifest.spec(
        tmp_path, options(shares={"train": 0.5, "val": 0.5, "test": 0.0})
    ).splits == ("train", "val")
    assert manifest.spec(
        tmp_path, options(shares={"train": 1.0, "val": 0.0, "test": 0.0})
    ).splits == ("train",)


def test_a_row_may_be_in_several_groups(tmp_path):
    """Splits are drawn by the first column, as a row of each pair of groups would tie all of them
    together.
    """
    rows = [
        {"file": f"{n}.png", "label": "a", "pack": f"g{n // 3}", "voice": f"v{n % 7}"}
        for n in range(600)
    ]
    write(tmp_path, [*rows, {"file": "x.png", "label": "a", "pack": "", "voice": ""}])
    found = read(tmp_path, group=["pack", "voice"])
    one = found["row-000009"]
    assert one.group == {"pack": "g2", "voice": "v1"}
    assert found["row-000601"].group == {
        "pack": "x.png",
        "voice": "",
    }  # the file, as where no group is given
    packs = defaultdict(set)
    for record in found.values():
        packs[record.groups["pack"]].add(record.split)
    assert all(len(splits) == 1 for splits in packs.values())
    by_one = read(tmp_path, group="pack")
    assert {key: record.split for key, record in found.items()} == {
        key: record.split for key, record in by_one.items()
    }
    assert by_one["row-000009"].group == "g2"
    with pytest.raises(UserError, match="unknown column 'speaker'") as error:
        read(tmp_path, group=["pack", "speaker"])
    assert (error.value.where, error.value.exit_status) == ("preprocess.options.group", 2)
    for wrong, message in (["pack", "pack"], "each column once"), ([], "at least 1"):
        with pytest.raises(UserError, match=message):
            read(tmp_path, group=wrong)


def test_rows_that_share_a_file_are_a_group(tmp_path):
    write(
        tmp_path,
        [{"file": f"{'./' * (n % 2)}v{n // 5}.mp4", "label": "a", "s": n} for n in range(500)],
    )
    found = read(tmp_path, columns={"video": "file"}, start="s")
    assert set(sides(found)) == {f"v{n}.mp4" for n in range(100)}
    assert all(len(splits) == 1 for splits in sides(found).values())


def test_val_is_drawn_from_train_where_the_table_has_none(tmp_path):
    rows = [
        {"file": f"{n // 2}.png", "label": "a", "side": "test" if n < 400 else "train"}
        for n in range(2000)
    ]
    write(tmp_path, rows)
    found = read(tmp_path, split="side")
    counts = Counter(record.split for record in found.values())
    assert counts["test"] == 400
    assert {key for key, record in found.items() if record.split == "test"} == {
        f"row-{n:06d}" for n in range(1, 401)
    }
    assert counts["val"] / 1600 == pytest.approx(0.15 / 0.85, abs=0.04)
    assert all(len(splits) == 1 for splits in sides(found).values())
    assert manifest.spec(tmp_path, options(split="side")).splits == ("train", "val", "test")


@pytest.mark.parametrize("word", ["val", "valid", "validation", "dev", "Dev"])
def test_a_table_with_val_is_left_as_it_is(word, tmp_path):
    words = ["train", word, "test"]
    write(tmp_path, [{"file": f"{n}.png", "label": "a", "side": words[n % 3]} for n in range(60)])
    found = read(tmp_path, split="side")
    assert [found[f"row-{n + 1:06d}"].split for n in range(60)] == ["train", "val", "test"] * 20


def test_an_empty_split_cell_follows_its_group_or_is_drawn(tmp_path):
    marked = [
        {"file": f"{n}.png", "side": ["train", "val", "test"][n % 3], "pack": f"g{n}"}
        for n in range(60)
    ]
    empty = [{"file": f"{n}-b.png", "side": "", "pack": f"g{n}"} for n in range(60)]
    alone = [{"file": f"{n}-c.png", "side": "", "pack": f"h{n}"} for n in range(200)]
    write(tmp_path, [row | {"label": "a"} for row in empty + marked + alone])
    found = read(tmp_path, split="side", group="pack")
    assert all(len(splits) == 1 for splits in sides(found).values())
    assert [found[f"row-{n + 1:06d}"].split for n in range(60)] == ["train", "val", "test"] * 20
    drawn = Counter(record.split for record in found.values() if record.group.startswith("h"))
    assert drawn["train"] > drawn["val"] > 0
    assert drawn["train"] > drawn["test"] > 0


def test_a_failure_stands_in_a_split_that_is_there(tmp_path):
    (tmp_path / "table.csv").write_text("file,label,side\n1.png,a,test\n2.png,a,nowhere\n3.png\n")
    assert [record.split for record in read(tmp_path, split="side").values()] == ["test"] * 3
    assert manifest.spec(tmp_path, options(split="side")).splits == ("test",)


# At scale, and for real. --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_long_table_stays_small_in_memory(suffix, tmp_path):
    words = "many words " * 100
    rows = [{"words": f"{n} {words}", "label": "ab"[n % 2]} for n in range(5_000)]
    asked = options(table=write(tmp_path, rows, suffix), columns={"text": "words"})
    del rows
    tracemalloc.start()
    try:
        next(manifest.records(tmp_path, asked))
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / 5_000 < 50  # bytes a row
    assert most / 5_000 < 200  # a row is read with its neighbours


def test_columns_of_numbers_are_read_piece_by_piece(tmp_path):
    numbers = pa.array(np.random.default_rng(0).standard_normal(1_000_000))
    lists = pa.ListArray.from_arrays(range(0, 1_000_001, 100), numbers)
    pq.write_table(pa.table({"left": lists}), tmp_path / "table.parquet")
    del numbers, lists
    before = pa.total_allocated_bytes()
    for _, row in _table.read_raw(tmp_path / "table.parquet", list):
        assert len(row["left"]) == 100
        assert pa.total_allocated_bytes() - before < 4_000_000  # of 8,000,000
        break


def test_the_recipe_is_whole():
    params = config.load_params(ROOT / "recipes" / "manifest.yaml")
    assert (params.dataset, params.modalities) == (
        "manifest",
        {"audio": "audio", "video": "video"},
    )
    assert (params.preprocess.media.frames, params.preprocess.media.side) == (8, 224)
    assert set(params.preprocess.options) == set(manifest.Options.model_fields)
    chosen = validate(manifest.Options, params.preprocess.options, "recipe")
    assert (chosen.table, chosen.columns, chosen.group) == (
        "labels.csv",
        {"audio": "file", "video": "file"},
        "group",
    )
    specs = {"audio": AudioInput(), "video": VideoInput()}
    for modality, spec in specs.items():
        params.check_modalities(manifest.SPEC.modalities)
        params.encoder(modality).adapt(spec, modality)


@pytest.mark.skipif(not FIGHTS.is_dir(), reason="the real table is not here")
def test_the_real_table():
    settings = config.load_params(ROOT / "recipes" / "manifest.yaml").preprocess.options
    found = read(FIGHTS, **settings)
    assert len(found) == 300
    assert not any(record.problem for record in found.values())
    assert Counter(record.label for record in found.values()) == {0: 150, 1: 150}
    assert len(sides(found)) == 243
    assert all(len(splits) == 1 for splits in sides(found).values())
    assert min(Counter(record.split for record in found.values()).values()) >= 30
    assert all(record.media["audio"] == record.media["video"] for record in found.values())
    assert all(record.media["video"].path.is_file() for record in found.values())
    table, media = manifest.sources(FIGHTS, options(**settings))
    assert (table.path, media.unpack("videos/fi001.mp4")) == ("labels.csv", "videos/fi001.mp4")
