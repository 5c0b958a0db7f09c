"""The shipped settings, cut to what a test needs."""

from __future__ import annotations

from pathlib import Path

from umemma import config

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"  # on the path of processes that tests start


# The shipped settings, with training cut to what a test needs.
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
    return config.load(ROOT / "recipes" / "digits.yaml", [*QUICK, *sets])
