"""The command line: types and help. Each command is thin over a plain function in `stages/`; torch is imported there.

Exit status: 0 done; 2 the command line or the settings are wrong; 1 anything else the user can put right.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from umemma import __version__, distributed
from umemma.errors import UserError, unknown

if TYPE_CHECKING:
    from umemma.config import Params

app = typer.Typer(
    name="umemma",
    help="Train multi-modal classifiers that keep working when a modality is missing (UME-MMA, arXiv 2310.06383).\n\n"
    "Every stage reads params.yaml in the current directory. `dvc repro` runs them all.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ParamsFile = Annotated[Path, typer.Option("--params", metavar="FILE", help="Settings to read.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change a setting for this run. Repeatable.")
]

Again = Annotated[bool, typer.Option("--again", help="Train anew, even if the model is there already.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard to runs/ too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a UserError becomes one message on stderr and its exit status."""
    try:
        app(arguments)
    except UserError as error:
        if distributed.first_to_say(str(error)):
            print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    finally:
        distributed.finish()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"umemma {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def datasets() -> None:
    """List the datasets: modalities, classes, what they are. `umemma doctor NAME` says more, the licence too."""
    from rich.table import Column, Table

    from umemma import datasets
    from umemma.log import output

    table = Table(Column("name", no_wrap=True), "modalities", Column("classes", justify="right"), "what")
    for name in datasets.NAMES:
        spec = datasets.get(name).SPEC
        table.add_row(name, ", ".join(spec.modalities), str(len(spec.classes) or "yours"), spec.summary)
    output.print(table)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="The dataset; by default that of params.yaml.", show_default=False)] = "",
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PATH_OR_URL",
            help="Take the files from here: a file, a folder that is searched for them, or an http(s) address.",
            show_default=False,
        ),
    ] = "",
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Put a dataset's raw files into data/raw/<dataset>/, verified; what is there already stays.

    Where a file needs an account or a person, it prints the steps and the tree that it expects. Run it again then: it
    goes on, and verifies what was placed by hand.

    Creates: data/raw/<dataset>/ and, last, its download.json.
    """
    settings = _start("download", params, set_, name)
    from umemma.stages import download as stage

    print(f"Raw files are in {stage.run(settings.dataset, settings.preprocess.options, from_)}")


@app.command()
def doctor(
    name: Annotated[str, typer.Argument(help="The dataset; by default that of params.yaml.", show_default=False)] = "",
    as_json: AsJson = False,
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Examine a dataset's raw files, changing nothing. Exit status 1 when something needs you.

    Found against expected samples per split and class, missing and corrupt files, clips without sound, absent modalities,
    ids in two splits, duplicates, licence.
    """
    settings = _start("doctor", params, set_, name)
    from umemma.stages import doctor as stage

    sys.exit(stage.run(settings, as_json))


@app.command()
def preprocess(
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 = one per core.")] = 0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try the samples again that failed.")] = False,
    num_tasks: Annotated[int, typer.Option(min=1, help="Share the shards among so many tasks (a Slurm array).")] = 1,
    task_index: Annotated[int, typer.Option(min=0, help="Which of the tasks this is, from 0.")] = 0,
    executor: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    ray_address: Annotated[str, typer.Option(help="A Ray cluster; by default one on this machine.")] = "",
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Pack the raw files into WebDataset shards, byte-identical however they are made.

    Shards that are there and up to date stay, so the same command goes on where it was stopped. Exit status 1 while any
    shard is missing, those of other tasks included: the task that ends last writes the index.

    Creates: data/shards/<dataset>/ *.tar, *.parquet (a row per sample, failures too), *.json and, last, index.json.
    """
    settings = _start("preprocess", params, set_)
    from umemma import executors
    from umemma.stages import preprocess as stage

    if executor not in ("local", "ray"):
        raise unknown("executor", executor, ("local", "ray"), "--executor")
    if ray_address and executor != "ray":
        raise UserError("goes with --executor ray", "--ray-address", usage=True)
    if task_index >= num_tasks:
        raise UserError(f"{task_index} is not below {num_tasks}", "--task-index", "Tasks count from 0.", usage=True)
    index = stage.run(
        settings,
        workers,
        retry_failed=retry_failed,
        share=stage.Share(num_tasks, task_index),
        executor=executors.local if executor == "local" else executors.ray(ray_address),
    )
    counts = ", ".join(f"{split} {index.samples(split)}" for split in index.splits)
    print(f"Shards are in {settings.paths.shards}: {counts} samples")
    if lost := index.failures():
        print(f"Failed: {lost}")


@app.command()
def verify(params: ParamsFile = Path("params.yaml"), set_: Sets = None) -> None:
    """Check the shards against their index: every byte by checksum, every sample by reading it. Changes nothing."""
    settings = _start("verify", params, set_)
    from umemma.stages import verify as stage

    index = stage.run(settings)
    files = sum(len(shards) for shards in index.splits.values())
    print(f"{settings.paths.shards}: {files} shards, {sum(map(index.samples, index.splits))} samples, all as indexed")


@app.command()
def pretrain_unimodal(
    modality: Annotated[
        list[str] | None, typer.Option(help="Train this modality only. Repeatable; by default all of params.yaml.")
    ] = None,
    again: Again = False,
    tensorboard: TensorBoard = False,
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Train one classifier per modality, alone: the ensemble starts from them, and they are its ceilings.

    The same command goes on where it was stopped. Exit status 75 after SIGTERM: a checkpoint is saved, run it again. For
    several processes: `torchrun --nproc-per-node N -m umemma pretrain-unimodal`, or `srun umemma pretrain-unimodal`.

    Creates: models/<dataset>/pretrain/<modality>/ (model.safetensors, model.json, metrics.csv); runs/ on the way.
    """
    settings = _start("pretrain-unimodal", params, set_)
    from umemma.stages import pretrain as stage

    for one in modality or settings.modalities:
        score = stage.run(settings, one, again, tensorboard)
        _say(f"{one}: validation score {score:.1%}, in {settings.paths.pretrain(one)}")


@app.command()
def finetune_ensemble(
    preset: Annotated[str, typer.Option(help="A named method instead of finetune.preset.", show_default=False)] = "",
    again: Again = False,
    tensorboard: TensorBoard = False,
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Fine-tune the ensemble while showing it every way a modality can be absent.

    Presets: late-fusion, modality-dropout, ume, ume-finetune, frozen, ume-mma. Stopping, going on and several processes
    are as with pretrain-unimodal.

    Creates: models/<dataset>/ensemble/ (model.safetensors, model.json, metrics.csv); runs/ on the way.
    """
    settings = _start("finetune-ensemble", params, [*(set_ or []), *([f"finetune.preset={preset}"] if preset else [])])
    from umemma.stages import finetune as stage

    score = stage.run(settings, again, tensorboard)
    _say(f"ensemble: validation score {score:.1%}, in {settings.paths.ensemble}")


@app.command()
def evaluate_missing(
    missing: Annotated[
        str, typer.Option(metavar="A,B", help="The modalities taken away together; by default every set.")
    ] = "",
    ratio: Annotated[
        list[float] | None, typer.Option(help="The share of samples they are taken from, 0 to 1. Repeatable.")
    ] = None,
    as_json: AsJson = False,
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Measure accuracy with modalities missing.

    Without --missing and --ratio: the whole grid, written to results/<dataset>/. With either: the answer to that
    question, from the predictions kept there, writing nothing.

    Creates: results/<dataset>/ metrics.json, grid.parquet, predictions.parquet, robustness.csv, robustness.png, report.md.
    """
    settings = _start("evaluate-missing", params, set_)
    from umemma import report
    from umemma.log import output
    from umemma.stages import evaluate as stage

    asked = bool(missing or ratio)
    if asked:
        outcome = stage.ask(settings, [m.strip() for m in missing.split(",") if m.strip()], ratio or [])
    else:
        outcome = stage.run(settings)
    if not distributed.is_main():
        return
    if as_json:
        print(json.dumps(stage.as_json(outcome), indent=2, sort_keys=True))
        return
    about = outcome.about
    title = f"{report.named(about)} {about['split']}, {about['preset']}"
    label = report.LABELS[about["metric"]]
    if asked:
        output.print(report.ratio_table(outcome.ratios, f"{title}: {label} with modalities missing"))
        output.print(f"absence: {report.ABSENCE[about['absent']]}", highlight=False)
    output.print(report.subset_table(outcome.subsets, f"{title}: {label} per modality subset"))
    if not asked:
        print(f"report: {settings.paths.results / 'report.md'}\nfigure: {settings.paths.results / 'robustness.png'}")


app.command("evaluate", help="Short name of evaluate-missing: measure accuracy with modalities missing.")(
    evaluate_missing
)


@app.command()
def encoders(
    pattern: Annotated[str, typer.Argument(help='Names such as "timm:resnet*".', show_default=False)] = "",
    modality: Annotated[str, typer.Option(help="Only encoders for this modality.", show_default=False)] = "",
) -> None:
    """List the encoders: what they see, their feature width, and what weights are at hand."""
    from umemma.stages import encoders as stage

    stage.run(pattern, modality)


def _say(text: str) -> None:
    """A result, once, however many processes there are."""
    if distributed.is_main():
        print(text)


def _start(command: str, file: Path, sets: list[str] | None, name: str = "") -> Params:
    """The settings. A dataset that is asked for by `name` and isn't that of the file has its own defaults."""
    from umemma import config, datasets, log

    if name:
        datasets.check(name)
    if name and not file.exists() and file == Path("params.yaml"):
        params = config.of(name, sets or [])
    else:
        params = config.load(file, sets or [])
        params = config.of(name, sets or []) if name not in ("", params.dataset) else params
    datasets.check(params.dataset)
    log.start(command)
    return params
