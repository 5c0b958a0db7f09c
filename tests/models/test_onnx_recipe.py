"""What export.json and the files beside it say is enough to make the input of an encoder."""

from __future__ import annotations

import html
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import av
import ftfy
import numpy as np
import onnxruntime
import pytest
import soundfile
import tokenizers
import torch
import torchaudio
from PIL import Image, ImageOps
from toys.models import save_model
from toys.project import ROOT

import umemma
from umemma import modalities
from umemma.models import predict_inputs
from umemma.stages import export
from umemma.types import TextInput


def answers(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path).run(None, inputs)


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


@pytest.mark.slow
def test_the_input_can_be_made_without_umemma(tmp_path):
    size = {"size": 24, "crop": True, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    audio = {"sample_rate": 16000, "seconds": 0.5, "mels": 16, "hop": 400}
    encoders = {
        "image": {"name": "cnn:small", "input": size},
        "audio": {"name": "cnn:small", "input": audio},
    }
    model = umemma.load(save_model(tmp_path / "model", "audio+image+text", **encoders))
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


@pytest.mark.slow
def test_the_tokenizer_of_clip_is_that_of_open_clip(tmp_path):
    """On words, signs and the characters of Unicode 3.2; truncated, or padded differently."""
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
        made = modalities.get_module("text").make_recipe(spec, None)
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        for one in some:
            expected = modalities.get_module("text").decode(one.strip().encode(), spec)
            np.testing.assert_array_equal(
                tokens(one, made, tokenizer)[0], expected, err_msg=ascii(one)
            )


@pytest.mark.slow
def test_a_tokenizer_of_transformers_comes_with_the_export(tmp_path, monkeypatch, bert):
    monkeypatch.chdir(tmp_path)
    model = umemma.load(
        save_model(Path("model"), "text", text={"name": "hf:bert", "input": {"length": 8}})
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
    steps = modalities.get_module("text").make_recipe(spec, None)["steps"]
    assert "open_clip.get_tokenizer('ViT-B-32')(text, context_length=77)" in steps[1]
