"""Deterministic kernels."""

from __future__ import annotations

import pytest
import torch
from toys.project import quick

from umemma.errors import UserError
from umemma.stages import pretrain

STRANGE = """
import torch
from torch import nn
from umemma.types import ImageInput

class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(256, 8)

    def forward(self, x):
        x = x.flatten(1)
        copy = torch.zeros(x.numel())
        copy.put_(torch.arange(x.numel()), x.flatten())  # has no deterministic form
        return self.linear(copy.view(x.shape))

def encoder():
    return Strange(), 8, ImageInput(size=16, channels=1)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:put_ does not have a deterministic implementation")
def test_a_kernel_that_cannot_repeat_is_named_with_the_switch(project):
    (project / "strange_encoder.py").write_text(STRANGE)
    sets = ["encoders.image.name=import:strange_encoder:encoder", "encoders.image.input={}"]
    with pytest.raises(
        UserError, match=r"machine.deterministic: put_ has no deterministic form"
    ) as error:
        pretrain.run(quick(*sets), "image")
    assert "warn or false" in error.value.hint
    for value in ("warn", "false"):
        assert pretrain.run(quick(*sets, f"machine.deterministic={value}"), "image", force=True) > 0
    assert torch.is_deterministic_algorithms_warn_only_enabled() is False
    pretrain.run(quick(), "audio", force=True)
    assert torch.are_deterministic_algorithms_enabled()
