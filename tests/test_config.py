"""params.yaml at the door."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys.project import ROOT

from umemma import config, validation
from umemma.config import PRESETS
from umemma.errors import UserError

PARAMS = ROOT / "params.yaml"


def test_the_shipped_file_is_read_and_its_numbers_are_numbers():
    params = config.load(PARAMS)
    assert params.dataset == "digits"
    assert params.pretrain.learning_rate == 2e-3  # YAML 1.1 would read a string here
    switches = {
        "preset": "ume-mma",
        "init": "unimodal",
        "mma": "all",
        "train": "all",
        "balance": "none",
    }
    assert params.finetune.switches() == switches


def test_set_changes_one_value():
    params = config.load(
        PARAMS, ["finetune.learning_rate=1e-5", "evaluate.ratios=[0.5]", "encoders.image=cnn:small"]
    )
    assert params.finetune.learning_rate == 1e-5
    assert params.evaluate.ratios == (0.5,)
    assert params.encoders["image"].name == "cnn:small"


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_switches(preset):
    switches = config.load(PARAMS, [f"finetune.preset={preset}"]).finetune.switches()
    assert switches == dict(
        zip(("preset", "init", "mma", "train", "balance"), (preset, *PRESETS[preset]), strict=True)
    )


def test_a_switch_wins_over_the_preset_and_the_name_follows():
    assert (
        config.load(PARAMS, ["finetune.mma=none"]).finetune.switches()["preset"] == "ume-finetune"
    )
    assert config.load(PARAMS, ["finetune.mma=drop"]).finetune.switches()["preset"] == "ume-dropout"
    unnamed = ["finetune.mma=drop", "finetune.train=head"]
    assert config.load(PARAMS, unnamed).finetune.switches()["preset"] == "custom"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("finetune.lerning_rate=1", "finetune.lerning_rate' (Did you mean 'learning_rate'?"),
        ("evalute.draws=1", "evalute' (Did you mean 'evaluate'?"),
        ("encoders.audio.nam=cnn", "encoders.audio.nam' (Did you mean 'name'?"),
        (
            "finetune.epochs=ten",
            "finetune.epochs: input should be a valid integer, but it is 'ten'",
        ),
        ("finetune.epochs=0", "finetune.epochs: input should be greater than 0, but it is 0"),
        (
            "finetune.mma=sometimes",
            "finetune.mma: input should be 'none', 'drop' or 'all', but it is 'sometimes'",
        ),
        (
            "evaluate.ratios=[1.5]",
            "evaluate.ratios.0: input should be less than or equal to 1, but it is 1.5",
        ),
        ("pretrain.learning_rate=.nan", "pretrain.learning_rate: input should be"),
        ("seed=1.5", "seed: input should be a valid integer"),
        ("dataset=3", "dataset: input should be a valid string"),
        ("seed", "cannot read 'seed'"),
        ("seed.x=1", "'seed' holds a value, not a section"),
        ("seed=[", "is not a YAML value"),
    ],
)
def test_wrong_settings_are_one_message_and_usage(change, message):
    with pytest.raises(UserError) as error:
        config.load(PARAMS, [change])
    assert message in str(error.value)
    assert error.value.exit_status == 2


@pytest.mark.parametrize("content", ["a: [", "just text", "", "seed: 1\nseed: 2", "\x00"])
def test_files_that_are_no_settings(tmp_path, content):
    file = tmp_path / "params.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as error:
        config.load(file)
    assert error.value.exit_status == 2
    assert str(file) in str(error.value)


def test_no_file():
    with pytest.raises(UserError, match="no such file"):
        config.load(Path("nowhere.yaml"))


def test_presets_that_make_no_sense():
    with pytest.raises(UserError, match="Did you mean 'ume-mma'"):
        config.load(PARAMS, ["finetune.preset=umemma"]).finetune.switches()
    with pytest.raises(UserError, match="leaves the encoders untrained"):
        config.load(PARAMS, ["finetune.init=scratch", "finetune.train=head"]).finetune.switches()


def test_modalities_are_checked_against_the_dataset():
    for change, message in (
        ("modalities=[audio, imge]", "Did you mean 'image'"),
        ("modalities=[audio, audio]", "name each modality once"),
        ("modalities=[]", "name each modality once"),
        ("encoders.video=cnn:small", "unknown modality 'video'"),
    ):
        with pytest.raises(UserError, match=message):
            config.load(PARAMS, [change]).check_modalities(["audio", "image"])


def test_difference_names_the_path():
    assert validation.difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == [
        "a.c: 2 there, 3 here",
        "d: None there, 4 here",
    ]


def test_fingerprint_knows_no_order():
    assert validation.fingerprint({"a": 1, "b": 2}) == validation.fingerprint({"b": 2, "a": 1})
    assert validation.fingerprint({"a": 1}) != validation.fingerprint({"a": 2})
