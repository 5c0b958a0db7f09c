"""Every file that a stage hands on, cut and flipped: none is taken for what was written."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from toys.project import quick

import umemma
from umemma.errors import UserError
from umemma.evaluation.predictions import Predictions, read_made_by
from umemma.stages import evaluate, finetune
from umemma.stages.inspection import verify
from umemma.training.run_folder import Run, TrainingState

pytestmark = [pytest.mark.drill, pytest.mark.slow]

FAULTS = 50  # truncations, and as many flips, of each kind of file
SHARDS = "data/shards/digits"
ENSEMBLE = "models/digits/ensemble"
RUN = "runs/digits/drill"


class Kind(NamedTuple):
    """A kind of file. check: reads it as a stage does, and returns whether it is taken for good."""

    pattern: str
    check: Callable[[Path], bool]


def _is_verified(path: Path) -> bool:
    verify.run(quick())
    return True


def _is_loaded(path: Path) -> bool:
    umemma.load(ENSEMBLE)
    return True


def _is_opened(path: Path) -> bool:
    """Whether other predictions are read: a statistic in the footer that nobody uses is none."""
    found = Predictions.load(path, read_made_by(path) or "")
    if found is None:
        return False
    kept = Predictions.load(path.with_name("kept"), read_made_by(path.with_name("kept")) or "")
    return repr(_list_contents(found)) != repr(_list_contents(kept))


def _list_contents(predictions: Predictions) -> dict[str, Any]:
    return {
        name: {key: table.tobytes() for key, table in value.items()}
        if name in ("ensemble", "unimodal")
        else value
        for name, value in vars(predictions).items()
    }


def _is_resumed(path: Path) -> bool:
    """Whether training would go on from this checkpoint, and not from the one before it."""
    shutil.copy(path.with_name("kept"), path.with_name("step-000000001.safetensors"))
    checkpoint = Run(path.parent, "inputs").load_latest_checkpoint()
    assert checkpoint is not None
    return checkpoint.state.step == 2


KINDS = {
    "shard": Kind(f"{SHARDS}/*.tar", _is_verified),
    "rows of a shard": Kind(f"{SHARDS}/*.parquet", _is_verified),
    "marker of a shard": Kind(f"{SHARDS}/*-*.json", _is_verified),
    "index.json": Kind(f"{SHARDS}/index.json", _is_verified),
    "weights": Kind(f"{ENSEMBLE}/model.safetensors", _is_loaded),
    "model.json": Kind(f"{ENSEMBLE}/model.json", _is_loaded),
    "checkpoint": Kind(f"{RUN}/step-000000002.safetensors", _is_resumed),
    "predictions.parquet": Kind("results/digits/predictions.parquet", _is_opened),
}


@pytest.fixture(scope="module")
def finished(trained, tmp_path_factory) -> Path:
    """A project after its evaluation, with two checkpoints."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(trained, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finetune.run(quick())
        evaluate.run(quick())
        run = Run(Path(RUN), "inputs")
        for step in (1, 2):
            tensors = {"weight": torch.randn(40, generator=torch.Generator().manual_seed(step))}
            run.save_checkpoint(tensors, TrainingState(step=step))
        shutil.copy(f"{RUN}/step-000000001.safetensors", f"{RUN}/kept")
        shutil.copy("results/digits/predictions.parquet", "results/digits/kept")
    return folder


def damage(data: bytes, chance: random.Random, how: str) -> bytes:
    place = chance.randrange(len(data))
    if how == "cut":
        return data[:place]
    flipped = data[place] ^ 1 << chance.randrange(8)
    return data[:place] + bytes([flipped]) + data[place + 1 :]


def damage_each(pattern: str, how: str) -> Iterator[Path]:
    """Damage a file of the pattern FAULTS times, and put it right after each."""
    chance = random.Random(f"{pattern} {how}")
    paths = sorted(Path().glob(pattern))
    for _ in range(FAULTS):
        path = chance.choice(paths)
        data = path.read_bytes()
        path.write_bytes(damage(data, chance, how))
        yield path
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "flip"])
@pytest.mark.parametrize("name", KINDS)
def test_no_damage_is_taken_for_good(finished, monkeypatch, name, how, count):
    monkeypatch.chdir(finished)
    kind = KINDS[name]
    found = 0
    for path in damage_each(kind.pattern, how):
        try:
            found += not kind.check(path)
        except UserError:
            found += 1
    count(f"{how}: {name}", FAULTS, FAULTS - found)
    assert found == FAULTS
