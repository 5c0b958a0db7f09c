"""init: propose the settings of a table, or take those of a recipe, and write a project folder.

Of Parquet files with media and of WebDataset shards the table is the one that `umemma download`
will write.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from string import Template
from typing import Any

from ruamel.yaml import YAML

from umemma import config, datasets
from umemma.data.conversion import converter, parquet_rows
from umemma.datasets._manifest.columns import Column, spread
from umemma.datasets._manifest.proposal import Proposal, propose
from umemma.errors import UserError, unknown_name
from umemma.modalities.files.av_decoder import open_container
from umemma.system.log import make_progress
from umemma.types import Clip, DatasetSpec
from umemma.validation import validate

FILES = ("params.yaml", "dvc.yaml", ".dvcignore", ".gitignore")
# Its files have names of their own, as DVC takes any dvc.yaml and params.yaml in a clone for the
# project's.
SHIPPED = Path(__file__).parents[1] / "project"
ENCODERS: dict[str, dict[str, Any]] = {
    "audio": {"name": "cnn:small", "input": {"sample_rate": 16000, "seconds": 3, "mels": 64}},
    "image": {"name": "cnn:small", "input": {"size": 64}},
    "series": {"name": "series:cnn"},
    "table": {"name": "mlp:small"},
    "text": {"name": "text:cnn", "input": {"length": 64}},
    "vector": {"name": "mlp:small"},
    "video": {"name": "cnn:small", "input": {"size": 64, "frames": 8}},
}
COMMON_NAMES = {"labels", "table", "data", "dataset", "train", "index", "metadata", "annotations"}
PROBED_CLIPS = 12
PROBED_FILES = 200  # of a column, where files have to be written to be looked at
EVALUATED = {
    "test": "test",
    "val": "val\n  calibrate: false  # as the calibration is fitted on val",
}
RESULTS = "results/${name}/${fold}"
TABLE_IN_SOURCE = "${source}/${preprocess.options.table}"  # what the first stage depends on
SECONDS = (1, 10)  # the shortest and the longest window of a sound
TOKENS = (16, 256)  # the same of a text
TOKENS_PER_WORD = 1.5
# (rows from which on, batch size, epochs of pretraining)
SIZES = ((20_000, 64, 5), (5_000, 64, 15), (1_000, 32, 30), (0, 16, 30))


def check_free(folder: Path) -> None:
    """Raise UserError where a file of a project is there already."""
    there = [name for name in FILES if os.path.lexists(folder / name)]
    if there:
        raise UserError(
            f"there already: {', '.join(there)}. Nothing was written",
            str(folder.resolve()),
            "Run umemma init in another folder, or move these files away.",
            usage=True,
        )


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in (SHIPPED / "recipes").glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """Return the file of a recipe. Raises UserError for an unknown one."""
    if name not in list_recipes():
        raise unknown_name("table or recipe", name, list_recipes(), "umemma init")
    return SHIPPED / "recipes" / f"{name}.yaml"


def is_converted(origin: Path) -> bool:
    """Return whether a table is written of what `origin` is: a folder, shards, media in cells."""
    if origin.suffix.lower() == ".parquet" and origin.is_file():
        return bool(parquet_rows.find_media_columns(origin))
    return origin.is_dir() or converter.SHARD.fullmatch(origin.name) is not None


@contextlib.contextmanager
def convert_table(origin: Path) -> Iterator[Path]:
    """Yield the table of Parquet files or shards inside the block, with a part of its media.

    Raises UserError where there are none, and where the current folder is one of theirs.
    """
    if origin.resolve() in (Path().resolve(), *Path().resolve().parents):
        raise UserError(
            "holds the current folder, which would be a part of its own raw files",
            str(origin),
            "Run umemma init in another folder.",
            usage=True,
        )
    sources: Mapping[str, Path] = {}
    if origin.exists():
        sources = converter.find_sources(origin, "", config.Paths("").raw)
    if not sources:
        hint = "Name a table, or a folder of Parquet files or of WebDataset shards (.tar)."
        raise UserError("neither Parquet files nor shards are there", str(origin), hint, usage=True)
    with tempfile.TemporaryDirectory() as place, make_progress() as bars:
        # Called as the data, since the name of the settings comes from it.
        folder = Path(place) / origin.resolve().name.partition(".")[0]
        (folder / converter.FILES).mkdir(parents=True)
        table = folder / converter.TABLE
        converter.write_out(sources, folder / converter.FILES, table, bars, PROBED_FILES)
        try:
            yield table
        except UserError as error:
            error.where = error.where.replace(str(table), str(origin))
            raise


def propose_settings(
    table: Path, columns: list[Column], label: str, task: str
) -> tuple[Proposal, str]:
    """Return the proposal for a table and the text of params.yaml.

    Raises UserError where the table can't be trained on.
    """
    proposal = propose(table, columns, label, task)
    text = _format_params(table, proposal)
    _check(table, text)
    return proposal, text


def write_project(
    folder: Path, params: str, source: str | None, *, converted: bool = False
) -> None:
    """Write the files of a project; those of a failed attempt are removed again.

    source: the folder of the table; None for a recipe, whose dataset has its own sources.
    converted: it has no table, as this is written of it.
    """
    check_free(folder)
    if "'" in (source or ""):
        raise UserError(
            "a quotation mark in its path, which the command line in dvc.yaml can't hold",
            str(source),
            "Rename the folder, or name the table by a path without it.",
            usage=True,
        )
    pipeline = (SHIPPED / "pipeline.yaml").read_text(encoding="utf-8")
    if source is None:
        pipeline = re.sub(r"(?m)^ +- \$\{source\}.*\n", "", pipeline)
    if converted:
        pipeline = pipeline.replace(TABLE_IN_SOURCE, "${source}")
    settings = YAML(typ="safe", pure=True).load(params)
    if settings.get("evaluate", {}).get("split") == "val":
        pipeline = pipeline.replace(f"{RESULTS}/", f"{RESULTS}/val/")
    pipeline = pipeline.replace("SOURCE", _to_yaml(source or ""))
    ignored = [(SHIPPED / name).read_text(encoding="utf-8") for name in ("dvcignore", "gitignore")]
    with contextlib.ExitStack() as undo:
        for name, text in zip(FILES, (params, pipeline, *ignored), strict=True):
            with (folder / name).open("x", encoding="utf-8") as file:
                undo.callback((folder / name).unlink, missing_ok=True)
                file.write(text)
        undo.pop_all()


# The settings of a table. -------------------------------------------------------------------------


def _format_params(table: Path, proposal: Proposal) -> str:
    options = {"separator": "|", **proposal.options}
    rows = max(len(column.cells) for column in proposal.columns.values())
    folder = table.parent
    kinds = dict(proposal.kinds)
    clips = [column for name, column in options["columns"].items() if kinds[name] == "video"]
    if clips and "audio" not in kinds and _measure_clips(proposal, clips[0], folder)[0]:
        kinds["audio"] = "audio"
        options["columns"] = {**options["columns"], "audio": clips[0]}
        proposal.uses[clips[0]] = "video and its sound"
    kinds = dict(sorted(kinds.items()))
    batch_size, epochs = next(size[1:] for size in SIZES if rows >= size[0])
    fold: int | str = 0 if options.get("folds") else ""
    evaluated = "val" if proposal.splits and "test" not in proposal.splits else "test"
    encoders = {name: _choose_encoder(name, kinds, options, proposal, folder) for name in kinds}
    columns = {modality: options["columns"][modality] for modality in kinds}
    name = _choose_name(table)
    names = ("label", "task", "separator", "key", "split", "group", "folds", "categories", "root")
    shown = {option: _to_yaml(options.get(option)) for option in names}
    shown["categories"] = _to_yaml(options.get("categories", []))
    is_plain = all(name == kind for name, kind in kinds.items())
    template = Template((SHIPPED / "settings.yaml").read_text(encoding="utf-8"))
    text = template.substitute(
        shown,
        rows=f"{rows:,}",
        table=_to_yaml(table.name),
        name=_to_yaml(name),
        modalities=_to_yaml(list(kinds) if is_plain else kinds),
        fold=_to_yaml(fold),
        columns=_indent(columns, 6),
        encoders=_indent(encoders, 2),
        first=next(iter(kinds)),
        epochs=epochs,
        finetune_epochs=max(2, epochs // 3),
        all_epochs=epochs + max(2, epochs // 3),
        batch_size=batch_size,
        evaluated=EVALUATED[evaluated],
        results=config.Paths(name, split=evaluated).results,
    )
    return re.sub(r"(?m)^(.*\S) +# ", lambda line: f"{line[1]:<27} # ", text)


def _choose_name(table: Path) -> str:
    """Return what the folders are called: the table, or its folder where that says more."""
    stem = table.stem
    if stem.lower() in COMMON_NAMES:
        stem = table.resolve().parent.name or stem
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._") or "table"
    if name in datasets.NAMES:
        name += "-table"
    return name


def _choose_encoder(
    name: str,
    kinds: Mapping[str, str],
    options: Mapping[str, Any],
    proposal: Proposal,
    folder: Path,
) -> dict[str, Any]:
    encoder = ENCODERS[kinds[name]]
    column = options["columns"][name]
    changes: dict[str, Any] = {}
    if kinds[name] == "audio":
        _, longest = _measure_clips(proposal, column, folder)
        changes["seconds"] = _clamp(longest, SECONDS)
    elif kinds[name] == "text":
        words = sorted(len(cell.split()) for cell in proposal.columns[column].filled)
        most = words[int(0.9 * (len(words) - 1))] * TOKENS_PER_WORD
        changes["length"] = _clamp(8 * math.ceil(most / 8), TOKENS)
    if not changes:
        return encoder
    return {**encoder, "input": {**encoder["input"], **changes}}


def _measure_clips(proposal: Proposal, column: str, folder: Path) -> tuple[bool, float]:
    """Return whether some of the clips have sound, and the seconds of the longest, of a few."""
    has_sound, longest = False, 0.0
    for cell in spread(proposal.columns[column].filled, PROBED_CLIPS):
        with contextlib.suppress(ValueError), open_container(Clip(folder / cell)) as container:
            has_sound |= bool(container.streams.audio)
            longest = max(longest, (container.duration or 0) / 1e6)
    return has_sound, longest


def _clamp(value: float, bounds: tuple[int, int]) -> int:
    return min(max(math.ceil(value), bounds[0]), bounds[1])


def _check(table: Path, text: str) -> None:
    """Raise UserError where these settings can't be used: the stages would say so later."""
    data = YAML(typ="safe", pure=True).load(text)
    params = validate(config.Params, data, "proposed params.yaml")
    module = datasets.get_module("manifest")
    options = datasets.read_options(module, params.preprocess.options, params.modalities)
    spec: DatasetSpec = module.spec(table.parent, options)
    if not spec.folds and not {"train", "val", params.evaluate.split} <= set(spec.splits):
        raise UserError(
            f"too few rows, or groups, to split: only {', '.join(spec.splits)} would have any",
            str(table),
            "Add rows, or a column split with train, val and test.",
        )


def _indent(entries: Mapping[str, Any], spaces: int) -> str:
    lines = (f"{' ' * spaces}{_to_yaml(name)}: {_to_yaml(entries[name])}" for name in entries)
    return "\n".join(lines)


def _to_yaml(value: Any) -> str:
    """Return a value as YAML of one line."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = True
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.width = 2**20
    file = StringIO()
    yaml.dump(value, file)
    return file.getvalue().removesuffix("...\n").strip()
