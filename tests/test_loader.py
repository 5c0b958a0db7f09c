"""The loader: records to batches; absent stays absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_shards import GREY, read, write

from umemma.contracts import AudioInput, ImageInput, Packing, Record
from umemma.errors import UserError
from umemma.loader import decode
from umemma.modalities import audio, image

SPECS = {"audio": AudioInput(sample_rate=8000, seconds=0.1, mels=8, window=128, hop=80), "image": ImageInput(size=8)}


def test_decoding_fills_what_is_absent(tmp_path):
    split = decode(read(tmp_path / "s", write(tmp_path / "s")), SPECS, 2, "train")
    assert split.present.tolist() == [[True, True], [False, True], [True, False]]
    assert split.inputs["image"].shape == (3, 3, 8, 8)
    assert split.inputs["audio"].shape == (3, 1, 8, 11)
    assert torch.equal(split.inputs["audio"][1], audio.blank(SPECS["audio"]))
    assert torch.equal(split.inputs["image"][2], image.blank(SPECS["image"]))
    assert split.groups == ["a", "g", "d"]


def test_unimodal_decoding_leaves_out_samples_that_lack_it(tmp_path):
    split = decode(read(tmp_path / "s", write(tmp_path / "s")), {"audio": SPECS["audio"]}, 2, "train")
    assert split.keys == ["a", "d"]


def test_a_modality_that_no_sample_has(tmp_path):
    with pytest.raises(UserError, match="no sample has audio"):
        decode([Record("b", "train", 1, {"image": image.pack(GREY, Packing()).data})], SPECS, 2, "train")


def test_batches_see_every_sample_once(tmp_path):
    split = decode(read(tmp_path / "s", write(tmp_path / "s")), SPECS, 2, "train")
    batches = list(split.batches(2, torch.device("cpu"), np.array([2, 0, 1])))
    assert [batch.target.tolist() for batch in batches] == [[1, 0], [1]]
    assert torch.equal(batches[0].inputs["image"][1], split.inputs["image"][0])


def test_sets_of_labels_become_rows_of_0_and_1():
    picture = image.pack(GREY, Packing()).data
    records = [Record("a", "train", (0, 2), {"image": picture}), Record("b", "train", (), {"image": picture})]
    split = decode(records, {"image": SPECS["image"]}, 3, "train")
    assert split.target.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
