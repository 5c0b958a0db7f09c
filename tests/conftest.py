"""Fixtures: a dataset that trains in seconds, and a project folder to run the stages in."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from loguru import logger
from safetensors.torch import save_file
from toys.models import save_model, write_media
from toys.project import ROOT, quick

from umemma.stages import download, preprocess, pretrain

# One thread for this process and for those that tests start, as several tests run at a time.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Mark the tests that wait for a training as slow."""
    for item in items:
        if "trained" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A project folder with shards and uni-modal models of the digits.

    All tests share it. A test that changes it copies it first.
    """
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = quick()
        download.run("digits", {})
        preprocess.run(params, workers=1)
        for modality in params.modalities:
            pretrain.run(params, modality)
    return folder


@pytest.fixture
def project(trained, tmp_path, monkeypatch) -> Path:
    """A copy of `trained` with params.yaml, which is the current directory."""
    folder = tmp_path / "project"
    shutil.copytree(trained, folder)
    shutil.copy(ROOT / "recipes" / "digits.yaml", folder / "params.yaml")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def messages():
    """The list of log messages of a test."""
    logged: list[str] = []
    number = logger.add(logged.append, format="{message}")
    yield logged
    logger.remove(number)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a model, media and a table; the current directory."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model")
    write_media(tmp_path)
    return tmp_path


@pytest.fixture
def bert(tmp_path) -> Path:
    """The folder of a tiny model, with the layout, the old names and the head of published ones."""
    import transformers

    folder = tmp_path / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 16}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    published = transformers.BertForMaskedLM(config).state_dict()
    names = {key: key.replace("LayerNorm.weight", "LayerNorm.gamma") for key in published}
    save_file(
        {names[key]: value.clone() for key, value in published.items()},
        folder / "model.safetensors",
    )
    return folder


def pytest_terminal_summary(terminalreporter):
    """Print what the drill has counted."""
    rows = []
    for report in itertools.chain(*terminalreporter.stats.values()):
        if getattr(report, "when", "") == "call":
            rows += [value for name, value in report.user_properties if name == "drill"]
    if rows:
        terminalreporter.section("drill")
        for fault, *counts in [("fault", "tried", "found", "lost"), *sorted(rows)]:
            cells = "".join(f"{count:>8}" for count in counts)
            terminalreporter.write_line(f"{fault:<40}{cells}")
