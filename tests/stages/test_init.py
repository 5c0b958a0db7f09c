"""umemma init: a project folder from a table or from a recipe."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from toys.commands import run, stages_run
from toys.foreign import medium, write_parquet, write_shard
from toys.media import encode_picture, film
from toys.project import ROOT

from umemma import cli, config
from umemma.stages import init

SHIPPED = ROOT / "umemma" / "project"
COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0)}


def make_table(folder: Path, rows: int = 60) -> Path:
    """Write a table of coloured photos with captions and a number, and return its path."""
    random = np.random.default_rng(0)
    (folder / "photos").mkdir(parents=True)
    with (folder / "fruit.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["photo", "caption", "weight", "label"])
        for number in range(rows):
            label = list(COLOURS)[number % 2]
            Image.new("RGB", (16, 16), COLOURS[label]).save(folder / f"photos/{number}.png")
            caption = f"number {number} looks {label if number % 5 else 'odd'} to me"
            table.writerow([f"photos/{number}.png", caption, random.integers(100), label])
    return folder / "fruit.csv"


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """An empty folder, which is the current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["init", *words])
    return end.value.code


def test_a_table_becomes_settings_that_are_valid(empty, tmp_path, capsys):
    make_table(tmp_path / "mine")
    assert call("../mine/fruit.csv", "--yes") == 0
    assert sorted(path.name for path in empty.iterdir() if path.is_file()) == sorted(init.FILES)
    params = config.load_params()
    assert (params.dataset, params.name, params.seed) == ("manifest", "fruit", 0)
    assert params.modalities == {"image": "image", "table": "table", "text": "text"}
    options = params.preprocess.options
    assert options["columns"] == {"image": "photo", "table": ["weight"], "text": "caption"}
    assert (options["label"], options["task"], options["split"]) == ("label", "multiclass", None)
    assert params.encoder("text").input == {"length": 16}
    assert params.pretrain.batch_size == 16
    text = (empty / "params.yaml").read_text()
    assert "$" not in text
    assert "label, one of 2 classes" in capsys.readouterr().out
    assert (empty / "dvc.yaml").read_text().count("source: ../mine") == 1


def test_parquet_files_with_media_become_a_project_that_downloads_them(empty, tmp_path, capsys):
    numbers = range(60)
    pictures = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in numbers]
    columns = {
        "photo": [medium(encode_picture(picture, "PNG")) for picture in pictures],
        "caption": [f"this is the picture {number}" for number in numbers],
        "label": [number % 2 for number in numbers],
    }
    write_parquet(tmp_path / "pets/data/train.parquet", columns)
    assert call("../pets", "--yes") == 0
    params = config.load_params()
    assert (params.name, params.modalities) == ("pets", {"image": "image", "text": "text"})
    assert params.preprocess.options["table"] == "table.jsonl"
    assert params.preprocess.options["columns"] == {"image": "photo", "text": "caption"}
    stages = YAML(typ="safe").load(Path("dvc.yaml"))["stages"]
    assert stages["download"]["deps"] == ["umemma.version", "${source}"]
    for words in (["download", "--from", "../pets"],):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "../pets" in shown
    assert "label, one of 2 classes" in shown
    assert str(config.load_params().paths.raw) in shown


def test_a_table_without_test_samples_is_evaluated_on_val(empty, tmp_path):
    table = make_table(tmp_path / "mine")
    rows = table.read_text().splitlines()
    sides = ["split", *(["train", "train", "val"] * 20)]
    table.write_text("".join(f"{row},{side}\n" for row, side in zip(rows, sides, strict=True)))
    assert call("../mine/fruit.csv", "--yes") == 0
    params = config.load_params()
    params.evaluate.check_split()
    assert params.paths.results == Path("results/fruit/val")
    assert "report: results/fruit/val/report.html" in (empty / "params.yaml").read_text()
    stage = YAML(typ="safe").load(Path("dvc.yaml"))["stages"]["evaluate-missing"]
    assert stage["metrics"] == ["results/${name}/${fold}/val/metrics.json"]
    assert all("/val/" in output for output in stage["outs"])


def test_a_folder_that_cannot_be_converted_is_one_message(empty, tmp_path, capsys):
    (tmp_path / "nothing").mkdir()
    assert call("../nothing", "--yes") == 2
    assert "neither Parquet files nor shards are there" in capsys.readouterr().err
    write_shard(empty / "0.tar", {"0.jpg": b"1"})
    assert call(".", "--yes") == 2
    assert "holds the current folder" in capsys.readouterr().err
    write_shard(tmp_path / "mine/0.tar", {f"{i}.txt": b"%d %d a b" % (i, i) for i in range(9)})
    assert call("../mine/0.tar", "--yes") == 2
    assert "../mine/0.tar: no column is called like a label" in capsys.readouterr().err
    assert not Path("params.yaml").exists()


@pytest.mark.parametrize("there", init.FILES)
def test_nothing_is_overwritten(empty, tmp_path, there, capsys):
    make_table(tmp_path / "mine")
    (empty / there).write_text("mine")
    assert call("../mine/fruit.csv", "--yes") == 2
    assert call("avmnist", "--yes") == 2
    assert [path.name for path in empty.iterdir()] == [there]
    assert (empty / there).read_text() == "mine"
    assert f"there already: {there}. Nothing was written" in capsys.readouterr().err


def test_a_write_that_fails_leaves_nothing(empty, monkeypatch):
    monkeypatch.setattr(init, "FILES", ("params.yaml", "no-folder/dvc.yaml", "a", "b"))
    with pytest.raises(OSError, match="no-folder"):
        init.write_project(empty, "dataset: digits\n", None)
    assert not list(empty.iterdir())


def test_a_path_that_the_pipeline_cannot_hold_is_named(empty, tmp_path, capsys):
    make_table(tmp_path / "Ann's")
    assert call("../Ann's/fruit.csv", "--yes") == 2
    assert "../Ann's: a quotation mark in its path" in capsys.readouterr().err
    assert not [path for path in empty.iterdir() if path.name != "logs"]


@pytest.mark.parametrize("name", init.list_recipes())
def test_a_recipe_is_taken_as_it_is(empty, name):
    assert call(name, "--yes") == 0
    assert (empty / "params.yaml").read_text() == (ROOT / f"recipes/{name}.yaml").read_text()
    assert "- ${source}" not in (empty / "dvc.yaml").read_text()
    assert 'source: ""' in (empty / "dvc.yaml").read_text().replace("'", '"')


def test_an_unknown_recipe_names_the_nearest(empty, capsys):
    assert call("avmnst", "--yes") == 2
    assert "Did you mean 'avmnist'?" in capsys.readouterr().err
    assert not list(empty.iterdir())


def test_without_a_label_or_a_yes_nothing_is_written(empty, tmp_path, capsys):
    table = make_table(tmp_path / "mine")
    assert call(str(table)) == 2
    assert "Add --yes" in capsys.readouterr().err
    table.write_text(table.read_text().replace("label", "colour", 1))
    assert call(str(table), "--yes") == 2
    error = capsys.readouterr().err
    assert "--label COLUMN. Its columns: photo, caption, weight, colour" in error
    assert not list(empty.iterdir())
    assert call(str(table), "--yes", "--label", "colour") == 0


def test_too_few_rows_to_split_are_one_message(empty, tmp_path, capsys):
    table = make_table(tmp_path / "mine", rows=4)
    assert call(str(table), "--yes") == 1
    assert "too few rows, or groups, to split" in capsys.readouterr().err
    assert not list(empty.iterdir())


def test_a_clip_with_sound_is_two_modalities(empty, tmp_path):
    film(tmp_path / "0.mp4", seconds=2.0)
    for number in range(1, 40):
        shutil.copy(tmp_path / "0.mp4", tmp_path / f"{number}.mp4")
    rows = [f"{number}.mp4,{'xy'[number % 2]}" for number in range(40)]
    (tmp_path / "data.csv").write_text("\n".join(["file,class", *rows]))
    assert call("../data.csv", "--yes") == 0
    params = config.load_params()
    assert params.modalities == {"audio": "audio", "video": "video"}
    assert params.preprocess.options["columns"] == {"audio": "file", "video": "file"}
    assert params.encoder("audio").input["seconds"] in (2, 3)
    assert params.name == tmp_path.name  # "data" says nothing, its folder does


def test_the_pipelines_are_the_same_but_for_the_code():
    """What a stage runs, reads, depends on and makes stands in two files."""
    load = YAML(typ="safe").load
    ours = load(ROOT / "dvc.yaml")["stages"]
    theirs = load(SHIPPED / "pipeline.yaml")["stages"]
    assert list(theirs) == ["version", *ours]
    for name, stage in ours.items():
        other = theirs[name]
        assert other["deps"][0] == "umemma.version"
        assert other["params"] == stage["params"]
        assert other["cmd"].removesuffix(" --from '${source}'") == stage["cmd"]
        data = [path for path in stage["deps"] if not path.startswith("umemma/")]
        assert [path for path in other["deps"][1:] if "${source}" not in path] == data
        outputs = list_outputs(stage)
        assert list_outputs(other) == outputs
        assert other.get("matrix") == stage.get("matrix")


def list_outputs(stage: dict) -> set[str]:
    outputs = set()
    for kind in ("outs", "metrics", "plots"):
        for output in stage.get(kind, []):
            outputs.add(output if isinstance(output, str) else next(iter(output)))
    return outputs


def test_two_tables_stand_side_by_side(empty, tmp_path):
    """Each has the folders of its name; the second replaces nothing of the first."""
    for name in ("first", "second"):
        table = make_table(tmp_path / name)
        if name == "second":
            table.write_text(table.read_text().replace(",red", ",blue"))
        assert call(str(table), "--yes") == 0
        params = (empty / "params.yaml").read_text().replace("name: fruit", f"name: {name}")
        (empty / f"{name}.yaml").write_text(params)
        for file in init.FILES:
            (empty / file).unlink()
        for words in (["download", "--from", str(table.parent)], ["preprocess"]):
            with pytest.raises(SystemExit) as end:
                cli.main([*words, "--params", f"{name}.yaml"])
            assert end.value.code == 0
    for name, classes in (("first", ["green", "red"]), ("second", ["blue", "green"])):
        index = json.loads((empty / f"data/shards/{name}/index.json").read_text())
        assert index["classes"] == classes
        assert (empty / f"data/raw/{name}/fruit.csv").exists()
    assert not (empty / "data/raw/manifest").exists()


@pytest.mark.slow
def test_an_empty_folder_comes_to_the_report(tmp_path):
    """As the user types it: umemma init, dvc init, dvc repro."""
    table = make_table(tmp_path / "mine")
    table.write_text(re.sub(r",number .* me,", ",same,", table.read_text()))  # a modality less
    run(tmp_path, "umemma", "init", "mine/fruit.csv", "--yes")
    params = tmp_path / "params.yaml"
    text = re.sub(r"epochs: \d+", "epochs: 1", params.read_text())
    params.write_text(text.replace("size: 64", "size: 16").replace("1000", "20"))
    run(tmp_path, "dvc", "init", "--no-scm", "-q")
    done = run(tmp_path, "dvc", "repro")
    assert len(stages_run(done)) == 7
    assert "fruit test, ume-mma" in (tmp_path / "results/fruit/report.html").read_text()
    assert stages_run(run(tmp_path, "dvc", "repro")) == ["version"]
    table.write_text(table.read_text().replace(",red", ",blue"))
    assert "mine/fruit.csv" in run(tmp_path, "dvc", "status", "download").stdout
