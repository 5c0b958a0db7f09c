"""Encoders: feature widths, names, and that what isn't there makes no difference."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from toys.models import tiny_wave
from toys.project import ROOT

from umemma import config, encoders
from umemma.encoders.catalogue import list_encoders
from umemma.encoders.frame_pooling import OverFrames
from umemma.errors import UserError
from umemma.stages import encoders as stage
from umemma.types import AudioInput, ImageInput, TextInput, VideoInput, WaveInput

INPUTS = [
    ("cnn:small", "audio", AudioInput(mels=8), (2, 1, 8, 12), 64),
    ("cnn:small", "image", ImageInput(size=8), (2, 3, 8, 8), 64),
    ("cnn:small", "spectrogram", ImageInput(size=8, channels=1), (2, 1, 8, 8), 64),
    ("cnn:small", "video", VideoInput(frames=3, size=8), (2, 3, 3, 8, 8), 64),
    ("cnn:lenet", "audio", AudioInput(mels=16, seconds=0.2), (2, 1, 16, 21), 84),
    ("cnn:lenet", "image", ImageInput(), (2, 3, 32, 32), 84),
    ("cnn:lenet", "spectrogram", ImageInput(size=112, channels=1), (2, 1, 112, 112), 84),
    ("text:cnn", "text", TextInput(length=9), (2, 9), 192),
    ("text:transformer", "text", TextInput(length=9), (2, 9), 128),
    ("timm:test_resnet", "audio", AudioInput(mels=16, seconds=0.2), (2, 1, 16, 21), 96),
    ("timm:test_resnet", "image", ImageInput(size=32), (2, 3, 32, 32), 96),
    ("timm:test_vit", "audio", AudioInput(mels=16, seconds=0.31), (2, 1, 16, 32), 64),
    ("timm:test_vit", "spectrogram", ImageInput(size=32, channels=1), (2, 1, 32, 32), 64),
    ("timm:test_vit.r160_in1k", "video", VideoInput(frames=2, size=32), (2, 2, 3, 32, 32), 64),
]


@pytest.mark.parametrize(("name", "modality", "spec", "shape", "width"), INPUTS)
def test_features_have_the_width_that_is_promised(name, modality, spec, shape, width):
    assert type(encoders.input_spec(name, modality)) is type(spec)
    module, dim = encoders.build(name, modality, spec)
    module.eval()
    x = torch.zeros(shape, dtype=torch.int64) if modality == "text" else torch.rand(shape)
    assert module(x).shape == (2, dim) == (2, width)
    assert module(x).isfinite().all()


def test_lenet_has_the_layers_of_its_paper():
    module, _ = encoders.build("cnn:lenet", "image", ImageInput(channels=1))
    convolutions = (25 + 1) * 6 + (6 * 25 + 1) * 16  # without the gaps between the maps of C3
    assert (
        sum(p.numel() for p in module.parameters())
        == convolutions + (16 * 25 + 1) * 120 + (120 + 1) * 84
    )


def test_lenet_says_when_a_picture_is_too_small():
    with pytest.raises(UserError, match="needs 16 by 16"):
        encoders.build("cnn:lenet", "image", ImageInput(size=15))


def test_a_size_that_a_model_can_not_be_built_for_is_said_at_once():
    with pytest.raises(UserError, match="built for an input of 30 by 30: Input height"):
        encoders.build("timm:test_vit", "image", ImageInput(size=30))
    with pytest.raises(
        UserError, match="built for an input of 64 by 320: Model only handles square inputs"
    ):
        encoders.build("timm:nest_tiny", "audio", encoders.input_spec("timm:nest_tiny", "audio"))
    with pytest.raises(UserError, match="3 channels"):
        encoders.build("open_clip:ViT-B-32", "image", ImageInput(channels=1))


# Names. ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "modality", "said"),
    [
        ("text:cnn", "image", "has no encoder for image"),
        ("cnn:small", "text", "has no encoder for text"),
        ("cn:small", "image", "Did you mean 'cnn'?"),
        ("cnn:smal", "image", "Did you mean 'cnn:small'?"),
        ("timm:resnet81", "image", "Did you mean 'timm:resnet18'"),
        ("timm:resnet18.a1_in2k", "image", "Did you mean 'timm:resnet18.a1_in1k'"),
        ("open_clip:ViT-B-33", "text", "Did you mean 'open_clip:ViT-B-32'"),
        ("open_clip:ViT-B-32@laion2b", "image", "Did you mean 'open_clip:ViT-B-32@laion2b_"),
        ("torchaudio:HUBERT_BAS", "audio", "Did you mean 'torchaudio:HUBERT_BASE'"),
        ("timm:", "image", "unknown encoder 'timm:'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones_and_not_a_thousand(name, modality, said):
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        encoders.input_spec(name, modality)
    assert caught.value.usage
    assert len(str(caught.value)) < 400


def test_pictures_are_normalised_as_the_weights_were_trained():
    assert encoders.input_spec("timm:resnet18", "image") == ImageInput(
        size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=True
    )
    grey = encoders.input_spec("timm:resnet18", "spectrogram")
    assert (grey.channels, grey.crop) == (1, False)
    assert (grey.mean, grey.std) == pytest.approx((0.449, 0.226))
    assert encoders.input_spec("timm:resnet18", "video") == VideoInput(
        size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop=True
    )
    clip = encoders.input_spec("open_clip:ViT-B-32", "image")
    assert clip.mean == (0.48145466, 0.4578275, 0.40821073)
    assert encoders.input_spec("open_clip:ViT-B-16-SigLIP@webli", "image") == ImageInput(
        size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop=False
    )
    assert encoders.input_spec("open_clip:ViT-B-32", "text") == TextInput(
        length=77, tokenizer="clip"
    )
    siglip = encoders.input_spec("open_clip:ViT-B-16-SigLIP", "text")
    assert siglip == TextInput(length=64, tokenizer="open_clip:ViT-B-16-SigLIP", padding=1)
    assert encoders.input_spec("torchaudio:HUBERT_BASE", "audio") == WaveInput(sample_rate=16000)


# Padding. -------------------------------------------------------------------------------------------------------------


def test_a_video_is_the_average_of_its_frames():
    module, _ = encoders.build("cnn:small", "video", VideoInput(frames=3, size=8))
    assert all(name.startswith("encoder.") for name in module.state_dict())
    x = torch.rand(2, 3, 3, 8, 8)
    torch.testing.assert_close(
        module(x), torch.stack([module(x[:, [t]]) for t in range(3)]).mean(0)
    )


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_black_frames_at_the_end_of_a_clip_do_not_count(pool):
    spec = VideoInput(frames=4, size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    module, _ = encoders.build("cnn:small", "video", spec, pool)
    if pool == "attention":
        torch.nn.init.normal_(module.score.weight)
    black = (-torch.tensor(spec.mean) / torch.tensor(spec.std)).reshape(3, 1, 1).expand(3, 8, 8)
    x = torch.rand(2, 4, 3, 8, 8)
    x[0, 2:] = black
    torch.testing.assert_close(module(x)[0], module(x[:1, :2])[0])
    within = x.clone()
    within[1, 1] = black  # but the clip goes on after it
    assert not torch.allclose(module(within)[1], module(within[1:, [0, 2, 3]])[0])
    nothing = black.expand(1, 4, 3, 8, 8)
    torch.testing.assert_close(module(nothing), module.encoder(nothing[:, 0]))


def test_attention_over_frames_is_an_average_weighted_by_their_scores():
    module = OverFrames(torch.nn.Flatten(), 1, ImageInput(size=1, channels=1), "attention")
    x = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1, 1)
    assert module(x).tolist() == [[2.0]]  # it starts as the mean
    torch.nn.init.constant_(module.score.weight, 0.5 * torch.tensor(3.0).log().item())  # 3 to 1
    torch.testing.assert_close(module(x), torch.tensor([[2.5]]))


@pytest.mark.parametrize("name", ["text:cnn", "text:transformer"])
def test_padding_makes_no_difference_to_a_text(name):
    module, _ = encoders.build(name, "text", TextInput())
    module.eval()
    tokens = torch.tensor([[49406, 320, 1125, 49407]])
    padded = torch.nn.functional.pad(tokens, (0, 6))
    torch.testing.assert_close(module(tokens), module(padded))
    before = module(padded)
    if name == "text:transformer":
        torch.nn.init.normal_(module.embedding.weight[0])
    torch.testing.assert_close(before, module(padded))
    other = torch.tensor([[49406, 320, 2368, 49407]])
    assert not torch.allclose(module(tokens), module(other))


def test_a_text_of_padding_alone_changes_nothing_about_its_neighbours():
    module, width = encoders.build("text:transformer", "text", TextInput(length=4))
    module.eval()
    tokens = torch.tensor([[5, 6, 0, 0], [0, 0, 0, 0]])
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            assert torch.equal(module(tokens)[1], torch.zeros(width))
            torch.testing.assert_close(module(tokens)[0], module(tokens[:1])[0])
    module(tokens).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_own_tokens_are_refused_where_the_vocabulary_is_fixed():
    with pytest.raises(UserError, match="reads CLIP's tokens"):
        encoders.build("text:cnn", "text", TextInput(tokenizer="hf:bert"))


@pytest.mark.parametrize("kind", ["wav2vec2", "wavlm"])
def test_zeros_at_the_end_of_a_wave_are_padding(kind):
    module = tiny_wave(kind)
    wave = torch.randn(1, 41)
    padded = torch.cat([torch.nn.functional.pad(wave, (0, 30)), torch.randn(1, 71)])
    torch.testing.assert_close(module(padded)[:1], module(wave), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module(padded)[1:], module(padded[1:]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(module(wave), module(wave.flip(1)))


def test_a_wave_of_zeros_or_a_very_short_one_has_a_feature_too():
    module = tiny_wave("wav2vec2")
    assert module.min_samples == 5
    short = torch.zeros(2, 71)
    short[1, 0] = 1.0
    assert module(short).isfinite().all()
    silence = torch.zeros(1, 71)
    torch.testing.assert_close(
        module(silence), module.model(silence)[0].mean(1)
    )  # all of its steps


def test_loudness_makes_no_difference_where_waves_are_normalised():
    wave = torch.randn(1, 71)
    module = tiny_wave("wav2vec2")
    torch.testing.assert_close(module(wave), module(3 * wave + 1), atol=1e-4, rtol=1e-4)


def test_the_plain_path_of_wavlm_is_torchaudio_s_own():
    module, wave = tiny_wave("wavlm", normalise=False), torch.randn(2, 71)
    torch.testing.assert_close(module(wave), module.model(wave)[0].mean(1))


def test_a_bundle_is_built_without_a_download():
    with torch.device("meta"):
        module, width = encoders.build("torchaudio:WAV2VEC2_ASR_BASE_960H", "audio", WaveInput())
    assert width == 768
    assert module.model.aux is None
    assert module.min_samples == 400
    assert not module.normalise


# A user's own. --------------------------------------------------------------------------------------------------------

TINY = """
from torch import nn
from umemma.types import ImageInput
def tiny():
    return nn.Flatten(), 12, ImageInput(size=2)
def wrong():
    return nn.Flatten(), 12
number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(TINY)
    yield
    sys.modules.pop("mine", None)


@pytest.mark.usefixtures("mine")
def test_an_encoder_of_one_s_own_serves_pictures_and_videos():
    path = list(sys.path)
    spec = encoders.input_spec("import:mine:tiny", "image")
    assert spec == ImageInput(size=2)
    module, width = encoders.build("import:mine:tiny", "image", spec)
    assert module(torch.rand(5, 3, 2, 2)).shape == (5, width)
    video = encoders.input_spec("import:mine:tiny", "video")
    module, width = encoders.build("import:mine:tiny", "video", video)
    assert module(torch.rand(5, 4, 3, 2, 2)).shape == (5, width)
    assert sys.path == path


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("name", "modality", "said"),
    [
        (
            "import:mine:tiny",
            "audio",
            "its input is ImageInput; for audio it has to be AudioInput or WaveInput",
        ),
        ("import:mine:tinny", "image", "Did you mean 'tiny'?"),
        ("import:mine:number", "image", "unknown function 'number'"),
        ("import:mine:wrong", "image", r"the function returned \(Flatten"),
        ("import:yours:tiny", "image", "no module 'yours'"),
        ("import:mine.yours:tiny", "image", "no module 'mine.yours'"),
        ("import:mine", "image", "import:package.module:function"),
    ],
)
def test_an_encoder_of_one_s_own_that_is_not_one(name, modality, said):
    with pytest.raises(UserError, match=said):
        encoders.input_spec(name, modality)


def test_the_page_shows_an_encoder_of_one_s_own_that_works(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "encoders.md").read_text()
    (code,) = re.findall(r"```python\n(# my_encoder.py\n.*?)```", page, re.DOTALL)
    (settings,) = re.findall(r"```yaml\n(encoders:\n  image: import:.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) <= 14
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_encoder.py").write_text(code)
    (tmp_path / "params.yaml").write_text(f"dataset: digits\nmodalities: [image]\n{settings}")
    encoder = config.load_params(tmp_path / "params.yaml").encoder("image")
    spec = encoder.adapt(encoders.input_spec(encoder.name, "image"), "image")
    module, width = encoders.build(encoder.name, "image", spec)
    assert module(torch.rand(2, spec.channels, spec.size, spec.size)).shape == (2, width)
    sys.modules.pop("my_encoder")


# The listing. ---------------------------------------------------------------------------------------------------------


def test_the_listing_shows_small_families_in_full_and_large_ones_by_a_line(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rows, notes = list_encoders()
    assert [row.name for row in rows] == ["cnn:lenet", "cnn:small", "text:cnn", "text:transformer"]
    assert {row.width for row in rows} == {84, 64, 192, 128}
    assert {note.partition(":")[0] for note in notes} == {
        "hf",
        "import",
        "open_clip",
        "timm",
        "torchaudio",
    }
    assert re.search(r"timm: 1,\d\d\d models, for audio, image", "\n".join(notes))
    stage.run()
    assert "text:transformer" in capsys.readouterr().out


def test_the_listing_finds_names_and_weights_at_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, notes = list_encoders("timm:test_vit*", "image")
    assert rows[0] == (
        "timm:test_vit",
        "audio, image, spectrogram, video",
        64,
        "160 px",
        "downloads",
    )
    assert not notes
    (tmp_path / "data" / "weights" / "timm").mkdir(parents=True)
    (tmp_path / "data" / "weights" / "timm" / "test_vit.pth").touch()
    assert list_encoders("test_vit")[0][0].weights == "yes: data/weights/timm/test_vit.pth"
    assert not list_encoders("*", "text")[0][0].name.startswith("timm:")
    rows, notes = list_encoders("open_clip:ViT-*")
    assert len(rows) == 40
    assert notes[0].endswith(" more match; a longer pattern shows them.")
    assert [row.width for row in list_encoders("open_clip:ViT-B-32@openai")[0]] == [512]
    assert [row.width for row in list_encoders("torchaudio:HUBERT_L*")[0]] == [1024]
    assert list_encoders("hf")[1][0].startswith("hf: any, for text")
    for pattern in ("timm:nothing_of_the_kind", "nothing_of_the_kind"):
        with pytest.raises(UserError, match="no encoder matches"):
            list_encoders(pattern)


def test_settings_of_the_example_are_json():  # the settings of a run are written to model.json
    assert json.dumps(config.Encoder(name="timm:resnet18").model_dump(mode="json"))
