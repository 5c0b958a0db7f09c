"""A comparison -> the terminal's tables and the files of results/<dataset>/compare/: Markdown, HTML, CSV, JSON, a figure."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from umemma.evaluation.comparison import ALONE, AVERAGE, WORST, Difference, Point, Score
from umemma.evaluation.experiments import Cell
from umemma.evaluation.metrics import Metric
from umemma.reports import figures, html
from umemma.system.files import new_files, write_json
from umemma.system.log import table
from umemma.types import alternatives

NOTES = (
    "Every method: the same shards, the same absences in training, the same seeds, and from scratch the epochs of both "
    "trainings of the others together. What learning rate, epoch and calibration a method gets, validation chooses.",
    "{method} is tested against {baselines} in each column; nothing is chosen by the numbers of this table. Differences are of "
    "means over samples, paired by seed and sample, in points, with 95 % intervals. {mark} p < 0.05 after Holm's adjustment "
    "for all tests of a table together: with equal methods at most one table in twenty has any such mark. An interval "
    "is of its own test, so it may leave out 0 where there is no mark.",
    "{chance}",
    "{worst}: of each sample the answer under the subset that hurts it most. {alone}: the models that were trained on one "
    "modality; {average}: the mean of their logits.",
)
SEVERAL = (
    "Chance is in seeds and in groups of samples, and both are in the intervals: they are of what the methods do with other "
    "seeds and other samples. With {seeds} seeds they are wide where seeds differ; more seeds then help, more samples don't."
)
ONE = (
    "One seed: chance is in groups of samples only. The differences are of these two trainings each, and say nothing of what "
    "the methods do with another seed."
)

LEVEL, MARK = 0.05, "*"


@dataclass(frozen=True)
class Standings:
    """columns: of each `train`, in order; rates: the learning rate of each cell that had a choice."""

    about: dict[str, Any]
    metrics: list[Metric]
    method: str
    seeds: list[int]
    columns: dict[str, list[str]]
    scores: list[Score]
    points: list[Point]
    differences: list[Difference]
    rates: dict[Cell, float]

    @property
    def title(self) -> str:
        variant = f" ({self.about['variant']})" if self.about["variant"] else ""
        seeds = f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
        return f"{self.about['dataset']}{variant} {self.about['split']}, {seeds}"

    @property
    def tested(self) -> str:
        """The metric of the differences."""
        return self.differences[0].metric

    @property
    def notes(self) -> list[str]:
        count = len(self.seeds)
        names = list(dict.fromkeys(one.baseline for one in self.differences))
        words = {
            "method": self.method,
            "baselines": names[0] if len(names) == 1 else "each of the other methods",
            "mark": MARK,
            "chance": SEVERAL.format(seeds=count) if count > 1 else ONE,
        }
        notes = NOTES if names else (NOTES[0], NOTES[-1])
        return [note.format(**words, worst=WORST, alone=ALONE, average=AVERAGE) for note in notes]

    def table(self, train: str, metric: Metric) -> tuple[list[str], list[list[str]]]:
        """Headings; method, then a cell per column: mean ± standard deviation over the seeds, in % for a share."""
        found: dict[str, dict[str, Score]] = {}
        for score in self.scores:
            if (score.train, score.metric) == (train, metric.name):
                found.setdefault(score.method, {})[score.column] = score
        columns = [
            column for column in self.columns[train] if any(column in own for own in found.values())
        ]
        methods = sorted(
            found, key=lambda name: name in (ALONE, AVERAGE)
        )  # the presets, in their order, first
        return ["", *columns], [
            [name, *(_shown(found[name].get(c), metric) for c in columns)] for name in methods
        ]

    def tests(self, train: str) -> dict[str, list[Difference]]:
        """Of each baseline its differences, column by column."""
        rows: dict[str, list[Difference]] = {}
        for one in self.differences:
            if one.train == train:
                rows.setdefault(one.baseline, []).append(one)
        return rows

    def rate_rows(self, train: str) -> Iterator[list[str]]:
        """Preset, then its learning rate per seed."""
        for preset in dict.fromkeys(cell.preset for cell in self.rates if cell.train == train):
            yield [preset, *(f"{self.rates[Cell(train, seed, preset)]:g}" for seed in self.seeds)]


def tables(outcome: Standings) -> Iterator[Table]:
    """For the terminal: of the leading metric, its differences and the learning rates, for each `train`."""
    lead = outcome.metrics[0]
    for train in outcome.columns:
        yield table(
            f"{outcome.title}: {_unit(lead)}, {trained_on(train)}", *outcome.table(train, lead)
        )
        if tests := outcome.tests(train):
            rows: list[list[str]] = []
            for (
                baseline,
                own,
            ) in tests.items():  # the interval below the difference, so that many columns fit
                rows += [[baseline, *map(_points, own)], ["", *map(_interval, own)]]
            yield table(_versus(outcome), _columns(tests), rows)
        if rates := [*outcome.rate_rows(train)]:
            yield table(
                "learning rate that validation chose",
                ["", *(f"seed {s}" for s in outcome.seeds)],
                rates,
            )


def write(folder: Path, outcome: Standings) -> None:
    """compare.md, compare.html, compare.csv, compare.json, differences.csv, robustness.csv and robustness.png."""
    with new_files(folder) as aside:
        drawings = panels(outcome)
        figures.png(aside / "robustness.png", [*drawings.values()] or [figures.nothing])
        parts = list(sections(outcome, drawings))
        title = f"{outcome.title}: {outcome.metrics[0].label} by method"
        lead = headline(outcome)
        (aside / "compare.md").write_text(
            html.markdown(title, lead, parts), encoding="utf-8", newline="\n"
        )
        (aside / "compare.html").write_text(
            html.render(title, lead, parts), encoding="utf-8", newline="\n"
        )
        _csv(aside / "compare.csv", Score._fields, outcome.scores)
        _csv(aside / "differences.csv", Difference._fields, outcome.differences)
        _csv(aside / "robustness.csv", Point._fields, outcome.points)
        rates = [{**cell._asdict(), "learning_rate": rate} for cell, rate in outcome.rates.items()]
        data = {
            "about": outcome.about
            | {"method": outcome.method, "seeds": outcome.seeds, "notes": outcome.notes},
            "scores": [_finite(one._asdict()) for one in outcome.scores],
            "differences": [_finite(one._asdict()) for one in outcome.differences],
            "learning_rates": rates,
        }
        write_json(aside / "compare.json", data)


def headline(outcome: Standings) -> str:
    """In how many tests the method is better or worse, and in which."""
    tests = outcome.differences
    if not tests:
        return f"{outcome.method} alone: there is no baseline to compare with."
    sure = [one for one in tests if one.p_holm < LEVEL]
    better = [one for one in sure if one.difference > 0]
    worse = [one for one in sure if one.difference < 0]
    several = len(outcome.columns) > 1
    sides = f"better in {_named(better, several)}, worse in {_named(worse, several)}"
    return (
        f"By {outcome.tested}, {outcome.method} is {sides}; in the other {len(tests) - len(sure)} of {len(tests)} tests the "
        "difference may be chance (p after Holm's adjustment, 5 %)."
    )


def _named(tests: Sequence[Difference], several: bool) -> str:
    """How many, and of each baseline the columns; with what training missed, if there are several."""
    found: dict[str, list[str]] = {}
    for one in tests:
        name = f"{one.baseline} {trained_on(one.train)}" if several else one.baseline
        found.setdefault(name, []).append(one.column)
    names = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in found.items())
    return f"{len(tests)} ({names})" if names else "0"


def sections(outcome: Standings, drawings: Mapping[str, figures.Draw]) -> Iterator[html.Section]:
    """What Markdown and HTML show."""
    lead, *others = outcome.metrics
    for train in outcome.columns:
        blocks: list[html.Block] = [html.Table(_unit(lead), *outcome.table(train, lead))]
        if tests := outcome.tests(train):
            rows: list[list[str]] = []
            for baseline, own in tests.items():
                cells = [f"{_points(one)} ({_interval(one)})" for one in own]
                rows.append([baseline, *cells])
            blocks.append(html.Table(_versus(outcome), _columns(tests), rows))
        if rates := [*outcome.rate_rows(train)]:
            heads = ["", *(f"seed {seed}" for seed in outcome.seeds)]
            blocks.append(html.Table("Learning rate that validation chose", heads, rates))
        yield html.Section(trained_on(train).capitalize(), blocks)
    if drawings:
        about = "Lines of the score per method; the numbers are in robustness.csv."
        shown = [
            html.Figure(
                figures.svg(f"compare {name}", draw), name, about, "robustness.png" * (not i)
            )
            for i, (name, draw) in enumerate(drawings.items())
        ]
        yield html.Section(
            f"{lead.label} against the share of samples that lose something".capitalize(), shown
        )
    if others:
        yield html.Section(
            "Other metrics",
            [
                html.Table(f"{_unit(metric)}, {trained_on(train)}", *outcome.table(train, metric))
                for train in outcome.columns
                for metric in others
            ],
        )
    settings = [f"{name}: {value}" for name, value in outcome.about.items() if value != ""]
    settings.append(f"seeds: {', '.join(map(str, outcome.seeds))}")
    yield html.Section("How to read it", [html.Points(outcome.notes)])
    yield html.Section("Settings", [html.Points(settings), html.Code("umemma compare")])


def panels(outcome: Standings) -> dict[str, figures.Draw]:
    """{title: a panel} per `train` and what goes missing: a curve per method."""
    lead = outcome.metrics[0]
    found: dict[str, figures.Draw] = {}
    by: dict[tuple[str, str], dict[str, list[Point]]] = {}
    for point in outcome.points:
        by.setdefault((point.train, point.missing), {}).setdefault(point.method, []).append(point)
    low = min((point.score for point in outcome.points), default=0.0)
    for (train, missing), methods in by.items():
        lines = [
            figures.Curve(name, [p.ratio for p in own], [p.score for p in own])
            for name, own in methods.items()
        ]
        title = f"{' or '.join('+'.join(one) for one in alternatives(missing))} missing, {trained_on(train)}"
        found[title] = functools.partial(
            figures.curves,
            lines=lines,
            xlabel="share of samples that lose it",
            ylabel=lead.label,
            title=title,
            ylim=(max(0.0, low - 0.05), 1.0),
        )
    return found


def trained_on(train: str) -> str:
    return "trained on complete samples" if train == "complete" else f"trained with {train} missing"


def _versus(outcome: Standings) -> str:
    return f"{outcome.method} minus each baseline: {outcome.tested}, points; {MARK} p < {LEVEL} after Holm's adjustment"


def _columns(tests: Mapping[str, Sequence[Difference]]) -> list[str]:
    """The headings of a table of them."""
    return ["", *(one.column for one in next(iter(tests.values())))]


def _points(one: Difference) -> str:
    """With the mark of a difference that is more than chance."""
    if math.isnan(one.difference):
        return "not scored"
    return f"{100 * one.difference:+.1f}{MARK * (one.p_holm < LEVEL)}"


def _interval(one: Difference) -> str:
    return "unknown" if math.isnan(one.low) else f"{100 * one.low:.1f} to {100 * one.high:.1f}"


def _unit(metric: Metric) -> str:
    return f"{metric.label}, %" if metric.percent else metric.label


def _shown(score: Score | None, metric: Metric) -> str:
    if score is None:
        return ""
    scale, digits = (100, 1) if metric.percent else (1, 3)
    spread = "" if math.isnan(score.std) else f" ± {scale * score.std:.{digits}f}"
    return f"{scale * score.mean:.{digits}f}{spread}"


def _csv(path: Path, headings: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headings)
        for row in rows:
            writer.writerow([_written(cell) for cell in row])


def _written(cell: Any) -> Any:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else f"{cell:.6f}"
    return cell


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in row.items()}
