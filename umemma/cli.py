"""The command line: types and help. Each command is thin over a plain function in `stages/`; torch is imported there.

Exit status: 0 done; 2 the command line or the settings are wrong; 1 anything else the user can put right.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from umemma._version import __version__
from umemma.errors import UserError, unknown_name
from umemma.system import distributed

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
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change a setting for this run. Repeatable."),
]

Again = Annotated[
    bool, typer.Option("--again", help="Train anew, even if the model is there already.")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write events for TensorBoard to runs/ too.")
]
ModelFolder = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="A trained model; by default the ensemble that params.yaml is about.",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Let a model run the code that its encoders `import:` name.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")
]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a UserError becomes one message on stderr and its exit status."""
    try:
        app(arguments)
    except UserError as error:
        if distributed.is_first_to_report(str(error)):
            print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    finally:
        distributed.shutdown()


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
    from umemma.system.log import output

    table = Table(
        Column("name", no_wrap=True), "modalities", Column("classes", justify="right"), "what"
    )
    for name in datasets.NAMES:
        spec = datasets.get_module(name).SPEC
        table.add_row(
            name, ", ".join(spec.modalities), str(len(spec.classes) or "yours"), spec.summary
        )
    output.print(table)


@app.command()
def download(
    name: Annotated[
        str, typer.Argument(help="The dataset; by default that of params.yaml.", show_default=False)
    ] = "",
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
    name: Annotated[
        str, typer.Argument(help="The dataset; by default that of params.yaml.", show_default=False)
    ] = "",
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
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Try the samples again that failed or have a broken medium."
        ),
    ] = False,
    num_tasks: Annotated[
        int, typer.Option(min=1, help="Share the shards among so many tasks (a Slurm array).")
    ] = 1,
    task_index: Annotated[int, typer.Option(min=0, help="Which of the tasks this is, from 0.")] = 0,
    executor: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    ray_address: Annotated[
        str, typer.Option(help="A Ray cluster; by default one on this machine.")
    ] = "",
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Pack the raw files into WebDataset shards, byte-identical however they are made.

    Shards that are there and up to date stay, so the same command goes on where it was stopped. Exit status 1 while any
    shard is missing, those of other tasks included: the task that ends last writes the index.

    Creates: data/shards/<dataset>/ *.tar, *.parquet (a row per sample, failures too), *.json and, last, index.json.
    """
    settings = _start("preprocess", params, set_)
    from umemma.stages import preprocess as stage
    from umemma.system import executors

    if executor not in ("local", "ray"):
        raise unknown_name("executor", executor, ("local", "ray"), "--executor")
    if ray_address and executor != "ray":
        raise UserError("goes with --executor ray", "--ray-address", usage=True)
    if task_index >= num_tasks:
        raise UserError(
            f"{task_index} is not below {num_tasks}",
            "--task-index",
            "Tasks count from 0.",
            usage=True,
        )
    index = stage.run(
        settings,
        workers,
        retry_failed=retry_failed,
        share=stage.Share(num_tasks, task_index),
        executor=executors.run_locally
        if executor == "local"
        else executors.run_on_ray(ray_address),
    )
    counts = ", ".join(f"{split} {index.samples(split)}" for split in index.splits)
    print(f"Shards are in {settings.paths.shards}: {counts} samples")
    if broken := index.broken():
        print(f"With a medium that can't be read, which counts as absent: {broken}")
    if lost := index.failures():
        print(f"Failed: {lost}")


@app.command()
def verify(params: ParamsFile = Path("params.yaml"), set_: Sets = None) -> None:
    """Check the shards against their index: every byte by checksum, every sample by reading it. Changes nothing."""
    settings = _start("verify", params, set_)
    from umemma.stages import verify as stage

    index = stage.run(settings)
    files = sum(len(shards) for shards in index.splits.values())
    print(
        f"{settings.paths.shards}: {files} shards, {sum(map(index.samples, index.splits))} samples, all as indexed"
    )


@app.command()
def pretrain_unimodal(
    modality: Annotated[
        list[str] | None,
        typer.Option(help="Train this modality only. Repeatable; by default all of params.yaml."),
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
    preset: Annotated[
        str, typer.Option(help="A named method instead of finetune.preset.", show_default=False)
    ] = "",
    again: Again = False,
    tensorboard: TensorBoard = False,
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Fine-tune the ensemble while showing it every way a modality can be absent.

    Presets: late-fusion, modality-dropout, ogm-ge, umt, ume, ume-finetune, frozen, ume-mma. Stopping, going on and several
    processes are as with pretrain-unimodal.

    Creates: models/<dataset>/ensemble/ (model.safetensors, model.json, metrics.csv); runs/ on the way.
    """
    settings = _start(
        "finetune-ensemble",
        params,
        [*(set_ or []), *([f"finetune.preset={preset}"] if preset else [])],
    )
    from umemma.stages import finetune as stage

    score = stage.run(settings, again, tensorboard)
    _say(f"ensemble: validation score {score:.1%}, in {settings.paths.ensemble}")


@app.command()
def evaluate_missing(
    missing: Annotated[
        str,
        typer.Option(
            metavar="A,B or 'A|B'",
            help="What is taken away: A and B at once, or one of the two; by default everything.",
        ),
    ] = "",
    ratio: Annotated[
        list[float] | None,
        typer.Option(help="The share of samples they are taken from, 0 to 1. Repeatable."),
    ] = None,
    as_json: AsJson = False,
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Measure accuracy with modalities missing.

    Without --missing and --ratio: the whole grid, written to results/<dataset>/. With either: the answer to that
    question, from the predictions kept there, writing nothing.

    Creates: results/<dataset>/ report.html, report.md, metrics.json, information.json, grid.parquet, predictions.parquet,
    information.csv, robustness.csv, robustness.png, per_class.csv, confusion.csv.
    """
    settings = _start("evaluate-missing", params, set_)
    from umemma.reports import evaluation
    from umemma.stages import evaluate as stage
    from umemma.system.log import output

    asked = bool(missing or ratio)
    outcome = stage.ask(settings, missing, ratio or []) if asked else stage.run(settings)
    if not distributed.is_main():
        return
    if as_json:
        print(json.dumps(stage.as_json(outcome), indent=2, sort_keys=True, allow_nan=False))
        return
    if asked:
        output.print(evaluation.ratio_table(outcome))
    output.print(evaluation.subset_table(outcome))
    for line in evaluation.remarks(outcome):
        output.print(line, highlight=False, markup=False)
    if not asked:
        for what, name in (
            ("page", "report.html"),
            ("report", "report.md"),
            ("figure", "robustness.png"),
        ):
            print(f"{what}: {settings.paths.results / name}")


app.command(
    "evaluate", help="Short name of evaluate-missing: measure accuracy with modalities missing."
)(evaluate_missing)


@app.command()
def compare(
    preset: Annotated[
        str, typer.Option(help="Only the cells of this preset.", show_default=False)
    ] = "",
    seed: Annotated[
        int | None, typer.Option(help="Only those of this seed.", show_default=False)
    ] = None,
    train: Annotated[
        str, typer.Option(help="Only those of this entry of compare.train.", show_default=False)
    ] = "",
    modality: Annotated[
        str,
        typer.Option(
            help="Only the uni-modal models of this modality, which presets share.",
            show_default=False,
        ),
    ] = "",
    table: Annotated[
        bool, typer.Option("--table", help="Only the table, of the cells that are there.")
    ] = False,
    jobs: Annotated[
        int,
        typer.Option(min=1, help="Cells at a time, each with its share of the cores and a GPU."),
    ] = 1,
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Train and evaluate every preset x seed x what training misses, as `compare` in params.yaml says, and make one table.

    What is done stays, so the same command goes on where it was stopped. With --preset, --seed, --train or --modality only
    those cells are made, and no table. Exit status 1 where a cell fails; the others are made nevertheless. 75 after SIGTERM.

    Creates: results/<dataset>/compare/ compare.md, compare.html, compare.csv, compare.json, differences.csv,
    robustness.csv, robustness.png, and the cells in models/ and results/<dataset>/compare/<train>/<seed>/<preset>/;
    runs/<dataset>/compare/costs.csv.
    """
    some = bool(preset or train or modality or seed is not None)
    if (table and some) or (preset and modality):
        hint = "--table is of all cells; uni-modal models belong to no preset."
        raise UserError("these don't go together", "umemma compare", hint, usage=True)
    settings = _start("compare", params, set_)
    from umemma.reports.comparison_costs import format_costs
    from umemma.reports.comparison_tables import WIDTH, format_terminal
    from umemma.stages import compare as stage
    from umemma.stages import compare_table
    from umemma.system.log import output

    if not table:
        stage.run(settings, jobs, preset, seed, train, modality)
    if not some:
        report = compare_table.run(settings)
        for block in format_terminal(report, max(output.width, WIDTH)):
            output.print(block)
        output.print(*report.notes, sep="\n", highlight=False)
        costs = format_costs(settings)
        if costs:
            output.print(costs)
        print(f"report: {settings.paths.results / 'compare' / 'compare.md'}")


@app.command()
def predict(
    audio: Annotated[
        str, typer.Option(metavar="FILE", help="A sound, or a video that has one.")
    ] = "",
    image: Annotated[str, typer.Option(metavar="FILE")] = "",
    spectrogram: Annotated[
        str, typer.Option(metavar="FILE", help="A ready-made one, as a picture.")
    ] = "",
    text: Annotated[str, typer.Option(metavar="WORDS")] = "",
    video: Annotated[str, typer.Option(metavar="FILE")] = "",
    manifest: Annotated[
        str, typer.Option(metavar="TABLE", help="A table of samples: .csv, .tsv, .parquet, .jsonl.")
    ] = "",
    out: Annotated[
        str, typer.Option(metavar="FILE", help="Where its answers go, a .parquet.")
    ] = "",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=COLUMN", help="Repeatable; by default named as the modalities."
        ),
    ] = None,
    text_files: Annotated[
        bool, typer.Option("--text-files", help="Texts are paths of UTF-8 files.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a table at a time.")] = 64,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that decode a table's media; by default as it pays."),
    ] = None,
    broken: Annotated[
        Literal["absent", "fail"],
        typer.Option(help="A medium that can't be read is absent, or its sample gets no answer."),
    ] = "absent",
    model: ModelFolder = "",
    trust: Trust = False,
    as_json: AsJson = False,
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Answer from whatever is there of a sample, or of each sample of a table.

    A medium that can't be read is absent, with a warning or, in a table, a reason. A row without an answer says why; exit
    status 1 where no row has one. Paths are relative to the table.

    Creates: with --manifest the file --out: key, label, probability, probabilities, present, reason.
    """
    folder = _model("predict", model, params, set_)
    media = {
        "audio": audio,
        "image": image,
        "spectrogram": spectrogram,
        "text": text,
        "video": video,
    }
    given = {modality: value for modality, value in media.items() if value}
    if bool(manifest) != bool(out) or (manifest and given):
        hint = "Either --manifest TABLE --out FILE, or one sample, as --image FILE."
        raise UserError("these don't go together", "umemma predict", hint, usage=True)
    from umemma.stages import predict as stage
    from umemma.system.log import output

    if not manifest:
        answer = stage.run(folder, given, text_files, trust, broken)
        print(stage.as_json(answer)) if as_json else output.print(
            stage.make_class_table(answer, top), highlight=False
        )
        return
    counts = stage.run_table(
        folder,
        Path(manifest),
        Path(out),
        columns or [],
        text_files,
        workers,
        batch_size,
        trust,
        broken,
    )
    print(stage.as_json(counts) if as_json else f"{out}: {counts}")
    sys.exit(not counts.answered)


@app.command()
def export(
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="By default onnx/ beside the model.")
    ] = "",
    model: ModelFolder = "",
    trust: Trust = False,
    params: ParamsFile = Path("params.yaml"),
    set_: Sets = None,
) -> None:
    """Write a trained model as ONNX, and check it against PyTorch for every subset of its modalities.

    Creates: models/<dataset>/onnx/ encoder-<modality>.onnx, fusion.onnx and export.json, which says what they take.
    """
    folder = _model("export", model, params, set_)
    from umemma.stages import export as stage

    target = Path(out) if out else folder.parent / "onnx"
    print(f"ONNX models are in {target}, {stage.run(folder, target, trust)}")


@app.command()
def encoders(
    pattern: Annotated[
        str, typer.Argument(help='Names such as "timm:resnet*".', show_default=False)
    ] = "",
    modality: Annotated[
        str, typer.Option(help="Only encoders for this modality.", show_default=False)
    ] = "",
) -> None:
    """List the encoders: what they see, their feature width, and what weights are at hand."""
    from umemma.stages import encoders as stage

    stage.run(pattern, modality)


def _say(text: str) -> None:
    """A result, once, however many processes there are."""
    if distributed.is_main():
        print(text)


def _model(command: str, folder: str, params: Path, sets: list[str] | None) -> Path:
    """The folder of a trained model. Where it is named, no settings are read."""
    from umemma.system import log

    if not folder:
        return _start(command, params, sets).paths.ensemble
    log.start_logging(command)
    return Path(folder)


def _start(command: str, file: Path, sets: list[str] | None, name: str = "") -> Params:
    """The settings. A dataset that is asked for by `name` and isn't that of the file has its own defaults."""
    from umemma import config, datasets
    from umemma.system import log

    if name:
        datasets.check(name)
    if name and not file.exists() and file == Path("params.yaml"):
        params = config.default_params(name, sets or [])
    else:
        params = config.load_params(file, sets or [])
        params = (
            config.default_params(name, sets or []) if name not in ("", params.dataset) else params
        )
    datasets.check(params.dataset)
    log.start_logging(command)
    return params
