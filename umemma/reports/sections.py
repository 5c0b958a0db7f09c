"""What the page about an evaluation says, section by section; `page` writes it as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from umemma.evaluation.information_report import describe_threshold
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import CURVES, Outcome
from umemma.reports import classes, confidence, robustness
from umemma.reports.html import Block, Code, Points, Section, Table, Terms, Text
from umemma.types import format_pattern

ABSENCE = {
    "zero": "an absent modality is a feature vector of zeros",
    "blank": "an absent modality is the feature of a blank input (black picture, silence)",
    "learned": "an absent modality is a learned feature vector",
}


def sections(outcome: Outcome, predictions: Predictions, command: str) -> Iterator[Section]:
    """In the order of a reader who has little time."""
    yield Section("Results", list(robustness.results(outcome)))
    if outcome.information:
        counts = describe_threshold(outcome.information)
        advice = outcome.information.advice
        yield Section(
            "Advice",
            [Text(counts), Points(advice) if advice else Text("There is nothing to advise.")],
        )
    yield Section("When modalities go missing", list(robustness.ratios(outcome)))
    if found := list(classes.classes(outcome, predictions)):
        yield Section("Classes", found)
    if predictions.task == "multiclass":
        yield Section("Confusions", list(classes.confusions(outcome, predictions)))
    yield Section("Information", list(confidence.information(outcome)))
    yield Section("Calibration", list(confidence.calibration(outcome, predictions)))
    yield Section("Only when sure", list(confidence.selective(outcome, predictions)))
    yield Section("Settings", list(_settings(outcome, command)))
    yield Section("Terms", [Terms(_terms(outcome))])


def _settings(outcome: Outcome, command: str) -> Iterator[Block]:
    rows = [[key, str(value)] for key, value in outcome.about.items() if value not in ("", {})]
    yield Table("What the numbers belong to", ["setting", "value"], rows, 2)
    yield Text("To make these files again, from the same shards, models and params.yaml:")
    yield Code(command)


def _terms(outcome: Outcome) -> dict[str, str]:
    name = format_pattern(outcome.lead("unimodal"))
    return {
        "modalities present": f"What the model is given of a sample. {name} is everything; the rest is taken away: "
        f"{ABSENCE[outcome.about['absent']]}.",
        "missing": "What is taken away. a+b is both at once, a|b one of the two, each as likely.",
        "uni-modal model, ceiling": "A model trained on one modality alone. The best of those that are left is what an "
        "ensemble should not fall below.",
        "worst case": "Each sample is scored under the subset that hurts it most: a lower bound for any way to go missing.",
        "95 % interval": "From resampling whole groups of samples (bootstrap), of several groupings each of them; about this "
        "split, not about another training.",
        "gap": "The ensemble less the ceiling, in points; the interval is of the difference, both resampled together.",
        "probe": "A linear classifier on the features that the ensemble's own encoder makes of one modality, fitted on the "
        "training split with its strength chosen on validation.",
        "recall": "Of a class's samples the share that is found.",
        "F1": "The harmonic mean of recall and of the share of such answers that are right.",
        "log-loss": "The mean of minus the logarithm of the probability that was given to what is right; lower is better.",
        "calibration error": "How far confidence is from how often it is right, on average (ECE, 15 bins).",
        "temperature, bias": "Logits are divided by the one and moved by the other, as fitted on validation per subset.",
        "H(Y), cross entropy": "The uncertainty about the label before and after seeing the modalities, in bits.",
        "AURC": "The area under the risk-coverage curve: the mean of what is lost over all shares answered; lower is better.",
        "figures": f"Show everything there and at most {CURVES} lesser sets: each modality missing, then those that hurt most.",
    }
