"""The cells of a comparison: which there are, the settings of each, where it lies, and whether it is done.

A cell is a preset, trained with one seed under one entry of compare.train. It has the project's settings but for these
three, and lies in models/<dataset>/compare/<train>/<seed>/<preset>/ and results/... alike; the uni-modal models of a seed
and an entry are trained once, in pretrain/ there, for all presets.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from umemma.config import PRESETS, Compare, Evaluate, Missing, Params, Paths
from umemma.errors import UserError, unknown
from umemma.evaluation.predictions import Predictions
from umemma.missing import written
from umemma.system.files import read_json, write_json
from umemma.types import alternatives
from umemma.validation import checked, fingerprint

COMPLETE = "complete"
PREDICTIONS, MARKER = "predictions.parquet", "cell.json"


class Cell(NamedTuple):
    train: str
    seed: int
    preset: str

    @property
    def place(self) -> str:
        return f"compare/{self.train}/{self.seed}"

    def __str__(self) -> str:
        return f"{self.preset}, seed {self.seed}, {self.train}"


def planned(params: Params) -> list[Cell]:
    """All cells. UserError where the settings don't make a comparison."""
    section = params.compare
    params.evaluate.check_split()
    for preset in section.presets:
        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS, "compare.presets")
    for name in ("presets", "seeds", "train", "learning_rates"):
        values = getattr(section, name)
        if len(set(values)) < len(values) or (not values and name != "learning_rates"):
            raise UserError(f"{list(values)} has to name each once", f"compare.{name}", usage=True)
    if section.baseline is not None and section.baseline not in section.presets:
        raise unknown("preset", section.baseline, section.presets, "compare.baseline")
    if section.baseline == method(params):
        hint = "Name another preset, or null for all of them."
        raise UserError(
            f"{section.baseline!r} is the method itself", "compare.baseline", hint, usage=True
        )
    if given := [
        n for n in ("init", "mma", "train", "balance") if getattr(params.finetune, n) is not None
    ]:
        raise UserError(
            f"{', '.join(given)} would be the same for every preset",
            "finetune",
            "Set them to null: a preset decides them.",
            usage=True,
        )
    entries = [missing_of(train, params) for train in section.train]
    same = [
        sorted((written(alternatives(text)), ratio) for text, ratio in one.items())
        for one in entries
    ]
    if any(one in same[:i] for i, one in enumerate(same)):
        raise UserError(f"{list(section.train)} names one thing twice", "compare.train", usage=True)
    return [Cell(t, s, p) for t in section.train for s in section.seeds for p in section.presets]


def method(params: Params) -> str:
    """The preset that the others are compared with."""
    presets = params.compare.presets
    return params.finetune.preset if params.finetune.preset in presets else presets[-1]


def missing_of(train: str, params: Params) -> dict[str, float]:
    """{what: the share of the training samples that lose it} of an entry of compare.train, as missing.train has it."""
    if train == COMPLETE:
        return {}
    if not re.fullmatch(r"[\w+|]+=[\d.]+(,[\w+|]+=[\d.]+)*", train):  # also a folder's name
        hint = "Write it as complete, audio=0.7, audio|image=0.7 or, for several at once, audio=0.7,image=0.3."
        raise UserError(f"cannot read {train!r}", "compare.train", hint, usage=True)
    pairs = [one.split("=") for one in train.split(",")]
    try:
        data = {what: float(ratio) for what, ratio in pairs}
    except ValueError:
        raise UserError(
            f"{train!r} has something that is no number", "compare.train", usage=True
        ) from None
    if len(data) < len(pairs):
        raise UserError(f"{train!r} names one thing twice", "compare.train", usage=True)
    missing = checked(Missing, {"train": data}, "compare.train")
    for name in (m for what in missing.train for one in alternatives(what) for m in one):
        if name not in params.modalities:
            raise unknown("modality", name, params.modalities, "compare.train")
    return missing.train


def settings(params: Params, cell: Cell, rate: float | None = None) -> Params:
    """Those of a cell, with another learning rate than that of `finetune`, if one is given. What evaluates it is the same for
    all but for what its predictions depend on: the table is made of these, whatever the rest of `evaluate` asks for."""
    finetune = params.finetune.model_copy(update={"preset": cell.preset})
    if rate is not None and finetune.switches()["init"] == "scratch":
        scratch = finetune.scratch.model_copy(update={"learning_rate": rate})
        finetune = finetune.model_copy(update={"scratch": scratch})
    elif rate is not None:
        finetune = finetune.model_copy(update={"learning_rate": rate})
    own = params.evaluate
    changes = {
        "place": cell.place,
        "seed": cell.seed,
        "missing": Missing(train=missing_of(cell.train, params)),
        "finetune": finetune,
        "evaluate": Evaluate(split=own.split, batch_size=own.batch_size, calibrate=own.calibrate),
        "compare": Compare(),
    }
    return params.model_copy(update=changes)


def rates(params: Params, cell: Cell) -> list[float | None]:
    """The learning rates to try: those of `compare`; else, and where nothing is trained, that of the settings (None)."""
    trains = settings(params, cell).finetune.switches()["train"] != "none"
    return (
        list(params.compare.learning_rates) if trains and params.compare.learning_rates else [None]
    )


def mark(
    params: Params, cell: Cell, shards: str, scores: dict[str, float], chosen: float | None
) -> None:
    """Say that a cell is done. scores: {learning rate: score on validation}; shards: their fingerprint."""
    folder = settings(params, cell).paths.results
    about = {"made_from": made_from(params, cell, shards), "predictions": _made_by(params, cell)}
    write_json(folder / MARKER, about | {"learning_rates": scores, "learning_rate": chosen})


def done(params: Params, cell: Cell, shards: str) -> dict[str, Any] | None:
    """What `mark` wrote, if it belongs to these settings and to the models and predictions that are there."""
    with contextlib.suppress(UserError):
        about = read_json(settings(params, cell).paths.results / MARKER, "")
        own = {"made_from": made_from(params, cell, shards), "predictions": _made_by(params, cell)}
        return about if own.items() <= about.items() else None
    return None


def made_from(params: Params, cell: Cell, shards: str) -> str:
    """A fingerprint of all that a cell depends on. UserError where one of its models isn't there."""
    own = settings(params, cell)
    models = [own.paths.ensemble, *(own.paths.pretrain(m) for m in sorted(own.modalities))]
    depends = {
        "trials": [
            settings(params, cell, rate).ensemble_settings(shards) for rate in rates(params, cell)
        ],
        "unimodal": [own.unimodal_settings(m, shards) for m in sorted(own.modalities)],
        "evaluate": own.evaluate.model_dump(mode="json", include={"split", "calibrate"}),
        "weights": [read_json(folder / Paths.ABOUT, "").get("weights_sha256") for folder in models],
    }
    return fingerprint(depends)


def predictions(params: Params, cell: Cell) -> Predictions:
    """Those of a cell that is done."""
    found = Predictions.load(
        settings(params, cell).paths.results / PREDICTIONS, _made_by(params, cell)
    )
    assert found
    return found


def _made_by(params: Params, cell: Cell) -> str:
    """What the evaluation wrote of the predictions' origin."""
    path = settings(params, cell).paths.results / PREDICTIONS
    try:
        return (pq.read_schema(path).metadata or {})[b"made_by"].decode()
    except (FileNotFoundError, pa.ArrowInvalid, KeyError):
        raise UserError("no predictions", str(path), "Run: umemma compare") from None
