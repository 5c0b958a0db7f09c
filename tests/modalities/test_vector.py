"""Vectors: what may be given as one, what is refused, and how they are standardised."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch

from umemma.errors import UserError
from umemma.modalities import vector
from umemma.modalities.vector import Moments
from umemma.types import Packing, VectorInput

PACKING = Packing()
SPEC = VectorInput(width=3, mean=(1.0, 0.0, -2.0), std=(2.0, 1.0, 0.5))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def numbers(packed) -> list[float]:
    assert packed.suffix == "npy"
    return np.load(io.BytesIO(packed.data)).tolist()


def test_a_vector_is_a_file_an_array_or_a_list(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([[1.5, 2.0]]))  # as models save a batch of one
    for media in (path, npy(np.array([1.5, 2])), npz(a=np.array([1.5, 2])), [1.5, 2], (1.5, 2)):
        assert numbers(vector.pack(media, PACKING)) == [1.5, 2]
    assert numbers(vector.pack(np.arange(3, dtype=np.uint8), PACKING)) == [0, 1, 2]
    assert numbers(vector.pack(npy(np.float64(4)), PACKING)) == [4]
    packed = vector.pack([1.5, 2], PACKING)
    assert vector.pack(npz(a=np.array([1.5, 2])), PACKING) == packed  # always the same bytes


def test_unknown_numbers_stay_and_a_vector_of_them_alone_is_absent():
    known = numbers(vector.pack([1.0, None, np.nan], PACKING))
    assert known[0] == 1
    assert np.isnan(known[1:]).all()
    assert vector.pack([None, np.nan], PACKING) is None
    assert vector.pack([], PACKING) is None


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        ([1.0, np.inf], "infinite"),
        ([1e300], "infinite, or too large"),
        ([1, "a"], "not a list of numbers"),
        ([[1, 2], [3]], "not a list of numbers"),
        ([[1, 2], [3, 4]], "several dimensions"),
        ("word", "not numbers"),
        (np.array([1 + 2j]), "real numbers"),
        (npy(np.array(["a"])), "real numbers"),
        (npy(np.arange(4.0))[:-1], "cut off"),
        (npy(np.arange(4.0))[:20], "not a readable .npy"),
        (b"", "not a readable .npy"),
        (npz(a=np.arange(2), b=np.arange(2)), "one array"),
        (npz(a=np.arange(2))[:60], "not a readable .npz"),
    ],
)
def test_what_is_no_vector_has_a_reason(media, reason):
    with pytest.raises(ValueError, match=reason):
        vector.pack(media, PACKING)


class Trap:
    """Unpickling one of these fails the test."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_objects_are_never_unpickled():
    file = io.BytesIO()
    np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("a.npy", file.getvalue())
    for data in (file.getvalue(), archive.getvalue()):
        with pytest.raises(ValueError, match="Python objects, which is never opened"):
            vector.pack(data, PACKING)


def test_a_header_that_promises_more_than_the_file_holds_is_refused():
    data = npy(np.zeros(10)).replace(b"(10,)", b"(10000000000,)")
    with pytest.raises(ValueError, match="cut off"):
        vector.pack(data, PACKING)


def test_numbers_are_standardised_clipped_and_an_unknown_one_is_the_mean():
    packed = vector.pack([3.0, np.nan, 98.0], PACKING)
    x = vector.decode(packed.data, SPEC)[None]
    assert vector.finish(x, SPEC).tolist() == [[1.0, 0.0, 10.0]]
    blank = vector.make_blank(SPEC)[None]
    assert vector.finish(blank, SPEC).tolist() == [[0.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="2 numbers, not 3"):
        vector.decode(vector.pack([1.0, 2.0], PACKING).data, SPEC)


def survey(samples: dict[str, tuple[str, list[float]]]) -> vector.Survey:
    found = vector.Survey("face")
    for key, (split, values) in samples.items():
        found.add(key, split, vector.pack(values, PACKING).data)
    return found


def test_statistics_are_those_of_the_training_samples():
    samples = {
        "a": ("train", [1.0, 5.0, 7.0]),
        "b": ("train", [3.0, None, 7.0]),
        "c": ("test", [1000.0, 1000.0, 1000.0]),
    }
    expected = {"width": 3, "mean": [2.0, 5.0, 7.0], "std": [1.0, 1.0, 1.0]}
    assert survey(samples).find() == expected
    assert survey(samples).summarize() == [
        "vectors of 3 numbers",
        "1 training samples have unknown numbers, which count as the mean",
    ]
    VectorInput(**expected)


def test_samples_of_another_width_are_refused_by_name():
    samples = {"a": ("train", [1.0, 5.0]), "b": ("test", [3.0])}
    with pytest.raises(UserError, match="sample 'b' has 1 numbers, sample 'a' has 2") as error:
        survey(samples)
    assert error.value.where == "face"


def test_moments_sample_by_sample_are_those_of_all_rows():
    rows = 1e6 + np.random.default_rng(0).normal(size=(50, 4))
    rows[3:9, 1] = np.nan
    moments = Moments(4)
    for part in np.split(rows, [1, 7, 20]):
        moments.add(part)
    found = moments.describe()
    np.testing.assert_allclose(found["mean"], np.nanmean(rows, 0))
    np.testing.assert_allclose(found["std"], np.nanstd(rows, 0))


def test_noise_is_in_standard_deviations_and_dropout_makes_numbers_unknown():
    spec = VectorInput(width=2, mean=(0.0, 0.0), std=(1.0, 100.0))
    x = torch.zeros(4000, 2)
    numbers = np.arange(4000, dtype=np.uint64)
    options = vector.Augment(noise=0.5)
    noisy = vector.augment(x, spec, options, vector.draw(options, numbers, spec))
    assert noisy.std(0) == pytest.approx([0.5, 50], rel=0.05)
    options = vector.Augment(dropout=0.25)
    dropped = vector.augment(x, spec, options, vector.draw(options, numbers, spec))
    assert float(dropped.isnan().float().mean()) == pytest.approx(0.25, abs=0.02)
