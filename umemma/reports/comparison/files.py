"""A comparison as files in results/<dataset>/compare/: Markdown, HTML, CSV, JSON, a figure."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from umemma.evaluation.comparison import CurvePoint, MethodDifference, MethodScore
from umemma.evaluation.metrics import Metric
from umemma.reports import figures, html
from umemma.reports.comparison.report import (
    OVER_FOLDS,
    ComparisonReport,
    describe_tests,
    describe_training,
    format_difference,
    format_headline,
    format_metric,
    format_score,
    format_test_interval,
    list_tested_columns,
)
from umemma.reports.published.section import make_section
from umemma.system.files import new_files, replace_nan, write_csv, write_json
from umemma.types import parse_alternatives


def write(folder: Path, report: ComparisonReport) -> None:
    """Write compare.md, .html, .csv, .json, differences.csv, robustness.csv and robustness.png."""
    drawings = make_panels(report)
    sections = list(make_sections(report, drawings))
    title = f"{report.title}: {report.metrics[0].label} by method"
    headline = format_headline(report)
    markdown = html.markdown(title, headline, sections)
    page = html.render(title, headline, sections)
    with new_files(folder) as aside:
        figures.png(aside / "robustness.png", list(drawings.values()) or [figures.nothing])
        (aside / "compare.md").write_text(markdown, encoding="utf-8", newline="\n")
        (aside / "compare.html").write_text(page, encoding="utf-8", newline="\n")
        write_csv(aside / "compare.csv", MethodScore._fields, report.scores)
        write_csv(aside / "differences.csv", MethodDifference._fields, report.differences)
        write_csv(aside / "robustness.csv", CurvePoint._fields, report.points)
        write_json(aside / "compare.json", _as_json(report))


def make_sections(
    report: ComparisonReport, drawings: Mapping[str, figures.Draw]
) -> Iterator[html.Section]:
    """Yield what Markdown and HTML show."""
    for train in report.columns:
        yield html.Section(describe_training(train).capitalize(), _tables_of(report, train))
    setup = report.setup
    yield from make_section(setup.dataset, setup.variant, setup.split, report.columns)
    if drawings:
        label = report.metrics[0].label
        title = f"{label} against the share of samples that lose something".capitalize()
        yield html.Section(title, _figures_of(drawings))
    tables: list[html.Block] = []
    for train in report.columns:
        for metric in report.metrics[1:]:
            caption = f"{format_metric(metric)}, {describe_training(train)}"
            tables.append(_make_score_table(report, train, metric, caption))
    if tables:
        yield html.Section("Other metrics", tables)
    yield html.Section("How to read it", [html.Points(report.notes)])
    settings = []
    for name, value in asdict(report.setup).items():
        if value != "":
            settings.append(f"{name}: {value}")
    settings.append(f"seeds: {', '.join(map(str, report.seeds))}")
    if report.folds:
        settings.append(f"folds: {', '.join(map(str, report.folds))}")
    yield html.Section("Settings", [html.Points(settings), html.Code("umemma compare")])


def make_panels(report: ComparisonReport) -> dict[str, figures.Draw]:
    """Return {title: a panel} for each `train` and what goes missing: a curve per method."""
    curves: dict[tuple[str, str], dict[str, list[CurvePoint]]] = {}
    for point in report.points:
        by_method = curves.setdefault((point.train, point.missing), {})
        by_method.setdefault(point.method, []).append(point)
    lowest = min((point.score for point in report.points), default=0.0)
    panels: dict[str, figures.Draw] = {}
    for (train, missing), by_method in curves.items():
        lines = []
        for name, points in by_method.items():
            ratios = [point.ratio for point in points]
            scores = [point.score for point in points]
            lines.append(figures.Curve(name, ratios, scores))
        sets = " or ".join("+".join(taken) for taken in parse_alternatives(missing))
        title = f"{sets} missing, {describe_training(train)}"
        panels[title] = functools.partial(
            figures.curves,
            lines=lines,
            xlabel="share of samples that lose it",
            ylabel=report.metrics[0].label,
            title=title,
            ylim=(max(report.metrics[0].lowest, lowest - 0.05), 1.0),
        )
    return panels


def _make_score_table(
    report: ComparisonReport,
    train: str,
    metric: Metric,
    caption: str,
) -> html.Table:
    """Return a row per method with its score in each column."""
    columns = report.columns_of(train, metric)
    best = {column: report.best_of(train, metric, column) for column in columns}
    rows: list[list[html.Cell]] = []
    for name, scores in report.scores_of(train, metric).items():
        cells: list[html.Cell] = [name]
        if name == report.method:
            cells = [html.BoldCell(name)]
        for column in columns:
            text = format_score(scores.get(column), metric)
            if name in best[column]:
                cells.append(html.BoldCell(text))
            else:
                cells.append(text)
        rows.append(cells)
    return html.Table(caption, ["", *columns], rows)


def _tables_of(report: ComparisonReport, train: str) -> list[html.Block]:
    metric = report.metrics[0]
    caption = f"{format_metric(metric)}; the compared method and the best values are bold"
    blocks: list[html.Block] = [_make_score_table(report, train, metric, caption)]
    if report.over_folds:
        about = OVER_FOLDS.format(folds=len(report.folds))
        caption = f"{format_metric(metric)}: {about}"
        blocks.append(_make_score_table(report.over_folds, train, metric, caption))
    tests = report.differences_of(train)
    if tests:
        rows = []
        for baseline, differences in tests.items():
            row = [baseline]
            for test in differences:
                row.append(f"{format_difference(test)} ({format_test_interval(test)})")
            rows.append(row)
        headings = ["", *list_tested_columns(tests)]
        blocks.append(html.Table(describe_tests(report), headings, rows))
    rates = list(report.rate_rows(train))
    if rates:
        headings = ["", *report.list_runs().values()]
        blocks.append(html.Table("Learning rate that validation chose", headings, rates))
    return blocks


def _figures_of(drawings: Mapping[str, figures.Draw]) -> list[html.Figure]:
    """The first one also stands for all of them in Markdown, as robustness.png."""
    about = "Lines of the score per method; the numbers are in robustness.csv."
    file = "robustness.png"
    blocks = []
    for name, draw in drawings.items():
        svg = figures.svg(f"compare {name}", draw)
        blocks.append(html.Figure(svg, name, about, file))
        file = ""
    return blocks


def _as_json(report: ComparisonReport) -> dict[str, Any]:
    about = {
        **asdict(report.setup),
        "method": report.method,
        "seeds": report.seeds,
        "notes": report.notes,
    }
    rates = []
    for experiment, rate in report.rates.items():
        entry = {**experiment._asdict(), "learning_rate": rate}
        if experiment.fold is None:
            del entry["fold"]
        rates.append(entry)
    data: dict[str, Any] = {
        "about": about,
        "scores": [score._asdict() for score in report.scores],
        "differences": [test._asdict() for test in report.differences],
        "learning_rates": rates,
    }
    if report.folds:
        data["folds"] = {
            "numbers": report.folds,
            "inflation": report.inflation,
            "scores": [score._asdict() for score in report.fold_scores],
        }
    return dict(replace_nan(data))
