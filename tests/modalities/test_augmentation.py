"""What the augmentation of every modality has in common: a batch equals its items one by one."""

from __future__ import annotations

import pytest
import torch
from toys.augmentation import (
    AUDIO_SPEC,
    FRAMES,
    GREY_SPEC,
    IMAGE_SPEC,
    NUMBERS,
    PICTURE_OPTIONS,
    PIXELS,
    SAMPLES,
    SERIES,
    SERIES_SPEC,
    SPECTROGRAMS,
    TABLE_ROWS,
    TABLE_SPEC,
    TEXT_SPEC,
    TOKENS,
    VECTOR_SPEC,
    VECTORS,
    VIDEO_SPEC,
    WAVE_SPEC,
    augment_batch,
)

from umemma import modalities
from umemma.errors import UserError
from umemma.validation import validate

FREQ_MASKS = {"freq_masks": 2}
TIME_MASKS = {"time_masks": 2, "time_width": 0.4}
IMAGE_OPTIONS = [*PICTURE_OPTIONS, FREQ_MASKS, TIME_MASKS]
AUDIO_OPTIONS = [{"shift": 0.5}, {"noise": 0.3}, FREQ_MASKS, TIME_MASKS]
WAVE_OPTIONS = [{"shift": 0.5}, {"gain": 6.0}, {"noise": 0.3}, TIME_MASKS]
SERIES_OPTIONS = [{"shift": 0.5}, {"scale": 0.5}, {"noise": 0.3}, {"time_masks": 2}]
GROUPS = [
    ("image", IMAGE_SPEC, PIXELS, IMAGE_OPTIONS),
    ("spectrogram", GREY_SPEC, PIXELS[:, :1], IMAGE_OPTIONS),
    ("video", VIDEO_SPEC, FRAMES, PICTURE_OPTIONS),
    ("audio", AUDIO_SPEC, SPECTROGRAMS, AUDIO_OPTIONS),
    ("audio", WAVE_SPEC, SAMPLES, WAVE_OPTIONS),
    ("text", TEXT_SPEC, TOKENS, [{"dropout": 0.5}]),
    ("vector", VECTOR_SPEC, VECTORS, [{"noise": 0.3}, {"dropout": 0.5}]),
    ("series", SERIES_SPEC, SERIES, SERIES_OPTIONS),
    ("table", TABLE_SPEC, TABLE_ROWS, [{"dropout": 0.5}]),
]


def equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors are the same, NaN, which is what is unknown, included."""
    return torch.equal(first.nan_to_num(-9), second.nan_to_num(-9))


def list_cases() -> list:
    cases = []
    for name, spec, x, options_of_group in GROUPS:
        for options in options_of_group:
            case_id = f"{name}-{type(spec).__name__}-{'-'.join(options)}"
            cases.append(pytest.param(name, spec, x, options, id=case_id))
    return cases


@pytest.mark.parametrize(("name", "spec", "x", "options"), list_cases())
def test_a_batch_is_augmented_as_its_items_one_by_one(name, spec, x, options):
    modality = modalities.get_module(name)
    before = x.clone()
    modality.check(modality.Augment(**options), spec)
    whole = augment_batch(modality, x, spec, **options)
    items = []
    for i in range(6):
        item = slice(i, i + 1)
        items.append(augment_batch(modality, x[item], spec, NUMBERS[item], **options))
    assert equal(whole, torch.cat(items))
    assert equal(x, before)  # not changed in place
    # The same numbers give the same result, others another.
    assert equal(whole, augment_batch(modality, x, spec, **options))
    assert not equal(whole, augment_batch(modality, x, spec, NUMBERS[::-1], **options))
    assert whole.shape == x.shape
    assert modality.finish(whole, spec).dtype == modality.finish(x, spec).dtype
    if name in ("image", "spectrogram", "video"):
        assert whole.float().min() >= 0
        assert whole.float().max() <= 255


@pytest.mark.parametrize(
    ("name", "spec", "x"),
    [
        ("image", IMAGE_SPEC, PIXELS),
        ("video", VIDEO_SPEC, FRAMES),
        ("audio", AUDIO_SPEC, SPECTROGRAMS),
        ("audio", WAVE_SPEC, SAMPLES),
        ("text", TEXT_SPEC, TOKENS),
        ("vector", VECTOR_SPEC, VECTORS),
        ("series", SERIES_SPEC, SERIES),
        ("table", TABLE_SPEC, TABLE_ROWS),
    ],
)
def test_without_options_nothing_is_done(name, spec, x):
    modality = modalities.get_module(name)
    assert modality.draw(modality.Augment(), NUMBERS, spec) == {}
    assert equal(augment_batch(modality, x, spec), x)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("image", {"flip": 1.5}),
        ("image", {"crop": 0.0}),
        ("video", {"time_masks": 1}),
        ("audio", {"noise": -0.1}),
        ("audio", {"crop": 0.5}),
        ("text", {"dropout": 2.0}),
        ("vector", {"noise": -1.0}),
        ("series", {"freq_masks": 1}),
        ("table", {"noise": 0.1}),
    ],
)
def test_options_are_checked(name, wrong):
    (option,) = wrong
    with pytest.raises(UserError, match=option):
        validate(modalities.get_module(name).Augment, wrong, "settings", f"augment.{name}")
