"""The learning-rate schedule, by hand."""

from __future__ import annotations

import pytest

from umemma.training.schedule import warmup_cosine


@pytest.mark.parametrize(
    ("progress", "factor"),
    [
        (0.0, 1e-3 / 0.2),  # the first step learns something
        (0.1, 0.5),
        (0.2, 1.0),
        (0.6, 0.5),  # halfway through the decay
        (1.0, 0.0),
    ],
)
def test_warm_up_is_linear_and_decay_a_cosine(progress, factor):
    assert warmup_cosine(progress, warmup=0.2) == pytest.approx(factor, abs=1e-12)


def test_without_warm_up_the_decay_starts_at_the_peak():
    assert warmup_cosine(0.0, warmup=0.0) == 1.0


def test_all_steps_may_be_warm_up():
    assert warmup_cosine(0.5, warmup=1.0) == 0.5
