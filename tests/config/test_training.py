"""The settings of a training: for one modality, for the parts of a model, and wrong ones."""

from __future__ import annotations

import pytest
from toys.project import quick

from umemma.errors import UserError


def test_pretraining_takes_any_setting_for_one_modality():
    pretrain = quick(
        "pretrain.modalities={image: {epochs: 3, head: {learning_rate: 1e-2}}}",
        "pretrain.epochs=7",
    ).pretrain
    image = pretrain.of("image")
    audio = pretrain.of("audio")
    assert image.epochs == 3
    assert audio.epochs == 7
    assert image.rate("head", "image") == (1e-2, pretrain.weight_decay)
    assert image.rate("encoder", "image") == audio.rate("head", "audio")
    # The settings of one modality are not those of another.
    changed = quick("pretrain.modalities={image: {epochs: 3}}")
    assert changed.unimodal_settings("audio", "s") == quick().unimodal_settings("audio", "s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "pretrain.modalities={image: {epoch: 3}}",
            "pretrain.modalities.image.epoch' (Did you mean 'epochs'?",
        ),
        ("pretrain.modalities={image: {epochs: 0}}", "pretrain.modalities.image.epochs"),
        (
            "finetune.modalities={image: {epochs: 3}}",
            "unknown key 'finetune.modalities.image.epochs'",
        ),
        ("finetune.absence={weight_decay: 0.1}", "unknown key 'finetune.absence.weight_decay'"),
        ("finetune.head={learning_rate: -1}", "finetune.head.learning_rate"),
    ],
)
def test_rates_that_make_no_sense(change, message):
    with pytest.raises(UserError) as error:
        quick(change)
    assert message in str(error.value)
    assert error.value.exit_status == 2


@pytest.mark.parametrize("section", ["pretrain", "finetune"])
def test_rates_of_a_modality_that_is_not_there(section):
    params = quick(f"{section}.modalities={{imgae: {{learning_rate: 1e-5}}}}")
    message = f"{section}.modalities: unknown modality 'imgae'"
    with pytest.raises(UserError, match=message) as error:
        params.check_modalities(["audio", "image"])
    assert "Did you mean 'image'" in error.value.hint
