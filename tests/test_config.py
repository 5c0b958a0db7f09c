"""Settings are read, validated, and named by a hash."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys.project import ROOT

from umemma import config, validation
from umemma.datasets.manifest import Options
from umemma.errors import UserError
from umemma.presets import PRESETS, Switches

PARAMS = ROOT / "params.yaml"


def load_switches(*sets: str) -> Switches:
    return config.load_params(PARAMS, sets).finetune.switches()


def test_the_shipped_file_is_read_and_its_numbers_are_numbers():
    params = config.load_params(PARAMS)
    assert params.dataset == "digits"
    assert params.pretrain.learning_rate == 2e-3  # YAML 1.1 would read a string here
    assert params.finetune.switches() == Switches("unimodal", "all", "all", "none")
    assert params.finetune.switches().preset == "ume-mma"


def test_set_changes_one_value():
    params = config.load_params(
        PARAMS, ["finetune.learning_rate=1e-5", "evaluate.ratios=[0.5]", "encoders.image=cnn:small"]
    )
    assert params.finetune.learning_rate == 1e-5
    assert params.evaluate.ratios == (0.5,)
    assert params.encoders["image"].name == "cnn:small"


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_switches(preset):
    switches = load_switches(f"finetune.preset={preset}")
    assert switches == PRESETS[preset]
    assert switches.preset == preset


def test_a_switch_wins_over_the_preset_and_the_name_follows():
    assert load_switches("finetune.mma=none").preset == "ume-finetune"
    assert load_switches("finetune.mma=drop").preset == "ume-dropout"
    assert load_switches("finetune.mma=drop", "finetune.train=head").preset == "custom"


def test_the_settings_of_an_ensemble_have_its_switches():
    settings = config.load_params(PARAMS, ["finetune.mma=none"]).ensemble_settings("shards")
    switches = {name: settings["finetune"][name] for name in ("preset", *Switches._fields)}
    assert switches == {
        "preset": "ume-finetune",
        "init": "unimodal",
        "mma": "none",
        "train": "all",
        "balance": "none",
    }


@pytest.mark.parametrize("file", [PARAMS, *sorted((ROOT / "recipes").glob("*.yaml"))])
def test_a_comment_lists_every_preset(file):
    text = " ".join(file.read_text().replace("#", " ").split())
    assert f"preset: ume-mma {', '.join(PRESETS)}" in text


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
        ("seed.x=1", "'seed' holds a value, not a section\nSet the whole section: --set 'seed={"),
        (
            "encoders.image=cnn:small encoders.image.name=cnn:small",
            "'image' holds a value, not a section\nSet the whole section: --set 'encoders.image={",
        ),
        ("seed=[", "is not a YAML value"),
    ],
)
def test_wrong_settings_are_one_message_and_usage(change, message):
    with pytest.raises(UserError) as error:
        config.load_params(PARAMS, change.split())
    assert message in str(error.value)
    assert error.value.exit_status == 2


@pytest.mark.parametrize("content", ["a: [", "just text", "", "seed: 1\nseed: 2", "\x00"])
def test_files_that_are_no_settings(tmp_path, content):
    file = tmp_path / "params.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as error:
        config.load_params(file)
    assert error.value.exit_status == 2
    assert str(file) in str(error.value)


def test_no_file():
    with pytest.raises(UserError, match="no such file"):
        config.load_params(Path("nowhere.yaml"))


def test_presets_that_make_no_sense():
    with pytest.raises(UserError, match="Did you mean 'ume-mma'"):
        load_switches("finetune.preset=umemma")
    with pytest.raises(UserError, match="leaves the encoders untrained"):
        load_switches("finetune.init=scratch", "finetune.train=head")


def test_modalities_are_checked_against_the_dataset():
    for change, message in (
        ("modalities=[audio, imge]", "Did you mean 'image'"),
        ("modalities=[audio, audio]", "name each modality once"),
        ("modalities=[]", "name each modality once"),
        ("encoders.video=cnn:small", "unknown modality 'video'"),
    ):
        with pytest.raises(UserError, match=message):
            config.load_params(PARAMS, [change]).check_modalities(["audio", "image"])


def test_a_wrong_key_of_a_mapping_is_named():
    options = {"columns": {"front": "image"}, "label": "label"}
    with pytest.raises(UserError) as error:
        validation.validate(Options, options, "settings", "preprocess.options")
    assert "preprocess.options.columns: the key should be 'audio'" in error.value.what
    assert "but it is 'front'" in error.value.what
    assert "[key]" not in error.value.what


def test_difference_names_the_path():
    there = {"a": {"b": 1, "c": 2}}
    here = {"a": {"b": 1, "c": 3}, "d": 4}
    assert validation.list_differences(there, here) == [
        "a.c: 2 there, 3 here",
        "d: None there, 4 here",
    ]


def test_fingerprint_knows_no_order():
    assert validation.fingerprint({"a": 1, "b": 2}) == validation.fingerprint({"b": 2, "a": 1})
    assert validation.fingerprint({"a": 1}) != validation.fingerprint({"a": 2})
