"""Shards become batches; absent stays absent; in memory and streamed are the same."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch
from toys.loading import CPU, MANY, SPECS, load, many
from toys.shards import GREY, read, write

from umemma.data import loader
from umemma.data.loader import LoadOptions, cut_batches
from umemma.errors import UserError
from umemma.missing import draw_training_absences
from umemma.modalities import audio, image
from umemma.system.storage import Store
from umemma.types import DatasetSpec, Record


def test_decoding_fills_what_is_absent(tmp_path, stay):
    split = load(tmp_path, stay)
    assert split.present.tolist() == [[True, True], [False, True], [True, False]]
    assert split.in_memory["image"].shape == (3, 3, 8, 8)
    assert split.in_memory["image"].dtype == torch.uint8
    assert split.in_memory["audio"].shape == (3, 1, 8, 11)
    assert torch.equal(split.in_memory["audio"][1], audio.make_blank(SPECS["audio"]))
    assert torch.equal(split.in_memory["image"][2], image.make_blank(SPECS["image"]))
    assert split.groups == {"group": ["a", "g", "d"]}
    (batch,) = split.batches(cut_batches(range(3), 3), CPU)
    assert torch.equal(
        batch.inputs["image"], image.finish(split.in_memory["image"], SPECS["image"])
    )


def test_a_sample_without_a_group_is_one_by_itself(tmp_path, stay):
    records = [
        Record("a", "train", 0, {"image": GREY}, {"image": "7", "voice": "af"}),
        Record("b", "train", 1, {"image": GREY}, {"image": "7"}),
    ]
    spec = DatasetSpec("toy", "", ("image",), ("no", "yes"), "", "", ("train",))
    index = write(tmp_path / "named", records, spec=spec)
    assert load(tmp_path / "named", stay, {"image": SPECS["image"]}, index).groups == {
        "image": ["7", "7"],
        "voice": ["af", "b"],
    }
    index = write(
        tmp_path / "none", [Record(k, "train", 0, {"image": GREY}) for k in "ab"], spec=spec
    )
    assert load(tmp_path / "none", stay, {"image": SPECS["image"]}, index).groups == {
        "sample": ["a", "b"]
    }


def test_unimodal_decoding_leaves_out_samples_that_lack_it(tmp_path, stay):
    assert load(tmp_path, stay, {"audio": SPECS["audio"]}).keys == ["a", "d"]


def test_a_modality_that_no_sample_has(tmp_path, stay):
    records = [record for record in read(tmp_path, write(tmp_path)) if "audio" not in record.media]
    index = write(tmp_path / "none", [*records, Record("t", "test", 0, dict(records[0].media))])
    with pytest.raises(UserError, match="no sample has audio"):
        load(tmp_path / "none", stay, index=index)


def test_batches_see_every_sample_once(tmp_path, stay):
    split = load(tmp_path, stay)
    batches = list(split.batches(cut_batches(np.array([2, 0, 1]), 2), CPU))
    assert [batch.target.tolist() for batch in batches] == [[1, 0], [1]]
    assert torch.equal(
        batches[0].inputs["image"][1], image.finish(split.in_memory["image"][:1], SPECS["image"])[0]
    )


def test_sets_of_labels_become_rows_of_0_and_1(tmp_path, stay):
    spec = DatasetSpec(
        "toy", "", ("image",), ("a", "b", "c"), "", "", ("train",), task="multilabel"
    )
    grey = np.zeros((8, 8), np.uint8)
    records = [
        Record("a", "train", (0, 2), {"image": grey}),
        Record("b", "train", (), {"image": grey}),
    ]
    split = load(tmp_path, stay, {"image": SPECS["image"]}, write(tmp_path, records, spec=spec))
    assert split.target.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def test_weights_of_samples_come_with_their_batches(tmp_path, stay):
    grey = np.zeros((8, 8), np.uint8)
    records = [
        Record("a", "train", 0, {"image": grey}, weight=2.5),
        Record("b", "train", 1, {"image": grey}, weight=0.0),
        Record("c", "test", 1, {"image": grey}, weight=0.0),
    ]
    index = write(tmp_path, records)
    specs = {"image": SPECS["image"]}
    split = load(tmp_path, stay, specs, index, missing={"audio": 0.5})
    (batch,) = split.batches([np.array([1, 0])], CPU)
    assert batch.weight.tolist() == [0.0, 2.5]
    with pytest.raises(UserError, match="the weight of every sample is 0"):
        load(tmp_path, stay, specs, index, "test")
    assert load(tmp_path / "plain", stay).weight is None


@pytest.mark.parametrize(
    ("how", "workers"),
    [
        ({"memory": 0.0}, 0),
        pytest.param({"memory": 0.0}, 1, marks=pytest.mark.slow),
        ({"once": ["image"]}, 0),
        ({"once": [*MANY]}, 0),
    ],
)
def test_streamed_batches_are_those_of_kept_samples(tmp_path, stay, how, workers):
    index = many(tmp_path)
    kept = load(tmp_path, stay, MANY, index)
    streamed = load(tmp_path, stay, MANY, index, workers=workers, **how)
    assert streamed.stream is not None
    assert set(streamed.in_memory) == set(MANY) - set(how.get("once", MANY))
    for epoch in range(2):
        plan = cut_batches(np.random.default_rng(epoch).permutation(40), 7)
        for one, other in zip(
            kept.batches(plan, CPU, epoch), streamed.batches(plan, CPU, epoch), strict=True
        ):
            assert all(torch.equal(one.inputs[m], other.inputs[m]) for m in MANY)
            assert torch.equal(one.present, other.present)
            assert torch.equal(one.target, other.target)
            assert np.array_equal(one.sample_seeds, other.sample_seeds)


@pytest.mark.slow
def test_several_processes_decode_what_is_kept_alike(tmp_path, stay):
    index = many(tmp_path)
    alone, several = (load(tmp_path, stay, MANY, index, workers=workers) for workers in (0, 1))
    assert all(torch.equal(alone.in_memory[m], several.in_memory[m]) for m in MANY)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the open files are counted in /proc")
def test_no_file_stays_open_for_what_is_kept(tmp_path, stay, monkeypatch):
    monkeypatch.setattr(loader, "BATCH", 1)
    store, index = Store(str(tmp_path)), many(tmp_path)
    counts = []
    loader.load_split(
        *(store, index, "train", MANY, stay, LoadOptions(workers=1)),
        advance=lambda samples: counts.append(len(os.listdir("/proc/self/fd"))),
    )
    assert len(counts) == 40
    assert max(counts) < counts[0] + 20  # of 80 tensors


def test_chance_belongs_to_the_sample_and_the_epoch(tmp_path, stay):
    split = load(tmp_path, stay, MANY, many(tmp_path))
    (whole,) = split.batches([np.arange(40)], CPU, seed=5)
    turned = list(split.batches(cut_batches(np.arange(40)[::-1], 3), CPU, seed=5))
    assert (
        np.concatenate([batch.sample_seeds for batch in turned])[::-1].tolist()
        == whole.sample_seeds.tolist()
    )
    (other,) = split.batches([np.arange(40)], CPU, seed=6)
    assert not set(other.sample_seeds) & set(whole.sample_seeds)
    assert next(split.batches([np.arange(40)], CPU)).sample_seeds is None


def test_augmentation_is_for_training_only_and_the_same_in_any_batch(tmp_path, stay):
    split = load(tmp_path, stay, MANY, many(tmp_path), augments={"image": image.Augment(noise=0.2)})
    (plain,) = split.batches([np.arange(40)], CPU)
    (whole,) = split.batches([np.arange(40)], CPU, seed=1)
    assert not torch.equal(whole.inputs["image"], plain.inputs["image"])
    parts = torch.cat(
        [batch.inputs["image"] for batch in split.batches(cut_batches(range(40), 3), CPU, seed=1)]
    )
    assert torch.equal(parts, whole.inputs["image"])


def test_what_is_taken_away_is_never_decoded(tmp_path, stay):
    """A sample loses what the hash of its key says; its media could as well be broken."""
    index = many(tmp_path)
    keys = [f"k{i}" for i in range(40)]
    gone = draw_training_absences(keys, 0, {"image": 0.5})["image"]
    split = load(tmp_path, stay, MANY, index, missing={"image": 0.5})
    had_text = {f"k{i}" for i in range(40) if i % 3}
    assert split.keys == [
        key for key, away in zip(keys, gone, strict=True) if not away or key in had_text
    ]
    for key, present, picture in zip(
        split.keys, split.present, split.in_memory["image"], strict=True
    ):
        assert bool(present[0]) != gone[keys.index(key)]
        assert present[0] or not picture.any()
    alone = load(tmp_path, stay, {"image": MANY["image"]}, index, missing={"image": 0.5})
    assert alone.keys == [key for key, away in zip(keys, gone, strict=True) if not away]


def test_a_part_of_the_modalities(tmp_path, stay):
    for how in ({}, {"memory": 0.0, "workers": 0}):
        part = load(tmp_path, stay, MANY, many(tmp_path), **how).select_modalities({"text"})
        (batch,) = part.batches([np.arange(4)], CPU)
        assert set(batch.inputs) == {"text"}
        assert batch.present.tolist() == [[False], [True], [True], [False]]
