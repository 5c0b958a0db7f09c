"""Random numbers belong to names, not to the order of calls."""

from __future__ import annotations

import numpy as np

from umemma.system.seeds import derive, hash_keys, mix, to_unit, uniform


def test_streams_are_named_and_independent():
    assert derive(0, "mma", 1) == derive(0, "mma", 1)
    seeds = {
        derive(0, "mma", 1),
        derive(1, "mma", 1),
        derive(0, "mma", 2),
        derive(0, "order", 1),
    }
    assert len(seeds) == 4
    assert derive(0, "a", "b") != derive(0, "ab")


def test_known_values_on_every_machine():
    assert derive(0, "mma") == 3074104209843016544
    assert 0 <= derive(7, "x") < 2**63


def test_uniform_is_uniform():
    values = np.array([uniform(0, "key", i) for i in range(20_000)])
    assert 0 <= values.min() < values.max() < 1
    quantiles = np.quantile(values, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.02)


def test_the_numbers_of_a_sample_are_uniform_and_do_not_depend_on_its_neighbours():
    hashes = hash_keys([f"k{i}" for i in range(20_000)])
    values = to_unit(mix(hashes, 0, "mma", 1))
    quantiles = np.quantile(values, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.02)
    assert to_unit(mix(hashes[7:8], 0, "mma", 1))[0] == values[7]
    assert (to_unit(mix(hashes, 0, "mma", 2)) != values).all()
