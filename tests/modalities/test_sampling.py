"""The numbers that augmentation is drawn from."""

from __future__ import annotations

import numpy as np
from toys.augmentation import MANY_NUMBERS

from umemma.modalities.sampling import sample_uniform


def test_chance_belongs_to_the_sample_and_is_uniform():
    numbers = sample_uniform(MANY_NUMBERS, "it", 3)
    assert numbers.shape == (4000, 3)
    np.testing.assert_array_equal(numbers[7:9], sample_uniform(MANY_NUMBERS[7:9], "it", 3))
    counts, _ = np.histogram(numbers, 10, (0, 1))
    np.testing.assert_allclose(counts / 12000, 0.1, atol=0.01)
    other_numbers = sample_uniform(MANY_NUMBERS, "else")
    correlation = np.corrcoef([*numbers.T, other_numbers])
    assert np.abs(correlation - np.eye(4)).max() < 0.05
