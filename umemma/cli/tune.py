"""The command that searches settings: tune."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from umemma.cli.options import PARAMS, ParamsFile, Sets, start, take_turns
from umemma.cli.train import format_score
from umemma.errors import UserError

if TYPE_CHECKING:
    from umemma.config import Params

BEST_TRIALS = 10  # that are printed


def tune(
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A.B=VALUES",
            help=(
                "A setting and its values: a list '[16, 32]', or a range '5..20', '1e-4..1e-2 log' "
                "(drawn evenly in its logarithm). Repeatable."
            ),
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int,
        typer.Option(min=1, help="How many trials there are at the end, earlier ones included."),
    ] = 20,
    preset: Annotated[
        str,
        typer.Option(
            help="Tune this preset, instead of finetune.preset.",
            show_default=False,
        ),
    ] = "",
    out: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Also write the settings file with the best values, for --params.",
            show_default=False,
        ),
    ] = "",
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Search settings of the training by the validation score of the ensemble.

    Each trial trains the ensemble, and the uni-modal models whose settings are searched. The test
    split is not opened. The same command resumes a search that was stopped, and with more --trials
    it continues; another search space or other settings are another study. The same seed gives the
    same trials. A trial that fails is recorded with its reason.

    Exit status 75 after SIGTERM: run the same command to resume.

    Creates: runs/<dataset>/tune/<study>/ study.db, the settings and the log of each trial, and the
    model of the best; the file --out.
    """
    sets = list(set_ or [])
    if preset:
        sets.append(f"finetune.preset={preset}")
    settings = start("tune", params, sets)
    from umemma.config import load_params, write_params
    from umemma.evaluation.search.space import format_sets, parse_space
    from umemma.stages import tune as stage
    from umemma.system.log import output

    if not search:
        hint = "Such as: umemma tune --search 'finetune.learning_rate=1e-4..1e-2 log'"
        raise UserError("names nothing to search", "--search", hint, usage=True)

    def change(more: Sequence[str]) -> Params:
        return load_params(params, [*sets, *more])

    with take_turns(settings.paths.runs / "tune"):
        report = stage.run(change, parse_space(search), trials)

    def format_one(score: float) -> str:
        return format_score(score, settings.finetune.select)

    output.print(stage.make_trial_table(report, format_one, BEST_TRIALS), highlight=False)
    best = format_sets(report.best.settings)
    print("best settings:", *(f"--set {shlex.quote(text)}" for text in best))
    if out:
        write_params(params, [*sets, *best], Path(out))
        print(f"settings file with them: {out}")
