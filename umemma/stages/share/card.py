"""card: a model and its results -> a model card, README.md as Hugging Face reads it.

The numbers are those of metrics.json. The card is written beside the model, not into its folder,
which DVC tracks.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from umemma.errors import UserError
from umemma.evaluation.metrics import get
from umemma.models import saved_model
from umemma.models.hub import CARD, PREFIX
from umemma.system.files import new_file, read_json
from umemma.system.log import make_printable

EVALUATE = "Run: umemma evaluate-missing"
TASKS = {
    "multiclass": "multi-modal classification",
    "multilabel": "multi-modal multi-label classification",
    "regression": "multi-modal regression",
}
OF_TRAINING = ("finetune", "pretrain", "encoders", "augment", "missing", "seed", "fold")


@dataclass(frozen=True)
class CardInputs:
    """What a card is about. metrics: the content of metrics.json; metric: the one that leads."""

    info: saved_model.ModelInfo
    metrics: Mapping[str, Any]
    repo: str
    licence: str

    @property
    def metric(self) -> str:
        return self.metrics["metric"]

    @property
    def scores(self) -> Mapping[str, float | None]:
        """{modalities present: the leading metric of the ensemble}, the complete set first."""
        return self.metrics[self.metric]

    @property
    def dataset(self) -> str:
        return self.metrics["dataset"]

    def format(self, value: float | None, sign: str = "") -> str:
        """Return a value of the leading metric as people read it."""
        if value is None or math.isnan(value):
            return "–"
        shown = get(self.metric, self.info.task, len(self.info.classes)).shown(value)
        return f"+{shown}" if sign and value > 0 else shown


def run(folder: Path, results: Path, repo: str, licence: str, out: Path | None = None) -> Path:
    """Write the card of the model in `folder`, and return its path.

    results: the folder of its evaluation; repo: where it will be published; out: None for card/
    beside the model. UserError where the results are missing or of another model.
    """
    info = saved_model.read_info(folder, "Run: umemma finetune-ensemble")
    metrics = read_json(results / "metrics.json", EVALUATE)
    _check_same(info, metrics, results)
    inputs = CardInputs(info, metrics, repo, licence)
    path = out or locate_card(folder)
    with new_file(path) as temporary:
        temporary.write_text(make_card(inputs), encoding="utf-8")
    return path


def locate_card(folder: Path) -> Path:
    """Return where the card of a model is, unless somebody says otherwise."""
    return folder.parent / "card" / CARD


def _check_same(info: saved_model.ModelInfo, metrics: Mapping[str, Any], results: Path) -> None:
    """UserError where the results name another method, seed or set of modalities."""
    finetune = info.settings.get("finetune", {})
    there = {name: metrics.get(name) for name in ("preset", "init", "mma", "train", "seed")}
    here = {name: finetune.get(name) for name in there} | {"seed": info.settings.get("seed")}
    modalities = set(info.settings["modalities"])
    scored = set("+".join(metrics.get(metrics.get("metric", ""), {})).split("+"))
    if there != here or scored != modalities:
        what = "these are no results of this model"
        raise UserError(what, str(results / "metrics.json"), EVALUATE)


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
    for left, value in inputs.scores.items():
        if value is None:
            continue
        results.append(
            EvalResult(
                task_type="other",
                task_name=TASKS[inputs.info.task],
                dataset_type=inputs.dataset,
                dataset_name=inputs.dataset,
                dataset_split=inputs.metrics["split"],
                metric_type=inputs.metric,
                metric_name=f"{inputs.metric} with {left}",
                metric_value=value,
            )
        )
    data = ModelCardData(
        license=inputs.licence,
        library_name="umemma",
        tags=["multi-modal", "missing-modality", inputs.metrics["preset"], *_modalities(inputs)],
        datasets=[inputs.dataset],
        metrics=[inputs.metric],
        model_name=(inputs.repo or inputs.dataset).rpartition("/")[2],
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
        outputs = ", ".join(inputs.info.classes)
    return (
        f"A model of {names} that answers from whichever of them are present: "
        f"{TASKS[inputs.info.task]}, {outputs}. Trained on {inputs.dataset} by the method "
        f"`{metrics['preset']}` of umemma (UME-MMA, arXiv 2310.06383) with seed {metrics['seed']}."
    )


def _make_score_table(inputs: CardInputs) -> str:
    gaps = inputs.metrics.get("gaps", {})
    lines = [
        "## With modalities missing",
        f"{inputs.metric} on {inputs.metrics['samples']} {inputs.metrics['split']} samples. The "
        "ceiling is the best uni-modal model of what is present, the gap what the model is better "
        "by, with a 95 % interval.",
        f"| present | {inputs.metric} | ceiling | gap | interval |\n|---|--:|--:|--:|--:|",
    ]
    for left, value in inputs.scores.items():
        gap = gaps.get(left, {})
        ceiling = None
        if value is not None and gap.get("value") is not None:
            ceiling = value - gap["value"]
        interval = "–"
        if gap.get("low") is not None and gap.get("high") is not None:
            interval = f"{inputs.format(gap['low'], '+')} to {inputs.format(gap['high'], '+')}"
        cells = [left, inputs.format(value), inputs.format(ceiling)]
        cells += [inputs.format(gap.get("value"), "+"), interval]
        lines[-1] += f"\n| {' | '.join(cells)} |"
    worst = inputs.metrics.get("worst_case", {}).get("value")
    lines.append(f"Worst case, each sample under the subset that hurts it: {inputs.format(worst)}.")
    return "\n\n".join(lines)


def _make_contribution_table(inputs: CardInputs) -> str:
    contributions = inputs.metrics.get("contributions")
    if not contributions:
        return ""
    rows = ["| modality | bits | 95 % interval |", "|---|--:|--:|"]
    for modality, part in contributions.items():
        numbers = [_format_bits(part.get(name)) for name in ("value", "low", "high")]
        rows.append(f"| {modality} | {numbers[0]} | {numbers[1]} to {numbers[2]} |")
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
    return f"""## Use

```python
{code}
```

Leave out what is missing. `umemma predict --model {PREFIX}{repo}` does the same.

**Intended use**: samples like those of {inputs.dataset}, some of which lack a modality.

**Limits**: the numbers hold for the {inputs.metrics["split"]} split of {inputs.dataset} and one
training; other data may differ from it in ways that they don't show. Where nothing is present there
is no answer. Probabilities are calibrated on the validation split of the same data. The licence of
the training data applies as well."""


def _list_settings(inputs: CardInputs) -> str:
    settings = {k: v for k, v in inputs.info.settings.items() if k in OF_TRAINING and v != {}}
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(settings, stream)
    return f"## Training settings\n\n```yaml\n{stream.getvalue().rstrip()}\n```"
