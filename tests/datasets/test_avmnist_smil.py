"""SMIL's AV-MNIST, on made-up digits."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from toys.avmnist import TEST, make_mnist, make_recordings, write_idx

from umemma.datasets import _digits_av as parts
from umemma.datasets import avmnist_smil
from umemma.errors import UserError


def test_smil_takes_each_recording_of_three_speakers_once(raw):
    options = avmnist_smil.Options()
    records = list(avmnist_smil.records(raw, options))
    # 10 digits, 3 speakers, takes 0 4 5 9 10 below 15, and 15 and 20: 6 training recordings of a
    # digit, 1 validates.
    assert Counter(r.split for r in records) == {"train": 50, "val": 10, "test": 150}
    assert Counter(r.label for r in records if r.split == "val") == dict.fromkeys(range(10), 1)
    images = set()
    for record in records:
        digit, speaker, take = record.key.split("_")
        assert speaker != "lucas"
        assert (int(take) < 15) == (record.split == "test")
        assert record.media["audio"] == raw / "recordings" / f"{record.key}.wav"
        _, part, number = record.media["image"].args
        assert part == ("test" if record.split == "test" else "train")
        assert record.label == int(digit) == number % 10
        images.add((part, number))
    assert len(images) == len(records)  # no image twice
    assert len({r.label for r in records[:20]}) > 5  # mixed
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(records[0].media["image"]))(),  # noqa: S301
        parts.images(raw, records[0].media["image"].args[1])[records[0].media["image"].args[2]],
    )


def test_smil_val_share_moves_no_pair(raw):
    few, many = (
        list(avmnist_smil.records(raw, avmnist_smil.Options(val_share=share)))
        for share in (0.1, 0.5)
    )
    assert Counter(r.split for r in many) == {"train": 30, "val": 30, "test": 150}
    assert [(r.key, r.media["image"].args) for r in few] == [
        (r.key, r.media["image"].args) for r in many
    ]
    assert {r.key for r in few if r.split == "val"} < {r.key for r in many if r.split == "val"}
    assert avmnist_smil.spec(raw, avmnist_smil.Options()).expected == avmnist_smil.SPEC.expected
    expected = avmnist_smil.spec(raw, avmnist_smil.Options(val_share=0.2)).expected
    assert expected == {"train": 840, "val": 210, "test": 450}


def test_smil_needs_an_image_for_each_recording(tmp_path):
    make_mnist(tmp_path)
    make_recordings(tmp_path)
    write_idx(tmp_path / parts.LABELS["test"], np.zeros(TEST, np.uint8))
    with pytest.raises(UserError, match="15 recordings and 0 images of the digit 1 for test"):
        list(avmnist_smil.records(tmp_path, avmnist_smil.Options()))
