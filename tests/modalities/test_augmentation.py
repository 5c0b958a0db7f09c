"""Augmentation: chance is drawn first, a batch equals its items, and what each option does is known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from umemma import modalities
from umemma.errors import UserError
from umemma.modalities import audio, image, sampling, spec_augment, text, video, vision
from umemma.system.seeds import hashes, mixed
from umemma.types import AudioInput, ImageInput, TextInput, VideoInput, WaveInput
from umemma.validation import checked

SEEDED = torch.Generator().manual_seed(0)
NUMBERS = mixed(hashes([f"sample{i}" for i in range(6)]), 0, "augment")
MANY = mixed(hashes([f"sample{i}" for i in range(4000)]), 0, "augment")

PICTURE, GREY = ImageInput(size=12), ImageInput(size=12, channels=1)
CLIP = VideoInput(frames=3, size=12)
LOUD, WAVE = (
    AudioInput(sample_rate=1000, seconds=0.2, mels=8, window=64, hop=10),
    WaveInput(sample_rate=1000, seconds=0.2),
)
WORDS = TextInput(length=10)

PIXELS = torch.randint(1, 256, (6, 3, 12, 12), dtype=torch.uint8, generator=SEEDED)
FRAMES = torch.randint(1, 256, (6, 3, 3, 12, 12), dtype=torch.uint8, generator=SEEDED)
FRAMES[:, 2] = 0  # padding
HEARD = torch.randn(6, 1, 8, 21, generator=SEEDED)
SAMPLES = torch.randn(6, 200, generator=SEEDED) / 10
SAMPLES[1, 150:] = 0  # padding
SAMPLES[2] = 0  # nothing there
TOKENS = torch.tensor(
    [[1, 11, 12, 13, 14, 15, 16, 2, 0, 0], [1, 21, 0, 22, 2, 0, 0, 0, 0, 0], [1, 2] + [0] * 8] * 2
)

PICTURED = [
    {"crop": 0.4},
    {"flip": 0.5},
    {"shift": 0.3},
    {"crop": 0.4, "flip": 0.5, "shift": 0.3},
    {"randaugment": 2, "magnitude": 0.7},
    {"noise": 0.1},
]
MASKED = [{"freq_masks": 2}, {"time_masks": 2, "time_width": 0.4}]
CASES = [
    *(("image", PICTURE, PIXELS, options) for options in [*PICTURED, *MASKED]),
    *(("spectrogram", GREY, PIXELS[:, :1], options) for options in [*PICTURED, *MASKED]),
    *(("video", CLIP, FRAMES, options) for options in PICTURED),
    *(("audio", LOUD, HEARD, options) for options in [{"shift": 0.5}, {"noise": 0.3}, *MASKED]),
    *(
        ("audio", WAVE, SAMPLES, options)
        for options in [{"shift": 0.5}, {"gain": 6.0}, {"noise": 0.3}, MASKED[1]]
    ),
    ("text", WORDS, TOKENS, {"dropout": 0.5}),
]
NAMED = [f"{name}-{type(spec).__name__}-{'-'.join(options)}" for name, spec, _, options in CASES]


def augmented(modality, x, spec, numbers=NUMBERS, **options):
    chosen = modality.Augment(**options)
    return modality.augment(x, spec, chosen, modality.draw(chosen, numbers, spec))


@pytest.mark.parametrize(("name", "spec", "x", "options"), CASES, ids=NAMED)
def test_a_batch_is_augmented_as_its_items_one_by_one(name, spec, x, options):
    modality, before = modalities.get(name), x.clone()
    modality.check(modality.Augment(**options), spec)
    whole = augmented(modality, x, spec, **options)
    one_by_one = [
        augmented(modality, x[i : i + 1], spec, NUMBERS[i : i + 1], **options) for i in range(6)
    ]
    assert torch.equal(whole, torch.cat(one_by_one))
    assert torch.equal(x, before)  # not changed in place
    assert torch.equal(
        whole, augmented(modality, x, spec, **options)
    )  # the same numbers, the same result
    assert not torch.equal(whole, augmented(modality, x, spec, NUMBERS[::-1], **options))
    assert whole.shape == x.shape
    assert modality.finish(whole, spec).dtype == modality.finish(x, spec).dtype
    if name in ("image", "spectrogram", "video"):
        assert whole.float().min() >= 0
        assert whole.float().max() <= 255


@pytest.mark.parametrize(
    ("name", "spec", "x"),
    [
        ("image", PICTURE, PIXELS),
        ("video", CLIP, FRAMES),
        ("audio", LOUD, HEARD),
        ("audio", WAVE, SAMPLES),
        ("text", WORDS, TOKENS),
    ],
)
def test_without_options_nothing_is_done(name, spec, x):
    modality = modalities.get(name)
    assert modality.draw(modality.Augment(), NUMBERS, spec) == {}
    assert torch.equal(augmented(modality, x, spec), x)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("image", {"flip": 1.5}),
        ("image", {"crop": 0.0}),
        ("video", {"time_masks": 1}),
        ("audio", {"noise": -0.1}),
        ("audio", {"crop": 0.5}),
        ("text", {"dropout": 2.0}),
    ],
)
def test_options_are_checked(name, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        checked(modalities.get(name).Augment, wrong, "settings", f"augment.{name}")


def test_options_that_the_input_has_no_use_for():
    with pytest.raises(UserError, match="spectrogram is normalised"):
        audio.check(audio.Augment(gain=3.0), LOUD)
    with pytest.raises(UserError, match="no axis of frequencies"):
        audio.check(audio.Augment(freq_masks=1), WAVE)


def test_chance_belongs_to_the_sample_and_is_uniform():
    numbers = sampling.uniform(MANY, "it", 3)
    assert numbers.shape == (4000, 3)
    np.testing.assert_array_equal(numbers[7:9], sampling.uniform(MANY[7:9], "it", 3))
    np.testing.assert_allclose(np.histogram(numbers, 10, (0, 1))[0] / 12000, 0.1, atol=0.01)
    assert (
        np.abs(np.corrcoef([*numbers.T, sampling.uniform(MANY, "else")]) - np.eye(4)).max() < 0.05
    )


# Pictures. ------------------------------------------------------------------------------------------------------------

SQUARE = torch.tensor(
    [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]], dtype=torch.uint8
)


def resampled(**drawn) -> list[list[int]]:
    x = SQUARE.view(1, 1, 1, 4, 4)
    return vision.augment(x, vision.Augment(), {k: np.array([v]) for k, v in drawn.items()})[
        0, 0, 0
    ].tolist()


def test_a_flip_mirrors_left_and_right():
    assert resampled(flip=True) == SQUARE.flip(1).tolist()
    assert resampled(flip=False) == SQUARE.tolist()


def test_a_shift_moves_whole_pixels_and_black_comes_in():
    assert resampled(shift=(0.25, -0.5)) == [
        [0, 0, 0, 0],
        [3, 4, 0, 0],
        [7, 8, 0, 0],
        [11, 12, 0, 0],
    ]
    assert resampled(shift=(0.12, 0.0)) == SQUARE.tolist()  # 0.48 of a pixel


def test_a_crop_is_enlarged():
    assert resampled(crop=(0.0, 0.0, 1.0, 1.0)) == SQUARE.tolist()
    ramp = torch.arange(0, 160, 10, dtype=torch.uint8).expand(1, 1, 1, 16, 16)
    crop = {"crop": np.array([[0.25, 0.25, 0.5, 0.5]])}
    found = vision.augment(ramp, vision.Augment(), crop)[0, 0, 0]
    # Column i shows the place 4 + (i + 0.5) / 2 - 0.5 of the ramp, and 0.5 is rounded to an even number.
    assert found[0].tolist() == [38, 42, 48, 52, 58, 62, 68, 72, 78, 82, 88, 92, 98, 102, 108, 112]
    assert (found == found[0]).all()


def test_a_crop_at_the_edge_brings_no_black_in():
    flat = torch.full((6, 1, 1, 12, 12), 200, dtype=torch.uint8)
    drawn = {"crop": np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]] * 3)}
    assert torch.equal(vision.augment(flat, vision.Augment(), drawn), flat)


def test_crop_then_flip_then_shift():
    once = vision.augment(
        FRAMES, vision.Augment(), drawn := vision.draw(vision.Augment(**PICTURED[3]), NUMBERS)
    )
    steps = FRAMES
    for name in ("crop", "flip", "shift"):
        steps = vision.augment(steps, vision.Augment(), {name: drawn[name]})
    assert torch.equal(once, steps)


def test_crops_keep_to_their_share_and_shape():
    drawn = vision.draw(vision.Augment(crop=0.3, flip=0.2, shift=0.1), MANY)
    top, left, height, width = drawn["crop"].T
    area, ratio = height * width, width / height
    assert 0.3 < area.min() < 0.301
    assert 0.999 < area.max() <= 1
    assert ratio.min() >= 0.75 - 1e-9
    assert ratio.max() <= 4 / 3 + 1e-9
    assert min(top.min(), left.min()) >= -1e-9
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-9
    assert drawn["flip"].mean() == pytest.approx(0.2, abs=0.02)
    assert -0.1 <= drawn["shift"].min() < -0.099
    assert 0.099 < drawn["shift"].max() <= 0.1


@pytest.mark.parametrize("operation", vision.OPERATIONS)
def test_an_operation_changes_pictures_and_leaves_black_black(operation):
    drawn = {
        "operations": np.array([[list(vision.OPERATIONS).index(operation)]] * 6),
        "by": np.array([[0.6]] * 6),
    }
    dim = (FRAMES // 2).repeat(
        1, 1, 1, 2, 2
    )  # there have to be more pixels than levels to equalise them
    done = vision.augment(dim, vision.Augment(), drawn)
    assert done.dtype == torch.uint8
    assert not done[:, 2].any()
    assert torch.equal(done, dim) == (operation == "identity")


def test_operations_have_the_strength_that_is_asked_for():
    def applied(operation, by, x=SQUARE):
        drawn = {
            "operations": np.array([[list(vision.OPERATIONS).index(operation)]]),
            "by": np.array([[by]]),
        }
        return vision.augment(x.view(1, 1, 1, 4, 4), vision.Augment(), drawn)[0, 0, 0].tolist()

    assert (
        applied("brightness", 1.0, SQUARE * 10) == (SQUARE * 10 * 1.9).int().clamp(max=255).tolist()
    )
    assert applied("brightness", -1.0, SQUARE * 10) == SQUARE.tolist()
    assert applied("translate_x", 0.5) == [
        [0, *row[:3]] for row in SQUARE.tolist()
    ]  # 150 / 331 * 0.5 * 4 = 0.9
    assert applied("posterize", 1.0, SQUARE * 10) == (SQUARE * 10 // 16 * 16).tolist()  # 4 bits
    assert applied("posterize", 0.0) == SQUARE.tolist()


@pytest.mark.parametrize("options", PICTURED)
def test_all_frames_of_a_clip_are_changed_alike_and_padding_stays_black(options):
    clip = FRAMES.clone()
    clip[:, 1] = clip[:, 0]
    done = augmented(video, clip, CLIP, **options)
    assert torch.equal(done[:, 0], done[:, 1]) == ("noise" not in options)
    assert not done[:, 2].any()


def test_noise_has_the_spread_that_is_asked_for():
    grey = torch.full((6, 3, 64, 64), 128, dtype=torch.uint8)
    noise = augmented(image, grey, ImageInput(size=64), noise=0.1) - 128
    torch.testing.assert_close(noise.std(), torch.tensor(25.5), rtol=0.02, atol=0)
    assert noise.mean().abs() < 0.5


# Masks and sound. -----------------------------------------------------------------------------------------------------


def test_masks_cover_what_is_drawn():
    drawn = {"freq_masks": np.array([[[0, 1]]]), "time_masks": np.array([[[1, 2], [3, 3]]])}
    found = spec_augment.masked(torch.ones(1, 1, 2, 4), drawn, torch.tensor(0.0))
    assert found[0, 0].tolist() == [[0, 0, 0, 0], [1, 0, 1, 1]]


def test_masks_have_all_widths_and_places():
    drawn = spec_augment.draw(spec_augment.Masks(time_masks=1, time_width=0.5), MANY, 8, 6)
    assert list(drawn) == ["time_masks"]
    pairs, counts = np.unique(drawn["time_masks"][:, 0], axis=0, return_counts=True)
    assert {tuple(pair) for pair in pairs.tolist()} == {
        (a, a + w) for w in range(4) for a in range(6 - w + 1)
    }
    widths = pairs[:, 1] - pairs[:, 0]
    np.testing.assert_allclose(
        [counts[widths == w].sum() / 4000 for w in range(4)], 0.25, atol=0.03
    )


def test_the_mask_of_a_ready_made_spectrogram_is_what_the_encoder_sees_as_nothing():
    spec = ImageInput(size=12, mean=(0.2, 0.4, 0.6), std=0.2)
    drawn = {"freq_masks": np.array([[[0, 12]]])}
    seen = image.finish(image.augment(PIXELS[:1], spec, image.Augment(), drawn), spec)
    assert seen.abs().max() < 0.01


def test_sound_moves_round():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    drawn = {"shift": np.array([0.25])}
    assert audio.augment(x, WAVE, audio.Augment(), drawn).tolist() == [[4, 1, 2, 3]]
    rows = torch.stack([x, x + 4], 1)[None]  # (1, 1, 2, 4)
    assert audio.augment(rows, LOUD, audio.Augment(), drawn)[0, 0].tolist() == [
        [4, 1, 2, 3],
        [8, 5, 6, 7],
    ]


@pytest.mark.parametrize("options", [{"shift": 0.5}, {"gain": 6.0}, {"noise": 0.3}])
def test_the_padding_of_samples_stays_padding(options):
    done = augmented(audio, SAMPLES, WAVE, **options)
    assert not done[1, 150:].any()
    assert done[1, :150].all()
    assert not done[2].any()
    if "shift" in options:
        assert torch.equal(done.sort(1).values, SAMPLES.sort(1).values)


def test_gain_is_in_decibels_and_noise_in_proportion():
    gain = audio.draw(audio.Augment(gain=6.0), MANY, WAVE)["gain"]
    assert gain.max() == pytest.approx(10 ** (6 / 20), abs=0.01)
    assert gain.min() == pytest.approx(10 ** (-6 / 20), abs=0.01)
    assert audio.augment(
        torch.ones(1, 3), WAVE, audio.Augment(), {"gain": np.array([0.5])}
    ).tolist() == [[0.5] * 3]
    tone = torch.full((6, 4000), 0.01)
    tone[:, 2000:] = 0  # the RMS is that of the half which isn't padding
    noise = augmented(audio, tone, WaveInput(sample_rate=4000, seconds=1.0), noise=0.1) - tone
    torch.testing.assert_close(noise[:, :2000].std(), torch.tensor(0.001), rtol=0.03, atol=0)
    noise = augmented(audio, HEARD, LOUD, noise=0.1) - HEARD
    torch.testing.assert_close(noise.std(), torch.tensor(0.1), rtol=0.05, atol=0)


# Text. ----------------------------------------------------------------------------------------------------------------


def dropped(tokens, numbers, p=0.5, padding=0):
    spec, drawn = TextInput(length=len(tokens), padding=padding), {"dropout": np.array([numbers])}
    return text.augment(torch.tensor([tokens]), spec, text.Augment(dropout=p), drawn)[0].tolist()


def test_tokens_are_deleted_and_the_rest_moves_up():
    assert dropped([1, 5, 6, 7, 2, 0], [0.0, 0.9, 0.4, 0.6, 0.0, 0.0]) == [1, 5, 7, 2, 0, 0]
    assert dropped([1, 5, 6, 7, 2, 9], [0.0, 0.9, 0.4, 0.3, 0.0, 0.0], padding=9) == [
        1,
        5,
        2,
        9,
        9,
        9,
    ]
    assert dropped([1, 0, 6, 0, 2, 0], [0.0, 0.9, 0.4, 0.6, 0.0, 0.0]) == [
        1,
        0,
        0,
        2,
        0,
        0,
    ]  # 0 is a token here too


def test_one_token_and_the_marks_always_stay():
    assert dropped([1, 5, 6, 7, 2, 0], [0.0, 0.1, 0.3, 0.2, 0.0, 0.0]) == [1, 6, 2, 0, 0, 0]
    assert dropped([1, 2, 0], [0.0, 0.0, 0.0]) == [1, 2, 0]
    assert dropped([0, 0, 0], [0.0, 0.0, 0.0]) == [0, 0, 0]
    assert dropped([1, 5, 2], [0.9, 0.1, 0.9], p=1.0) == [1, 5, 2]


def test_tokens_are_deleted_as_often_as_is_asked_for():
    tokens = torch.full((4000, 77), 5)
    left = (augmented(text, tokens, TextInput(), MANY, dropout=0.2) != 0).sum(1).double().mean()
    assert left == pytest.approx(2 + 75 * 0.8, abs=0.2)
