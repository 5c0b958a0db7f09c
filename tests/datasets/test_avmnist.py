"""AV-MNIST in our own version, on made-up digits; the recipes of all three; and the real files."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toys.avmnist import TEST, TRAIN, listed, make_mnist, make_recordings, write_idx, write_wav
from toys.project import ROOT

from umemma import config, datasets
from umemma.datasets import _digits_av as parts
from umemma.datasets import avmnist, avmnist_smil
from umemma.errors import UserError
from umemma.types import AudioInput, ImageInput
from umemma.validation import validate

REAL = ROOT.parent / "shared" / "mirror"


def test_image_and_recording_are_of_one_digit_and_one_split(raw):
    records = listed(raw)
    assert [r.key for r in records[:2]] == ["train-00000", "train-00001"]
    assert Counter(r.split for r in records) == {"train": 220, "val": 20, "test": 200}
    takes = {"train": {10, 15, 20}, "val": {5, 9}, "test": {0, 4}}
    for record in records:
        split, number = record.key.split("-")
        digit, _, take = record.group.split("_")
        assert record.split == split
        assert record.label == int(number) % 10 == int(digit)
        assert int(take) in takes[split]
        assert record.media["image"].args[1:] == (
            "test" if split == "test" else "train",
            0.25,
            int(number),
        )
    assert [r.key for r in records if r.split == "val"] == [f"val-{i:05d}" for i in range(220, 240)]
    assert (
        len({r.group for r in records if r.split == "train"}) > 60
    )  # of 120: recordings are drawn, not repeated
    assert len({r.key for r in records}) == len(records)


def test_the_same_bytes_every_time_and_in_another_process(raw):
    for noise in ("white", "esc"):
        first, again = (listed(raw, noise=noise)[7].media for _ in range(2))
        image, sound = first["image"](), first["audio"]()
        assert image.dtype == np.uint8
        assert image.shape == (28, 28)
        assert (sound.rate, sound.samples.shape, sound.samples.dtype) == (8000, (6400,), np.float32)
        assert np.abs(sound.samples).max() == avmnist.PEAK
        other = pickle.loads(pickle.dumps(again))  # noqa: S301 - as it goes to a worker
        np.testing.assert_array_equal(image, other["image"]())
        np.testing.assert_array_equal(sound.samples, other["audio"]().samples)


def test_components_are_those_of_the_training_images_only(tmp_path):
    images = {}
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        images[name] = make_mnist(tmp_path / name)
    changed = images["other"]["train"].copy()
    changed[220:] = 0
    write_idx(tmp_path / "other" / parts.IMAGES["train"], changed)
    write_idx(tmp_path / "other" / parts.IMAGES["test"], np.zeros((TEST, 28, 28), np.uint8))
    for number in (0, 219):
        one, other = (
            avmnist._image(tmp_path / name, "train", 0.25, number) for name in ("one", "other")
        )
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(
        *(avmnist._image(tmp_path / name, "test", 0.25, 3) for name in ("one", "other"))
    )


def test_components_keep_the_energy_asked_for(raw):
    train = parts.images(raw, "train")[:220].reshape(220, 784).astype(float)
    mean = train.mean(0)
    _, scales, directions = np.linalg.svd(
        train - mean, full_matrices=False
    )  # another way to the same components
    kept = np.cumsum(scales**2) / np.sum(scales**2)
    count = int(np.argmax(kept >= 0.25)) + 1
    _, basis = avmnist.components(raw, 0.25)
    assert len(basis) == count
    for part, number in (("train", 0), ("train", 230), ("test", 5)):
        flat = parts.images(raw, part)[number].reshape(784)
        wanted = ((flat - mean) @ directions[:count].T @ directions[:count] + mean).clip(0, 255)
        assert np.abs(avmnist._image(raw, part, 0.25, number).reshape(784) - wanted).max() < 0.51
    np.testing.assert_array_equal(avmnist._image(raw, "test", 1.0, 5), parts.images(raw, "test")[5])


@pytest.mark.parametrize("noise", ["", "esc/1-101-A-0.wav"])
@pytest.mark.parametrize("snr_db", [-9.5, 6.0])
def test_noise_has_the_stated_ratio(raw, noise, snr_db):
    clip = soundfile.read(raw / "recordings" / "3_theo_20.wav")[0][
        :6400
    ]  # fills the 0.8 s, so it can be fitted out
    sound = avmnist._sound(raw, "3_theo_20", noise, snr_db, "train-00000").samples.astype(float)
    scale = np.dot(sound, clip) / np.dot(clip, clip)
    rest = sound - scale * clip
    assert 10 * np.log10(np.mean((scale * clip) ** 2) / np.mean(rest**2)) == pytest.approx(
        snr_db, abs=0.6
    )


def test_a_recording_lies_at_a_drawn_place(raw):
    tone = soundfile.read(raw / "recordings" / "0_theo_10.wav")[0]
    places = set()
    for number in range(5):
        sound = avmnist._sound(raw, "0_theo_10", "", 60.0, f"train-{number}").samples
        loud = np.flatnonzero(np.abs(sound) > 0.1 * avmnist.PEAK)
        assert loud[-1] - loud[0] == pytest.approx(len(tone), abs=10)  # whole
        places.add(loud[0])
    assert len(places) == 5


def test_noise_is_of_another_fold_in_each_split(raw):
    used = defaultdict(set)
    for record in listed(raw, noise="esc"):
        used[record.split].add(record.media["audio"].args[2][len("esc/")])
    assert used == {"train": {"1", "2", "3"}, "val": {"4"}, "test": {"5"}}
    assert len(avmnist._noise(raw / "esc" / "1-101-A-0.wav")) == pytest.approx(
        2000, abs=80
    )  # without what fills it up


def test_noise_has_a_source_only_when_asked_for(raw):
    white, esc = (
        list(avmnist.sources(raw, avmnist.Options(noise=noise))) for noise in ("white", "esc")
    )
    assert len(white) == 5
    assert esc[:4] == white[:4]
    assert esc[5].unpack("ESC-50-master/audio/1-100032-A-0.wav") == "esc/1-100032-A-0.wav"
    assert (
        esc[5].unpack("audio/5-9032-A.ogg")
        == esc[5].unpack("esc/5-9032-A.ogg")
        == "esc/5-9032-A.ogg"
    )
    assert esc[5].unpack("ESC-50-master/meta/esc50.csv") is None
    assert (
        white[4].unpack("free-spoken-digit-dataset-1.0.10/recordings/0_theo_1.wav")
        == "recordings/0_theo_1.wav"
    )
    assert white[4].unpack("recordings/0_theo_1.wav") == "recordings/0_theo_1.wav"
    assert white[4].unpack("free-spoken-digit-dataset-1.0.10/README.md") is None


def test_the_variant_says_what_was_made(raw, tmp_path):
    assert avmnist.spec(tmp_path, avmnist.Options()).variant == "energy0.25-white-9.5dB"
    assert (
        avmnist.spec(raw, avmnist.Options(noise="esc", snr_db=3.0)).variant
        == "energy0.25-esc50+3dB"
    )
    (tmp_path / "esc").mkdir()
    (tmp_path / "esc" / "1-100032-A.ogg").touch()
    assert "esc10" in avmnist.spec(tmp_path, avmnist.Options(noise="esc")).variant


def test_a_recording_that_cannot_be_used_is_one_phrase(tmp_path):
    (tmp_path / "recordings").mkdir()
    write_wav(tmp_path / "recordings" / "silent.wav", np.zeros(800))
    write_wav(tmp_path / "recordings" / "fast.wav", np.ones(800) / 2, 16000)
    write_wav(tmp_path / "recordings" / "stereo.wav", np.ones((800, 2)) / 2)
    (tmp_path / "recordings" / "text.wav").write_text("no sound")
    write_wav(tmp_path / "hush.wav", np.zeros(800))
    for name, phrase in (
        ("none", "file is missing"),
        ("silent", "a silent recording"),
        ("fast", "a recording that is not 8 kHz mono"),
        ("stereo", "a recording that is not 8 kHz mono"),
        ("text", "not readable audio: Format not recognised."),
    ):
        with pytest.raises(ValueError, match=phrase) as error:
            avmnist._sound(tmp_path, name, "", -9.5, "train-00000")
        assert (
            name not in str(error.value) or name == "silent"
        )  # no phrase of its own for each sample
    with pytest.raises(ValueError, match="a silent noise clip"):
        avmnist._noise(tmp_path / "hush.wav")


def test_damaged_files_say_which_and_what_to_do(tmp_path):
    make_mnist(tmp_path)
    make_recordings(tmp_path)
    labels, images = (tmp_path / names["train"] for names in (parts.LABELS, parts.IMAGES))
    whole = {path: path.read_bytes() for path in (labels, images)}
    too_few = gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", TRAIN) + bytes(TRAIN - 1))
    too_many = gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", TRAIN) + bytes(TRAIN + 1))
    for path, content, message in (
        (labels, whole[labels][:-9], "damaged: Compressed file ended"),
        (labels, whole[labels][:3], "damaged"),
        (labels, b"", "damaged"),
        (labels, b"no gzip", "damaged: Not a gzipped file"),
        (labels, gzip.decompress(whole[labels]), "damaged: Not a gzipped file"),
        (labels, whole[images], "damaged: not an idx file of 1 axes"),
        (labels, too_few, "its length is not what its header says"),
        (labels, too_many, "its length is not what its header says"),
        (images, whole[labels], "damaged: not an idx file of 3 axes"),
        (images, whole[images][:10], "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            listed(tmp_path)
        assert message in error.value.what
        assert error.value.where == str(path)
        assert "umemma download" in error.value.hint
        path.write_bytes(whole[path])
    write_idx(labels, np.full(TRAIN, 10, np.uint8))
    with pytest.raises(UserError, match="labels that are no digits"):
        listed(tmp_path)
    write_idx(labels, np.zeros(TRAIN - 1, np.uint8))
    with pytest.raises(UserError, match="images for 239 labels"):
        listed(tmp_path)
    labels.unlink()
    with pytest.raises(UserError, match="not there yet"):
        listed(tmp_path)
    images.write_bytes(
        whole[images][: len(whole[images]) // 2]
    )  # its header is whole: found where images are taken
    with pytest.raises(UserError, match="damaged"):
        parts.images(tmp_path, "train")


def test_what_has_to_be_there(tmp_path):
    make_mnist(tmp_path)
    with pytest.raises(UserError, match="not there yet"):
        listed(tmp_path)
    make_recordings(tmp_path)
    with pytest.raises(UserError, match="no noise for train") as error:
        listed(tmp_path, noise="esc")
    assert "ESC-50" in error.value.hint
    for path in (tmp_path / "recordings").glob("7_*_[59].wav"):
        path.unlink()
    with pytest.raises(UserError, match="no recording of the digit 7 for val"):
        listed(tmp_path)


# The recipes, and the real files. -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["avmnist", "avmnist-smil", "avmnist-multibench"])
def test_recipes_are_settings(name):
    params = config.load_params(ROOT / "recipes" / f"{name}.yaml")
    module = datasets.get_module(params.dataset)
    assert (params.dataset, module.SPEC.name) == (name, name)
    params.check_modalities(module.SPEC.modalities)
    options = validate(module.Options, params.preprocess.options, "settings", "preprocess.options")
    assert options == module.Options()  # a recipe is the protocol, and so are the defaults
    assert params.preprocess.options.keys() == module.Options.model_fields.keys()
    for modality in params.modalities:
        params.encoder(modality).adapt(
            AudioInput() if modality == "audio" else ImageInput(), modality
        )
    assert params.finetune.scratch.epochs == params.pretrain.epochs + params.finetune.epochs


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    for source in parts.sources(media=False):
        if source.unpack is None:
            (folder / source.path).symlink_to(REAL / "mnist" / source.path)
            continue
        (folder / "recordings").mkdir()
        with tarfile.open(REAL / "fsdd" / source.path) as archive:
            for member in archive:
                if place := source.unpack(member.name):
                    (folder / place).write_bytes(archive.extractfile(member).read())
        assert len(list((folder / "recordings").iterdir())) == source.files
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
def test_real_files(real):
    for source in list(parts.sources(media=False))[:4]:
        content = gzip.decompress((real / source.path).read_bytes())
        assert source.checksum == f"gunzip-md5:{hashlib.md5(content).hexdigest()}"
    records = listed(real)
    assert Counter(r.split for r in records) == avmnist.SPEC.expected
    assert all(r.group[0] == str(r.label) for r in records)
    splits = defaultdict(set)
    for record in records:
        splits[record.group].add(record.split)
    assert {group: len(found) for group, found in splits.items()} == dict.fromkeys(splits, 1)
    assert len(splits) == 3000
    mean, basis = avmnist.components(real, 0.25)
    assert len(basis) == 4
    # The same whole numbers on every machine, with any BLAS and any number of threads.
    digest = hashlib.sha256(
        mean.tobytes() + np.sort(np.abs(basis), axis=None).tobytes()
    ).hexdigest()
    assert digest.startswith("a2c9966498203ff1")
    for record in records[::2000]:
        assert np.abs(record.media["audio"]().samples).max() == avmnist.PEAK
        assert record.media["image"]().std() > 10
    smil = list(avmnist_smil.records(real, avmnist_smil.Options()))
    assert Counter(r.split for r in smil) == avmnist_smil.SPEC.expected
