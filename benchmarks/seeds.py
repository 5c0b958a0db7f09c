"""Presets x seeds -> a Markdown table, mean ± standard deviation over the seeds. README's numbers come from here:

    python benchmarks/seeds.py --seeds 0 1 2 --presets ume-mma late-fusion

Uni-modal models are trained once per seed and shared by the presets that start from them. Works in a folder of its own
(--work) and leaves the project's data/, models/ and results/ alone. Tune with --split val; report with --split test.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

from umemma import config
from umemma.report import spread
from umemma.stages import download, evaluate, finetune, preprocess, pretrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", default=list(config.PRESETS))
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument("--work", type=Path, help="a folder to work in and keep; by default a temporary one")
    arguments = parser.parse_args()
    file = arguments.params.resolve()
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        stack.enter_context(contextlib.chdir(work))
        cells = run(file, arguments.seeds, arguments.presets, [*arguments.sets, f"evaluate.split={arguments.split}"])
    print(table(cells))


def run(file: Path, seeds: list[int], presets: list[str], sets: list[str]) -> dict[str, list[dict[str, float]]]:
    """{row of the table: [{subset: accuracy} per seed]}, the uni-modal ceilings first."""
    cells: dict[str, list[dict[str, float]]] = {"uni-modal alone": []}
    made = False
    for seed in seeds:
        params = config.load(file, [*sets, f"seed={seed}"])
        if not made:
            download.run(params.dataset, params.preprocess.options)
            preprocess.run(params)
            made = True
        for modality in params.modalities:
            pretrain.run(params, modality)
        for preset in presets:
            params = config.load(file, [*sets, f"seed={seed}", f"finetune.preset={preset}"])
            finetune.run(params)
            evaluate.run(params)
            metrics = json.loads((params.paths.results / "metrics.json").read_text())
            cells.setdefault(preset, []).append(metrics["accuracy"])
        cells["uni-modal alone"].append(metrics["unimodal"])
    return cells


def table(cells: dict[str, list[dict[str, float]]]) -> str:
    """A row per preset; accuracy in %."""
    subsets = max((list(runs[0]) for runs in cells.values()), key=len)
    subsets.sort(key=lambda subset: (-subset.count("+"), subset))
    lines = [f"| | {' | '.join(subsets)} |", f"|---|{'--:|' * len(subsets)}"]
    for name, runs in cells.items():
        values = [spread([100 * run[subset] for run in runs]) if subset in runs[0] else None for subset in subsets]
        lines.append(f"| {name} | {' | '.join(f'{v[0]:.1f} ± {v[1]:.1f}' if v else '' for v in values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
