"""umemma evaluate-corrupted through the whole product, on a table of patients."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from toys.numeric import SETTINGS, write_patients

from umemma import cli, config
from umemma.data import shard_reader
from umemma.data.loader import LoadedSplit, LoadOptions, cut_batches, load_split
from umemma.modalities.corruption import Corruption
from umemma.models import factory
from umemma.stages import corrupt, download, evaluate, finetune, preprocess, pretrain
from umemma.system.storage import Store

pytestmark = pytest.mark.slow

RESULTS = Path("results/manifest")
FROZEN = "scan: {name: mlp:small, tune: frozen}"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A project folder in which everything is trained and evaluated."""
    folder = tmp_path_factory.mktemp("corrupted")
    write_patients(folder / "data" / "raw" / "manifest", count=160)
    settings = SETTINGS.replace('scan: "mlp:small"', FROZEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("params.yaml").write_text(settings)
        params = config.load_params()
        download.run("manifest", params.preprocess.options, "", params.modalities)
        preprocess.run(params, workers=1)
        for m in params.modalities:
            pretrain.run(params, m)
        finetune.run(params)
        evaluate.run(params)
    return folder


@pytest.fixture
def place(evaluated, monkeypatch) -> Path:
    """That folder, without corruption, as the current directory."""
    monkeypatch.chdir(evaluated)
    shutil.rmtree(RESULTS / "corruption", ignore_errors=True)
    return evaluated


def hash_files(folder: Path) -> dict[str, str]:
    """Return {path: hash} of all files but the logs."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".log":
            name = str(path.relative_to(folder))
            hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["evaluate-corrupted", *arguments])
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def load_test(params: config.Params, stay: contextlib.ExitStack) -> LoadedSplit:
    store = Store(params.paths.shards)
    index = shard_reader.read_index(store)
    specs = factory.input_specs({m: params.encoder(m) for m in params.modalities}, index.inputs)
    options = LoadOptions(once=list(specs), workers=0)
    return load_split(store, index, "test", specs, stay, options)


def test_curves_start_at_the_numbers_of_an_evaluation_and_change_nothing_else(place, capsys):
    before = hash_files(place)
    status, out, _ = run(capsys, "--json")
    assert status == 0
    after = hash_files(place)
    new = {f"results/manifest/corruption/corruption.{end}" for end in ("csv", "json", "png")}
    assert after.keys() - before.keys() == new
    assert {name: after[name] for name in before} == before

    answer = json.loads(out)
    assert answer == json.loads((RESULTS / "corruption" / "corruption.json").read_text())
    with (RESULTS / "corruption" / "corruption.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(answer["results"])
    scores = {}
    for row in answer["results"]:
        name = (row["modality"], row["corruption"], row["severity"], row["model"])
        scores[name] = row
    pairs = {name[:2] for name in scores}
    assert pairs == {
        ("scan", "noise"),
        ("scan", "drop"),
        ("wrist", "noise"),
        ("wrist", "burst"),
        ("chart", "drop"),
    }
    assert len(scores) == len(pairs) * 7 * 2
    assert answer["levels"]["wrist"]["burst"]["4"] == "50%"

    # The wrist is always there, so nothing is refused where another modality is taken away.
    evaluation = {}
    for row in pq.read_table(RESULTS / "grid.parquet").to_pylist():
        if row["metric"] == "accuracy" and row["ratio"] in (0, 1) and row["draw"] == -1:
            evaluation[row["model"], row["left"]] = row
    for severity, left in (("0", "chart+scan+wrist"), ("absent", "chart+wrist")):
        for model in ("ensemble", "average"):
            for name in ("value", "low", "high", "n"):
                ours = scores["scan", "noise", severity, model]
                assert ours[name] == evaluation[model, left][name]
    strongest = scores["wrist", "noise", "5", "ensemble"]
    assert (
        strongest["difference"]
        == strongest["value"] - scores["wrist", "noise", "0", "ensemble"]["value"]
    )


def test_intact_predictions_are_those_of_an_evaluation_to_the_bit(place, monkeypatch):
    from umemma.evaluation.predictions import Predictions, read_made_by

    kept_file = RESULTS / "predictions.parquet"
    kept = Predictions.load(kept_file, read_made_by(kept_file))
    seen = []
    score = corrupt.score_severities

    def note(intact, *rest):
        seen.append(intact)
        return score(intact, *rest)

    monkeypatch.setattr(corrupt, "score_severities", note)
    corrupt.run(config.load_params(), ["wrist"], ["burst"], [1])
    (intact,) = seen
    assert intact.keys == kept.keys
    assert [*intact.ensemble] == ["chart+scan+wrist", "scan+wrist", "chart+wrist", "chart+scan"]
    for subset, logits in intact.ensemble.items():
        np.testing.assert_array_equal(logits, kept.ensemble[subset])
    for m, logits in intact.unimodal.items():
        np.testing.assert_array_equal(logits, kept.unimodal[m])


def test_a_sample_is_corrupted_alike_in_any_batch_and_order(place):
    params = config.load_params()
    device = torch.device("cpu")
    with contextlib.ExitStack() as stay:
        split = load_test(params, stay)
        alone = split.select_modalities(["scan"])
        noisy = alone.corrupt(Corruption("scan", "noise", 5, 0))
        plan = cut_batches(range(len(split)), 16)
        whole = torch.cat([batch.inputs["scan"] for batch in noisy.batches(plan, device)])
        intact = torch.cat([batch.inputs["scan"] for batch in alone.batches(plan, device)])
        order = np.arange(len(split))[::-1].copy()
        one_by_one = [
            batch.inputs["scan"] for batch in noisy.batches(cut_batches(order, 1), device)
        ]
    assert torch.cat(one_by_one).flip(0).equal(whole)
    is_there = split.present[:, sorted(params.modalities).index("scan")]
    assert (whole != intact).any(1).equal(is_there)  # what is absent stays blank


def test_one_modality_kind_and_severity_cost_one_pass_each(place, monkeypatch):
    from umemma.encoders.numeric.series import SeriesTCN

    samples = []
    forward = SeriesTCN.forward

    def note_batch(self, x):
        samples.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(SeriesTCN, "forward", note_batch)
    outcome = corrupt.run(config.load_params(), ["wrist"], ["noise"], [2, 4])
    severities = [row.severity for row in outcome.scores if row.model == "ensemble"]
    assert severities == ["0", "2", "4", "absent"]
    # Blanks are one by one. Two models, whose encoders differ: intact once, corrupted twice.
    assert sum(size for size in samples if size > 1) == 2 * 3 * outcome.settings.samples


def test_a_table_fits_a_terminal(place, capsys):
    status, out, _ = run(capsys, "--modality", "chart", "--severity", "5")
    assert status == 0
    assert "chart: drop (share of the cells, empty)" in out
    assert "5: 70%" in out
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "fog"], "unknown corruption 'fog'"),
        (["--modality", "sound"], "unknown modality 'sound'"),
        (["--modality", "chart", "--kind", "noise"], "noise is no corruption of chart"),
        (["--severity", "6"], "6 is no severity"),
    ],
)
def test_a_wrong_choice_is_one_message(place, capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) <= 3
    assert not (RESULTS / "corruption").exists()
