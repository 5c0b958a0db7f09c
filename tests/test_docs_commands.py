"""What the documents tell people to type is typed here, in a project with tiny trainings.

Every `umemma` command of the README and of the site has to parse. Every code block with commands or Python runs, or
carries a comment with the reason why it does not, or with the test that runs it (see documents.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import documents
import numpy as np
import pytest
import pyarrow.parquet as pq
import typer
from conftest import QUICK, ROOT, flac
from documents import Block
from PIL import Image
from ruamel.yaml import YAML

from umemma import cli, config
from umemma.checks import checked
from umemma.cli import app

FILLED_IN = {"$SLURM_ARRAY_TASK_ID": "0", "$SLURM_ARRAY_TASK_COUNT": "1"}
COMPARED = {"presets": ["late-fusion", "umt", "ume-mma"], "seeds": [0]}
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


def shell_blocks(name: str) -> list[Block]:
    return [block for block in documents.blocks(name) if block.language in documents.SHELL]


def runnable(name: str) -> list[Block]:
    """The blocks that run here: commands and Python without a marker."""
    languages = ("python", *documents.SHELL)
    return [
        block
        for block in documents.blocks(name)
        if block.language in languages and not block.marker
    ]


def umemma_words(command: str) -> list[str]:
    """The words behind `umemma`, also behind a launcher or settings of the environment; [] for another command."""
    for variable, value in FILLED_IN.items():
        command = command.replace(variable, value)
    words = shlex.split(re.split(r"\s(?:&&|\||>)\s", command)[0])
    if "umemma" not in words:
        return []
    launcher = words[: words.index("umemma")]
    allowed = ("torchrun", "srun", "python")
    if launcher and launcher[0] not in allowed and not all("=" in word for word in launcher):
        return []
    return words[words.index("umemma") + 1 :]


@pytest.mark.parametrize("name", documents.guides())
def test_every_umemma_command_parses(name):
    group = typer.main.get_command(app)
    for block in shell_blocks(name):
        for command in block.commands():
            words = umemma_words(command)
            if words and not words[0].startswith("-"):
                context = group.commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]
                assert context.params, command


@pytest.mark.parametrize("name", documents.guides())
def test_every_block_runs_or_says_why_not(name):
    for block in documents.blocks(name):
        where = f"{name}:{block.line}"
        if block.marker == "run by":
            assert f"def {block.reason}(" in TESTS, f"{where}: no test is called {block.reason}"
        elif block.marker == "not run":
            assert len(block.reason.split()) > 1, f"{where}: a reason has more than one word"
        elif block.language in documents.SHELL and not installs(block):
            for command in block.commands():
                assert umemma_words(command), f"{where}: only umemma runs here: {command}"


def installs(block: Block) -> bool:
    """Whether it is one of the two commands of the README, which .ci/run runs (test_readme.py)."""
    (command, *others) = block.commands()
    script = (ROOT / ".ci" / "run").read_text()
    return not others and f"\n{command} || exit 1\n" in script


@pytest.fixture(scope="module")
def scratch(trained, tmp_path_factory) -> Path:
    """A project after `dvc repro`, so to speak: trained and evaluated; with files to predict from and a table."""
    folder = tmp_path_factory.mktemp("documents") / "project"
    shutil.copytree(trained, folder)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    params = YAML().load(ROOT / "recipes" / "digits.yaml")
    for change in QUICK:
        path, value = change.split("=")
        *parents, last = path.split(".")
        node = params
        for parent in parents:
            node = node[parent]
        node[last] = int(value)
    params["compare"].update(COMPARED)
    YAML().dump(params, folder / "params.yaml")
    write_sample(folder)
    with contextlib.chdir(folder):
        assert returned(["finetune-ensemble"]) == 0
        assert returned(["evaluate"]) == 0
    return folder


def write_sample(folder: Path) -> None:
    """seven.png, seven.flac and a table that names them."""
    table = pq.read_table(folder / "data/raw/digits/images.parquet").to_pydict()
    number = table["label"].index(7)
    pixels = np.frombuffer(table["pixels"][number], np.uint8).reshape(8, 8) * 15
    Image.fromarray(pixels).resize((32, 32)).save(folder / "seven.png")
    noise = np.random.default_rng(0).normal(0, 0.1, 6400).astype(np.float32)
    (folder / "seven.flac").write_bytes(flac(noise))
    (folder / "table.csv").write_text(
        "key,image,audio\na,seven.png,seven.flac\nb,seven.png,\nc,,seven.flac\n"
    )


def returned(words: list[str]) -> int:
    """The exit status of an umemma command."""
    try:
        cli.main(words)
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in documents.guides() if runnable(name)])
def test_every_command_and_example_runs(name, scratch, monkeypatch, capsys):
    monkeypatch.chdir(scratch)
    monkeypatch.syspath_prepend(str(scratch))
    names: dict[str, object] = {"__name__": "__main__"}
    for block in runnable(name):
        where = f"{name}:{block.line}"
        if block.language == "python":
            save_module(scratch, block.text)
            exec(compile(block.text, where, "exec"), names)
            continue
        if installs(block):
            continue
        for command in block.commands():
            assert returned(umemma_words(command)) == 0, (
                f"{where}: {command}\n{capsys.readouterr()}"
            )


def save_module(folder: Path, text: str) -> None:
    """Write a block that begins with `# name.py` to that file, so that later blocks can import it."""
    file = re.match(r"# (\w+\.py)\n", text)
    if file:
        (folder / file[1]).write_text(text)


@pytest.mark.parametrize("name", documents.guides())
def test_every_piece_of_settings_is_valid(name):
    for block in documents.blocks(name):
        if block.language != "yaml" or block.marker:
            continue
        data = YAML(typ="safe", pure=True).load(block.text)
        assert set(data) <= set(config.Params.model_fields), f"{name}:{block.line}"
        checked(
            config.Params,
            {"dataset": "manifest", "modalities": ["image"], **data},
            f"{name}:{block.line}",
        )
