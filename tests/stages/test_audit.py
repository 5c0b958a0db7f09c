"""The report of anybody's model, from a table of its answers or from a function."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from toys import reports
from toys.audits import ALONE, RIGHT, export, make_rows, write_rows
from toys.project import ROOT

import umemma
from umemma import cli
from umemma.errors import UserError
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import summarize
from umemma.stages import audit

SETS = ("evaluate.draws=1", "evaluate.bootstrap=20", "evaluate.ratios=[0, 0.5, 1]")
FILES = {
    "confusion.csv",
    "grid.parquet",
    "information.csv",
    "information.json",
    "metrics.json",
    "per_class.csv",
    "predictions.parquet",
    "report.html",
    "report.md",
    "robustness.csv",
    "robustness.png",
}


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """The folder of an audit of `RIGHT`. No test changes it."""
    folder = tmp_path_factory.mktemp("audit")
    table = write_rows(folder / "toads.parquet", make_rows())
    audit.run(table, folder / "out", SETS)
    return folder / "out"


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_report(folder: Path, name: str, content: str) -> None:
    """Write a file of an earlier report."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content)


def test_the_numbers_by_hand(first):
    assert {path.name for path in first.iterdir()} == FILES
    numbers = read_json(first / "metrics.json")
    assert numbers["accuracy"] == {"audio+image": 0.75, "audio": 0.25, "image": 0.5}
    assert numbers["worst_case"]["value"] == 0.25  # only a is right under every subset
    assert numbers["hurts_most"] == "audio"
    assert numbers["source"] == "toads.parquet"
    assert numbers["samples"] == 4
    nats = -(3 * np.log(0.75) + np.log(0.25)) / 4
    assert numbers["log_loss"]["audio+image"] == pytest.approx(nats, abs=1e-6)
    rows = pq.read_table(first / "grid.parquet").to_pylist()
    found = {}
    for row in rows:
        if row["metric"] == "accuracy" and row["draw"] < 0 and row["model"] == "ensemble":
            found[row["missing"], row["ratio"]] = row["value"]
    assert found["image", 0.5] == pytest.approx((0.75 + 0.25) / 2)
    assert found["audio|image", 1.0] == pytest.approx((0.25 + 0.5) / 2)


def test_what_is_not_there_is_left_out_and_said(first):
    numbers = read_json(first / "metrics.json")
    for name in ("unimodal", "average", "prior", "gaps", "gap_to_ceiling"):
        assert numbers[name] == {}
    models = set(pq.read_table(first / "grid.parquet")["model"].to_pylist())
    assert models == {"ensemble"}
    rows = read_csv(first / "robustness.csv")
    assert {row["ceiling"] for row in rows} == {row["average"] for row in rows} == {"nan"}
    for name in ("report.md", "report.html"):
        text = (first / name).read_text()
        assert "There are no uni-modal models" in text
        for word in (
            "params.yaml",
            "finetune",
            "temperature",
            "one training",
            "fine-tuning",
            "uni-modal alone",
        ):
            assert word not in text, f"{name}: {word}"
    assert "umemma audit toads.parquet --out out --set evaluate.draws=1" in text


def test_uni_modal_models_in_the_table_give_the_gaps(tmp_path):
    table = write_rows(tmp_path / "t.parquet", make_rows(RIGHT | ALONE))
    write_report(tmp_path / "out", "metrics.json", '{"source": "t.parquet"}')
    write_report(tmp_path / "out", "differences.csv", "those of an earlier audit with --against")
    audit.run(table, tmp_path / "out", SETS)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    numbers = read_json(tmp_path / "out/metrics.json")
    assert numbers["unimodal"] == {"audio": 0.5, "image": 0.25}
    assert numbers["gap_to_ceiling"] == {"audio": -0.25, "image": 0.25}
    assert numbers["gaps"]["audio+image"]["value"] == 0.25
    text = (tmp_path / "out/report.md").read_text()
    assert "There are no uni-modal models" not in text
    assert "best uni-modal model: **50.0 %**" in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_our_own_predictions_give_the_numbers_of_the_evaluation(tmp_path, kind):
    names = ["audio", "image"]
    if kind == "classes":
        predictions = reports.noisy_predictions(names, 3, 60)
    else:
        predictions = reports.noisy_labels(names, 3, 60)  # of which a third lacks image
    expected = summarize(reports.evaluate(predictions))
    table = export(predictions, tmp_path / "own.parquet")
    sets = ("evaluate.draws=2", "evaluate.bootstrap=50", "evaluate.ratios=[0, 0.5, 1]")
    audit.run(table, tmp_path / "out", sets)
    numbers = read_json(tmp_path / "out/metrics.json")
    for name, value in json.loads(json.dumps(expected)).items():
        assert numbers[name] == value, name
    kept = Predictions.load(tmp_path / "out/predictions.parquet", "audit of own.parquet")
    np.testing.assert_array_equal(kept.ensemble["image"], predictions.ensemble["image"])


def test_a_second_table_is_tested_by_samples_and_groups(tmp_path):
    """Of four samples ours is right on one more with both. By hand, with the groups ab and cd: the
    difference is 1/4, the sums of what groups add beyond it are 1/8 and -1/8."""
    better = RIGHT | {"audio+image": "yyyy"}
    tables = []
    for name, right in (("ours", better), ("theirs", RIGHT)):
        tables.append(write_rows(tmp_path / f"{name}.parquet", make_rows(right)))
    done = audit.run(tables[0], tmp_path / "out", SETS, against=tables[1])
    rows = read_csv(tmp_path / "out/differences.csv")
    by_column = {row["column"]: row for row in rows}
    assert list(by_column) == ["audio+image", "audio", "image", "lesser average", "worst case"]
    pair = by_column["audio+image"]
    assert float(pair["difference"]) == 0.25
    # Two groups: V = (2 / 64) / (1 - 1/2) = 1/16.
    assert float(pair["error"]) == pytest.approx(0.25)
    assert float(pair["p"]) == pytest.approx(0.5)  # t = 1 with one degree of freedom
    assert float(pair["p_holm"]) == 1.0
    assert float(by_column["audio"]["difference"]) == 0.0
    assert "Against theirs.parquet" in (tmp_path / "out/report.md").read_text()
    assert audit.as_json(done)["differences"][0]["p"] == pytest.approx(0.5)


def test_a_mistake_leaves_the_last_report_as_it_was(tmp_path):
    table = write_rows(tmp_path / "t.parquet", make_rows())
    before = '{"source": "t.parquet"}'
    write_report(tmp_path / "out", "metrics.json", before)
    other = write_rows(tmp_path / "o.parquet", make_rows()[4:])
    with pytest.raises(UserError, match="'a' has no row of audio"):
        audit.run(table, tmp_path / "out", SETS, against=other)
    write_rows(table, make_rows()[:-1])
    with pytest.raises(UserError, match="no row of image"):
        audit.run(table, tmp_path / "out", SETS)
    with pytest.raises(UserError, match="no row of image"):
        audit.run(table, tmp_path / "new", SETS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.json"]
    assert (tmp_path / "out/metrics.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.parquet", "out", "t.parquet"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", '{"dataset": "digits"}', "the report of something else, not of t.parquet"),
        ("metrics.json", '{"source": "x.csv"}', "the report of x.csv, not of t.parquet"),
        ("compare.md", "# a comparison", "the report of something else"),
    ],
)
def test_the_report_of_another_thing_is_kept(tmp_path, name, content, message):
    table = write_rows(tmp_path / "t.parquet", make_rows())
    write_report(tmp_path / "out", name, content)
    with pytest.raises(UserError, match=message):
        audit.run(table, tmp_path / "out", SETS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    with pytest.raises(UserError, match="is no folder"):
        audit.run(table, table, SETS)


def test_only_settings_that_an_audit_reads_are_taken(tmp_path):
    table = write_rows(tmp_path / "t.parquet", make_rows())
    with pytest.raises(UserError, match=r"an audit has no setting 'evaluate.split'"):
        audit.run(table, tmp_path / "out", ["evaluate.split=val"])
    with pytest.raises(UserError, match="unknown metric 'accurracy'"):
        audit.run(table, tmp_path / "out", ["evaluate.metrics=[accurracy]"])


def test_the_command_imports_no_torch(tmp_path):
    write_rows(tmp_path / "t.parquet", make_rows())
    write_rows(tmp_path / "o.parquet", make_rows(dict.fromkeys(RIGHT, "ynyn")))
    code = (
        "import sys\nfrom umemma import cli\n"
        "try:\n    cli.main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    words = ["audit", "t.parquet", "--against", "o.parquet"]
    for setting in SETS:
        words += ["--set", setting]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "COLUMNS": "80"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "t.parquet minus o.parquet: accuracy, points" in " ".join(done.stdout.split())
    assert "page: results/audit/t/report.html" in done.stdout
    assert {*FILES, "differences.csv"} == {
        path.name for path in (tmp_path / "results/audit/t").iterdir()
    }


def test_the_options_of_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = []
    for row in make_rows():
        logits = [row.pop("probability_frog"), row.pop("probability_toad")]
        rows.append({**row, "logits": logits})
    write_rows(tmp_path / "t.parquet", rows)
    words = ["audit", "t.parquet", "--out", "o", "--modalities", "audio,image", "--json"]
    words += ["--classes", "frog, toad", "--set", "evaluate.metrics=[f1_macro, accuracy]"]
    for setting in SETS:
        words += ["--set", setting]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers == read_json(tmp_path / "o/metrics.json")
    assert numbers["metric"] == "f1_macro"
    assert "log_loss" not in numbers


# Worked examples: two ways to fill what is missing, for a scikit-learn model. ---------------------


@pytest.fixture(scope="module")
def halves():
    """A model of digits whose two modalities are the halves of a picture; its test samples."""
    x, y = load_digits(return_X_y=True)
    x = x / 16
    model = LogisticRegression(max_iter=500).fit(x[:300], y[:300])
    means = {"bottom": x[:300, 32:].mean(0), "top": x[:300, :32].mean(0)}
    return model, means, {"bottom": x[300:500, 32:], "top": x[300:500, :32]}, y[300:500]


def test_a_model_that_fills_with_means(tmp_path, halves):
    model, means, inputs, target = halves

    def fill_with_means(batch, present):
        size = len(batch[present[0]])
        blocks = [batch.get(m, np.tile(means[m], (size, 1))) for m in ("top", "bottom")]
        return model.predict_proba(np.hstack(blocks))

    numbers = umemma.audit(fill_with_means, inputs, target, tmp_path / "out")
    assert numbers == read_json(tmp_path / "out/metrics.json")
    assert numbers["source"] == "fill_with_means()"
    whole = np.hstack([inputs["top"], inputs["bottom"]])
    assert numbers["accuracy"]["bottom+top"] == pytest.approx(model.score(whole, target))
    filled = np.hstack([inputs["top"], np.tile(means["bottom"], (200, 1))])
    assert numbers["accuracy"]["top"] == pytest.approx(model.score(filled, target))


def test_a_model_that_fills_with_the_next_row(tmp_path, halves):
    """It answers about the next picture as much as about its own, and the test says so."""
    model, means, inputs, target = halves
    fills = {
        "means": {m: np.tile(mean, (200, 1)) for m, mean in means.items()},
        "next-row": {m: np.roll(block, -1, 0) for m, block in inputs.items()},
    }
    for name, fill in fills.items():
        rows = []
        for subset in ("bottom+top", "bottom", "top"):
            blocks = [inputs[m] if m in subset else fill[m] for m in ("top", "bottom")]
            for key, row in enumerate(model.predict_proba(np.hstack(blocks)).tolist()):
                answer = {"key": key, "subset": subset, "target": int(target[key])}
                rows.append({**answer, "probabilities": row})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    done = audit.run(
        tmp_path / "means.parquet",
        tmp_path / "out",
        SETS,
        against=tmp_path / "next-row.parquet",
    )
    by_column = {test.column: test for test in done.differences}
    assert by_column["bottom+top"].difference == 0.0
    assert by_column["lesser average"].difference > 0.05
    assert by_column["lesser average"].p_holm < 0.05
