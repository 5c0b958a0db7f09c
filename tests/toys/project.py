"""The shipped settings, reduced to what a test needs."""

from __future__ import annotations

from pathlib import Path

from umemma import config

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"

# Changes of the shipped settings for trainings of one epoch.
QUICK = (
    "preprocess.options.utterances=1",
    "pretrain.epochs=1",
    "finetune.epochs=1",
    "finetune.scratch.epochs=1",
    "evaluate.draws=2",
    "evaluate.bootstrap=50",
    "encoders.audio.input.mels=16",
    "encoders.audio.input.hop=400",
)


def quick(*sets: str) -> config.Params:
    """Return the settings of the digits for a quick training, with further changes `sets`."""
    return config.load_params(ROOT / "recipes" / "digits.yaml", [*QUICK, *sets])
