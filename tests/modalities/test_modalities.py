"""Packing the media of a sample: what goes into the shards, and what cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys.loading import SPECS
from toys.media import GREY, PACKING, TONE, film, pack_clip

from umemma import modalities
from umemma.modalities import audio, image
from umemma.modalities.files import av_decoder
from umemma.types import Clip, Packing, Sound, Unreadable


def test_sound_and_pictures_of_a_clip_are_read_together_and_of_a_broken_one_each_by_itself(
    tmp_path, monkeypatch
):
    passes = []
    read_clip = av_decoder.read_clip

    def record_pass(clip, packing, *, pictures, sound):
        passes.append((pictures, sound))
        return read_clip(clip, packing, pictures=pictures, sound=sound)

    monkeypatch.setattr(av_decoder, "read_clip", record_pass)
    whole = Clip(film(tmp_path / "whole.mp4"))
    members, broken = modalities.pack_readable({"audio": whole, "video": whole}, PACKING)
    assert sorted(members) == ["audio.flac", "video.mjpeg"]
    assert broken == {}
    assert passes == [(True, True)]

    passes.clear()
    sound = Clip(film(tmp_path / "sound.mp4", pictures=False))
    members, broken = modalities.pack_readable({"audio": sound, "video": sound}, PACKING)
    assert sorted(members) == ["audio.flac"]
    assert broken == {"video": "a video with no frames"}
    assert passes == [(True, True), (False, True), (True, False)]


def test_one_pass_gives_what_two_give(tmp_path):
    clip = Clip(film(tmp_path / "a.mp4"))
    audio_members = modalities.pack({"audio": clip}, PACKING)
    video_members = modalities.pack({"video": clip}, PACKING)
    both_members = modalities.pack({"audio": clip, "video": clip}, PACKING)
    assert both_members == {**audio_members, **video_members}


def test_a_clip_without_usable_sound_lacks_a_modality(tmp_path):
    no_sound = film(tmp_path / "none.mp4", tone=None)
    assert sorted(pack_clip(no_sound)) == ["video.mjpeg"]
    silent = film(tmp_path / "silent.mp4", tone=0.0)
    assert sorted(pack_clip(silent)) == ["video.mjpeg"]
    assert sorted(pack_clip(silent, Packing(silence=0.0))) == ["audio.flac", "video.mjpeg"]


def test_a_clip_beside_other_media(tmp_path):
    clip = Clip(film(tmp_path / "a.mp4"))
    packed = modalities.pack({"audio": clip, "image": GREY, "text": "word"}, PACKING)
    assert sorted(packed) == ["audio.flac", "image.png", "text.txt"]


def test_media_may_be_made_where_it_is_packed():
    media = {"image": lambda: GREY, "text": "word", "audio": lambda: TONE}
    packed = modalities.pack(media, PACKING)
    assert sorted(packed) == ["audio.flac", "image.png", "text.txt"]


def test_a_medium_that_cannot_be_read_leaves_the_others(tmp_path):
    def raise_error():
        raise ValueError("values that are not finite")

    media = {
        "text": "word",
        "image": tmp_path / "no.png",
        "spectrogram": raise_error,
        "audio": Unreadable("a reason"),
    }
    members, broken = modalities.pack_readable(media, PACKING)
    assert members == {"text.txt": b"word"}
    assert list(broken.items()) == [
        ("audio", "a reason"),
        ("image", "file is missing"),
        ("spectrogram", "values that are not finite"),
    ]
    assert modalities.format_reasons({"image": "x", "audio": "y"}) == ("audio: y", "image: x")
    with pytest.raises(ValueError, match="a reason"):
        modalities.pack(media, PACKING)


def test_blank_is_black_and_silence():
    black = image.pack(np.zeros((8, 8), np.uint8), PACKING)
    decoded_black = image.decode(black.data, SPECS["image"])
    assert torch.equal(image.make_blank(SPECS["image"]), decoded_black)
    zeros = Sound(np.zeros(50, np.float32), 8000)
    silence = audio.pack(zeros, Packing(silence=0.0))
    decoded_silence = audio.decode(silence.data, SPECS["audio"])
    assert torch.equal(audio.make_blank(SPECS["audio"]), decoded_silence)
