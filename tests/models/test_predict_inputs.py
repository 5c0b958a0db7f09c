"""Media in every form that a user gives, and those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys.media import film
from toys.models import (
    RATE,
    make_noise,
    make_picture,
    save_model,
)

import umemma
from umemma.errors import UserError
from umemma.models.predict_inputs import NOTHING, Failure, decode_sample
from umemma.types import ImageInput, Packing, Sound


@pytest.mark.parametrize("image", [b"no picture", "no.png", np.zeros((4, 4)), 3])
def test_a_medium_that_cannot_be_read_is_absent(place, image):
    """Of the wrong type too: what is given for one modality doesn't decide about the others."""
    model = umemma.load("model")
    audio = (make_noise(), RATE)
    prediction, without = model.predict(image=image, audio=audio), model.predict(audio=audio)
    assert (prediction.probabilities, prediction.present) == (without.probabilities, ("audio",))
    assert ([reason.split(":")[0] for reason in prediction.broken], without.broken) == (
        ["image"],
        (),
    )
    strict = umemma.load("model", broken="fail")
    assert strict.predict(audio=audio) == without
    with pytest.raises(UserError, match="image"):
        strict.predict(image=image, audio=audio)


def test_where_every_medium_is_broken_the_error_names_them(place):
    with pytest.raises(UserError, match=r"^audio x\.png: not readable .*; image: file is missing$"):
        umemma.load("model").predict(audio="x.png", image="no.png")


def test_media_in_every_form_give_the_same(place):
    model = umemma.load("model")
    png, wav = Path("x.png").read_bytes(), Path("x.wav").read_bytes()
    images = ["x.png", Path("x.png"), png, make_picture(), Image.open("x.png")]
    sounds = [
        "x.wav",
        Path("x.wav"),
        wav,
        Sound(make_noise(), RATE),
        (make_noise(), RATE),
        (make_noise() / np.float32(32768), RATE),
    ]
    assert len({tuple(model.predict(image=one).probabilities.values()) for one in images}) == 1
    assert len({tuple(model.predict(audio=one).probabilities.values()) for one in sounds}) == 1
    colours = np.stack([make_picture()] * 3, -1)
    transparent = Image.fromarray(colours).convert("RGBA")
    assert model.predict(image=colours) == model.predict(image=transparent)


def test_a_video_is_seen_and_heard(tmp_path):
    path = film(tmp_path / "a.mp4")
    model = umemma.load(save_model(tmp_path / "m", "audio+video"))
    both = model.predict(audio=str(path), video=str(path))
    assert both.present == ("audio", "video")
    assert model.predict(video=path.read_bytes()) == model.predict(video=path)
    deaf = film(tmp_path / "deaf.mp4", tone=None)
    assert model.predict(audio=deaf, video=deaf).present == ("video",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, NOTHING),
        ({"image": None}, NOTHING),
        ({"audio": "quiet.wav"}, NOTHING),
        ({"video": "x.mp4"}, "unknown modality 'video'"),
        ({"image": "x.wav"}, "image x.wav: not a readable image"),
        ({"audio": "x.png"}, "audio x.png: not readable video or sound"),
        ({"image": "no.png"}, "image no.png: file is missing"),
        ({"image": "model"}, "image model: not a file"),
        ({"image": b""}, "image bytes: not a readable image"),
        ({"image": make_picture().astype(float)}, "has to be"),
        ({"image": make_picture()[None]}, "has to be"),
        ({"image": make_picture()[:0]}, "has to be"),
        ({"image": Image.fromarray(make_picture().astype(np.int32))}, "not an image"),
        ({"image": 3}, "image int: not an image"),
        ({"audio": make_noise()}, "not an image"),
        ({"audio": (make_noise(), 0)}, "has to be"),
        ({"audio": (make_noise().astype(np.int64), RATE)}, "has to be"),
        ({"audio": (np.stack([make_noise()] * 2), RATE)}, "has to be"),
    ],
)
def test_no_answer_is_one_error(place, given, message):
    with pytest.raises(UserError) as error:
        umemma.load("model").predict(**given)
    assert message in str(error.value)


def test_a_path_that_cannot_be_looked_at_is_a_failure_of_its_row():
    result = decode_sample({"image": "a" * 300}, Packing(), {"image": ImageInput(size=8)})
    assert result == Failure("image: file can't be read")
