"""params.yaml is read, and --set changes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys.project import ROOT

from umemma import config
from umemma.errors import UserError
from umemma.presets import Switches

PARAMS = ROOT / "params.yaml"


def test_the_shipped_file_is_read_and_its_numbers_are_numbers():
    params = config.load_params(PARAMS)
    assert params.dataset == "digits"
    assert params.pretrain.learning_rate == 8e-3  # YAML 1.1 would read a string here
    assert params.finetune.switches() == Switches("unimodal", "all", "all", "none")
    assert params.finetune.switches().preset == "ume-mma"


def test_set_changes_one_value():
    params = config.load_params(
        PARAMS, ["finetune.learning_rate=1e-5", "evaluate.ratios=[0.5]", "encoders.image=cnn:small"]
    )
    assert params.finetune.learning_rate == 1e-5
    assert params.evaluate.ratios == (0.5,)
    assert params.encoders["image"].name == "cnn:small"


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
        (f"seed={'[' * 10**4}", "is not a YAML value"),
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


@pytest.mark.parametrize(
    "content", ["a: [", "just text", "", "seed: 1\nseed: 2", "\x00", "[" * 10**5 + "]" * 10**5]
)
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
