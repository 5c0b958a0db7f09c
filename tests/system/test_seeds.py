from __future__ import annotations

import numpy as np

from umemma.system.seeds import derive, uniform


def test_streams_are_named_and_independent():
    assert derive(0, "mma", 1) == derive(0, "mma", 1)
    assert (
        len({derive(0, "mma", 1), derive(1, "mma", 1), derive(0, "mma", 2), derive(0, "order", 1)})
        == 4
    )
    assert derive(0, "a", "b") != derive(0, "ab")


def test_known_values_on_every_machine():
    assert derive(0, "mma") == 3074104209843016544
    assert 0 <= derive(7, "x") < 2**63


def test_uniform_is_uniform():
    values = np.array([uniform(0, "key", i) for i in range(20_000)])
    assert 0 <= values.min() < values.max() < 1
    np.testing.assert_allclose(np.quantile(values, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)
