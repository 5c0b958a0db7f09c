"""Packing and decoding: what goes into the shards, what an encoder sees, and what a stranger's file can't do."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from toys.media import RATE, film, flac

from umemma import modalities
from umemma.errors import UserError
from umemma.modalities import audio, av_decoder, image, text, video
from umemma.types import (
    AudioInput,
    Clip,
    ImageInput,
    Packing,
    Sound,
    TextInput,
    Unreadable,
    VideoInput,
    WaveInput,
)

P = Packing(side=32)
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
TONE = Sound(np.sin(np.arange(800) / 5).astype(np.float32) / 2, 8000)
PICTURE = ImageInput(size=8)
LOUD = AudioInput(sample_rate=8000, seconds=0.1, mels=8, window=128, hop=80)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


def levels(mjpeg: bytes) -> list[int]:
    """Which frames of a `film` these are."""
    return [
        round(np.asarray(Image.open(io.BytesIO(jpeg))).mean() / 10)
        for jpeg in video.BORDER.split(mjpeg)
    ]


def both(path, packing=P, **stretch) -> dict[str, bytes]:
    clip = Clip(path, **stretch)
    return modalities.pack({"audio": clip, "video": clip}, packing)


# Clips. ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codec", ["mpeg4", "libx264"]
)  # with x264 most pictures are needed by no other, and skipped
def test_frames_stand_in_the_middle_of_equal_parts(tmp_path, codec):
    packed = both(film(tmp_path / "a.mp4", codec=codec), Packing(frames=5))
    assert sorted(packed) == ["audio.flac", "video.mjpeg"]
    assert levels(packed["video.mjpeg"]) == [
        2,
        6,
        10,
        14,
        18,
    ]  # 20 frames in 2 s; at 0.2, 0.6, 1.0, 1.4, 1.8 s
    sound = soundfile.info(io.BytesIO(packed["audio.flac"]))
    assert (sound.samplerate, sound.channels) == (RATE, 1)
    assert sound.duration == pytest.approx(2.0, abs=0.2)


def test_frames_at_a_rate(tmp_path):
    path = film(tmp_path / "a.mp4")
    assert levels(both(path, Packing(fps=2.0))["video.mjpeg"]) == [
        2,
        7,
        12,
        17,
    ]  # at 0.25, 0.75, 1.25, 1.75 s
    assert levels(both(path, Packing(fps=2.0, frames=3))["video.mjpeg"]) == [2, 7, 12]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_an_event_is_cut_out_of_pictures_and_sound(tmp_path, name):
    path = film(tmp_path / name, seconds=4.0, fps=5)
    packed = both(path, Packing(frames=2), start=2.0, end=3.0)
    assert levels(packed["video.mjpeg"]) == [11, 13]  # at 2.25 and 2.75 s of 5 frames a second
    assert soundfile.info(io.BytesIO(packed["audio.flac"])).duration == pytest.approx(1.0, abs=0.01)
    assert (
        len(levels(both(path, Packing(frames=2, crop=False), start=2.0, end=3.0)["video.mjpeg"]))
        == 2
    )
    assert levels(both(path, Packing(frames=2, crop=False), start=2.0, end=3.0)["video.mjpeg"]) == [
        5,
        15,
    ]


def test_sound_and_pictures_of_a_clip_are_read_together_and_of_a_broken_one_each_by_itself(
    tmp_path, monkeypatch
):
    passes = []
    read = av_decoder.read_clip

    def recorded(clip, packing, *, pictures, sound):
        passes.append((pictures, sound))
        return read(clip, packing, pictures=pictures, sound=sound)

    monkeypatch.setattr(av_decoder, "read_clip", recorded)
    whole = Clip(film(tmp_path / "whole.mp4"))
    members, broken = modalities.pack_readable({"audio": whole, "video": whole}, P)
    assert (sorted(members), broken, passes) == (["audio.flac", "video.mjpeg"], {}, [(True, True)])
    passes.clear()
    sound = Clip(film(tmp_path / "sound.mp4", pictures=False))
    members, broken = modalities.pack_readable({"audio": sound, "video": sound}, P)
    assert (sorted(members), broken) == (["audio.flac"], {"video": "a video with no frames"})
    assert passes == [(True, True), (False, True), (True, False)]


def test_a_medium_that_cannot_be_read_leaves_the_others(tmp_path):
    def unlucky():
        raise ValueError("values that are not finite")

    media = {
        "text": "word",
        "image": tmp_path / "no.png",
        "spectrogram": unlucky,
        "audio": Unreadable("a reason"),
    }
    members, broken = modalities.pack_readable(media, P)
    assert members == {"text.txt": b"word"}
    assert list(broken.items()) == [
        ("audio", "a reason"),
        ("image", "file is missing"),
        ("spectrogram", "values that are not finite"),
    ]
    assert modalities.format_reasons({"image": "x", "audio": "y"}) == ("audio: y", "image: x")
    with pytest.raises(ValueError, match="a reason"):
        modalities.pack(media, P)


def test_one_pass_gives_what_two_give(tmp_path):
    clip = Clip(film(tmp_path / "a.mp4"))
    assert modalities.pack({"audio": clip, "video": clip}, P) == {
        **modalities.pack({"audio": clip}, P),
        **modalities.pack({"video": clip}, P),
    }


def test_a_clip_without_usable_sound_lacks_a_modality(tmp_path):
    assert sorted(both(film(tmp_path / "none.mp4", tone=None))) == ["video.mjpeg"]
    assert sorted(both(film(tmp_path / "silent.mp4", tone=0.0))) == ["video.mjpeg"]
    assert sorted(both(film(tmp_path / "silent.mp4", tone=0.0), Packing(silence=0.0))) == [
        "audio.flac",
        "video.mjpeg",
    ]


def test_frames_are_bounded_but_never_enlarged(tmp_path):
    jpeg = video.BORDER.split(both(film(tmp_path / "a.mp4", size=(128, 96)))["video.mjpeg"])[0]
    assert Image.open(io.BytesIO(jpeg)).size == (43, 32)
    jpeg = video.BORDER.split(both(film(tmp_path / "a.mp4"), Packing(side=500))["video.mjpeg"])[0]
    assert Image.open(io.BytesIO(jpeg)).size == (64, 48)


def test_a_short_clip_shows_its_last_frame_again(tmp_path):
    path = film(tmp_path / "a.mp4", seconds=0.3, tone=None)
    assert levels(modalities.pack({"video": path}, Packing(frames=6))["video.mjpeg"]) == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_every_cut_off_file_is_found(tmp_path, name):
    """mp4 with its table of contents in front, as files for the network are: it decodes without an error to the cut."""
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    whole = film(tmp_path / name, seconds=6.0, **options).read_bytes()
    cut = tmp_path / f"cut-{name}"
    for share in (0.0, 0.05, 0.2, 0.4, 0.6, 0.8):
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"cut off|not readable|no frames"):
            both(cut)


def test_a_slow_film_is_whole(tmp_path):
    assert levels(both(film(tmp_path / "a.mp4", seconds=4.0, fps=1))["video.mjpeg"]) == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
    ]


def test_a_clip_beside_other_media(tmp_path):
    packed = modalities.pack(
        {"audio": Clip(film(tmp_path / "a.mp4")), "image": GREY, "text": "word"}, P
    )
    assert sorted(packed) == ["audio.flac", "image.png", "text.txt"]


def test_what_is_no_clip(tmp_path):
    for content in (b"", b"no film at all", b"\x00" * 5000):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(ValueError, match="not readable video or sound"):
            both(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="a video with no frames"):
        both(film(tmp_path / "sound.mp4", pictures=False))
    with pytest.raises(ValueError, match="file is missing"):
        both(tmp_path / "nowhere.mp4")
    with pytest.raises(ValueError, match="the event lies after the end"):
        both(film(tmp_path / "b.mp4"), start=5.0, end=6.0)


def test_a_playlist_cannot_name_other_files(tmp_path):
    film(tmp_path / "secret.ts", codec="mpeg2video")
    (tmp_path / "a.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.ts\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "b.mp4").write_text("ffconcat version 1.0\nfile secret.ts\n")
    for name in "ab":
        with pytest.raises(ValueError, match="not readable"):
            both(tmp_path / f"{name}.mp4")


def test_frames_are_chosen_or_black_ones_follow(tmp_path):
    packed = modalities.pack({"video": film(tmp_path / "a.mp4")}, Packing(frames=4))["video.mjpeg"]
    two, four, six = (video.decode(packed, VideoInput(frames=n, size=8)) for n in (2, 4, 6))
    assert four.shape == (4, 3, 8, 8)
    assert four.dtype == torch.uint8
    assert four.flatten(1).any(1).all()
    assert torch.equal(two, four[[1, 3]])
    assert torch.equal(six, torch.cat([four, video.make_blank(VideoInput(frames=2, size=8))]))


# Images. --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", "jpg"), ("PNG", "png")])
def test_a_small_image_is_copied(tmp_path, kind, suffix):
    data = encoded(Image.fromarray(GREY), kind)
    assert image.pack(data, P) == (suffix, data)
    (tmp_path / "a").write_bytes(data)
    assert image.pack(tmp_path / "a", P) == (suffix, data)


def test_a_large_image_becomes_a_jpeg_with_a_bounded_side():
    packed = image.pack(encoded(Image.new("RGBA", (200, 100), "red"), "PNG"), P)
    assert packed.suffix == "jpg"
    assert Image.open(io.BytesIO(packed.data)).size == (64, 32)


def test_other_formats_and_arrays_become_png():
    assert image.pack(encoded(Image.fromarray(GREY), "BMP"), P).suffix == "png"
    packed = image.pack(GREY, P)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(packed.data))), GREY)
    assert Image.open(io.BytesIO(image.pack(np.zeros((64, 96), np.uint8), P).data)).size == (48, 32)
    moving = encoded(
        Image.new("RGB", (8, 8)),
        "PNG",
        save_all=True,
        append_images=[Image.new("RGB", (8, 8), "red")],
    )
    assert image.pack(moving, P).data != moving


def test_a_picture_stands_upright():
    lying = Image.new("RGB", (20, 10))
    exif = lying.getexif()
    exif[0x0112] = 6  # turned by a quarter
    small = image.pack(encoded(lying, "JPEG", exif=exif), P).data
    large = image.pack(encoded(lying.resize((200, 100)), "JPEG", exif=exif), P).data
    assert Image.open(io.BytesIO(large)).size == (32, 64)
    assert image.open_image(small, 8)[0].size == (10, 20)


def test_sixteen_bits_become_eight():
    deep = encoded(Image.fromarray((np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)), "PNG")
    packed = image.pack(deep, P)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(packed.data))).ravel(), np.arange(64) * 4
    )
    for kind in (np.float32, np.int32):
        with pytest.raises(ValueError, match="range isn't known"):
            image.pack(encoded(Image.fromarray(np.ones((8, 8), kind)), "TIFF"), P)


def test_a_decoded_image_is_its_bytes():
    pixels = image.decode(image.pack(GREY, P).data, PICTURE)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, torch.from_numpy(GREY).expand(3, 8, 8))
    assert image.decode(image.pack(GREY, P).data, ImageInput(size=8, channels=1)).shape == (1, 8, 8)


@pytest.mark.parametrize("across", [True, False])
def test_the_middle_square_is_cut_out_or_all_is_squeezed(across):
    stripes = np.repeat(np.array([0, 100, 200, 0], np.uint8), 8)[None].repeat(
        16, 0
    )  # 32 wide, 16 high
    data = encoded(Image.fromarray(stripes if across else stripes.T), "PNG")
    cut, squeezed = (
        image.decode(data, ImageInput(size=16, channels=1, crop=crop))[0] for crop in (True, False)
    )
    assert torch.equal(
        cut if across else cut.T,
        torch.tensor([100] * 8 + [200] * 8, dtype=torch.uint8).expand(16, 16),
    )
    assert (squeezed if across else squeezed.T)[0, [1, 6, 9, 14]].tolist() == pytest.approx(
        [0, 100, 200, 0], abs=2
    )


def test_the_middle_square_is_what_pretrained_encoders_saw():
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    picture = Image.effect_noise((40, 20), 90)
    theirs = CenterCrop(8)(Resize(8, InterpolationMode.BICUBIC)(picture))
    ours = image.decode(encoded(picture, "PNG"), ImageInput(size=8, channels=1, crop=True))[0]
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_a_very_long_picture_costs_no_memory():
    data = encoded(Image.new("L", (2**22, 1), 7), "PNG")
    assert image.decode(data, ImageInput(size=64, channels=1, crop=True)).unique().tolist() == [7]


def test_pixels_are_normalised_as_the_encoder_asks():
    x = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    seen = image.finish(x, ImageInput(size=1, mean=(0.0, 0.5, 0.25), std=(1.0, 0.5, 0.5)))
    torch.testing.assert_close(seen.flatten(), torch.tensor([0.0, 1.0, -0.1]))
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    once = (every / 255 - 0.45) / 0.225
    assert torch.equal(
        image.finish(every, ImageInput(size=16, channels=1, mean=0.45, std=0.225)), once
    )
    thrice = video.finish(
        every.expand(2, 3, 16, 16)[None],
        VideoInput(frames=2, size=16, mean=(0.45,) * 3, std=(0.225,) * 3),
    )
    assert torch.equal(thrice, once.expand(1, 2, 3, 16, 16))
    with pytest.raises(UserError, match="3 numbers for 1 channels"):
        image.finish(every, ImageInput(size=16, channels=1, mean=(0.5,) * 3))


def test_images_that_cannot_be_packed(tmp_path):
    whole = encoded(Image.effect_noise((60, 60), 90), "JPEG")
    bomb = encoded(Image.new("1", (10000, 10000)), "PNG")
    larger = encoded(Image.new("1", (20000, 10000)), "PNG")
    for data, reason in (
        (b"", "unknown format"),
        (b"not a picture", "unknown format"),
        (whole[: len(whole) // 2], "truncated"),
        (bomb, "over the size bound"),
        (larger, "over the size bound"),
        (tmp_path / "nowhere.png", "file is missing"),
        (tmp_path, "file can't be read"),
        (TONE, "not an image"),
    ):
        with pytest.raises(ValueError, match=reason):
            image.pack(data, P)


# Sound. ---------------------------------------------------------------------------------------------------------------


def test_a_mono_flac_is_copied(tmp_path):
    data = flac(TONE.samples)
    assert audio.pack(data, P) == ("flac", data)
    (tmp_path / "a.wav").write_bytes(data)
    assert audio.pack(tmp_path / "a.wav", P) == ("flac", data)


def test_sound_is_mixed_down_and_its_rate_bounded(tmp_path):
    stereo = np.stack([TONE.samples, np.zeros(800, np.float32)], 1)
    soundfile.write(tmp_path / "a.wav", stereo, 8000, subtype="PCM_16")
    samples, rate = soundfile.read(io.BytesIO(audio.pack(tmp_path / "a.wav", P).data))
    assert rate == 8000
    np.testing.assert_allclose(samples, TONE.samples / 2, atol=2e-4)
    soundfile.write(tmp_path / "b.ogg", np.tile(TONE.samples, 100), 44100, format="OGG")
    info = soundfile.info(io.BytesIO(audio.pack(tmp_path / "b.ogg", P).data))
    assert (info.samplerate, info.channels) == (16000, 1)
    assert info.duration == pytest.approx(80000 / 44100, abs=0.01)


def test_a_wave_file_keeps_its_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE.samples, 8000, subtype="PCM_16")
    packed = audio.pack(tmp_path / "a.wav", P).data
    np.testing.assert_array_equal(
        soundfile.read(io.BytesIO(packed), dtype="int16")[0],
        soundfile.read(tmp_path / "a.wav", dtype="int16")[0],
    )


def test_a_wave_file_that_is_cut_off_or_holds_no_numbers(tmp_path):
    for name, kind in (("a.wav", "WAV"), ("a.aiff", "AIFF")):
        soundfile.write(
            tmp_path / name, np.tile(TONE.samples, 40), 8000, format=kind, subtype="PCM_16"
        )
        whole = (tmp_path / name).read_bytes()
        for share in (0.3, 0.9, 0.99):
            (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(ValueError, match="cut off"):
                audio.pack(tmp_path / name, P)
    soundfile.write(
        tmp_path / "b.wav",
        np.where(np.arange(800) == 7, np.nan, TONE.samples),
        8000,
        subtype="FLOAT",
    )
    with pytest.raises(ValueError, match="not finite"):
        audio.pack(tmp_path / "b.wav", P)


def test_silence_is_no_sound():
    assert audio.pack(Sound(np.zeros(50, np.float32), 8000), P) is None
    assert audio.pack(Sound(np.full(50, 9e-5, np.float32), 8000), P) is None
    assert audio.pack(Sound(np.full(50, 2e-4, np.float32), 8000), P) is not None
    assert audio.pack(flac(np.zeros(50)), P) is None


@pytest.mark.parametrize(
    "media",
    [
        Sound(np.zeros(0, np.float32), 8000),
        Sound(np.full(9, np.nan, np.float32), 8000),
        b"RIFF?",
        b"fLaC?",
        GREY,
    ],
)
def test_sound_that_cannot_be_packed(media):
    with pytest.raises(ValueError, match=r"audio|sound|cut off"):
        audio.pack(media, P)


def test_audio_is_resampled_padded_and_mixed_down():
    stereo = np.stack([TONE.samples, TONE.samples], 1)
    assert torch.equal(audio.decode(flac(stereo), LOUD), audio.decode(flac(TONE.samples), LOUD))
    doubled = audio.decode(flac(np.repeat(TONE.samples, 2), 16000), LOUD)
    assert doubled.shape == (1, 8, 11)
    assert audio.decode(flac(TONE.samples[:300]), LOUD).shape == (1, 8, 11)


def test_samples_are_cut_or_followed_by_zeros():
    samples = soundfile.read(io.BytesIO(flac(TONE.samples)), dtype="float32")[0]
    cut, padded = (
        audio.decode(flac(TONE.samples), WaveInput(sample_rate=8000, seconds=s))
        for s in (0.05, 0.2)
    )
    np.testing.assert_array_equal(cut, samples[:400])
    np.testing.assert_array_equal(padded, np.append(samples, np.zeros(800, np.float32)))
    assert cut.dtype == torch.float32
    assert torch.equal(
        audio.make_blank(WaveInput(sample_rate=8000, seconds=0.2)), torch.zeros(1600)
    )
    assert audio.decode(flac(TONE.samples), WaveInput(sample_rate=16000, seconds=0.1)).shape == (
        1600,
    )


@pytest.mark.parametrize("spec", [LOUD, WaveInput(sample_rate=8000, seconds=0.1)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sound_that_is_no_number_is_not_decoded(spec, value):
    file = io.BytesIO()
    soundfile.write(
        file,
        np.where(np.arange(800) == 7, value, TONE.samples),
        8000,
        format="WAV",
        subtype="FLOAT",
    )
    with pytest.raises(ValueError, match="audio holds values that are not finite"):
        audio.decode(file.getvalue(), spec)


# Text, and what is common. --------------------------------------------------------------------------------------------


def test_text_is_utf8(tmp_path):
    assert text.pack("  Grüße \n", P) == ("txt", "Grüße".encode())
    (tmp_path / "a.txt").write_bytes("\ufeffword".encode())
    assert text.pack(tmp_path / "a.txt", P) == ("txt", b"word")
    assert text.pack(" \n", P) is None
    for bad in ("Grüße".encode("latin-1"), "\ud800"):
        with pytest.raises(ValueError, match="not UTF-8"):
            text.pack(bad, P)
    with pytest.raises(ValueError, match="over the size bound"):
        text.pack("x" * (2**20 + 1), P)


@pytest.mark.slow
def test_text_becomes_tokens():
    tokens = text.decode(b"A photo of a cat", TextInput(length=8))  # as in CLIP's own examples
    assert tokens.tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert text.decode(b"a photo of a cat", TextInput(length=4)).tolist() == [
        49406,
        320,
        1125,
        49407,
    ]
    assert text.make_blank(TextInput(length=4)).tolist() == [49406, 49407, 0, 0]
    assert text.make_blank(TextInput(length=4, padding=7)).tolist() == [49406, 49407, 7, 7]
    with pytest.raises(ValueError, match="not UTF-8"):
        text.decode(b"\xff", TextInput())


def test_an_open_clip_model_brings_its_tokenizer():
    assert torch.equal(
        *(
            text.decode(b"a cat", TextInput(tokenizer=name))
            for name in ("clip", "open_clip:ViT-B-32")
        )
    )
    with pytest.raises(UserError, match="unknown model of open_clip 'ViT-B-33'") as caught:
        text.decode(b"a cat", TextInput(tokenizer="open_clip:ViT-B-33"))
    assert "Did you mean 'ViT-B-32'" in caught.value.hint


def test_a_tokenizer_of_transformers_in_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]"
    )  # and none for padding
    tokenizer.save_pretrained(tmp_path)
    spec = TextInput(length=4, tokenizer=f"hf:{tmp_path}", padding=9)
    assert text.decode(b"a dog a", spec).tolist() == [1, 0, 1, 9]
    assert text.decode(b"a cat a cat a cat", spec).tolist() == [1, 2, 1, 2]
    assert text.make_blank(spec).tolist() == [9, 9, 9, 9]


def test_tokenizers_that_cannot_be_had(tmp_path):
    for name in ("clap", "open_clip:", "hf", "sentencepiece:x"):
        with pytest.raises(UserError, match=f"unknown tokenizer '{name}'"):
            text.make_blank(TextInput(tokenizer=name))
    pytest.importorskip("transformers")
    for name in (f"hf:{tmp_path}", f"hf:{tmp_path / 'nowhere'}", f"open_clip:local-dir:{tmp_path}"):
        with pytest.raises(UserError, match="is unavailable") as caught:
            text.make_blank(TextInput(tokenizer=name))
        assert "cache of Hugging Face" in caught.value.hint


def test_a_tokenizer_whose_library_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="transformers") as caught:
        text.make_blank(TextInput(tokenizer="hf:never-tried"))
    assert caught.value.hint == "Install transformers."


def test_blank_is_black_and_silence():
    black = image.decode(image.pack(np.zeros((8, 8), np.uint8), P).data, PICTURE)
    assert torch.equal(image.make_blank(PICTURE), black)
    silence = audio.decode(
        audio.pack(Sound(np.zeros(50, np.float32), 8000), Packing(silence=0.0)).data, LOUD
    )
    assert torch.equal(audio.make_blank(LOUD), silence)


def test_media_may_be_made_where_it_is_packed():
    made = modalities.pack({"image": lambda: GREY, "text": "word", "audio": lambda: TONE}, P)
    assert sorted(made) == ["audio.flac", "image.png", "text.txt"]
