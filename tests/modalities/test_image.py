"""Images: what goes into the shards, what an encoder sees, and what a stranger's file can't do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from toys.augmentation import PIXELS
from toys.media import GREY, PACKING, TONE, encode_picture, open_packed

from umemma.modalities import image
from umemma.types import ImageInput

GREY_SPEC = ImageInput(size=8, channels=1)

# Packing. -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", "jpg"), ("PNG", "png")])
def test_a_small_image_is_copied(tmp_path, kind, suffix):
    data = encode_picture(Image.fromarray(GREY), kind)
    assert image.pack(data, PACKING) == (suffix, data)
    (tmp_path / "a").write_bytes(data)
    assert image.pack(tmp_path / "a", PACKING) == (suffix, data)


def test_a_large_image_becomes_a_jpeg_with_a_bounded_side():
    red = Image.new("RGBA", (200, 100), "red")
    packed = image.pack(encode_picture(red, "PNG"), PACKING)
    assert packed.suffix == "jpg"
    assert open_packed(packed).size == (64, 32)


def test_other_formats_and_arrays_become_png():
    bitmap = encode_picture(Image.fromarray(GREY), "BMP")
    assert image.pack(bitmap, PACKING).suffix == "png"
    packed = image.pack(GREY, PACKING)
    np.testing.assert_array_equal(np.asarray(open_packed(packed)), GREY)
    large = image.pack(np.zeros((64, 96), np.uint8), PACKING)
    assert open_packed(large).size == (48, 32)
    black = Image.new("RGB", (8, 8))
    red = Image.new("RGB", (8, 8), "red")
    animation = encode_picture(black, "PNG", save_all=True, append_images=[red])
    assert image.pack(animation, PACKING).data != animation


def test_a_picture_stands_upright():
    lying = Image.new("RGB", (20, 10))
    exif = lying.getexif()
    exif[0x0112] = 6  # turned by a quarter
    small = image.pack(encode_picture(lying, "JPEG", exif=exif), PACKING)
    enlarged = lying.resize((200, 100))
    large = image.pack(encode_picture(enlarged, "JPEG", exif=exif), PACKING)
    assert open_packed(large).size == (32, 64)
    picture, _ = image.open_image(small.data, 8)
    assert picture.size == (10, 20)


def test_sixteen_bits_become_eight():
    pixels = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    packed = image.pack(encode_picture(Image.fromarray(pixels), "PNG"), PACKING)
    levels = np.asarray(open_packed(packed)).ravel()
    np.testing.assert_array_equal(levels, np.arange(64) * 4)
    for kind in (np.float32, np.int32):
        picture = Image.fromarray(np.ones((8, 8), kind))
        data = encode_picture(picture, "TIFF")
        with pytest.raises(ValueError, match="range isn't known"):
            image.pack(data, PACKING)


def test_images_that_cannot_be_packed(tmp_path):
    whole = encode_picture(Image.effect_noise((60, 60), 90), "JPEG")
    bomb = encode_picture(Image.new("1", (10000, 10000)), "PNG")
    larger = encode_picture(Image.new("1", (20000, 10000)), "PNG")
    cases = [
        (b"", "unknown format"),
        (b"not a picture", "unknown format"),
        (whole[: len(whole) // 2], "truncated"),
        (bomb, "over the size bound"),
        (larger, "over the size bound"),
        (tmp_path / "nowhere.png", "file is missing"),
        (tmp_path, "file can't be read"),
        (TONE, "not an image"),
    ]
    for media, reason in cases:
        with pytest.raises(ValueError, match=reason):
            image.pack(media, PACKING)


@pytest.mark.parametrize("kind", ["DDS", "EPS", "TGA", "ICO", "PCX"])
def test_formats_of_no_data_set_are_not_opened(kind):
    """Reading EPS would call Ghostscript, and an odd DDS raised an error of its own."""
    data = encode_picture(Image.new("RGB", (8, 8)), kind)
    with pytest.raises(ValueError, match="not a readable image: unknown format"):
        image.pack(data, PACKING)


@pytest.mark.parametrize("kind", image.FORMATS)
def test_a_damaged_picture_is_a_reason_whatever_pillow_raises(kind):
    """AVIF raised a RuntimeError, TIFF a TypeError."""
    rng = np.random.default_rng(0)
    data = encode_picture(Image.fromarray(PIXELS[0, 0].numpy()).convert("RGB"), kind)
    outcomes = set()
    for _ in range(200):
        damaged = bytearray(data)
        for i in rng.integers(0, len(data), 3):
            damaged[i] = rng.integers(256)
        try:
            image.pack(bytes(damaged[: rng.integers(1, len(data) + 1)]), PACKING)
        except ValueError as error:
            outcomes.add(str(error).partition(":")[0])
    assert "not a readable image" in outcomes


# Decoding. ----------------------------------------------------------------------------------------


def test_a_decoded_image_is_its_bytes():
    data = image.pack(GREY, PACKING).data
    pixels = image.decode(data, ImageInput(size=8))
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, torch.from_numpy(GREY).expand(3, 8, 8))
    assert image.decode(data, GREY_SPEC).shape == (1, 8, 8)


@pytest.mark.parametrize("across", [True, False])
def test_the_middle_square_is_cut_out_or_all_is_squeezed(across):
    levels = np.array([0, 100, 200, 0], np.uint8)
    stripes = np.repeat(levels, 8)[None].repeat(16, 0)  # 32 wide, 16 high
    if not across:
        stripes = stripes.T
    data = encode_picture(Image.fromarray(stripes), "PNG")
    cut = image.decode(data, ImageInput(size=16, channels=1, crop=True))[0]
    squeezed = image.decode(data, ImageInput(size=16, channels=1, crop=False))[0]
    if not across:
        cut = cut.T
        squeezed = squeezed.T
    middle = torch.tensor([100] * 8 + [200] * 8, dtype=torch.uint8)
    assert torch.equal(cut, middle.expand(16, 16))
    columns = squeezed[0, [1, 6, 9, 14]].tolist()
    assert columns == pytest.approx([0, 100, 200, 0], abs=2)


def test_the_middle_square_is_what_pretrained_encoders_saw():
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    picture = Image.effect_noise((40, 20), 90)
    resized = Resize(8, InterpolationMode.BICUBIC)(picture)
    expected = CenterCrop(8)(resized)
    spec = ImageInput(size=8, channels=1, crop=True)
    decoded = image.decode(encode_picture(picture, "PNG"), spec)[0]
    np.testing.assert_array_equal(decoded, np.asarray(expected))


def test_a_very_long_picture_costs_no_memory():
    """Resizing takes a weight for each pixel of a line, and there is a bound for it."""
    for crop in (True, False):
        data = encode_picture(Image.new("L", (2**16, 1), 7), "PNG")
        pixels = image.decode(data, ImageInput(size=64, channels=1, crop=crop))
        assert pixels.unique().tolist() == [7]
    longer = encode_picture(Image.new("L", (2**16 + 1, 1), 7), "PNG")
    with pytest.raises(ValueError, match="picture over the size bound"):
        image.pack(longer, PACKING)


# Augmentation. ------------------------------------------------------------------------------------


def test_the_mask_of_a_ready_made_spectrogram_is_what_the_encoder_sees_as_nothing():
    spec = ImageInput(size=12, mean=(0.2, 0.4, 0.6), std=0.2)
    drawn = {"freq_masks": np.array([[[0, 12]]])}
    masked = image.augment(PIXELS[:1], spec, image.Augment(), drawn)
    normalised = image.finish(masked, spec)
    assert normalised.abs().max() < 0.01
