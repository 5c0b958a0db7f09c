"""Decoded samples on disk: the same inputs, decoded once, and never those of something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toys.loading import MANY, SPECS, load, many
from toys.shards import write

from umemma.data import decoding
from umemma.types import AudioInput, ImageInput


def in_folder(folder: Path) -> dict[str, Any]:
    """Options of loading. Without workers, as choosing their number decodes a sample."""
    return {"cache": folder / "decoded", "workers": 0}


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """What is decoded: the key and the modalities of each sample."""
    asked: list[str] = []
    original = decoding.SampleDataset._decode

    def count(dataset, numbers):
        asked.extend(f"{dataset.keys[i]} {'+'.join(dataset.specs)}" for i in numbers)
        return original(dataset, numbers)

    monkeypatch.setattr(decoding.SampleDataset, "_decode", count)
    return asked


def test_what_was_decoded_is_not_decoded_again_and_is_the_same(tmp_path, stay, decoded):
    """A sample without a modality is its blank input, and only those that have it are cached."""
    index = write(tmp_path)
    plain = load(tmp_path, stay, index=index)
    decoded.clear()
    first = load(tmp_path, stay, index=index, **in_folder(tmp_path))
    assert len(decoded) == 3
    second = load(tmp_path, stay, index=index, **in_folder(tmp_path))
    assert len(decoded) == 3
    for split in (first, second):
        assert list(split.in_memory) == ["audio", "image"]
        for m, x in plain.in_memory.items():
            assert torch.equal(split.in_memory[m], x)
            assert split.in_memory[m].dtype == x.dtype
    # A uni-modal training has fewer samples, and takes them from the same file.
    alone = load(tmp_path, stay, {"audio": SPECS["audio"]}, index, **in_folder(tmp_path))
    assert len(decoded) == 3
    assert torch.equal(alone.in_memory["audio"], plain.in_memory["audio"][[0, 2]])
    assert len(list((tmp_path / "decoded").iterdir())) == 2


def find_mapped_file(x: torch.Tensor) -> str:
    """Return the file that the memory of a tensor is a part of, "" for none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= x.data_ptr() < end:
            return line[line.find("/") :]
    return ""


def test_the_processes_of_a_machine_have_what_is_decoded_once_together(tmp_path, stay):
    """Also where it was decoded just now: it is the cached file, mapped into memory."""
    index = many(tmp_path)
    for _ in range(2):
        split = load(tmp_path, stay, MANY, index, **in_folder(tmp_path))
        mapped = {m: Path(find_mapped_file(x)).parent for m, x in split.in_memory.items()}
        assert mapped.pop("text") != tmp_path / "decoded"  # texts are not cached
        assert set(mapped.values()) == {tmp_path / "decoded"}


@pytest.mark.parametrize(
    "changed",
    [
        {"audio": SPECS["audio"], "image": ImageInput(size=9)},
        {"audio": AudioInput(sample_rate=8000, seconds=0.2, mels=8), "image": SPECS["image"]},
    ],
)
def test_another_input_is_decoded_and_takes_the_place_of_the_file(tmp_path, stay, decoded, changed):
    index = write(tmp_path)
    load(tmp_path, stay, index=index, **in_folder(tmp_path))
    (other,) = (m for m in SPECS if changed[m] != SPECS[m])
    decoded.clear()
    split = load(tmp_path, stay, changed, index, **in_folder(tmp_path))
    assert {line.split()[1] for line in decoded} == {other}
    assert torch.equal(
        split.in_memory[other], load(tmp_path, stay, changed, index).in_memory[other]
    )
    assert len(list((tmp_path / "decoded").iterdir())) == 2


def test_other_samples_and_other_shards_are_decoded(tmp_path, stay, decoded):
    index = write(tmp_path)
    load(tmp_path, stay, index=index, **in_folder(tmp_path))
    decoded.clear()
    other = index.model_copy(update={"fingerprint": "other shards"})
    load(tmp_path, stay, index=other, **in_folder(tmp_path))
    assert len(decoded) == 3
    # What training loses is drawn by seed: it is decoded each time, and nothing is cached.
    decoded.clear()
    for _ in range(2):
        load(tmp_path, stay, index=other, **in_folder(tmp_path), missing={"audio": 0.0001})
    assert len(decoded) == 6


def test_texts_are_not_cached(tmp_path, stay):
    """Their tokens depend on the files of a tokenizer."""
    split = load(tmp_path, stay, MANY, many(tmp_path), **in_folder(tmp_path))
    assert set(split.in_memory) == {"image", "text"}
    (file,) = (tmp_path / "decoded").iterdir()
    assert file.name.startswith("train-image-")


def test_a_damaged_file_is_decoded_again(tmp_path, stay, decoded):
    index = write(tmp_path)
    plain = load(tmp_path, stay, index=index, **in_folder(tmp_path))
    for file in (tmp_path / "decoded").glob("*audio*"):
        file.write_bytes(file.read_bytes()[:-1])
    decoded.clear()
    split = load(tmp_path, stay, index=index, **in_folder(tmp_path))
    assert {line.split()[1] for line in decoded} == {"audio"}
    assert torch.equal(split.in_memory["audio"], plain.in_memory["audio"])


def test_without_a_place_for_it_nothing_is_lost(tmp_path, stay, messages):
    (tmp_path / "decoded").write_text("a file, where the folder would be")
    index = write(tmp_path / "shards")
    split = load(tmp_path / "shards", stay, index=index, **in_folder(tmp_path))
    assert torch.isfinite(split.in_memory["audio"]).all()
    assert any("Cannot cache decoded samples" in message for message in messages)
    assert {path.name for path in tmp_path.iterdir()} == {"decoded", "shards"}
