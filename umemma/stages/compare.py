"""compare: trains and evaluates every preset with every seed, each alike -> models/ and results/<dataset>/compare/.

Each training and each evaluation is a process of the stage's own command with the settings of its cell, which are written
to runs/<dataset>/compare/<train>/<seed>/<preset>/ and can be used with --params. So a cell is exactly what the commands
make, goes on from its own checkpoint, and its time and memory are those of a process. `compare_table` makes the table.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loguru import logger
from rich.table import Table

from umemma.config import Params
from umemma.data import shard_reader
from umemma.data.storage import Store
from umemma.errors import UserError, unknown_name
from umemma.evaluation import experiments
from umemma.evaluation.experiments import Experiment
from umemma.models import saved_model
from umemma.system import subprocesses
from umemma.system.files import new_folder, read_json, sha256, write_json
from umemma.system.subprocesses import Command, Ended, Job
from umemma.validation import fingerprint

COSTS = Path("compare") / "costs.csv"  # below runs/<dataset>: a line per process
HEADINGS = (
    "train",
    "seed",
    "what",
    "command",
    "status",
    "seconds",
    "cpu_seconds",
    "peak_gib",
    "settings",
)


def run(
    params: Params,
    jobs: int = 1,
    preset: str = "",
    seed: int | None = None,
    train: str = "",
    modality: str = "",
) -> None:
    """Make the cells, or those of one preset, seed and entry of compare.train; with a modality only its uni-modal models.

    What is done already stays. Where some fail the others are made, and UserError names the failed ones.
    """
    section, plan = params.compare, experiments.plan_experiments(params)
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    params.check_modalities(index.modalities)
    for name, kind, known in (
        (preset, "preset", section.presets),
        (train, "train", section.train),
        (modality, "modality", params.modalities),
        ("" if seed is None else str(seed), "seed", [str(s) for s in section.seeds]),
    ):
        if name and name not in known:
            raise unknown_name(kind, name, known, f"--{kind}")
    plan = [
        c
        for c in plan
        if preset in ("", c.preset) and train in ("", c.train) and seed in (None, c.seed)
    ]
    weights = _weights(params)
    todo = (
        plan if modality else [c for c in plan if not _done(params, c, index.fingerprint, weights)]
    )
    # 1. The uni-modal models of each seed, which its presets share.
    alone: dict[str, Job] = {}
    for cell in todo:
        own = experiments.experiment_params(params, cell)
        for m in [modality] if modality else sorted(params.modalities):
            if not _trained(
                own.paths.pretrain(m), own.unimodal_settings(m, index.fingerprint), weights
            ):
                alone.setdefault(
                    f"{m} alone, seed {cell.seed}, {cell.train}", _pretrain(params, cell, m)
                )
    failed = _all(alone, jobs)
    # 2. The cells whose uni-modal models are there.
    if not modality:
        lost = {name.partition(", ")[2] for name in failed}
        able = [c for c in todo if f"seed {c.seed}, {c.train}" not in lost]
        if kept := len(plan) - len(todo):
            logger.info(f"{kept} of {len(plan)} cells are done already.")
        failed |= _all({str(c): _cell(params, c, index.fingerprint, weights) for c in able}, jobs)
    if failed:
        lines = "\n".join(f"{name}: {error}" for name, error in failed.items())
        hint = "Mend the cause and run the same command: what is done stays."
        raise UserError(f"{len(failed)} failed\n{lines}", "compare", hint)


def _all(todo: Mapping[str, Job], jobs: int) -> dict[str, UserError]:
    """Those that failed. A line when one ends."""
    failed: dict[str, UserError] = {}
    ended = subprocesses.run(todo, jobs, _devices() if jobs > 1 and todo else ())
    for number, (name, error) in enumerate(ended, 1):
        if error:
            failed[name] = error
        logger.info(f"[{number}/{len(todo)}] {name}: {'failed' if error else 'done'}")
    return failed


def costs(params: Params) -> Table | None:
    """Of the processes that made these cells, stopped ones included: time per cell and the memory of the largest process.
    None where none of them ran here."""
    try:
        with (params.paths.runs / COSTS).open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except FileNotFoundError:
        return None
    plan = experiments.plan_experiments(params)
    these = set()
    for cell in plan:
        for rate in [None, *experiments.learning_rates(params, cell)]:
            these.add(_print(experiments.experiment_params(params, cell, rate)))
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in lines:
        if line["settings"] in these:
            rows.setdefault((line["what"].partition("/")[0], line["train"]), []).append(line)
    table = Table(
        title="what it took here: training with every learning rate, and evaluation",
        title_justify="left",
    )
    for heading in (
        "",
        "trained on",
        "seeds",
        "wall time per seed",
        "processor time per seed",
        "peak memory",
    ):
        table.add_column(
            heading, justify="right" if heading and heading != "trained on" else "left"
        )
    for (what, train), own in rows.items():
        seeds = len({line["seed"] for line in own})
        wall, cpu = (
            sum(float(line[n]) for line in own) / seeds for n in ("seconds", "cpu_seconds")
        )
        peak = max(float(line["peak_gib"]) for line in own)
        name = "uni-modal models, shared" if what == "pretrain" else what
        table.add_row(name, train, str(seeds), f"{wall:.0f} s", f"{cpu:.0f} s", f"{peak:.2f} GiB")
    return table if rows else None


def _devices() -> list[str]:
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return (
        given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    )


def _weights(params: Params) -> dict[str, str]:
    """{modality: checksum} of the files of pretrained weights that encoders start from."""
    from umemma.models import factory

    return {
        m: sha256(path)
        for m, path in factory.find_weights(
            {m: params.encoder(m) for m in params.modalities}
        ).items()
    }


def _done(params: Params, cell: Experiment, index: str, weights: Mapping[str, str]) -> bool:
    own = experiments.experiment_params(params, cell)
    alone = {m: own.unimodal_settings(m, index) for m in own.modalities}
    made = experiments.read_marker(params, cell, index)
    if made is None or not all(
        _trained(own.paths.pretrain(m), of, weights) for m, of in alone.items()
    ):
        return False
    chosen = experiments.experiment_params(params, cell, made["learning_rate"]).ensemble_settings(
        index
    )
    return _trained(
        own.paths.ensemble, chosen, weights, [own.paths.pretrain(m) for m in own.modalities]
    )


def _pretrain(params: Params, cell: Experiment, modality: str) -> Job:
    own, what = experiments.experiment_params(params, cell), f"pretrain/{modality}"
    yield from _process(cell, what, own, "pretrain-unimodal", "--modality", modality)


def _cell(params: Params, cell: Experiment, index: str, weights: Mapping[str, str]) -> Job:
    """Train with each learning rate, keep the model that is best on validation (ties: the first), evaluate it."""
    rates, scores = experiments.learning_rates(params, cell), list[float]()
    paths = experiments.experiment_params(params, cell).paths
    folder = _folder(params, cell, cell.preset)
    if (
        not paths.ensemble.exists()
    ):  # nothing of it was begun, or DVC is making it anew, with other code say
        for old in folder.glob("rate-*"):
            shutil.rmtree(old)
    tries = [folder / f"rate-{rate}" for rate in rates] if rates[1:] else [paths.ensemble]
    for rate, kept in zip(rates, tries, strict=True):
        own = experiments.experiment_params(params, cell, rate)
        if not _trained(
            kept, own.ensemble_settings(index), weights, [paths.pretrain(m) for m in own.modalities]
        ):
            yield from _process(cell, cell.preset, own, "finetune-ensemble")
            _copy(paths.ensemble, kept)
        scores.append(float(read_json(kept / saved_model.ABOUT, "")["scores"]["val_score"]))
    best = scores.index(max(scores))
    _copy(tries[best], paths.ensemble)
    yield from _process(
        cell,
        cell.preset,
        experiments.experiment_params(params, cell, rates[best]),
        "evaluate-missing",
    )
    experiments.write_marker(
        params,
        cell,
        index,
        {f"{r:g}": s for r, s in zip(rates, scores, strict=True) if r},
        rates[best],
    )


def _trained(
    folder: Path,
    settings: Mapping[str, Any],
    pretrained: Mapping[str, str],
    alone: Sequence[Path] = (),
) -> bool:
    """Whether a model is there that was made with these settings, from these files of weights {modality: checksum} or, if it
    starts from or learns from them, these uni-modal models."""
    try:
        info = saved_model.check(folder, settings, "")
        used = {read_json(one / saved_model.ABOUT, "")["weights_sha256"] for one in alone}
    except UserError:
        return False
    started = set(info.started_from.values())
    if settings.get("starts_from") and not used <= started:
        return False
    scratch = settings["kind"] == "unimodal" or settings["finetune"]["init"] == "scratch"
    files = {
        checksum for m, checksum in pretrained.items() if m in settings["modalities"] and scratch
    }
    return (folder / saved_model.WEIGHTS).is_file() and started == files | (
        used if settings.get("starts_from") else set()
    )


def _copy(model: Path, to: Path) -> None:
    if model != to:
        with new_folder(to) as aside:
            shutil.copytree(model, aside, dirs_exist_ok=True)


def _process(
    cell: Experiment, what: str, own: Params, *words: str
) -> Generator[Command, Ended, None]:
    """Run a command with the settings `own`. UserError with what it said, if it fails."""
    folder = _folder(own, cell, what)
    write_json(folder / "params.json", own.model_dump(mode="json"))  # which is YAML too
    command = [sys.executable, "-m", "umemma", *words, "--params", str(folder / "params.json")]
    logger.info(f"{what}, seed {cell.seed}, {cell.train}: {words[0]}, see {folder / 'log.txt'}")
    ended = yield Command(command, folder / "log.txt")
    line = (
        cell.train,
        cell.seed,
        what,
        words[0],
        ended.status,
        *(f"{x:.3f}" for x in ended[1:]),
        _print(own),
    )
    path = own.paths.runs / COSTS
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADINGS, line] if fresh else [line])
    if ended.status:
        text = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip()
        said = (
            re.split(r"^(?:\w+\.)*\w*Error: ", text, flags=re.MULTILINE)[-1]
            if ended.status > 0
            else ""
        )
        reason = "\n".join(said.splitlines()[-5:]) or f"ended by signal {-ended.status}"
        raise UserError(f"{reason} (log: {folder / 'log.txt'})")


def _folder(params: Params, cell: Experiment, what: str) -> Path:
    return params.paths.runs / cell.place / what


def _print(own: Params) -> str:
    return fingerprint(own.model_dump(mode="json", exclude={"machine"}))
