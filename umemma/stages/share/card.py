"""card: a model and its results -> a model card, README.md as Hugging Face reads it.

The numbers are those of metrics.json. The card is written beside the model, not into its folder,
which DVC tracks.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

from umemma.errors import UserError
from umemma.evaluation.metrics import get
from umemma.models import saved_model
from umemma.models.hub import CARD, PREFIX
from umemma.reports.html import escape_markdown
from umemma.system.files import new_file, read_json
from umemma.system.log import make_printable
from umemma.types import MODALITY_NAME
from umemma.validation import validate

EVALUATE = "Run: umemma evaluate-missing"
TASKS = {
    "multiclass": "multi-modal classification",
    "multilabel": "multi-modal multi-label classification",
    "regression": "multi-modal regression",
}
OF_TRAINING = ("finetune", "pretrain", "encoders", "augment", "missing", "seed", "fold")


class _Interval(BaseModel):
    value: float | None = None
    low: float | None = None
    high: float | None = None


class _Metrics(BaseModel):
    """What a card says of metrics.json.

    metric: the one that leads; scores: {modalities present: that metric of the ensemble}, the
    complete set first.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    samples: int
    scores: dict[str, float | None] = Field(min_length=1)
    dataset: str = ""
    split: str = ""
    preset: str = ""
    seed: int = 0
    gaps: dict[str, _Interval] = {}
    worst_case: _Interval = _Interval()
    contributions: dict[str, _Interval] = {}


@dataclass(frozen=True)
class CardInputs:
    """What a card is about. Its names may be those of strangers, so that they are escaped."""

    info: saved_model.ModelInfo
    metrics: _Metrics
    repo: str
    licence: str

    def format(self, value: float | None, sign: str = "") -> str:
        """Return a value of the leading metric as people read it."""
        if value is None or math.isnan(value):
            return "–"
        shown = get(self.metrics.metric, self.info.task, len(self.info.classes)).shown(value)
        return f"+{shown}" if sign and value > 0 else shown


def run(folder: Path, results: Path, repo: str, licence: str, out: Path | None = None) -> Path:
    """Write the card of the model in `folder`, and return its path.

    results: the folder of its evaluation; repo: where it will be published; out: None for card/
    beside the model. UserError where the results are missing or of another model.
    """
    info = saved_model.read_info(folder, "Run: umemma finetune-ensemble")
    path = results / "metrics.json"
    data = read_json(path, EVALUATE)
    metrics = _check(data, path)
    _check_same(info, data, metrics, folder, path)
    inputs = CardInputs(info, metrics, repo, licence)
    target = out or locate_card(folder)
    with new_file(target) as temporary:
        temporary.write_text(make_card(inputs), encoding="utf-8")
    return target


def locate_card(folder: Path) -> Path:
    """Return where the card of a model is, unless somebody says otherwise."""
    return folder.parent / "card" / CARD


def _check(data: Mapping[str, Any], path: Path) -> _Metrics:
    """Return what a card says of metrics.json. UserError for what is none."""
    try:
        return validate(_Metrics, {**data, "scores": data.get(str(data.get("metric")))}, "")
    except UserError as error:
        raise UserError(f"damaged: {error.what[:500]}", str(path), EVALUATE) from None


def _check_same(
    info: saved_model.ModelInfo,
    data: Mapping[str, Any],
    metrics: _Metrics,
    folder: Path,
    path: Path,
) -> None:
    """UserError where the results name another method, seed or set of modalities.

    data: the content of metrics.json, at `path`; folder: that of the model.
    """
    names: Any = info.settings.get("modalities")
    finetune: Any = info.settings.get("finetune", {})
    is_known = isinstance(names, list) and isinstance(finetune, dict)
    if not is_known or not all(MODALITY_NAME.fullmatch(str(name)) for name in names):
        what = "damaged: not the settings of an ensemble"
        raise UserError(what, str(folder / saved_model.ABOUT), "Train the model again.")
    there = {name: data.get(name) for name in ("preset", "init", "mma", "train", "seed")}
    here = {name: finetune.get(name) for name in there} | {"seed": info.settings.get("seed")}
    scored = set("+".join(metrics.scores).split("+"))
    if there != here or scored != set(names):
        raise UserError("these are no results of this model", str(path), EVALUATE)


def make_card(inputs: CardInputs) -> str:
    """Return the card: YAML for machines, then text for people."""
    repo = inputs.repo or "OWNER/NAME"
    parts = [
        f"---\n{_make_metadata(inputs)}\n---",
        f"# {repo.rpartition('/')[2]}",
        _describe(inputs),
        _make_score_table(inputs),
        _make_contribution_table(inputs),
        _explain_use(inputs, repo),
        _list_settings(inputs),
    ]
    return make_printable("\n\n".join(part for part in parts if part) + "\n")


def _make_metadata(inputs: CardInputs) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    for left, value in inputs.metrics.scores.items():
        if value is None:
            continue
        results.append(
            EvalResult(
                task_type="other",
                task_name=TASKS[inputs.info.task],
                dataset_type=inputs.metrics.dataset,
                dataset_name=inputs.metrics.dataset,
                dataset_split=inputs.metrics.split,
                metric_type=inputs.metrics.metric,
                metric_name=f"{inputs.metrics.metric} with {left}",
                metric_value=value,
            )
        )
    data = ModelCardData(
        license=inputs.licence,
        library_name="umemma",
        tags=["multi-modal", "missing-modality", inputs.metrics.preset, *_modalities(inputs)],
        datasets=[inputs.metrics.dataset],
        metrics=[inputs.metrics.metric],
        model_name=(inputs.repo or inputs.metrics.dataset).rpartition("/")[2],
        eval_results=results,
    )
    return data.to_yaml()


def _modalities(inputs: CardInputs) -> list[str]:
    return inputs.info.settings["modalities"]


def _describe(inputs: CardInputs) -> str:
    metrics = inputs.metrics
    names = ", ".join(_modalities(inputs))
    outputs = f"{len(inputs.info.classes)} classes"
    if inputs.info.task == "regression":
        outputs = escape_markdown(", ".join(inputs.info.classes))
    return (
        f"A model of {names} that answers from whichever of them are present: "
        f"{TASKS[inputs.info.task]}, {outputs}. Trained on "
        f"{escape_markdown(metrics.dataset)} by the method {escape_markdown(metrics.preset)} of "
        f"umemma (UME-MMA, arXiv 2310.06383) with seed {metrics.seed}."
    )


def _make_score_table(inputs: CardInputs) -> str:
    metrics = inputs.metrics
    lines = [
        "## With modalities missing",
        f"{metrics.metric} on {metrics.samples} {escape_markdown(metrics.split)} samples. The "
        "ceiling is the best uni-modal model of what is present, the gap what the model is better "
        "by, with a 95 % interval.",
        f"| present | {inputs.metrics.metric} | ceiling | gap | interval |\n|---|--:|--:|--:|--:|",
    ]
    for left, value in inputs.metrics.scores.items():
        gap = metrics.gaps.get(left, _Interval())
        ceiling = None
        if value is not None and gap.value is not None:
            ceiling = value - gap.value
        interval = "–"
        if gap.low is not None and gap.high is not None:
            interval = f"{inputs.format(gap.low, '+')} to {inputs.format(gap.high, '+')}"
        cells = [left, inputs.format(value), inputs.format(ceiling)]
        cells += [inputs.format(gap.value, "+"), interval]
        lines[-1] += f"\n| {' | '.join(cells)} |"
    worst = inputs.format(metrics.worst_case.value)
    lines.append(f"Worst case, each sample under the subset that hurts it: {worst}.")
    return "\n\n".join(lines)


def _make_contribution_table(inputs: CardInputs) -> str:
    contributions = inputs.metrics.contributions
    if not contributions:
        return ""
    rows = ["| modality | bits | 95 % interval |", "|---|--:|--:|"]
    for modality, part in contributions.items():
        numbers = [_format_bits(number) for number in (part.value, part.low, part.high)]
        rows.append(
            f"| {escape_markdown(modality)} | {numbers[0]} | {numbers[1]} to {numbers[2]} |"
        )
    about = "What each modality adds to the probability of the right answer (Shapley values)."
    return "\n\n".join(["## What each modality adds", about, "\n".join(rows)])


def _format_bits(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}"


def _explain_use(inputs: CardInputs, repo: str) -> str:
    arguments = ", ".join(f"{m}=..." for m in _modalities(inputs))
    code = (
        f'import umemma\n\nmodel = umemma.load("{PREFIX}{repo}")\nprint(model.predict({arguments}))'
    )
    dataset, split = (
        escape_markdown(name) for name in (inputs.metrics.dataset, inputs.metrics.split)
    )
    return f"""## Use

```python
{code}
```

Leave out what is missing. `umemma predict --model {PREFIX}{repo}` does the same.

**Intended use**: samples like those of {dataset}, some of which lack a modality.

**Limits**: the numbers hold for the {split} split of {dataset} and one
training; other data may differ from it in ways that they don't show. Where nothing is present there
is no answer. Probabilities are calibrated on the validation split of the same data. The licence of
the training data applies as well."""


def _list_settings(inputs: CardInputs) -> str:
    settings = {k: v for k, v in inputs.info.settings.items() if k in OF_TRAINING and v != {}}
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(settings, stream)
    text = stream.getvalue().rstrip()
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"## Training settings\n\n{fence}yaml\n{text}\n{fence}"
