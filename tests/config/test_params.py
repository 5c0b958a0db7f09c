"""The settings as a whole: what fits together, and what a stage depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys.project import ROOT

from umemma import config, encoders
from umemma.config import Params
from umemma.errors import UserError
from umemma.presets import Switches
from umemma.validation import validate

PARAMS = ROOT / "params.yaml"


def test_the_settings_of_an_ensemble_have_its_switches():
    settings = config.load_params(PARAMS, ["finetune.mma=none"]).ensemble_settings("shards")
    names = set(Switches._fields) - {"fusion"}
    switches = {name: settings["finetune"][name] for name in ("preset", *names)}
    assert switches == {
        "preset": "ume-finetune",
        "init": "unimodal",
        "mma": "none",
        "train": "all",
        "balance": "none",
    }


def test_results_on_another_split_have_a_folder_of_their_own():
    params = config.load_params(PARAMS)
    assert params.paths.results == Path("results/digits")
    on_val = config.load_params(PARAMS, ["evaluate.split=val", "fold=2"])
    assert on_val.paths.results == Path("results/digits/2/val")
    assert on_val.paths.ensemble == Path("models/digits/2/ensemble")


def test_only_the_settings_of_another_fusion_name_it():
    """Models that were trained before there were others stay valid."""

    def list_names(preset: str) -> set[str]:
        settings = config.load_params(PARAMS, [f"finetune.preset={preset}"])
        return {"fusion", "simmlm"} & settings.ensemble_settings("shards")["finetune"].keys()

    assert list_names("ume-mma") == set()
    assert list_names("simmlm") == {"fusion", "simmlm"}
    settings = config.load_params(PARAMS, ["finetune.fusion=embracenet"])
    assert settings.ensemble_settings("shards")["finetune"]["fusion"] == "embracenet"


def test_models_from_before_there_were_weights_of_classes_stay_valid():
    """Settings that have their default are left out, and the others are a part of the model."""
    names = {"select", "class_weights", "pos_weight", "logit_adjustment"}
    plain = config.load_params(PARAMS)
    for section in ("pretrain", "finetune"):
        sets = [f"{section}.class_weights=balanced", f"{section}.select=f1_macro"]
        for params, expected in (
            (plain, set()),
            (config.load_params(PARAMS, sets), {"class_weights", "select"}),
        ):
            settings = params.ensemble_settings("shards")
            if section == "pretrain":
                settings = params.unimodal_settings("audio", "shards")
            assert names & settings[section].keys() == expected


def test_a_modality_may_have_its_own_class_weights():
    sets = ["pretrain.class_weights=balanced", "pretrain.modalities.audio.class_weights={a: 2.0}"]
    pretrain = config.load_params(PARAMS, sets).pretrain
    assert pretrain.of("audio").class_weights == {"a": 2.0}
    assert pretrain.of("image").class_weights == "balanced"


def test_modalities_are_checked_against_the_dataset():
    for change, message in (
        ("modalities=[audio, imge]", "Did you mean 'image'"),
        ("modalities=[audio, audio]", "name each modality once"),
        ("modalities=[]", "has to name a modality"),
        ("encoders.video=cnn:small", "unknown modality 'video'"),
    ):
        with pytest.raises(UserError, match=message):
            config.load_params(PARAMS, [change]).check_modalities(["audio", "image"])


def test_settings_with_a_shared_encoder_can_be_written_and_read_again():
    """As compare and tune do: every key of them is set then."""
    shared = {"modalities": {"left": "image", "right": "image"}}
    shared["encoders"] = {"left": "cnn:small", "right": {"same_as": "left"}}
    params = validate(Params, {"dataset": "manifest", **shared}, "")
    assert validate(Params, params.model_dump(mode="json"), "") == params


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("audio", "cnn:small"),
        ("image", "cnn:small"),
        ("series", "series:cnn"),
        ("table", "mlp:small"),
        ("text", "text:cnn"),
        ("vector", "mlp:small"),
        ("video", "cnn:small"),
    ],
)
@pytest.mark.parametrize("section", [{}, {"mine": {"tune": "frozen"}}])
def test_an_encoder_that_is_not_named_fits_the_kind(kind, name, section):
    params = Params(dataset="manifest", modalities={"mine": kind}, encoders=section)
    assert params.encoder("mine").name == name
    written_out = Params(**params.model_dump(mode="json"))
    assert written_out.encoder("mine").name == name
    encoders.input_spec(name, kind)  # which refuses a family that does not serve the kind
