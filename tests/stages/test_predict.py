"""`umemma predict`, of one sample and of a table."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from toys.models import (
    call,
    change_about,
    get_probabilities,
    save_model,
)

import umemma
from umemma.models import predict_table
from umemma.models.answers import Prediction
from umemma.models.predict_inputs import NOTHING
from umemma.models.predict_table import open_table
from umemma.stages import predict
from umemma.types import Series, Unreadable


def test_a_sample_on_the_command_line(place, capsys):
    assert call("predict", "--model", "model", "--image", "x.png", "--top", "2") == 0
    output = capsys.readouterr().out
    prediction = umemma.load("model").predict(image="x.png")
    assert "from image" in output
    assert f"{prediction.probability:.1%}" in output
    assert output.count("class ") == 3  # the head of the table and two rows
    assert call("predict", "--model", "model", "--image", "x.png", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["label"] == prediction.label
    assert answer["probabilities"] == pytest.approx(prediction.probabilities)
    assert answer["broken"] == []


def test_a_sample_with_a_broken_medium_is_answered_with_a_warning(place, capsys):
    sample = ["predict", "--model", "model", "--image", "x.wav", "--audio", "x.wav", "--json"]
    assert call(*sample) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert (answer["present"], answer["broken"]) == (
        ["audio"],
        ["image: not a readable image: unknown format"],
    )
    assert (
        captured.err == "image x.wav: not a readable image: unknown format; predicted without it\n"
    )
    assert call(*sample, "--broken", "fail") == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (
        "",
        "Error: image x.wav: not a readable image: unknown format\n",
    )


def test_a_table_becomes_a_row_each(place, capsys, monkeypatch):
    monkeypatch.setattr("umemma.stages.predict.ROW_GROUP", 3)
    assert (
        call("predict", "--model", "model", "--manifest", "table.csv", "--out", "out/p.parquet")
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        "out/p.parquet: 5 predicted, 3 failed",
        "  predicted without a medium that can't be read: 1 x image: file is missing",
        f"  failed: 1 x {NOTHING}",
        "  failed: 1 x image: not a readable image: unknown format",
        "  failed: 1 x unreadable row: wrong number of cells",
    ]
    with pq.ParquetFile("out/p.parquet") as file:
        assert file.num_row_groups == 3
        assert json.loads(file.schema_arrow.metadata[b"classes"]) == [
            "class 0",
            "class 1",
            "class 2",
        ]
        rows = file.read().to_pylist()
    assert [row["key"] for row in rows] == [*"abcdefg", "8"]  # the last row can't be read
    assert [row["present"] for row in rows] == [
        "audio+image",
        "image",
        "audio",
        None,
        "audio",
        None,
        "image",
        None,
    ]
    assert [row["reason"] for row in rows] == [
        *(
            None,
            None,
            None,
            NOTHING,
            "image: file is missing",
            "image: not a readable image: unknown format",
            None,
        ),
        "unreadable row: wrong number of cells",
    ]
    assert [row["label"] is None for row in rows] == [row["present"] is None for row in rows]
    assert rows[4] == rows[2] | {
        "key": "e",
        "reason": "image: file is missing",
    }  # as if no image had been named
    prediction = umemma.load("model").predict(image="x.png", audio="x.wav")
    assert rows[0]["label"] == prediction.label
    assert rows[0]["probabilities"] == pytest.approx(get_probabilities(prediction))
    assert rows[0]["probability"] == max(rows[0]["probabilities"])


@pytest.mark.slow
def test_processes_give_what_this_one_gives(place):
    tables = []
    for workers in (0, 2):
        predict.run_table(
            Path("model"), Path("table.csv"), Path("p.parquet"), workers=workers, batch_size=3
        )
        tables.append(pq.read_table("p.parquet").to_pylist())
    for one, two in zip(*tables, strict=True):
        for number in ("probability", "probabilities"):
            assert one.pop(number) == pytest.approx(two.pop(number), abs=1e-6)
        assert one == two


def test_columns_have_names_and_texts_are_words_or_files(place, capsys):
    save_model(Path("words"), "text", task="multilabel")
    Path("sub").mkdir()
    Path("sub/a.txt").write_text("two dogs")
    Path("sub/t.jsonl").write_text('{"caption": "two dogs", "file": "a.txt"}\n{"file": "a.txt"}\n')
    table = ["predict", "--model", "words", "--manifest", "sub/t.jsonl"]
    assert call(*table, "--columns", "text=caption", "--out", "w.parquet") == 0
    assert call(*table, "--columns", "text=file", "--text-files", "--out", "f.parquet") == 0
    words, files = (pq.read_table(name).to_pylist() for name in ("w.parquet", "f.parquet"))
    assert [row["reason"] for row in words] == [None, NOTHING]
    for row in files:  # a batch of one and of two samples may round differently
        assert row.pop("probabilities") == pytest.approx(words[0]["probabilities"], abs=1e-6)
        assert row.pop("probability") == pytest.approx(words[0]["probability"], abs=1e-6)
    assert files[0] == files[1] | {"key": "1"}
    assert files[0].items() <= words[0].items()
    capsys.readouterr()
    assert call("predict", "--model", "words", "--text", "sub/a.txt", "--json") == 0
    assert "sub/a.txt: taken as words; --text-files reads the file" in capsys.readouterr().err
    assert call("predict", "--model", "words", "--text", "sub/a.txt", "--text-files", "--json") == 0
    assert json.loads(capsys.readouterr().out)["probabilities"]["class 0"] == pytest.approx(
        words[0]["probabilities"][0]
    )


def test_a_table_without_an_answer_is_a_failure(place, capsys):
    Path("t.csv").write_text("image\nno.png\n")
    assert (
        call("predict", "--model", "model", "--manifest", "t.csv", "--out", "p.parquet", "--json")
        == 1
    )
    counts = json.loads(capsys.readouterr().out)
    assert counts == {"answered": 0, "broken": {}, "failed": {"image: file is missing": 1}}
    assert pq.read_table("p.parquet").num_rows == 1


def test_by_choice_a_row_with_a_broken_medium_fails(place, capsys):
    Path("t.csv").write_text("key,image,audio\na,no.png,x.wav\nb,x.png,x.wav\nc,no.png,no.wav\n")
    table = ["predict", "--model", "model", "--manifest", "t.csv", "--out", "p.parquet", "--json"]
    assert call(*table, "--broken", "fail") == 0
    two = "audio: file is missing; image: file is missing"
    failed = {"image: file is missing": 1, two: 1}
    assert json.loads(capsys.readouterr().out) == {"answered": 1, "broken": {}, "failed": failed}
    assert call(*table) == 0
    broken = {"image: file is missing": 1}
    assert json.loads(capsys.readouterr().out) == {
        "answered": 2,
        "broken": broken,
        "failed": {two: 1},
    }
    assert call(*table[:-1], "--broken", "drop") == 2
    assert "'drop'" in capsys.readouterr().err


def test_processes_start_where_decoding_takes_longer_than_their_start(monkeypatch):
    monkeypatch.setattr(predict_table, "count_cores", lambda: 4)
    numbers = {"left": "vector", "wrist": "series"}
    photos = numbers | {"front": "image"}
    assert [predict_table.choose_workers(rows, photos) for rows in (999, 1_000)] == [0, 4]
    assert [predict_table.choose_workers(rows, numbers) for rows in (9_999, 10_000)] == [0, 4]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_processes_keep_the_policy(place, workers):
    for policy, answered in (("absent", 5), ("fail", 4)):
        counts = predict.run_table(
            Path("model"), Path("table.csv"), Path("p.parquet"), workers=workers, broken=policy
        )
        assert (counts.answered, sum(counts.broken.values()), sum(counts.failed.values())) == (
            answered,
            answered - 4,
            8 - answered,
        )


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("", 2, "nothing to predict from"),
        ("--video x.mp4", 2, "unknown modality 'video'"),
        ("--image x.wav", 2, "image x.wav: not a readable image"),
        ("--image no.png", 2, "image no.png: file is missing"),
        ("--image x.png --model nowhere", 1, "nowhere/model.json: not there yet"),
        ("--image x.png --manifest table.csv --out p.parquet", 2, "cannot be combined"),
        ("--manifest table.csv", 2, "cannot be combined"),
        ("--manifest no.csv --out p.parquet", 2, "no such file"),
        ("--manifest x.png --out p.parquet", 2, "not a table by its name"),
        ("--manifest table.csv --out p.txt", 2, "ends in .parquet, .csv, .jsonl"),
        ("--manifest other.csv --out p.parquet", 2, "no column is named audio or image"),
        ("--manifest empty.csv --out p.parquet", 1, "no rows in it"),
        ("--manifest broken.parquet --out p.parquet", 1, "can't be read"),
        (
            "--manifest table.csv --out p.parquet --columns image=picture",
            2,
            "unknown column 'picture'",
        ),
        (
            "--manifest table.csv --out p.parquet --columns video=image",
            2,
            "unknown modality 'video'",
        ),
        ("--manifest table.csv --out p.parquet --columns image", 2, "--columns image=COLUMN"),
        ("--manifest table.csv --out x.png/p.parquet", 2, "ends in .parquet|can't be written"),
    ],
)
def test_what_is_put_in_wrong_is_one_message(place, capsys, words, status, message):
    Path("other.csv").write_text("picture\nx.png\n")
    Path("empty.csv").write_text("image\n")
    Path("broken.parquet").write_bytes(b"PAR1")
    before = {path.name for path in place.iterdir()}
    exit_status = call("predict", "--model", "model", *words.split())
    captured = capsys.readouterr()
    assert any(part in captured.err for part in message.split("|"))
    assert exit_status == (1 if "can't be written" in captured.err else status)
    assert captured.out == ""
    assert {path.name for path in place.iterdir()} - before <= {"logs"}


def test_the_ensemble_of_the_settings_is_the_default(place, capsys):
    assert call("predict", "--image", "x.png") == 2
    assert "params.yaml: no such file" in capsys.readouterr().err
    Path("params.yaml").write_text("dataset: digits\nmodalities: [audio, image]\n")
    assert call("predict", "--image", "x.png") == 1
    assert (
        "models/digits/ensemble/model.json: not there yet\nRun: umemma finetune-ensemble"
        in capsys.readouterr().err
    )
    save_model(Path("models/digits/ensemble"))
    assert call("predict", "--image", "x.png") == 0


def test_a_class_is_shown_as_it_is_written(capsys):
    table = predict.make_class_table(
        Prediction("[/x]", 0.5, {"[/x]": 0.5, "[red]": 0.5}, ("image",)), 2
    )
    Console().print(table)
    text = capsys.readouterr().out
    assert "[/x]" in text
    assert "[red]" in text


def test_names_of_a_stranger_command_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = save_model(tmp_path / "m", "image")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("a.png")
    change_about(folder, {"classes": ["\x1b[31mred", "[bold]b", "c\x07\u202e"]})
    assert call("predict", "--model", "m", "--image", "a.png") == 0
    shown = capsys.readouterr().out
    assert all(character.isprintable() for character in shown if character != "\n")
    assert "\\x1b[31mred" in shown
    assert "[bold]b" in shown
    change_about(folder, {"media": {"\x1b[2J": 1}})
    assert call("predict", "--model", "m", "--image", "a.png") == 1
    assert "\x1b" not in capsys.readouterr().err


def test_the_predictions_of_a_table_are_csv_or_json_lines_by_the_name_of_the_file(place):
    table = ["predict", "--model", "model", "--manifest", "table.csv"]
    for name in ("p.parquet", "p.csv", "p.jsonl"):
        assert call(*table, "--out", name) == 0
    expected = pq.read_table("p.parquet").to_pylist()
    with Path("p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = ["class 0", "class 1", "class 2"]
    names = [f"probabilities: {name}" for name in classes]
    assert list(rows[0]) == ["key", "label", "probability", *names, "present", "reason"]
    lines = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    for row, line, wanted in zip(rows, lines, expected, strict=True):
        for name in ("key", "label", "present", "reason"):
            assert (row[name] or None) == wanted[name] == line.get(name)
        if wanted["label"] is not None:
            cells = [float(row[name]) for name in names]
            assert cells == pytest.approx(wanted["probabilities"])


def test_a_table_has_the_columns_and_the_key_of_the_settings(place):
    options = "{columns: {image: photo, audio: sound}, key: id, label: x}"
    Path("params.yaml").write_text(
        f"dataset: manifest\nmodalities: [audio, image]\npreprocess:\n  options: {options}\n"
    )
    save_model(Path("models/manifest/ensemble"))
    Path("t.csv").write_text("id,photo,sound\nfrog,x.png,\ntoad,x.png,x.wav\n")
    assert call("predict", "--manifest", "t.csv", "--out", "p.parquet") == 0
    rows = pq.read_table("p.parquet").to_pylist()
    assert [(row["key"], row["present"]) for row in rows] == [
        ("frog", "image"),
        ("toad", "audio+image"),
    ]
    columns = ("--columns", "image=photo", "--columns", "key=photo")
    assert call("predict", "--manifest", "t.csv", "--out", "p.parquet", *columns) == 0
    keys = [row["key"] for row in pq.read_table("p.parquet").to_pylist()]
    assert keys == ["x.png", "x.png"]


def test_a_column_has_the_sampling_rates_of_a_series(tmp_path):
    (tmp_path / "t.csv").write_text("accel,hz\na.npy,50\nb.npy,\nc.npy,-1\n")
    samples = open_table(
        tmp_path / "t.csv", ["accel=accel", "accel.rate=hz"], False, {"accel": "series"}
    )
    first, second, third = (sample["accel"] for sample in samples)
    assert first == Series(tmp_path / "a.npy", 50.0)
    assert second == Series(tmp_path / "b.npy", None)
    assert third == Unreadable("sampling rate unreadable")


def test_the_labels_that_are_the_answer_are_marked(capsys):
    prediction = Prediction(("b", "c"), (0.9, 0.6), {"a": 0.4, "b": 0.9, "c": 0.6}, ("text",))
    Console(file=sys.stdout, width=60).print(predict.make_class_table(prediction, 3))
    lines = capsys.readouterr().out.splitlines()
    answers = {line.split()[1]: "yes" in line for line in lines if "%" in line}
    assert answers == {"b": True, "c": True, "a": False}
