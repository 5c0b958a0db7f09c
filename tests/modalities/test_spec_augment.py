"""SpecAugment: the masks that are drawn, and what they cover."""

from __future__ import annotations

import numpy as np
import torch
from toys.augmentation import MANY_NUMBERS

from umemma.modalities import spec_augment


def test_masks_cover_what_is_drawn():
    drawn = {
        "freq_masks": np.array([[[0, 1]]]),
        "time_masks": np.array([[[1, 2], [3, 3]]]),
    }
    masked = spec_augment.apply_masks(torch.ones(1, 1, 2, 4), drawn, torch.tensor(0.0))
    assert masked[0, 0].tolist() == [[0, 0, 0, 0], [1, 0, 1, 1]]


def test_masks_have_all_widths_and_places():
    options = spec_augment.Masks(time_masks=1, time_width=0.5)
    drawn = spec_augment.draw_masks(options, MANY_NUMBERS, 8, 6)
    assert list(drawn) == ["time_masks"]
    masks, counts = np.unique(drawn["time_masks"][:, 0], axis=0, return_counts=True)
    expected = set()
    for width in range(4):
        for start in range(6 - width + 1):
            expected.add((start, start + width))
    assert {tuple(mask) for mask in masks.tolist()} == expected
    widths = masks[:, 1] - masks[:, 0]
    shares = [counts[widths == width].sum() / 4000 for width in range(4)]
    np.testing.assert_allclose(shares, 0.25, atol=0.03)
