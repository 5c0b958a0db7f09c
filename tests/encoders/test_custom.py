"""Encoders that a user wrote, `import:...`."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from toys.encoders import save_state
from toys.project import ROOT

from umemma import config, encoders
from umemma.errors import UserError
from umemma.types import ImageInput

TINY = """
from torch import nn
from umemma.types import ImageInput
def tiny():
    return nn.Flatten(), 12, ImageInput(size=2)
def wrong():
    return nn.Flatten(), 12
def conv():
    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten()), 4, ImageInput(size=2)
number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(TINY)
    yield
    sys.modules.pop("mine", None)


@pytest.mark.usefixtures("mine")
def test_an_encoder_of_one_s_own_serves_pictures_and_videos():
    path = list(sys.path)
    spec = encoders.input_spec("import:mine:tiny", "image")
    assert spec == ImageInput(size=2)
    module, width = encoders.build("import:mine:tiny", "image", spec)
    assert module(torch.rand(5, 3, 2, 2)).shape == (5, width)
    video = encoders.input_spec("import:mine:tiny", "video")
    module, width = encoders.build("import:mine:tiny", "video", video)
    assert module(torch.rand(5, 4, 3, 2, 2)).shape == (5, width)
    assert sys.path == path


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "modality", "message"),
    [
        (
            "import:mine:tiny",
            "audio",
            "its input is ImageInput; for audio it has to be AudioInput or WaveInput",
        ),
        ("import:mine:tinny", "image", "Did you mean 'tiny'?"),
        ("import:mine:number", "image", "unknown function 'number'"),
        ("import:mine:wrong", "image", r"the function returned \(Flatten"),
        ("import:yours:tiny", "image", "no module 'yours'"),
        ("import:mine.yours:tiny", "image", "no module 'mine.yours'"),
        ("import:mine", "image", "import:package.module:function"),
    ],
)
def test_an_encoder_of_one_s_own_that_is_not_one(name, modality, message):
    with pytest.raises(UserError, match=message):
        encoders.input_spec(name, modality)


def test_the_page_shows_an_encoder_of_one_s_own_that_works(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "encoders.md").read_text()
    (code,) = re.findall(r"```python\n(# my_encoder.py\n.*?)```", page, re.DOTALL)
    (settings,) = re.findall(r"```yaml\n(encoders:\n  image: import:.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) <= 14
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_encoder.py").write_text(code)
    (tmp_path / "params.yaml").write_text(f"dataset: digits\nmodalities: [image]\n{settings}")
    encoder = config.load_params(tmp_path / "params.yaml").encoder("image")
    spec = encoder.adapt(encoders.input_spec(encoder.name, "image"), "image")
    module, width = encoders.build(encoder.name, "image", spec)
    assert module(torch.rand(2, spec.channels, spec.size, spec.size)).shape == (2, width)
    sys.modules.pop("my_encoder")


@pytest.mark.usefixtures("mine")
def test_weights_of_an_encoder_of_one_s_own_may_hold_a_classifier(messages):
    spec = ImageInput(size=2)
    module, _ = encoders.build("import:mine:conv", "image", spec)
    state = {key: torch.rand(value.shape) for key, value in module.state_dict().items()}
    classifier = {"classifier.weight": torch.ones(2, 4), "classifier.bias": torch.ones(2)}
    path = save_state({**state, **classifier}, "mine.pt")
    encoders.load_weights(module, "import:mine:conv", "image", spec, path)
    assert torch.equal(module[0].weight, state["0.weight"])
    assert "left out: classifier.weight, classifier.bias" in "".join(messages)
    path = save_state({"0.weight": state["0.weight"], **classifier}, "less.pt")
    with pytest.raises(UserError, match=r"missing: 0\.bias; unexpected: classifier\.bias"):
        encoders.load_weights(module, "import:mine:conv", "image", spec, path)
