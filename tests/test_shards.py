"""Shards and the loader: byte-identical, vouched for by the index, absent stays absent."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import flac
from PIL import Image

from umemma import shards
from umemma.contracts import AudioInput, DatasetSpec, ImageInput, Record, Sound
from umemma.errors import UserError
from umemma.loader import decode
from umemma.modalities import audio, image

SPEC = DatasetSpec("toy", "", ("audio", "image"), ("no", "yes"), "", "", ("train", "test"))
SETTINGS = {"dataset": "toy"}
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
TONE = Sound(np.sin(np.arange(800) / 5).astype(np.float32) / 2, 8000)


def toy_records() -> list[Record]:
    return [
        Record("a", "train", 0, {"audio": TONE, "image": GREY}),
        Record("b", "train", 1, {"image": GREY}, group="g"),
        Record("c", "train", 1, {"audio": flac(np.zeros(100)), "image": b"not a picture"}),
        Record("d", "train", 1, {"audio": TONE}),
        Record("e", "test", 1, {"audio": TONE, "image": GREY}),
        Record("f", "test", 1, {"audio": b"not a sound"}),
    ]


def write(folder: Path, records: list[Record] | None = None, max_failures: float = 0.5) -> shards.Index:
    folder.mkdir(exist_ok=True)
    toy = toy_records() if records is None else records
    return shards.write(toy, folder, SPEC, SETTINGS, "f", shard_size=2, max_failures=max_failures)


def test_what_goes_in_comes_out(tmp_path):
    index = write(tmp_path / "s")
    assert index == shards.read_index(tmp_path / "s", SETTINGS)
    assert [(s.name, s.samples, s.failed) for s in index.splits["train"]] == [
        ("train-000000.tar", 2, 0),
        ("train-000001.tar", 1, 1),
    ]
    found = list(shards.read(tmp_path / "s", index, "train"))
    assert [(r.key, r.label, r.group, sorted(r.media)) for r in found] == [
        ("a", 0, "", ["audio", "image"]),
        ("b", 1, "g", ["image"]),
        ("d", 1, "", ["audio"]),
    ]
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(found[0].media["image"]))), GREY)


def test_every_sample_has_a_row_failures_with_a_reason(tmp_path):
    write(tmp_path / "s")
    rows = pq.read_table(tmp_path / "s" / "train-000001.parquet").to_pylist()
    assert [(r["key"], r["status"], r["has_audio"], r["has_image"]) for r in rows] == [
        ("c", "failed", True, True),
        ("d", "ok", True, False),
    ]
    assert "not a readable image" in rows[0]["reason"]


def test_byte_identical_on_every_run(tmp_path):
    """The reasons of failures too: a library's own text can hold an address in memory."""
    for name in ("one", "two"):
        write(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 7  # 3 tars, 3 tables, the index
    assert all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    with tarfile.open(tmp_path / "one" / "train-000000.tar") as tar:
        assert tar.getnames() == ["a.audio.flac", "a.image.png", "a.json", "b.image.png", "b.json"]


def test_too_many_failures_end_it_with_the_reasons(tmp_path):
    with pytest.raises(UserError, match=r"2 of 6 samples could not be packed: 1 x not a readable image"):
        write(tmp_path / "s", max_failures=0.1)
    assert not (tmp_path / "s" / "index.json").exists()


@pytest.mark.parametrize("at", [0, 600, 5000, -1])
def test_every_flipped_byte_is_found(tmp_path, at):
    index = write(tmp_path / "s")
    path = tmp_path / "s" / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="truncated or altered"):
        list(shards.read(tmp_path / "s", index, "train"))


def test_every_truncation_is_found(tmp_path):
    index = write(tmp_path / "s")
    path = tmp_path / "s" / "train-000000.tar"
    whole = path.read_bytes()
    for size in range(0, len(whole), 512):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="truncated or altered"):
            list(shards.read(tmp_path / "s", index, "train"))
    path.unlink()
    with pytest.raises(UserError, match="shard is missing"):
        list(shards.read(tmp_path / "s", index, "train"))


def test_a_stranger_index_cannot_name_a_command_or_another_folder(tmp_path):
    index = write(tmp_path / "s")
    for name in ("pipe:touch hacked", "../s/train-000000.tar", "train-{000000..000001}.tar"):
        shard = index.splits["train"][0].model_copy(update={"name": name})
        with pytest.raises(UserError, match="shard is missing"):
            list(shards.read(tmp_path / "s", index.model_copy(update={"splits": {"train": [shard]}}), "train"))


def test_shards_of_other_settings_are_refused_by_what_differs(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(UserError, match="dataset: 'toy' there, 'digits' here"):
        shards.read_index(tmp_path / "s", {"dataset": "digits"})


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"dataset": "toy"})])
def test_a_damaged_index(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match="damaged") as error:
        shards.read_index(tmp_path, SETTINGS)
    assert error.value.hint == "Run: umemma preprocess"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([Record("a", "train", 0, {"image": GREY})] * 2, "two samples have this key"),
        ([Record("a.b", "train", 0, {"image": GREY})], "letters, digits"),
        ([Record("a", "train", 2, {"image": GREY})], "label 2 is not in 0..1"),
        ([Record("a", "train", 0, {"text": b""})], "not those of the dataset"),
        ([Record("a", "train", 0, {"image": GREY})], "no samples in split 'test'"),
        ([Record("a", "train", 0, {})], "no modality at all"),
    ],
)
def test_records_that_make_no_sense(tmp_path, records, message):
    with pytest.raises(UserError, match=message):
        write(tmp_path / "s", records, max_failures=0.0)


SPECS = {"audio": AudioInput(sample_rate=8000, seconds=0.1, mels=8, window=128, hop=80), "image": ImageInput(size=8)}


def test_decoding_fills_what_is_absent(tmp_path):
    index = write(tmp_path / "s")
    split = decode(shards.read(tmp_path / "s", index, "train"), SPECS, "train")
    assert split.present.tolist() == [[True, True], [False, True], [True, False]]
    assert split.inputs["image"].shape == (3, 3, 8, 8)
    assert split.inputs["audio"].shape == (3, 1, 8, 11)
    assert torch.equal(split.inputs["audio"][1], audio.blank(SPECS["audio"]))
    assert torch.equal(split.inputs["image"][2], image.blank(SPECS["image"]))
    assert split.groups == ["a", "g", "d"]


def test_unimodal_decoding_leaves_out_samples_that_lack_it(tmp_path):
    index = write(tmp_path / "s")
    split = decode(shards.read(tmp_path / "s", index, "train"), {"audio": SPECS["audio"]}, "train")
    assert split.keys == ["a", "d"]


def test_a_modality_that_no_sample_has(tmp_path):
    with pytest.raises(UserError, match="no sample has audio"):
        decode([Record("b", "train", 1, {"image": image.pack(GREY)})], SPECS, "train")


def test_batches_see_every_sample_once(tmp_path):
    index = write(tmp_path / "s")
    split = decode(shards.read(tmp_path / "s", index, "train"), SPECS, "train")
    batches = list(split.batches(2, torch.device("cpu"), np.array([2, 0, 1])))
    assert [batch.target.tolist() for batch in batches] == [[1, 0], [1]]
    assert torch.equal(batches[0].inputs["image"][1], split.inputs["image"][0])


def test_blank_is_black_and_silence():
    black = image.decode(image.pack(np.zeros((8, 8), dtype=np.uint8)), SPECS["image"])
    assert torch.equal(image.blank(SPECS["image"]), black)
    silence = audio.decode(audio.pack(Sound(np.zeros(50, dtype=np.float32), 8000)), SPECS["audio"])
    assert torch.equal(audio.blank(SPECS["audio"]), silence)


def test_audio_is_resampled_padded_and_mixed_down():
    stereo = np.stack([TONE.samples, TONE.samples], 1)
    assert torch.equal(audio.decode(flac(stereo), SPECS["audio"]), audio.decode(flac(TONE.samples), SPECS["audio"]))
    doubled = audio.decode(flac(np.repeat(TONE.samples, 2), 16000), SPECS["audio"])
    assert doubled.shape == (1, 8, 11)
    assert audio.decode(flac(TONE.samples[:300]), SPECS["audio"]).shape == (1, 8, 11)


@pytest.mark.parametrize(
    "media", [Sound(np.zeros(0, dtype=np.float32), 8000), Sound(np.full(9, np.nan, dtype=np.float32), 8000), b"RIFF?"]
)
def test_sound_that_cannot_be_packed(media):
    with pytest.raises(ValueError, match="audio"):
        audio.pack(media)
