"""The loader: shards to batches; absent stays absent; kept and streamed are the same."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from toys.project import ROOT, TESTS
from toys.shards import GREY, read, write

from umemma.data import loader, shard_reader
from umemma.data.decoding import BatchStream, SampleDataset
from umemma.data.loader import LoadedSplit, LoadOptions, cut_batches
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.missing import draw_training_absences
from umemma.modalities import audio, image
from umemma.types import AudioInput, DatasetSpec, ImageInput, Record, Span, TextInput

SPECS = {
    "audio": AudioInput(sample_rate=8000, seconds=0.1, mels=8, window=128, hop=80),
    "image": ImageInput(size=8),
}
CPU = torch.device("cpu")


@pytest.fixture
def stay():
    with contextlib.ExitStack() as stack:
        yield stack


def load(folder, stay, specs=SPECS, index=None, split="train", **how) -> LoadedSplit:
    return loader.load_split(
        Store(str(folder)), index or write(folder), split, specs, stay, LoadOptions(**how)
    )


def many(folder, count: int = 40) -> shard_reader.Index:
    """Grey pictures and texts; every third has no text."""
    spec = DatasetSpec("toy", "", ("image", "text"), ("no", "yes"), "", "", ("train",))
    records = []
    for i in range(count):
        media = {"image": np.full((8, 8), i, np.uint8)} | ({"text": f"word {i}"} if i % 3 else {})
        records.append(Record(f"k{i}", "train", i % 2, media))
    return write(folder, records, spec=spec)


MANY = {"image": ImageInput(size=8, channels=1, mean=0.0, std=1.0), "text": TextInput(length=8)}


def test_decoding_fills_what_is_absent(tmp_path, stay):
    split = load(tmp_path, stay)
    assert split.present.tolist() == [[True, True], [False, True], [True, False]]
    assert split.in_memory["image"].shape == (3, 3, 8, 8)
    assert split.in_memory["image"].dtype == torch.uint8
    assert split.in_memory["audio"].shape == (3, 1, 8, 11)
    assert torch.equal(split.in_memory["audio"][1], audio.blank(SPECS["audio"]))
    assert torch.equal(split.in_memory["image"][2], image.blank(SPECS["image"]))
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


@pytest.mark.parametrize(
    ("how", "workers"),
    [({"memory": 0.0}, 0), ({"memory": 0.0}, 1), ({"once": ["image"]}, 0), ({"once": [*MANY]}, 0)],
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
            assert np.array_equal(one.chance, other.chance)


def test_several_processes_decode_what_is_kept_alike(tmp_path, stay):
    index = many(tmp_path)
    alone, several = (load(tmp_path, stay, MANY, index, workers=workers) for workers in (0, 1))
    assert all(torch.equal(alone.in_memory[m], several.in_memory[m]) for m in MANY)


def test_chance_belongs_to_the_sample_and_the_epoch(tmp_path, stay):
    split = load(tmp_path, stay, MANY, many(tmp_path))
    (whole,) = split.batches([np.arange(40)], CPU, seed=5)
    turned = list(split.batches(cut_batches(np.arange(40)[::-1], 3), CPU, seed=5))
    assert (
        np.concatenate([batch.chance for batch in turned])[::-1].tolist() == whole.chance.tolist()
    )
    (other,) = split.batches([np.arange(40)], CPU, seed=6)
    assert not set(other.chance) & set(whole.chance)
    assert next(split.batches([np.arange(40)], CPU)).chance is None


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


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_decoded_is_named(tmp_path, stay, workers):
    (tmp_path / "file").write_bytes(b"not a picture")
    records = [Record("bad", "train", 0, {"image": Span(str(tmp_path / "file"), 0, 13)})]
    streamed = BatchStream(
        SampleDataset(records, {"image": SPECS["image"]}, "train shards"), workers, stay
    )
    with pytest.raises(UserError, match="sample 'bad': not a readable image") as error:
        list(streamed.iterate_batches([np.array([0])]))
    assert "Traceback" not in str(error.value)


KILLED = """
import contextlib, os, pathlib, signal, sys, time
import torch
from data.test_loader import CPU, MANY, load, many
from umemma.errors import UserError
from umemma.data.decoding import watch_workers
from umemma.data.loader import cut_batches

if __name__ == "__main__":
    with contextlib.ExitStack() as stay:
        folder = pathlib.Path(sys.argv[1])
        split = load(folder, stay, MANY, many(folder), memory=0.0, workers=1)
        batches = split.batches(cut_batches(range(40), 1), CPU)
        next(batches)
        try:
            with watch_workers():
                os.kill(split.stream.loader._iterator._workers[0].pid, signal.SIGKILL)
                for _ in batches:
                    time.sleep(0.1)
        except UserError as error:
            print(error, flush=True)
            os._exit(0)
"""


def test_a_killed_decoding_process_is_one_message(tmp_path):
    """In a process of its own: torch goes on to complain of the worker to whoever runs next."""
    (tmp_path / "killed.py").write_text(KILLED)
    words = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path / "s")]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert "machine.workers: a decoding process was killed" in done.stdout, done.stderr


def test_a_process_that_dies_handing_over_a_batch_is_the_same_message(stay):
    streamed = BatchStream(SampleDataset([], {}, "train shards"), 0, stay)
    streamed.loader = Reset()
    with pytest.raises(UserError, match="a decoding process was killed"):
        list(streamed.iterate_batches([]))


class Reset:
    """A loader whose process is gone as it is asked for the tensors of a batch."""

    def __iter__(self):
        raise ConnectionResetError("by peer")


def test_a_signal_to_the_whole_group_is_left_to_the_training(tmp_path, stay):
    split = load(tmp_path, stay, MANY, many(tmp_path), memory=0.0, workers=1)
    batches = split.batches(cut_batches(range(40), 1), CPU)
    next(batches)
    (worker,) = split.stream.loader._iterator._workers
    os.kill(worker.pid, signal.SIGTERM)
    assert sum(1 for _ in batches) == 39


def test_a_decoding_process_does_not_outlive_a_signal_for_long():
    code = "import os, signal, time; from umemma.data import decoding; decoding.GRACE = 1; decoding.defer_signals(0); "
    code += "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    assert (
        subprocess.run([sys.executable, "-c", code], timeout=50, check=False).returncode
        == -signal.SIGALRM
    )


def test_decoding_processes_end_with_the_block_whoever_holds_on_to_them(tmp_path):
    with contextlib.ExitStack() as stay:
        split = load(tmp_path, stay, MANY, many(tmp_path), memory=0.0, workers=1)
        batches = split.batches(cut_batches(range(40), 1), CPU)
        next(batches)
        (worker,) = split.stream.loader._iterator._workers
        assert worker.is_alive()
    assert not worker.is_alive()


def test_a_part_of_the_modalities(tmp_path, stay):
    for how in ({}, {"memory": 0.0, "workers": 0}):
        part = load(tmp_path, stay, MANY, many(tmp_path), **how).select_modalities({"text"})
        (batch,) = part.batches([np.arange(4)], CPU)
        assert set(batch.inputs) == {"text"}
        assert batch.present.tolist() == [[False], [True], [True], [False]]
