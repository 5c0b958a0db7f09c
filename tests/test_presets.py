"""The named methods are settings of five switches."""

from __future__ import annotations

import pytest
from toys.project import ROOT

from umemma import config
from umemma.errors import UserError
from umemma.presets import PRESETS, Switches

PARAMS = ROOT / "params.yaml"


def load_switches(*sets: str) -> Switches:
    return config.load_params(PARAMS, sets).finetune.switches()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_switches(preset):
    switches = load_switches(f"finetune.preset={preset}")
    assert switches == PRESETS[preset]
    assert switches.preset == preset


def test_a_switch_wins_over_the_preset_and_the_name_follows():
    assert load_switches("finetune.mma=none").preset == "ume-finetune"
    assert load_switches("finetune.mma=drop").preset == "ume-dropout"
    assert load_switches("finetune.mma=drop", "finetune.train=head").preset == "custom"


@pytest.mark.parametrize("file", [PARAMS, *sorted((ROOT / "recipes").glob("*.yaml"))])
def test_a_comment_lists_every_preset(file):
    text = " ".join(file.read_text().replace("#", " ").split())
    assert f"preset: ume-mma {', '.join(PRESETS)}" in text


def test_presets_that_make_no_sense():
    with pytest.raises(UserError, match="Did you mean 'ume-mma'"):
        load_switches("finetune.preset=umemma")
    with pytest.raises(UserError, match="leaves the encoders untrained"):
        load_switches("finetune.init=scratch", "finetune.train=head")
    with pytest.raises(UserError, match="leaves the fusion untrained"):
        load_switches("finetune.preset=ume", "finetune.fusion=gated")
    with pytest.raises(UserError, match="no modality alone to compare"):
        load_switches("finetune.preset=ogm-ge", "finetune.fusion=fill-zero")
