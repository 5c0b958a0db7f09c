"""The commands that bring data in: datasets, download, doctor, preprocess, verify."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from umemma.cli.options import (
    PARAMS,
    AsJson,
    DatasetName,
    ExecutorName,
    ParamsFile,
    RayAddress,
    Sets,
    check_executor,
    start,
    take_turns,
)
from umemma.errors import UserError

if TYPE_CHECKING:
    from umemma.config import Params
    from umemma.data.shard_reader import Index


def list_datasets() -> None:
    """List the datasets with their modalities and the number of their classes.

    `umemma doctor NAME` shows more about one, its licence and citation too.
    """
    from rich.table import Column, Table

    from umemma import datasets
    from umemma.system.log import output

    table = Table(
        Column("name", no_wrap=True),
        Column("classes", justify="right", no_wrap=True),
        "what it is",
    )
    for name in datasets.NAMES:
        spec = datasets.get_module(name).SPEC
        classes = str(len(spec.classes) or "yours")
        table.add_row(name, classes, f"{' + '.join(spec.modalities)}: {spec.summary}")
    output.print(table)


def download(
    name: DatasetName = "",
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PATH_OR_URL",
            help=(
                "Take the files from here: a file, a folder that is searched for them, or an "
                "http(s) address."
            ),
            show_default=False,
        ),
    ] = "",
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Download and verify the raw files of a dataset. Files that are already there stay.

    Where a file needs an account or a manual step, the command prints the steps and the expected
    folder tree. After these steps, run the same command: it resumes, and verifies the files that
    were placed by hand.

    Creates: data/raw/<dataset>/ and, last, its download.json.
    """
    settings = start("download", params, set_, name)
    from umemma.stages import download as stage

    options = settings.preprocess.options
    with take_turns(settings.paths.raw):
        folder = stage.run(settings.dataset, options, from_, settings.modalities, settings.name)
    print(f"Raw files are in {folder}")


def doctor(
    name: DatasetName = "",
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Examine the raw files of a dataset and report problems. Changes nothing.

    The report has the number of samples per split and class beside the expected one, missing and
    corrupt files, clips without sound, absent modalities, groups in two splits, duplicates, and the
    licence.

    Exit status 1 where something has to be corrected.
    """
    settings = start("doctor", params, set_, name)
    from umemma.stages.inspection import doctor as stage

    sys.exit(stage.run(settings, as_json))


PackingWorkers = Annotated[
    int,
    typer.Option(min=0, help="Worker processes; 0 = one per core."),
]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="Pack the samples again that failed or have a broken medium.",
    ),
]
NumTasks = Annotated[
    int,
    typer.Option(min=1, help="Divide the shards among this many tasks (a Slurm array)."),
]
TaskIndex = Annotated[
    int,
    typer.Option(min=0, help="The index of this task, from 0."),
]


def preprocess(
    workers: PackingWorkers = 0,
    retry_failed: RetryFailed = False,
    num_tasks: NumTasks = 1,
    task_index: TaskIndex = 0,
    executor: ExecutorName = "local",
    ray_address: RayAddress = "",
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Pack the raw files into WebDataset shards.

    The bytes of the shards do not depend on the number of workers or tasks. Shards that are
    current stay, so the same command resumes after an interruption. The task that ends last writes
    the index.

    Exit status 1 while any shard is missing, also one of another task, and where more samples fail
    than preprocess.max_failures allows.

    Creates: data/shards/<dataset>/ *.tar, *.parquet (a row per sample, failures too), *.json and,
    last, index.json.
    """
    settings = start("preprocess", params, set_)
    from umemma.stages import preprocess as stage
    from umemma.system import executors

    check_executor(executor, ray_address)
    run_jobs: executors.Executor = executors.run_locally
    if executor == "ray":
        run_jobs = executors.run_on_ray(ray_address)
    if task_index >= num_tasks:
        raise UserError(
            f"{task_index} is not below {num_tasks}",
            "--task-index",
            "Tasks are counted from 0.",
            usage=True,
        )
    # Tasks of one array write different shards, so they don't wait for one another.
    with take_turns(f"{settings.paths.shards}, task {task_index} of {num_tasks}"):
        index = stage.run(
            settings,
            workers,
            retry_failed=retry_failed,
            share=stage.Share(num_tasks, task_index),
            executor=run_jobs,
        )
    if index.folds:
        total = sum(index.samples(split) for split in index.splits)
        print(f"Shards are in {settings.paths.shards}: {total} samples in {len(index.folds)} folds")
        _print_folds(settings, index)
    else:
        counts = ", ".join(f"{split} {index.samples(split)}" for split in index.splits)
        print(f"Shards are in {settings.paths.shards}: {counts} samples")
    broken = index.broken()
    if broken:
        print(f"With a medium that can't be read, which counts as absent: {broken}")
    failures = index.failures()
    if failures:
        print(f"Failed: {failures}")


def _print_folds(settings: Params, index: Index) -> None:
    from umemma.data import shard_reader
    from umemma.reports.doctor.folds import make_fold_table
    from umemma.system.log import output
    from umemma.system.storage import Store

    held_out = {fold.split: fold.group for fold in index.folds}
    samples = {split: index.samples(split) for split in index.splits}
    classes = shard_reader.count_classes(Store(settings.paths.shards), index)
    output.print(make_fold_table(held_out, samples, classes))


def verify(params: ParamsFile = PARAMS, set_: Sets = None) -> None:
    """Check the shards against their index: every checksum, and every sample by reading it.

    Changes nothing.

    Exit status 1 where a shard differs from the index.
    """
    settings = start("verify", params, set_)
    from umemma.stages.inspection import verify as stage

    index = stage.run(settings)
    shards = sum(len(files) for files in index.splits.values())
    samples = sum(index.samples(split) for split in index.splits)
    print(f"{settings.paths.shards}: {shards} shards, {samples} samples, all as indexed")
