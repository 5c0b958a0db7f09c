"""Deterministic kernels."""

from __future__ import annotations

import pytest
import torch
from toys.project import quick

from umemma.config import Machine
from umemma.errors import UserError
from umemma.stages import pretrain
from umemma.training import reproducibility

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
        copy = x.new_zeros(x.numel())
        copy.put_(torch.arange(len(copy), device=x.device), x.flatten())  # not deterministic
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


@pytest.fixture
def thread_counts(monkeypatch) -> list[int]:
    """The numbers of threads that torch is told, on a machine where it has 6 by itself."""
    counts: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    monkeypatch.setattr(reproducibility, "_count_threads_of_torch", lambda: 6)
    return counts


@pytest.mark.parametrize(
    ("setting", "cores", "threads"),
    [
        (None, 4, 4),  # a CPU quota, say
        (None, 12, 6),  # two logical cores are one physical core
        (3, 12, 3),
    ],
)
def test_torch_computes_with_the_cores_that_the_process_may_use(
    monkeypatch, thread_counts, setting, cores, threads
):
    monkeypatch.setattr(reproducibility, "count_cores", lambda: cores)
    reproducibility.prepare(0, "toy", machine=Machine(threads=setting))
    assert thread_counts == [threads]


def test_omp_num_threads_wins_over_the_setting(monkeypatch, thread_counts):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    reproducibility.prepare(0, "toy", machine=Machine(threads=3))
    assert thread_counts == []
