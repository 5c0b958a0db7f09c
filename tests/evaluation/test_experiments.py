"""Which experiments a comparison has, and the settings of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys.project import quick

from umemma import config
from umemma.errors import UserError
from umemma.evaluation import experiments
from umemma.evaluation.experiments import Experiment
from umemma.system.files import write_json


def test_an_experiment_has_settings_and_a_folder_of_its_own(tmp_path):
    params = quick(
        "compare.train=['audio|image=0.7,audio=0.1']", "seed=9", "evaluate.metrics=[f1_macro]"
    )
    own = experiments.experiment_params(
        params, Experiment("audio|image=0.7,audio=0.1", 1, "umt"), 0.5
    )
    assert (own.seed, own.missing.train) == (1, {"audio|image": 0.7, "audio": 0.1})
    assert (own.finetune.preset, own.finetune.scratch.learning_rate) == ("umt", 0.5)
    assert own.finetune.learning_rate == params.finetune.learning_rate
    place = "digits/compare/audio|image=0.7,audio=0.1/1"
    assert own.paths.pretrain("audio") == Path(f"models/{place}/pretrain/audio")
    assert (own.paths.ensemble, own.paths.results) == (
        Path(f"models/{place}/umt"),
        Path(f"results/{place}/umt"),
    )
    write_json(tmp_path / "params.json", own.model_dump(mode="json"))
    assert config.load_params(tmp_path / "params.json") == own
    assert params.paths.ensemble == Path("models/digits/ensemble")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("compare.presets=[ume, ume-mm]", "Did you mean 'ume-mma'?"),
        ("compare.presets=[]", "compare.presets"),
        ("compare.seeds=[0, 0]", "compare.seeds"),
        ("compare.train=[complete, audio]", "cannot read 'audio'"),
        ("compare.train=['audio=0.7/../x']", "cannot read"),
        ("compare.train=['audio=1.5']", "less than or equal to 1"),
        ("compare.train=['audio=0.1.2']", "no number"),
        ("compare.train=['audio=0.1,audio=0.2']", "twice"),
        ("compare.train=['audio|image=0.5', 'image|audio=0.50']", "twice"),
        ("compare.train=['sound=0.5']", "unknown modality 'sound'"),
        ("compare.baseline=um", "Did you mean 'umt'?"),
        ("compare.baseline=ume-mma", "is the method itself"),
        ("finetune.mma=all", "would be the same for every preset"),
        ("finetune.fusion=gated", "fusion would be the same for every preset"),
        ("place=../x", "place"),
    ],
)
def test_settings_that_make_no_comparison_are_refused(change, message):
    with pytest.raises(UserError, match=r".") as error:
        experiments.plan_experiments(quick(change))
    assert message in str(error.value)
    assert error.value.exit_status == 2
