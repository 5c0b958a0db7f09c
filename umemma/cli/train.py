"""The commands that train and evaluate: pretrain, finetune, evaluate, compare."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from umemma.cli.options import (
    PARAMS,
    Again,
    AsJson,
    ExecutorName,
    Force,
    ParamsFile,
    RayAddress,
    Sets,
    TensorBoard,
    TrackerName,
    check_executor,
    name_tracker,
    print_once,
    start,
    take_turns,
)
from umemma.errors import UserError
from umemma.presets import PRESETS
from umemma.system import distributed

if TYPE_CHECKING:
    from umemma.config import Params
    from umemma.evaluation.results import Outcome

PRESET_NAMES = ", ".join(PRESETS)


def pretrain_unimodal(
    modality: Annotated[
        list[str] | None,
        typer.Option(
            help="Train only this modality. Repeatable. By default all of params.yaml.",
        ),
    ] = None,
    force: Force = False,
    again: Again = False,
    tracker: TrackerName = "",
    tensorboard: TensorBoard = False,
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Train one model per modality.

    The ensemble starts from these models, and they show what each modality can do alone. The same
    command resumes a training that was stopped. Several processes: `torchrun --nproc-per-node N -m
    umemma pretrain-unimodal`, or `srun umemma pretrain-unimodal`.

    Exit status 75 after SIGTERM, when a checkpoint was saved: run the same command to resume.

    Creates: models/<dataset>/pretrain/<modality>/ (model.safetensors, model.json, metrics.csv);
    runs/ during the training.
    """
    settings = start("pretrain-unimodal", params, set_)
    chosen = name_tracker(tracker, tensorboard)
    from umemma.stages import pretrain as stage

    for name in modality or settings.modalities:
        with take_turns(settings.paths.pretrain(name)):
            score = stage.run(settings, name, force or again, chosen)
        shown = format_score(score, settings.pretrain.of(name).select)
        print_once(f"{name}: validation score {shown}, in {settings.paths.pretrain(name)}")


def finetune_ensemble(
    preset: Annotated[
        str,
        typer.Option(
            help=f"The method, instead of finetune.preset: {PRESET_NAMES}.",
            show_default=False,
        ),
    ] = "",
    force: Force = False,
    again: Again = False,
    tracker: TrackerName = "",
    tensorboard: TensorBoard = False,
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Fine-tune the ensemble and show it every way in which modalities can be missing.

    The presets are UME-MMA (`ume-mma`) and its baselines. The same command resumes a training that
    was stopped. Several processes: as with pretrain-unimodal.

    Exit status 75 after SIGTERM, when a checkpoint was saved: run the same command to resume.

    Creates: models/<dataset>/ensemble/ (model.safetensors, model.json, metrics.csv); runs/ during
    the training.
    """
    sets = list(set_ or [])
    if preset:
        sets.append(f"finetune.preset={preset}")
    settings = start("finetune-ensemble", params, sets)
    chosen = name_tracker(tracker, tensorboard)
    from umemma.stages import finetune as stage

    with take_turns(settings.paths.ensemble):
        score = stage.run(settings, force or again, chosen)
    shown = format_score(score, settings.finetune.select)
    print_once(
        f"ensemble: validation score {shown} under the subsets of training, "
        f"in {settings.paths.ensemble}"
    )


def format_score(score: float, select: str | None) -> str:
    """Return a validation score as text. select: the metric that it is of, where one is set."""
    if select == "log_loss":
        return f"{-score:.3f} (log-loss)"
    if select in ("mcc", "kappa"):
        return f"{score:.3f}"
    return f"{score:.1%}"


def evaluate_missing(
    missing: Annotated[
        str,
        typer.Option(
            metavar="A,B or 'A|B'",
            help="Remove A and B at once, or one of the two. By default every set in turn.",
            show_default=False,
        ),
    ] = "",
    ratio: Annotated[
        list[float] | None,
        typer.Option(
            help="The missing ratio: the share of samples that lose them, 0 to 1. Repeatable.",
        ),
    ] = None,
    all_folds: Annotated[
        bool,
        typer.Option(
            "--all-folds",
            help="Score the test samples of all folds together, from what each fold's run kept.",
        ),
    ] = False,
    tracker: TrackerName = "",
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Measure accuracy with modalities missing.

    Without --missing and --ratio: evaluate the whole grid and write the report. With either: answer
    this one question from the predictions of the last evaluation, and write nothing. With folds,
    evaluate each one first (--set fold=0, 1 and so on), then all of them with --all-folds.
    Of another split, such as --set evaluate.split=train, the files go to results/<dataset>/train/.

    Creates: results/<dataset>/ report.html, report.md, metrics.json, information.json,
    grid.parquet, predictions.parquet, information.csv, robustness.csv, robustness.png,
    per_class.csv, confusion.csv; runs/<dataset>/features/ of frozen encoders.
    """
    settings = start("evaluate-missing", params, set_)
    from umemma.evaluation.results import to_json
    from umemma.reports import terminal
    from umemma.stages import evaluate as stage
    from umemma.system.log import output

    is_question = bool(missing or ratio)
    tracker = name_tracker(tracker, False)
    if is_question and (all_folds or tracker):
        raise UserError(
            "these options cannot be combined",
            "umemma evaluate-missing",
            "Use --all-folds or --tracker alone, or ask about one fold with --set fold=0.",
            usage=True,
        )
    if all_folds:
        settings = settings.model_copy(update={"fold": ""})
        with take_turns(settings.paths.results):
            outcome = stage.run_all_folds(settings)
    elif is_question:
        outcome = stage.ask(settings, missing, ratio or [])
    else:
        with take_turns(settings.paths.results):
            outcome = stage.run(settings)
    if not distributed.is_main():
        return
    if tracker:
        _track(outcome, settings, tracker)
    if as_json:
        print(json.dumps(to_json(outcome), indent=2, sort_keys=True, allow_nan=False))
    elif is_question:
        terminal.print_answer(output, outcome)
    else:
        terminal.print_evaluation(output, outcome)
        if outcome.folds:
            output.print(terminal.make_fold_table(outcome))
        terminal.print_next_step(output, settings.paths.results, _params_option(params))


def _track(outcome: Outcome, settings: Params, name: str) -> None:
    """Log every row of the subsets and of robustness.csv as a run of a tracker.

    The step of a row of robustness.csv is the missing ratio in %.
    """
    from umemma.reports.evaluation import ROBUSTNESS_COLUMNS, list_ratio_rows
    from umemma.system.trackers import Point, open_tracker

    points = []
    for row in outcome.subsets:
        left = row.left
        if row.missing == "any":
            left = "worst"
        points.append(Point(f"{row.metric}/{row.model}/{left}", row.value, 0))
    for missing, ratio, *values in list_ratio_rows(outcome):
        for column, value in zip(ROBUSTNESS_COLUMNS[2:], values, strict=True):
            points.append(Point(f"robustness/{missing}/{column}", value, round(100 * float(ratio))))
    folder = settings.paths.runs / "evaluate"
    title = f"evaluate-{outcome.settings.preset}-{outcome.settings.split}"
    tracked = open_tracker(name, folder, settings.name, title, outcome.settings.to_dict())
    if tracked is not None:
        tracked.add(points)
        tracked.finish()


def _params_option(params: Path) -> str:
    """Return the option that names the settings file, "" for the default one."""
    if params == PARAMS:
        return ""
    return f" --params {shlex.quote(str(params))}"


OnlyPreset = Annotated[
    str,
    typer.Option(help="Only the runs of this preset.", show_default=False),
]
OnlySeed = Annotated[
    int | None,
    typer.Option(help="Only the runs of this seed.", show_default=False),
]
OnlyFold = Annotated[
    str,
    typer.Option(help="Only the runs of this fold.", show_default=False),
]
OnlyTrain = Annotated[
    str,
    typer.Option(help="Only the runs of this entry of compare.train.", show_default=False),
]
OnlyModality = Annotated[
    str,
    typer.Option(
        help="Only the uni-modal models of this modality, which the presets share.",
        show_default=False,
    ),
]
OnlyTable = Annotated[
    bool,
    typer.Option("--table", help="Train nothing; make the table of the finished runs."),
]
Jobs = Annotated[
    int,
    typer.Option(
        min=1,
        help=(
            "Runs at a time, each with an equal share of the cores and one GPU. On a Ray cluster "
            "each has machine.threads cores, by default one, and a GPU."
        ),
    ),
]


def compare(
    preset: OnlyPreset = "",
    seed: OnlySeed = None,
    train: OnlyTrain = "",
    modality: OnlyModality = "",
    fold: OnlyFold = "",
    table: OnlyTable = False,
    jobs: Jobs = 1,
    executor: ExecutorName = "local",
    ray_address: RayAddress = "",
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Train and evaluate every preset with every seed, and compare them in one table.

    The section `compare` of params.yaml lists the presets, the seeds, the folds and what training
    misses. Finished runs stay, so the same command resumes after an interruption. With --preset,
    --seed, --fold, --train or --modality it makes only those runs, and no table.

    Exit status 1 where a run fails; the others are made nevertheless. Exit status 75 after SIGTERM:
    run the same command to resume.

    Creates: results/<dataset>/compare/ compare.md, compare.html, compare.csv, compare.json,
    differences.csv, robustness.csv, robustness.png; the runs in models/ and
    results/<dataset>/compare/<train>/<seed>/<preset>/; runs/<dataset>/compare/costs.csv.
    """
    is_partial = bool(preset or train or modality or fold or seed is not None)
    if (table and is_partial) or (preset and modality):
        raise UserError(
            "these options cannot be combined",
            "umemma compare",
            "Use --table alone, as it shows all runs, and --modality without --preset, as the "
            "presets share the uni-modal models.",
            usage=True,
        )
    settings = start("compare", params, set_)
    settings = settings.model_copy(update={"fold": ""})  # the section `compare` has its own
    from umemma.stages.compare import cells
    from umemma.system import executors

    check_executor(executor, ray_address)
    cluster = None
    if executor == "ray":
        cluster = executors.run_on_ray(ray_address, settings.machine.threads or 1, uses_gpu=True)
    if not table:
        selection = cells.Selection(preset, seed, train, modality, fold)
        cells.run(settings, jobs, selection, cluster)
    if not is_partial:
        _print_comparison(settings)


def _print_comparison(settings: Params) -> None:
    from umemma.reports.comparison.costs import format_costs
    from umemma.reports.comparison.terminal import WIDTH, format_terminal
    from umemma.stages.compare import table
    from umemma.system.log import output

    report = table.run(settings)
    for block in format_terminal(report, max(output.width, WIDTH)):
        output.print(block)
    output.print(*report.notes, sep="\n", highlight=False)
    costs = format_costs(settings, report.folds or [None])
    if costs:
        output.print(costs)
    print(f"report: {settings.paths.results / 'compare' / 'compare.md'}")
