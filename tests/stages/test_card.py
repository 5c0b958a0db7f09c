"""The model card: its numbers are those of metrics.json, and Hugging Face's library reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from toys.models import call, save_model
from toys.reports import four_toads, make_settings, write

from umemma.models import saved_model
from umemma.system.files import write_json

FINETUNE = {name: getattr(make_settings(), name) for name in ("preset", "init", "mma", "train")}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """The results of four toads."""
    folder = tmp_path_factory.mktemp("results")
    write(folder, four_toads())
    return folder


@pytest.fixture
def evaluated(results, tmp_path, monkeypatch) -> Path:
    """A folder with a model and the results of four toads; the current directory."""
    monkeypatch.chdir(tmp_path)
    save_model(Path("model"))
    change_settings(finetune=FINETUNE, seed=make_settings().seed)
    shutil.copytree(results, "results")
    return tmp_path


def change_settings(**changes) -> None:
    path = Path("model/model.json")
    info = saved_model.ModelInfo.model_validate(
        {key: value for key, value in json.loads(path.read_text()).items() if key != "content_hash"}
    )
    settings = info.settings
    for name, value in changes.items():
        if isinstance(value, dict):
            value = settings[name] | value
        settings[name] = value
    write_json(path, info.model_copy(update={"settings": settings}).as_json())


def test_its_numbers_are_those_of_the_results(evaluated):
    words = ("--results", "results", "--repo", "me/toads", "--license", "mit")
    assert call("card", "model", *words) == 0
    card = ModelCard.load("card/README.md")
    metrics = json.loads(Path("results/metrics.json").read_text())
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    values = metrics["accuracy"]
    assert found == {f"accuracy with {left}": value for left, value in values.items()}
    assert len(found) == 3
    assert (card.data.license, card.data.library_name) == ("mit", "umemma")
    assert card.data.model_name == "toads"
    # The table for people: accuracy, ceiling and gap, in percent.
    rows = {}
    for line in card.text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in values and len(cells) == 5:
            rows[cells[0]] = cells
    for left, value in values.items():
        gap = metrics["gaps"][left]["value"]
        ceiling = max(metrics["unimodal"][m] for m in left.split("+"))
        assert rows[left][1] == f"{100 * value:.1f} %"
        assert rows[left][2] == f"{100 * ceiling:.1f} %"
        assert rows[left][3] == f"{100 * gap:+.1f} %".replace("+0.0", "0.0")
    worst = 100 * metrics["worst_case"]["value"]
    assert f"Worst case, each sample under the subset that hurts it: {worst:.1f} %." in card.text
    for modality, part in metrics["contributions"].items():
        assert f"| {modality} | {part['value']:.3f} |" in card.text
    assert 'umemma.load("hf://me/toads")' in card.text
    assert f"preset: {FINETUNE['preset']}" in card.text
    assert sorted(path.name for path in Path("model").iterdir()) == [
        "metrics.csv",
        "model.json",
        "model.safetensors",
    ]


def test_results_of_another_model_are_refused(evaluated, capsys):
    change_settings(seed=7)
    assert call("card", "model", "--results", "results") == 1
    assert "no results of this model" in capsys.readouterr().err
    assert call("card", "model", "--results", "nowhere") == 1
    assert "umemma evaluate-missing" in capsys.readouterr().err
    assert not Path("card").exists()


def test_a_card_without_contributions_and_gaps_is_written_too(evaluated):
    metrics = json.loads(Path("results/metrics.json").read_text())
    for name in ("contributions", "gaps"):
        del metrics[name]
    metrics["accuracy"]["image"] = None
    write_json(Path("results/metrics.json"), metrics)
    assert call("card", "model", "--results", "results", "--out", "README.md") == 0
    card = ModelCard.load("README.md")
    assert len(card.data.eval_results) == 2
    assert "What each modality adds" not in card.text
    assert "| image | – | – | – | – |" in card.text
    assert "hf://OWNER/NAME" in card.text


EVIL = "<img src=x>|`x`\x1b[2J"


def test_names_of_strangers_are_text(evaluated):
    change_settings(finetune={"preset": EVIL, "start": "```\n# x"})
    metrics = json.loads(Path("results/metrics.json").read_text())
    metrics |= {"preset": EVIL, "dataset": EVIL, "split": EVIL, "contributions": {EVIL: {}}}
    write_json(Path("results/metrics.json"), metrics)
    assert call("card", "model", "--results", "results") == 0
    _, front, text = Path("card/README.md").read_text().split("---\n", 2)
    assert "\x1b" not in front + text
    body, settings = text.split("````yaml\n")
    assert "<img" not in body.replace(r"\<img", "")
    assert settings.count("````") == 1


@pytest.mark.parametrize(
    "change",
    [
        {"metric": ["accuracy"]},
        {"accuracy": {}},
        {"accuracy": {"audio+image": "high", "audio": 0, "image": 0}},
        {"gaps": {"audio": {"value": [1]}}},
        {"contributions": [1]},
        {"worst_case": None},
        {"samples": EVIL},
    ],
)
def test_numbers_that_are_none_are_refused(evaluated, capsys, change):
    metrics = json.loads(Path("results/metrics.json").read_text())
    write_json(Path("results/metrics.json"), metrics | change)
    assert call("card", "model", "--results", "results") == 1
    said = capsys.readouterr().err
    assert "damaged: " in said
    assert "\x1b" not in said
    assert not Path("card").exists()
