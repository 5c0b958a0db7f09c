"""MultiBench's AV-MNIST, on made-up files in its layout."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from umemma.datasets import avmnist_multibench
from umemma.errors import UserError


@pytest.fixture
def multibench(tmp_path) -> Path:
    """24 + 5 samples: every value of image i is i + 0.4, of spectrogram i it is 2 i; the label is i
    % 10.
    """
    for name, shape, values in (("image", (784,), np.float32), ("audio", (112, 112), np.uint8)):
        (tmp_path / name).mkdir()
        for part, count in (("train", 24), ("test", 5)):
            data = np.ones((count, *shape)) * np.arange(count).reshape(-1, *[1] * len(shape))
            data = data + 0.4 if name == "image" else data * 2
            np.save(tmp_path / name / f"{part}_data.npy", data.astype(values))
            np.save(tmp_path / f"{part}_labels.npy", np.arange(count) % 10)
    return tmp_path


def test_multibench_rows(multibench):
    records = list(avmnist_multibench.records(multibench, avmnist_multibench.Options()))
    assert Counter(r.split for r in records) == {"train": 22, "val": 2, "test": 5}
    assert {r.key for r in records if r.split == "val"} == {"val-00022", "val-00023"}
    assert [r.key for r in records] != sorted(r.key for r in records)
    for record in records:
        number = int(record.key.split("-")[1])
        assert record.label == number % 10
        media = pickle.loads(pickle.dumps(record.media))  # noqa: S301
        image, sound = media["image"](), media["spectrogram"]()
        assert (image.shape, sound.shape, image.dtype, sound.dtype) == (
            (28, 28),
            (112, 112),
            np.uint8,
            np.uint8,
        )
        assert (image == number).all()
        assert (sound == 2 * number).all()


def test_multibench_values_that_are_no_grey_levels(tmp_path):
    values = np.zeros((4, 784))
    values[0, 3], values[1, 3], values[2, 3], values[3, 3] = np.nan, 256, -1, 255.4
    np.save(tmp_path / "x.npy", values)
    for number, phrase in ((0, "not finite"), (1, "outside 0..255"), (2, "outside 0..255")):
        with pytest.raises(ValueError, match=phrase):
            avmnist_multibench._picture(tmp_path / "x.npy", "image", number, "refuse")
    assert avmnist_multibench._picture(tmp_path / "x.npy", "image", 3, "refuse")[0, 3] == 255
    assert avmnist_multibench._picture(tmp_path / "x.npy", "image", 1, "clip")[0, 3] == 255
    assert avmnist_multibench._picture(tmp_path / "x.npy", "image", 2, "clip")[0, 3] == 0
    with pytest.raises(ValueError, match="not finite"):
        avmnist_multibench._picture(tmp_path / "x.npy", "image", 0, "clip")


def test_multibench_label_that_is_no_digit_is_that_samples_problem(multibench):
    np.save(multibench / "test_labels.npy", np.array([0, 1, np.nan, 10, 4.0]))
    records = {
        r.key: r for r in avmnist_multibench.records(multibench, avmnist_multibench.Options())
    }
    for key in ("test-00002", "test-00003"):
        assert (records[key].label, records[key].problem) == (None, "a label that is no digit")
    assert records["test-00004"].label == 4
    assert sum(bool(r.problem) for r in records.values()) == 2


class Bait:
    """Unpickling it would raise."""

    def __reduce__(self):
        return (eval, ("1 / 0",))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "image/train_data.npy",
            np.zeros((24, 28, 28)),
            r"float64 \(24, 28, 28\), not of N x 784 numbers",
        ),
        ("audio/test_data.npy", np.zeros((5, 112, 111)), "not of N x 112 x 112 numbers"),
        ("audio/test_data.npy", np.zeros((5, 112, 112), complex), "not of N x 112 x 112 numbers"),
        ("audio/test_data.npy", np.zeros((4, 112, 112)), "4 samples for 5 labels"),
        ("train_labels.npy", np.zeros((24, 1), int), "not of N numbers"),
        ("train_labels.npy", np.array(7), "not of N numbers"),
        ("train_labels.npy", np.array([Bait()] * 24, object), "damaged"),
        ("train_labels.npy", b"no array", "damaged"),
        ("train_labels.npy", b"", "damaged"),
        ("train_labels.npy", None, "not there yet"),
    ],
)
def test_multibench_files_that_are_not_as_distributed(multibench, name, data, message):
    if isinstance(data, np.ndarray):
        np.save(multibench / name, data)
    else:
        (multibench / name).unlink()
        if data is not None:
            (multibench / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        list(avmnist_multibench.records(multibench, avmnist_multibench.Options()))
    assert error.value.where == str(multibench / name)
    assert "umemma download avmnist-multibench" in error.value.hint


def test_multibench_file_cut_off(multibench):
    path = multibench / "image" / "train_data.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged"):
        list(avmnist_multibench.records(multibench, avmnist_multibench.Options()))


def test_multibench_source():
    (source,) = avmnist_multibench.sources(Path(), avmnist_multibench.Options())
    names = [f"{name}/{part}_data.npy" for name in ("image", "audio") for part in ("train", "test")]
    names += ["train_labels.npy", "test_labels.npy"]
    assert [source.unpack(f"avmnist/{name}") for name in names] == names
    assert [source.unpack(name) for name in names] == names
    assert source.unpack("avmnist/images/train_data.npy") is None  # CentralNet's own files
    assert source.files == len(names)
