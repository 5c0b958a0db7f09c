"""Predictions are those of the evaluation, and a folder that is not right is refused."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toys.models import (
    RATE,
    change_about,
    get_probabilities,
    make_noise,
    make_picture,
    save_model,
)
from toys.project import quick

import umemma
from umemma import datasets
from umemma.data import shard_reader
from umemma.data.loader import cut_batches
from umemma.errors import UserError
from umemma.evaluation.calibration import Calibration, probabilities
from umemma.missing import list_patterns, make_keep_table
from umemma.models.fusions import FUSIONS
from umemma.models.predict_inputs import NOTHING, Failure
from umemma.system.storage import Store
from umemma.training import train
from umemma.types import Sound, format_pattern


@pytest.mark.slow
def test_answers_are_those_of_the_evaluation(project):
    """Of original media, for every subset: as the packed samples are answered, calibrated."""
    params = quick()
    fitted = {
        "audio": {"temperature": 0.5, "bias": [1.0, 0.0, -1.0]},
        "audio+image": {"temperature": 2.0, "bias": []},
        "image": {"temperature": 1.0, "bias": [0.0, 0.5, 0.0]},
    }
    model = umemma.load(save_model(Path("m"), calibration=fitted, **params.encoders))
    weights = load_file("m/model.safetensors")
    assert all(
        torch.equal(weights[n], x) for n, x in model.model.state_dict().items() if "probes" not in n
    )
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    data = train.DataSource(Store(params.paths.shards), index, model.specs, params.machine, 0)
    digits = datasets.get_module("digits")
    options = digits.Options(**params.preprocess.options)
    media = {record.key: record.media for record in digits.records(params.paths.raw, options)}
    with contextlib.ExitStack() as stay:
        split = data.load("test", stay, "test")
        (batch,) = split.batches(cut_batches(range(12), 12), torch.device("cpu"))
    logits = model.model.pattern_logits(
        batch, torch.from_numpy(make_keep_table(model.modalities))
    ).numpy()
    for i, pattern in enumerate(list_patterns(model.modalities)):
        calibrated = Calibration.of(fitted[format_pattern(pattern)]).apply(logits[:, i])
        predictions = list(
            model.predict_many([{m: media[key][m] for m in pattern} for key in split.keys[:12]])
        )
        expected = probabilities(calibrated, "multiclass")
        np.testing.assert_allclose(
            [get_probabilities(one) for one in predictions], expected, atol=1e-6
        )
        assert {one.present for one in predictions} == {pattern}
    alone = umemma.load(params.paths.pretrain("image"))
    assert alone.predict(image=media[split.keys[0]]["image"]).present == ("image",)


def test_each_subset_has_its_own_calibration(tmp_path):
    """The logits 0 and ln 2 give probabilities 1 : 2.

    At half the temperature they are 1 : 4, and with a bias of ln 4 for the first class 4 : 2.
    """
    fitted = {
        "audio": {"temperature": 0.5, "bias": []},
        "image": {"temperature": 1.0, "bias": [math.log(4), 0.0]},
    }
    model = umemma.load(save_model(tmp_path / "m", head=(0.0, math.log(2)), calibration=fitted))
    both = model.predict(image=make_picture(), audio=(make_noise(), RATE))
    assert both.probabilities == pytest.approx({"class 0": 1 / 3, "class 1": 2 / 3})
    assert (both.label, both.present) == ("class 1", ("audio", "image"))
    assert model.predict(audio=(make_noise(), RATE), image=None).probability == pytest.approx(4 / 5)
    image = model.predict(image=make_picture())
    assert (image.label, image.present) == ("class 0", ("image",))
    assert image.probability == pytest.approx(2 / 3)


def test_a_policy_that_is_not_known(place):
    with pytest.raises(UserError, match="unknown policy 'absnt'") as error:
        umemma.load("model", broken="absnt")
    assert "'absent'" in error.value.hint


def test_of_a_multilabel_task_every_label_over_a_half(tmp_path):
    model = umemma.load(
        save_model(tmp_path / "m", "text", task="multilabel", head=(math.log(3), -1.0, 0.1))
    )
    prediction = model.predict(text="two dogs")
    assert prediction.label == ("class 0", "class 2")
    assert prediction.probability[0] == pytest.approx(3 / 4)
    both = umemma.load(
        save_model(
            tmp_path / "both", "image+text", task="multilabel", head=(math.log(3), -1.0, 0.1)
        )
    )
    assert both.predict(text="two dogs", image="no.png").broken == ("image: file is missing",)
    model = umemma.load(save_model(tmp_path / "none", "text", task="multilabel", head=(-1.0, -1.0)))
    assert model.predict(text="two dogs").label == ()


def test_each_subset_has_its_own_thresholds(tmp_path):
    """The probabilities are 0.5, 0.25 and 0.2; without a text the usual threshold holds."""
    thresholds = {"text": (0.6, 0.2, 0.3), "image+text": (0.4, 0.24, 0.19)}
    folder = save_model(
        tmp_path / "m",
        "image+text",
        task="multilabel",
        head=(0.001, math.log(1 / 3), math.log(1 / 4)),
        thresholds=thresholds,
    )
    model = umemma.load(folder)
    text = model.predict(text="two dogs")
    assert (text.label, text.probability) == (("class 1",), pytest.approx((1 / 4,)))
    assert len(model.predict(text="two dogs", image=make_picture()).label) == 3
    assert model.predict(image=make_picture()).label == ("class 0",)
    about = json.loads((folder / "model.json").read_text())
    assert about["thresholds"] == {name: list(found) for name, found in thresholds.items()}


def test_of_single_classes_thresholds_scale_the_probabilities(tmp_path):
    head = (math.log(0.7), math.log(0.3))
    thresholds = {"image": (0.9, 0.1)}
    model = umemma.load(save_model(tmp_path / "m", "image", head=head, thresholds=thresholds))
    prediction = model.predict(image=make_picture())
    assert (prediction.label, prediction.probability) == ("class 1", pytest.approx(0.3))


def test_thresholds_that_make_no_sense(tmp_path):
    folder = save_model(tmp_path / "m", "image", thresholds={"image": (0.9, 0.1)})
    with pytest.raises(UserError, match="'image' has 2 thresholds"):
        umemma.load(folder)
    folder = save_model(tmp_path / "n", "image", head=(0.0, 1.0), thresholds={"image": (0.5, 0.5)})
    change_about(folder, {"thresholds": {"image": [0.5, 1.5]}})
    with pytest.raises(UserError, match="less than 1"):
        umemma.load(folder)


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_one_by_one_is_as_in_a_batch(tmp_path, absent):
    model = umemma.load(save_model(tmp_path / "m", absent=absent))
    every = [
        {"image": make_picture(i)} if i % 3 else {"audio": Sound(make_noise(i), RATE)}
        for i in range(7)
    ]
    every += [
        {"image": b"no"},
        {},
        Failure("given up"),
        {"image": make_picture(9), "audio": (make_noise(9), RATE)},
    ]
    batch = list(model.predict_many(iter(every), batch_size=4))
    ones = [next(model.predict_many([one])) for one in every]
    for one, other in zip(batch, ones, strict=True):
        if isinstance(one, Failure):
            assert one == other
            continue
        assert (one.label, one.present) == (other.label, other.present)
        np.testing.assert_allclose(get_probabilities(one), get_probabilities(other), atol=1e-6)
    reasons = [one.reason for one in batch if isinstance(one, Failure)]
    assert reasons == ["image: not a readable image: unknown format", NOTHING, "given up"]
    assert list(model.predict_many([])) == []


def test_threads_share_a_model(tmp_path):
    model = umemma.load(save_model(tmp_path / "m", "image+text"))
    given = [{"image": make_picture(i), "text": f"number {i}"} for i in range(8)]
    expected = list(model.predict_many(given, batch_size=1))
    predictions: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: predictions.update({i: model.predict(**given[i])}))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [predictions[i] for i in range(8)] == expected


def test_loading_leaves_the_callers_chance_alone(tmp_path):
    folder = save_model(tmp_path / "m")
    torch.manual_seed(1)
    umemma.load(folder)
    number = torch.rand(())
    torch.manual_seed(1)
    assert torch.rand(()) == number


def test_umemma_is_imported_without_torch():
    code = (
        "import sys, umemma; assert callable(umemma.load); "
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": None}, "classes"),
        ({"classes": ["a", "a", "b"]}, "names a class twice"),
        ({"classes": ["a", "b"]}, "weights do not fit"),
        ({"media": {"side": "large"}}, "media.side"),
        ({"task": "regression"}, "task"),
        ({"calibration": {}}, "'audio'|'audio\\+image'"),
        ({"weights_sha256": "0"}, "truncated or altered"),
        ({"settings": {}}, "settings.modalities"),
    ],
)
def test_a_folder_that_was_altered_is_refused(place, change, message):
    change_about(Path("model"), change)
    with pytest.raises(UserError, match=message) as error:
        umemma.load("model")
    assert "umemma finetune-ensemble" in error.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.json", None, "not there yet"),
        ("model.json", b"[", "not JSON"),
        ("model.safetensors", None, "no such file"),
        ("model.safetensors", b"", "truncated or altered"),
    ],
)
def test_a_folder_that_is_incomplete_is_refused(place, name, content, message):
    Path("model", name).unlink()
    if content is not None:
        Path("model", name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        umemma.load("model")


def test_code_of_a_stranger_runs_only_where_it_is_trusted(place):
    Path("theirs.py").write_text(
        "from torch import nn\n"
        "from umemma.types import ImageInput\n"
        "open('ran', 'a').close()\n"
        "def flat():\n"
        "    return nn.Flatten(), 3 * 8 * 8, ImageInput(size=8)\n"
    )
    save_model(Path("theirs"), image="import:theirs:flat")
    Path("ran").unlink()
    sys.modules.pop("theirs")
    with pytest.raises(UserError, match=r"(?s)runs code .* --trust"):
        umemma.load("theirs")
    assert not Path("ran").exists()
    assert umemma.load("theirs", trust=True).predict(image=make_picture()).present == ("image",)


@pytest.mark.parametrize("fusion", sorted(FUSIONS.keys() - {"fill-neighbour"}))
def test_other_fusions_predict_each_sample_alone(tmp_path, fusion):
    """The hole of one sample is not filled with the medium of the next."""
    model = umemma.load(save_model(tmp_path / "model", fusion=fusion))
    samples = [{"image": make_picture()}, {"image": make_picture(1), "audio": (make_noise(), RATE)}]
    together = list(model.predict_many(samples))
    for sample, prediction in zip(samples, together, strict=True):
        alone = get_probabilities(model.predict(**sample))
        np.testing.assert_allclose(alone, get_probabilities(prediction), rtol=1e-5, atol=1e-6)


def test_a_model_without_an_answer_to_a_sample_alone_is_refused(tmp_path):
    folder = save_model(tmp_path / "model", fusion="fill-neighbour")
    with pytest.raises(UserError, match="preset fill-neighbour has no answer to a sample alone"):
        umemma.load(folder)
