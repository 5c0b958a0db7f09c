"""A trained model as ONNX: the same numbers, for every subset and any batch, and nothing where that can't be."""

from __future__ import annotations

import html
import json
import shutil
import sys
import unicodedata
from pathlib import Path
from typing import Any

import av
import ftfy
import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import tokenizers
import torch
import torchaudio
from PIL import Image, ImageOps
from torch import nn
from toys.models import call, saved
from toys.project import ROOT

import umemma
from umemma import modalities
from umemma.errors import UserError
from umemma.evaluation.calibration import probabilities
from umemma.missing import make_keep_table
from umemma.models import predict_inputs
from umemma.models.onnx import Fusion
from umemma.stages import export
from umemma.types import ImageInput, TextInput


def answers(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path).run(None, inputs)


FITTED = {
    "audio": {"temperature": 0.5, "bias": [1.0, 0.0, -1.0]},
    "image": {"temperature": 3.0, "bias": []},
}
INPUTS = {
    "audio": torch.linspace(-1, 1, 3 * 176).view(3, 1, 16, 11),
    "image": torch.ones(3, 1, 16, 16),
}


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_the_fusion_gives_each_sample_its_own_subset(tmp_path, absent):
    """Against the model itself, in one batch of every subset; absent features are NaN, and don't matter."""
    model = umemma.load(saved(tmp_path / "model", absent=absent, calibration=FITTED))
    present = torch.from_numpy(make_keep_table(model.modalities))
    features, _ = model.model.encode(INPUTS, torch.ones(3, 2, dtype=torch.bool))
    holed = [f.where(present[:, i, None], torch.nan) for i, f in enumerate(features.values())]
    expected = model.logits(INPUTS, present)
    logits, chances = Fusion(model)(*holed, present)
    np.testing.assert_allclose(logits.detach(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(chances.detach(), probabilities(expected, "multiclass"), atol=1e-6)
    assert Fusion(model)(*holed, present & False)[0].isnan().all()


def test_the_files_give_what_the_model_gives(tmp_path):
    folder = saved(tmp_path / "model", absent="blank", calibration=FITTED)
    assert "3 of 3 subsets agree" in export.run(folder, tmp_path / "onnx")
    model = umemma.load(folder)
    present, features = make_keep_table(model.modalities), {}
    for i, (m, x) in enumerate(INPUTS.items()):
        found = answers(tmp_path / "onnx" / f"encoder-{m}.onnx", input=x.numpy())[0]
        features[f"features_{m}"] = np.where(present[:, i, None], found, np.nan).astype(np.float32)
    logits, _ = answers(tmp_path / "onnx" / "fusion.onnx", **features, present=present)
    np.testing.assert_allclose(
        logits, model.logits(INPUTS, torch.from_numpy(present)), rtol=1e-4, atol=1e-5
    )


def test_every_modality_and_family(tmp_path, monkeypatch, capfd):
    """An image by timm, a text by a transformer, a video frame by frame; several labels; from the command line, which
    says where and how close, and nothing else."""
    monkeypatch.chdir(tmp_path)
    more = {
        "image": {"name": "timm:resnet18", "input": {"size": 32}},
        "text": {"name": "text:transformer"},
    }
    saved(Path("m/model"), "image+text+video", task="multilabel", **more)
    assert call("export", "--model", "m/model") == 0
    said = capfd.readouterr()
    assert said.out.startswith(
        "ONNX models are in m/onnx, checked against PyTorch: 7 of 7 subsets agree"
    )
    assert said.err == ""
    about = json.loads(Path("m/onnx/export.json").read_text())
    assert about["task"] == "multilabel"
    assert about["fusion"]["present"]["columns"] == ["image", "text", "video"]
    assert about["encoders"]["text"]["input"] == {
        "name": "input",
        "shape": ["batch", 77],
        "type": "int64",
    }
    assert about["encoders"]["video"]["made_as"]["kind"] == "VideoInput"
    assert about["encoders"]["image"]["made_as"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    for path in Path("m/onnx").glob("*.onnx"):
        onnx.checker.check_model(path)
        assert str(ROOT).encode() not in path.read_bytes()


# What export.json and the files beside it say is enough to make what an encoder sees. ---------------------------------


def fed(model: Any, modality: str, media: Any) -> np.ndarray:
    """What umemma itself gives to the encoder."""
    decoded, *_ = predict_inputs.decode_sample({modality: media}, model.info.media, model.specs)
    return (
        modalities.get_module(modality)
        .finish(decoded[modality][None], model.specs[modality])
        .numpy()
    )


def pixels(path: Path, made: dict[str, Any]) -> np.ndarray:
    """An image as the numbers and steps of export.json say, with Pillow and numpy."""

    def opened(file: Path, side: int) -> Image.Image:
        picture = Image.open(file)
        scale = made["draft"] * side / min(picture.size)
        if picture.format == "JPEG" and scale < 1:
            picture.draft(None, tuple(round(length * scale) for length in picture.size))
        picture = ImageOps.exif_transpose(picture)
        if picture.mode == "I;16":
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")

    resampling, size = Image.Resampling[made["resampling"].upper()], (made["size"], made["size"])
    picture = opened(path, made["side"])
    scale = made["side"] / min(picture.size)
    if scale < 1:
        smaller = tuple(round(length * scale) for length in picture.size)
        path = path.with_suffix(".small.jpg")
        picture.resize(smaller, resampling, reducing_gap=made["reducing_gap"]).save(
            path, quality=made["quality"]
        )
    picture = opened(path, made["size"]).convert({1: "L", 3: "RGB"}[made["channels"]])
    if picture.size != size:
        left, top = ((length - min(picture.size)) / 2 for length in picture.size)
        box = (left, top, picture.width - left, picture.height - top) if made["crop"] else None
        picture = picture.resize(size, resampling, box)
    x = np.asarray(picture, np.float32).reshape(*size, -1) / 255
    return ((x - made["mean"]) / made["std"]).transpose(2, 0, 1)[None]


def loudness(path: Path, made: dict[str, Any]) -> np.ndarray:
    """A sound likewise, with PyAV and torchaudio."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        rate = min(stream.rate, made["packed_rate"])
        resampler = av.AudioResampler("s16", "mono", rate)
        parts = [part for frame in file.decode(stream) for part in resampler.resample(frame)]
        samples = np.concatenate(
            [part.to_ndarray()[0] for part in parts + resampler.resample(None)]
        ) / np.float32(32768)
    x = torch.from_numpy(samples)
    if rate != made["sample_rate"]:
        x = torchaudio.functional.resample(x, rate, made["sample_rate"])
    x = torch.nn.functional.pad(x[: made["samples"]], (0, max(0, made["samples"] - len(x))))
    window = {"hann": torch.hann_window}[made["window_function"]]
    x = torchaudio.transforms.MelSpectrogram(**made["spectrogram"], window_fn=window)(x)
    x = (x + made["floor"]).log()
    return ((x - x.mean()) / (x.std() + made["steady"]))[None, None].numpy()


CLEANING = {
    "ftfy.fix_text": ftfy.fix_text,
    "html.unescape": html.unescape,
    "' '.join(text.split())": lambda text: " ".join(text.split()),
    "str.lower": str.lower,
}


def tokens(words: str, made: dict[str, Any], tokenizer: tokenizers.Tokenizer) -> np.ndarray:
    """A text likewise, with tokenizers and, to clean it, ftfy."""
    words = words.strip()
    for name in made["clean"]:
        words = CLEANING[name](words)
    return np.array([tokenizer.encode(words).ids])


def test_the_input_can_be_made_without_umemma(tmp_path):
    size = {"size": 24, "crop": True, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    audio = {"sample_rate": 16000, "seconds": 0.5, "mels": 16, "hop": 400}
    encoders = {
        "image": {"name": "cnn:small", "input": size},
        "audio": {"name": "cnn:small", "input": audio},
    }
    model = umemma.load(saved(tmp_path / "model", "audio+image+text", **encoders))
    export.run(tmp_path / "model", tmp_path / "onnx")
    about = json.loads((tmp_path / "onnx" / "export.json").read_text())["encoders"]
    chance = np.random.default_rng(0)

    picture = Image.fromarray(chance.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    large, turned = picture.resize((1800, 1600)), Image.Exif()
    turned[0x0112] = 6  # by a quarter
    deep = Image.fromarray(chance.integers(0, 2**16, (30, 40), dtype=np.uint16))
    large.save(tmp_path / "large.jpg", exif=turned)
    large.save(tmp_path / "large.png")
    picture.resize((24, 24)).save(tmp_path / "square.png")
    picture.convert("RGBA").save(tmp_path / "clear.png")
    deep.save(tmp_path / "deep.png")
    for path in sorted(tmp_path.glob("*.[jp][pn]g")):
        np.testing.assert_allclose(
            pixels(path, about["image"]["made_as"]), fed(model, "image", path), atol=1e-5
        )

    for rate, seconds, channels in ((8000, 0.7, 1), (16000, 0.3, 1), (44100, 0.6, 2)):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, 0.1 * chance.standard_normal((int(rate * seconds), channels)), rate)
        ours = loudness(path, about["audio"]["made_as"])
        np.testing.assert_allclose(ours, fed(model, "audio", path), atol=1e-4)

    made = about["text"]["made_as"]
    tokenizer = tokenizers.Tokenizer.from_file(
        str(tmp_path / "onnx" / made["tokenizer_files"] / "tokenizer.json")
    )
    for words in (
        " A dog's BARK &amp;amp; it'll\n rain ",
        "one two three four five six seven eight nine ten",
    ):
        np.testing.assert_array_equal(tokens(words, made, tokenizer), fed(model, "text", words))
    assert all(len(one["made_as"]["steps"]) > 2 for one in about.values())


def test_the_tokenizer_of_clip_is_that_of_open_clip(tmp_path):
    """On words, signs and the characters that Unicode 3.2 knows; cut, or filled up with another number."""
    chance, old = np.random.default_rng(0), unicodedata.ucd_3_2_0
    known = [c for c in map(chr, range(0x110000)) if old.category(c) not in ("Cn", "Cs")]
    known = [c for c in known if ord(c) < 0x3100] + [c for c in known if ord(c) >= 0x3100][::40]
    texts = [" a".join(known[i : i + 25]) for i in range(0, len(known), 25)]
    texts += [
        "".join(chance.choice(list("abcdeilmnorstuv '\u2019!.,-<>&;1"), 90)) for _ in range(200)
    ]
    words = (ROOT / "README.md").read_text().split()
    texts += [" ".join(chance.choice(words, 40)) for _ in range(200)]
    texts += [
        "'S it'\u017f don't I'LL <start_of_text> x<end_of_text>",
        "ΣΑΣ İstanbul ß ﬁ",
        "mÃ¼de",
        "&amp;lt;b&gt;",
        "a",
    ]
    for spec, some in ((TextInput(length=77), texts), (TextInput(length=9, padding=5), texts[::9])):
        folder = tmp_path / f"{spec.length}"
        assert modalities.get_module("text").write_tokenizer(spec, folder)
        made = modalities.get_module("text").recipe(spec, None)
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        for one in some:
            expected = modalities.get_module("text").decode(one.strip().encode(), spec)
            np.testing.assert_array_equal(
                tokens(one, made, tokenizer)[0], expected, err_msg=ascii(one)
            )


def test_a_tokenizer_of_transformers_comes_with_the_export(tmp_path, monkeypatch, bert):
    monkeypatch.chdir(tmp_path)
    model = umemma.load(
        saved(Path("model"), "text", text={"name": "hf:bert", "input": {"length": 8}})
    )
    shutil.rmtree("bert")
    export.run(Path("model"), Path("onnx"))
    written = Path("onnx/export.json").read_text()
    assert str(tmp_path) not in written
    made = json.loads(written)["encoders"]["text"]["made_as"]
    assert (made["tokenizer"], made["tokenizer_files"]) == ("hf", "tokenizer-text")
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained("onnx/tokenizer-text")
    for words in ("a b f", "a b c d e f a b c d e f"):
        ids = tokenizer(words, truncation=True, max_length=made["length"])["input_ids"]
        ids += [made["padding"]] * (made["length"] - len(ids))
        np.testing.assert_array_equal([ids], fed(model, "text", words))
    (features,) = answers(Path("onnx/encoder-text.onnx"), input=fed(model, "text", "a b f"))
    assert features.shape == (1, 8)


def test_a_tokenizer_that_only_open_clip_makes_is_named(tmp_path):
    spec = TextInput(tokenizer="open_clip:ViT-B-32", padding=1)
    assert not modalities.get_module("text").write_tokenizer(spec, tmp_path / "t")
    assert not (tmp_path / "t").exists()
    steps = modalities.get_module("text").recipe(spec, None)["steps"]
    assert "open_clip.get_tokenizer('ViT-B-32')(text, context_length=77)" in steps[1]


class Undecided(nn.Module):
    """Features that depend on a value, by Python: what no graph can hold."""

    def forward(self, x):
        return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)


class Sly(nn.Module):
    """Features that depend on the batch, by a number that a graph takes for a constant."""

    calls = 0

    def forward(self, x):
        Sly.calls += 1
        return x.flatten(1) + 100 * Sly.calls


@pytest.mark.parametrize(
    ("encoder", "message"),
    [(Undecided, "the image encoder can't be exported"), (Sly, "ONNX differs from PyTorch")],
)
def test_an_encoder_that_cannot_be_exported_leaves_nothing(tmp_path, monkeypatch, encoder, message):
    folder = saved(
        tmp_path / "model",
        "image+text",
        image={"name": "cnn:small", "input": {"size": 8, "channels": 1}},
    )
    spec = ImageInput(size=8, channels=1)
    own = umemma.load(folder)
    own.model.encoders["image"] = nn.Sequential(encoder(), nn.Linear(64, 64)).requires_grad_(False)
    monkeypatch.setattr("umemma.models.predictor.load", lambda *_: own)
    assert own.specs["image"] == spec
    with pytest.raises(UserError, match=message):
        export.run(folder, tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_export_takes_the_place_of_an_older_one_and_of_nothing_else(tmp_path):
    folder = saved(tmp_path / "model", "text")
    for _ in range(2):
        export.run(folder, tmp_path / "onnx")
        names = {"encoder-text.onnx", "fusion.onnx", "export.json", "tokenizer-text"}
        assert {path.name for path in (tmp_path / "onnx").iterdir()} == names
    before = sorted(path.name for path in folder.iterdir())
    for out in (folder, folder / "model.json"):
        with pytest.raises(UserError, match="holds something other than an export"):
            export.run(folder, out)
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{name} is not installed\n.*\[onnx\]"):
        export.run(tmp_path / "model", tmp_path / "onnx")


def test_what_is_exported_has_to_be_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("export", "--model", "nowhere") == 1
    assert "nowhere/model.json: not there yet" in capsys.readouterr().err
