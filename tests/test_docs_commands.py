"""What the documents tell people to type is typed here, in a project with tiny trainings.

Every `umemma` command of the README and of the site has to parse. Every code block with commands or
Python runs, or has a comment with the reason why it does not, or with the test that runs it (see
documents.py). A command with --set or --preset runs in a copy of the project.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from ruamel.yaml import YAML
from toys import documents
from toys.documents import SHELL, Block
from toys.media import flac
from toys.project import ROOT, quick

from umemma import cli, config
from umemma.cli import app
from umemma.validation import validate

FILLED_IN = {"$SLURM_ARRAY_TASK_ID": "0", "$seed": "0"}
LAUNCHERS = ("torchrun", "srun", "python")
COMPARED = ("compare.presets=[ume, umt]", "compare.seeds=[0]")
SHRUNK = {  # what a document says: what is run here
    "range(900)": "range(90)",
    "epochs: 10": "epochs: 1",
    "epochs: 5": "epochs: 1",
    "finetune.epochs=20": "finetune.epochs=2",
}
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


def runnable(name: str) -> list[Block]:
    """Return the blocks that run here: commands and Python without a comment before them."""
    found = []
    for block in documents.blocks(name):
        if block.language in ("python", *SHELL) and not block.marker and not is_run_by_ci(block):
            found.append(block)
    return found


def is_run_by_ci(block: Block) -> bool:
    """Whether a block is one of the two commands of the README, which .ci/run runs."""
    script = (ROOT / ".ci" / "run").read_text()
    commands = block.commands()
    return len(commands) == 1 and f"\n{commands[0]} || exit 1\n" in script


def umemma_words(command: str) -> list[str]:
    """Return the words behind `umemma`, also behind a launcher; [] for another command."""
    for variable, value in FILLED_IN.items():
        command = command.replace(variable, value)
    words = shlex.split(command)
    if "umemma" not in words:
        return []
    before = words[: words.index("umemma")]
    if before and before[0] not in LAUNCHERS and "=" not in before[0]:
        return []
    return words[words.index("umemma") + 1 :]


@pytest.mark.parametrize("name", documents.guides())
def test_every_umemma_command_parses(name):
    group = typer.main.get_command(app)
    for block in documents.blocks(name):
        if block.language in SHELL:
            for command in block.commands():
                words = umemma_words(command)
                if words and not words[0].startswith("-"):
                    group.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("name", documents.guides())
def test_every_block_runs_or_says_why_not(name):
    for block in documents.blocks(name):
        where = f"{name}:{block.line}"
        if block.marker == "run by":
            assert f"def {block.reason}(" in TESTS, f"{where}: no test is called {block.reason}"
        if block.marker == "not run":
            assert len(block.reason.split()) > 1, f"{where}: a reason has more than one word"
    for block in runnable(name):
        if block.language in SHELL:
            for command in block.commands():
                assert umemma_words(command), f"{name}:{block.line}: not umemma: {command}"


@pytest.mark.parametrize("name", documents.guides())
def test_every_piece_of_settings_is_valid(name):
    known = {"dataset": "manifest", "modalities": ["image"]}
    for block in documents.blocks(name):
        if block.language == "yaml" and not block.marker:
            data = YAML(typ="safe", pure=True).load(block.text)
            validate(config.Params, {**known, **data}, f"{name}:{block.line}")


@pytest.fixture(scope="module")
def scratch(trained, tmp_path_factory) -> Path:
    """A trained and evaluated project, with files to predict from."""
    folder = tmp_path_factory.mktemp("documents") / "project"
    shutil.copytree(trained, folder)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    YAML().dump(quick(*COMPARED).model_dump(mode="json"), folder / "params.yaml")
    write_samples(folder)
    with contextlib.chdir(folder):
        assert exit_status(["finetune-ensemble"]) == 0
        assert exit_status(["evaluate"]) == 0
    return folder


def write_samples(folder: Path) -> None:
    """Write seven.png, x.png, seven.flac and a table that names them."""
    images = pq.read_table(folder / "data/raw/digits/images.parquet").to_pydict()
    pixels = images["pixels"][images["label"].index(7)]
    picture = Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(8, 8) * 15)
    for name in ("seven.png", "x.png"):
        picture.resize((32, 32)).save(folder / name)
    noise = np.random.default_rng(0).normal(0, 0.1, 6400).astype(np.float32)
    (folder / "seven.flac").write_bytes(flac(noise))
    rows = ["key,image,audio", "a,seven.png,seven.flac", "b,seven.png,", "c,,seven.flac"]
    (folder / "table.csv").write_text("\n".join(rows) + "\n")


def exit_status(words: list[str]) -> int:
    """Run an umemma command in this process."""
    try:
        cli.main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def already_run() -> set[str]:
    """The commands that an earlier test ran in the same project."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in documents.guides() if runnable(name)])
def test_every_command_and_example_runs(name, scratch, already_run, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(scratch)
    monkeypatch.syspath_prepend(str(scratch))
    write_settings(name, scratch)
    names: dict[str, object] = {"__name__": "example"}
    for block in runnable(name):
        where = f"{name}:{block.line}"
        if block.language == "python":
            text = shrink(block.text)
            write_module(scratch, text)
            exec(compile(text, where, "exec"), names)
            continue
        for command in block.commands():
            words = umemma_words(shrink(command))
            folder = scratch
            if command in already_run and "my.yaml" not in words:
                continue
            already_run.add(command)
            if "--set" in words or "--preset" in words:
                folder = tmp_path / f"copy-{block.line}"
                shutil.copytree(scratch, folder, dirs_exist_ok=True)
            with contextlib.chdir(folder):
                status = exit_status(words)
            assert status == 0, f"{where}: {command}\n{capsys.readouterr()}"


def shrink(text: str) -> str:
    for written, run in SHRUNK.items():
        text = text.replace(written, run)
    return text


def write_module(folder: Path, text: str) -> None:
    """Write an example that begins with `# name.py` to that file, for later examples to import."""
    file = re.match(r"# (\w+\.py)\n", text)
    if file:
        (folder / file[1]).write_text(text)


def write_settings(name: str, folder: Path) -> None:
    """Write the first complete settings file of a document to my.yaml."""
    for block in documents.blocks(name):
        if block.language == "yaml" and re.search(r"^dataset:", block.text, re.MULTILINE):
            (folder / "my.yaml").write_text(shrink(block.text))
            return
