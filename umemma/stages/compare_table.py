"""The table of a comparison, from the predictions of its cells -> results/<dataset>/compare/."""

from __future__ import annotations

from umemma.config import Params
from umemma.data import shard_reader
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.evaluation import comparison, experiments
from umemma.evaluation.comparison import Cell
from umemma.evaluation.metrics import chosen
from umemma.missing import Missing
from umemma.missing import asked as read
from umemma.reports.comparison import Standings, write


def run(params: Params) -> Standings:
    """UserError where a cell isn't done, as a table with holes misleads."""
    plan, section = experiments.planned(params), params.evaluate
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    metrics = chosen(section.metrics, index.task, len(index.classes))
    marks = {cell: experiments.done(params, cell, index.fingerprint) for cell in plan}
    if lacking := [str(cell) for cell, mark in marks.items() if mark is None]:
        raise UserError(
            f"{len(lacking)} of {len(plan)} cells aren't done with these settings: {'; '.join(lacking[:5])}"
            + ("; ..." if len(lacking) > 5 else ""),
            "compare",
            "Run: umemma compare",
        )
    found, groups, samples = list[Cell](), dict[str, list[str]](), 0
    for cell in plan:  # one after another: predictions of all of them may not fit into memory
        answers = experiments.predictions(params, cell)
        groups, samples = answers.groups, len(answers.keys)
        also = _asked(params, cell.train)
        found.append(
            comparison.boil_down(
                cell.train,
                cell.preset,
                cell.seed,
                answers,
                [m.name for m in metrics],
                section.ratios,
                also,
            )
        )
    method = experiments.method(params)
    about = {
        "dataset": params.dataset,
        "variant": index.variant,
        "split": section.split,
        "samples": samples,
    }
    about |= {"absent": params.finetune.absent, "calibrated": section.calibrate}
    outcome = Standings(
        about,
        metrics,
        method,
        list(params.compare.seeds),
        {
            train: comparison.columns(params.modalities, _asked(params, train))
            for train in params.compare.train
        },
        comparison.scores(found),
        comparison.points(found),
        list(comparison.differences(found, method, index.task, groups, params.compare.baseline)),
        {
            cell: mark["learning_rate"]
            for cell, mark in marks.items()
            if mark and mark["learning_rate"] is not None
        },
    )
    write(params.paths.results / "compare", outcome)
    return outcome


def _asked(params: Params, train: str) -> tuple[Missing, float] | None:
    """What is missing in training, to be asked for at the same ratio: where it is one thing, and leaves something."""
    entries = experiments.missing_of(train, params)
    if len(entries) != 1:
        return None
    ((text, ratio),) = entries.items()
    try:
        return read(text, params.modalities, "compare.train"), ratio
    except UserError:
        return None
