"""Series: what may be given as one, holes, windows and sampling rates."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.io
import torch

from umemma.errors import UserError
from umemma.modalities import series
from umemma.modalities.files.arrays import read_first_npy
from umemma.types import Packing, Series, SeriesInput

PACKING = Packing()
TWO = [[0.0, 10.0], [1.0, 11.0], [2.0, 12.0], [3.0, 13.0]]


def make_spec(steps: int, channels: int = 2, **changes) -> SeriesInput:
    mean, std = [0.0] * channels, [1.0] * channels
    return SeriesInput(channels=channels, steps=steps, mean=mean, std=std, **changes)


def decode(media, spec: SeriesInput) -> list:
    return series.decode(series.pack(media, PACKING).data, spec).nan_to_num(-1).tolist()


def mat(**arrays) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, arrays)
    return file.getvalue()


def test_a_series_is_an_array_a_list_or_a_file(tmp_path):
    array = np.array(TWO)
    for name, data in {
        "plain.csv": "0,10\n1,11\n2,12\n3,13\n",
        "named.csv": "\ufeffx;y\n0;10\n1;11\n2;12\n3;13\n",
        "a.txt": "0 10\n1 11\n2 12\n3 13\n",
    }.items():
        (tmp_path / name).write_text(data, encoding="utf-8")
    (tmp_path / "x.mat").write_bytes(mat(acc=array, note="words", cells=np.array([1], object)))
    np.save(tmp_path / "x.npy", array)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    expected = series.pack(TWO, PACKING)
    for media in (array, Series(array), *files):
        assert series.pack(media, PACKING) == expected
    one_channel = series.pack([1, 2, 3], PACKING)
    assert read_first_npy(one_channel.data)[0].tolist() == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        (np.zeros((2, 2, 2)), "neither \\(T, C\\) nor \\(T,\\)"),
        ([[1.0, np.inf]], "infinite"),
        (b"a,b\n1,2\n3,x\n", "not a number"),
        (b"a,b\n1,2\n3\n", "not a number"),
        (b"\xff\xfe\x00", "neither .npy, .mat nor text"),
        (mat(a=np.zeros((2, 2)), b=np.zeros((2, 2))), "one array of numbers"),
        (mat(a="words"), "one array of numbers"),
        (mat(a=np.zeros((9, 9)))[:150], "not a readable .mat|one array"),
        (b"MATLAB 7.3 MAT-file" + bytes(200), "version 7.3"),
        (Series(np.zeros((2, 2)), -1.0), "sampling rate"),
        ("word", "not numbers"),
    ],
)
def test_what_is_no_series_has_a_reason(media, reason):
    with pytest.raises(ValueError, match=reason):
        series.pack(media, PACKING)


def test_holes_are_filled_with_lines_and_stay_in_the_shard():
    nan = np.nan
    samples = [[nan, 5.0], [1.0, 6.0], [nan, nan], [nan, 8.0], [4.0, nan], [nan, nan], [nan, nan]]
    stored, _ = read_first_npy(series.pack(samples, PACKING).data)
    assert np.isnan(stored).sum() == 5
    assert len(stored) == 5  # nothing was measured behind that
    assert decode(samples, make_spec(6)) == [[1, 1, 2, 3, 4, -1], [5, 6, 7, 8, 8, -1]]


def test_a_series_of_holes_alone_is_absent_and_one_dead_channel_is_not():
    assert series.pack(np.full((5, 2), np.nan), PACKING) is None
    assert series.pack(np.zeros((0, 2)), PACKING) is None
    assert decode([[1.0, np.nan], [2.0, np.nan]], make_spec(2)) == [[1, 2], [-1, -1]]


def test_a_window_takes_the_middle_pads_the_end_or_stretches():
    assert decode(TWO, make_spec(2)) == [[1, 2], [11, 12]]
    assert decode(TWO, make_spec(5)) == [[0, 1, 2, 3, -1], [10, 11, 12, 13, -1]]
    assert decode(TWO, make_spec(7, fit="stretch"))[0] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    assert decode(TWO, make_spec(3, fit="stretch"))[1] == [10, 11.5, 13]


def test_only_a_known_rate_is_resampled():
    slow = np.sin(np.arange(200) / 100 * 2 * np.pi)[:, None]  # 1 Hz at 100 Hz
    spec = make_spec(100, 1, rate=50.0)
    x = series.decode(series.pack(Series(slow, 100.0), PACKING).data, spec)
    np.testing.assert_allclose(x[0, 5:-5], slow[::2, 0][5:-5], atol=0.02)
    assert not x.isnan().any()
    unknown = series.decode(series.pack(Series(slow), PACKING).data, spec)
    np.testing.assert_allclose(unknown[0], slow[50:150, 0], atol=1e-6)
    same = series.decode(series.pack(Series(slow, 50.0), PACKING).data, spec)
    assert torch.equal(same, unknown)
    # What is faster than half the new rate does not come back as something slower.
    fast = np.sin(np.arange(200) / 100 * 2 * np.pi * 40)[:, None]
    x = series.decode(series.pack(Series(fast, 100.0), PACKING).data, spec)
    assert float(x[0, 10:-10].abs().max()) < 0.1


def test_the_encoder_sees_standard_deviations_and_zeros_behind_the_end():
    spec = SeriesInput(channels=2, steps=3, mean=(1.0, 10.0), std=(2.0, 1.0), clip=4.0)
    x = series.decode(series.pack([[1.0, 10.0], [5.0, 99.0]], PACKING).data, spec)
    assert series.finish(x[None], spec).tolist() == [[[0, 2, 0], [0, 4, 0]]]
    assert series.finish(series.make_blank(spec)[None], spec).abs().max() == 0
    with pytest.raises(ValueError, match="1 channels, not 2"):
        series.decode(series.pack([1, 2], PACKING).data, spec)


def survey(samples: dict[str, tuple[str, object]]) -> series.Survey:
    found = series.Survey("wrist")
    for key, (split, media) in samples.items():
        found.add(key, split, series.pack(media, PACKING).data)
    return found


def test_what_the_training_samples_say():
    samples = {
        "a": ("train", Series(np.array([[1.0, 0.0], [3.0, 0.0]]), 50.0)),
        "b": ("train", Series(np.array([[2.0, 0.0], [np.nan, 0.0]]), 50.0)),
        "c": ("train", Series(np.array([[2.0, 0.0]] * 7), 100.0)),
        "d": ("test", Series(np.full((99, 2), 1e9), 10.0)),
    }
    found = survey(samples)
    values = np.array([1, 3, 2] + [2] * 7)
    assert found.find() == {
        "channels": 2,
        "mean": [2.0, 0.0],
        "std": [pytest.approx(values.std(), rel=1e-8), 1.0],
        "rate": 50.0,
        "steps": 4,  # 7 at 100 Hz
    }
    assert found.summarize() == [
        "series of 2 channels at 50 Hz, the longest of 4 steps",
        "the others of 2 sampling rates are resampled to that",
        "1 training samples have holes, filled with straight lines",
    ]
    without_rate = survey({"a": ("train", [[1.0], [2.0]]), "b": ("val", [[1.0]] * 5)}).find()
    assert "rate" not in without_rate
    assert without_rate["steps"] == 2
    with pytest.raises(UserError, match="sample 'b' has 1 channels, sample 'a' has 2"):
        survey({"a": ("train", [[1.0, 2.0]]), "b": ("val", [[1.0]])})


def test_a_shift_moves_the_series_within_its_length():
    spec = make_spec(6, 1)
    x = torch.tensor([[[1.0, 2, 3, 4, np.nan, np.nan]]])
    moved = series.augment(x, spec, series.Augment(shift=0.5), {"shift": np.array([0.25])})
    assert moved.nan_to_num(-1).tolist() == [[[4, 1, 2, 3, -1, -1]]]


def test_a_mask_is_the_mean_and_a_scale_is_one_factor_per_channel():
    spec = SeriesInput(channels=2, steps=3, mean=(1.0, 10.0), std=(2.0, 1.0))
    x = torch.tensor([[[1.0, 2, 3], [4, 5, 6]]])
    masked = series.augment(
        x, spec, series.Augment(time_masks=1), {"time_masks": np.array([[[0, 2]]])}
    )
    assert masked.tolist() == [[[1, 1, 3], [10, 10, 6]]]
    scaled = series.augment(x, spec, series.Augment(scale=0.5), {"scale": np.array([[2.0, 0.5]])})
    assert scaled.tolist() == [[[2, 4, 6], [2, 2.5, 3]]]
