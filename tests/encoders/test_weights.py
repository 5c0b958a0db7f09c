"""Weights of encoders: found, fetched, read safely, converted from what is published; and low-rank adapters."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn
from toys.models import tiny_wave

from umemma import encoders
from umemma.encoders import hf, open_clip, torchaudio, weights
from umemma.errors import UserError
from umemma.types import AudioInput, ImageInput, TextInput, VideoInput, WaveInput


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """A project folder of its own, empty caches and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))


def saved(state: dict[str, torch.Tensor], name: str = "some.safetensors") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def same(left: nn.Module, right: nn.Module, *shape: int) -> bool:
    x = torch.randint(1, 10, shape) if len(shape) == 2 else torch.rand(shape)
    with torch.no_grad():
        return torch.allclose(left.eval()(x), right.eval()(x), atol=1e-5)


# Found. ---------------------------------------------------------------------------------------------------------------


def test_small_encoders_start_from_scratch_unless_told():
    for name, modality in (("cnn:small", "image"), ("text:cnn", "text")):
        assert encoders.find_weights(name, modality, None) is None
        with pytest.raises(UserError, match="none are published"):
            encoders.find_weights(name, modality, "pretrained")
    assert encoders.find_weights("timm:test_resnet", "image", "none") is None
    path = saved({}, "data/weights/cnn/small.pth")
    assert encoders.find_weights("cnn:small", "image", "pretrained") == path
    assert encoders.find_weights("cnn:small", "image", None) is None


def test_a_file_that_is_named_wins_and_has_to_be_there():
    saved({}, "data/weights/timm/test_resnet.bin")
    path = saved({}, "mine.pt")
    assert encoders.find_weights("timm:test_resnet", "image", "mine.pt") == path
    with pytest.raises(UserError, match="no such file: yours") as caught:
        encoders.find_weights("timm:test_resnet", "image", "yours.pt")
    assert caught.value.where == "encoders.image.weights"


def test_the_project_comes_before_the_caches():
    saved({}, "data/weights/timm/resnet18.a1_in1k.pt")
    best = saved({"a": torch.ones(1)}, "data/weights/timm/resnet18.a1_in1k.safetensors")
    assert encoders.find_weights("timm:resnet18.a1_in1k", "video", None) == best


@pytest.mark.parametrize(
    ("name", "modality", "place"),
    [
        ("timm:resnet18", "image", "data/weights/timm/resnet18.safetensors"),
        ("open_clip:ViT-B-32@openai", "text", "data/weights/open_clip/ViT-B-32@openai.safetensors"),
        ("hf:someone/something", "text", "data/weights/hf/someone/something.safetensors"),
    ],
)
def test_without_a_network_one_error_names_the_file_to_place(name, modality, place):
    with pytest.raises(UserError) as caught:
        encoders.find_weights(name, modality, "pretrained")
    assert caught.value.where == f"encoders.{modality}.weights"
    assert place in caught.value.hint
    assert "can't be reached" in caught.value.what


def test_an_unreachable_hub_is_asked_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert not weights.online()


def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch):
    monkeypatch.setattr("requests.head", lambda *_, **__: pytest.fail("asked"))
    assert not weights.online()


def test_a_file_of_the_hub_s_cache_is_taken(tmp_path):
    repo = tmp_path / "hub" / "models--timm--resnet18.a1_in1k"
    path = saved({"a": torch.ones(1)}, str(repo / "snapshots" / ("0" * 40) / "model.safetensors"))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    assert encoders.find_weights("timm:resnet18", "image", None) == path


def test_a_file_of_torch_s_cache_is_taken(tmp_path):
    path = saved({}, str(tmp_path / "torch" / "checkpoints" / "hubert_fairseq_base_ls960.pth"))
    assert encoders.find_weights("torchaudio:HUBERT_BASE", "audio", None) == path


def test_models_without_published_weights_say_so():
    with pytest.raises(
        UserError, match="no weights of timm:beit3_giant_patch14_224: none are published"
    ):
        encoders.find_weights("timm:beit3_giant_patch14_224", "image", None)


def test_a_clip_has_to_say_which_weights():
    with pytest.raises(UserError, match=r"which weights\?") as caught:
        encoders.find_weights("open_clip:ViT-B-32", "image", None)
    assert caught.value.usage
    assert "open_clip:ViT-B-32@openai" in caught.value.hint
    assert encoders.find_weights("open_clip:ViT-B-32", "image", "none") is None


# Read. ----------------------------------------------------------------------------------------------------------------


def test_a_state_dict_is_unwrapped():
    plain = {"a.weight": torch.ones(2), "b": torch.zeros(1)}
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in plain.items()}}
    for name in ("one.pt", "two.pth"):
        state = weights.read(saved(wrapped, name))
        assert state.keys() == plain.keys()
    torch.save(plain, "old.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(weights.read(Path("old.bin"))["a.weight"], torch.ones(2))


class Code:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_code_in_a_file_is_refused_and_does_not_run():
    torch.save({"a": torch.ones(1), "b": Code()}, "evil.pt")
    with pytest.raises(UserError, match="can't be loaded safely"):
        weights.read(Path("evil.pt"))
    assert not Path("harm").exists()


@pytest.mark.parametrize("name", ["junk.pt", "junk.safetensors"])
@pytest.mark.parametrize("data", [b"", b"junk" * 100, b"PK\x03\x04" + b"x" * 100, b"\x80\x04junk"])
def test_a_damaged_file_is_an_error_of_one_line(name, data):
    Path(name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        weights.read(Path(name))
    assert caught.value.where == name
    assert "\n" not in caught.value.what


def test_a_script_and_a_file_without_weights_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        torch.jit.script(nn.Linear(1, 1)).save("script.pt")
    torch.save({"epoch": 3}, "empty.pt")
    for name, said in (("script.pt", "can't be loaded safely"), ("empty.pt", "holds no weights")):
        with pytest.raises(UserError, match=said):
            weights.read(Path(name))


def test_weights_of_another_encoder_are_refused_with_what_differs():
    resnet, _ = encoders.build("timm:resnet10t", "image", ImageInput(size=32))
    path = saved(timm.create_model("test_resnet").state_dict())
    with pytest.raises(UserError, match="not the weights of this encoder") as caught:
        encoders.load_weights(resnet, "timm:resnet10t", "image", ImageInput(size=32), path)
    assert "unexpected: layer" in caught.value.what
    assert "other shape: conv1.0.weight (" in caught.value.what
    assert " more" in caught.value.what
    assert str(path) in caught.value.where
    small, _ = encoders.build("cnn:small", "image", ImageInput())
    state = small.state_dict()
    state.pop("layers.0.weight")
    with pytest.raises(UserError, match=r"missing: layers\.0\.weight\n"):
        encoders.load_weights(small, "cnn:small", "image", ImageInput(), saved(state))


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_a_video_encoder_takes_its_own_weights_and_those_of_its_image_encoder(pool):
    spec = VideoInput(frames=2, size=8)
    image, _ = encoders.build("cnn:small", "image", spec.picture)
    first, _ = encoders.build("cnn:small", "video", spec, pool)
    encoders.load_weights(first, "cnn:small", "video", spec, saved(image.state_dict()))
    assert same(first.encoder, image, 2, 3, 8, 8)
    second, _ = encoders.build("cnn:small", "video", spec, pool)
    encoders.load_weights(
        second, "cnn:small", "video", spec, saved(first.state_dict(), "other.safetensors")
    )
    assert same(first, second, 2, 2, 3, 8, 8)


# Converted. -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "levit_128s"])
def test_timm_s_classifiers_load_without_their_heads(name):
    published = timm.create_model(name)
    spec = ImageInput(size=published.pretrained_cfg["input_size"][-1])
    module, _ = encoders.build(f"timm:{name}", "image", spec)
    encoders.load_weights(module, f"timm:{name}", "image", spec, saved(published.state_dict()))
    published.reset_classifier(0)
    assert same(module, published, 1, 3, spec.size, spec.size)
    again, _ = encoders.build(f"timm:{name}", "image", spec)
    encoders.load_weights(
        again, f"timm:{name}", "image", spec, saved(module.state_dict(), "own.pt")
    )
    assert same(module, again, 1, 3, spec.size, spec.size)


def test_one_channel_sees_what_three_equal_ones_would():
    published = timm.create_model("test_resnet")
    spec = AudioInput(mels=32, seconds=0.31)
    module, _ = encoders.build("timm:test_resnet", "audio", spec)
    encoders.load_weights(module, "timm:test_resnet", "audio", spec, saved(published.state_dict()))
    published.reset_classifier(0)
    x = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(module.eval()(x), published.eval()(x.expand(1, 3, 32, 32)))


def test_position_embeddings_are_fitted_to_a_spectrogram():
    published = timm.create_model("test_vit")
    spec = AudioInput(mels=32, seconds=0.63)
    module, width = encoders.build("timm:test_vit", "audio", spec)
    encoders.load_weights(module, "timm:test_vit", "audio", spec, saved(published.state_dict()))
    assert module.eval()(torch.rand(2, 1, 32, 64)).shape == (2, width)
    assert torch.equal(module.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)
    patches = module.pos_embed.shape[1] - 1
    assert patches == (32 // 16) * (64 // 16)


@pytest.fixture
def tiny_clip(monkeypatch):
    import open_clip as library

    config = {
        "embed_dim": 12,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 16,
            "head_width": 8,
            "patch_size": 16,
        },
        "text_cfg": {"context_length": 9, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
    }
    monkeypatch.setitem(library.factory._MODEL_CONFIGS, "tiny", config)
    return library.CLIP(**config), library.CustomTextCLIP(**config)


@pytest.mark.parametrize("layout", [0, 1], ids=["openai", "custom"])
def test_a_tower_is_taken_out_of_a_whole_clip(tiny_clip, layout):
    clip = tiny_clip[layout]
    path = saved(clip.state_dict())
    for modality, shape, theirs in (
        ("image", (2, 3, 32, 32), clip.encode_image),
        ("text", (2, 9), clip.encode_text),
    ):
        spec = encoders.input_spec("open_clip:tiny", modality)
        module, width = encoders.build("open_clip:tiny", modality, spec)
        assert width == 12
        encoders.load_weights(module, "open_clip:tiny", modality, spec, path)
        x = torch.rand(shape) if modality == "image" else torch.randint(1, 20, shape)
        torch.testing.assert_close(module.eval()(x), theirs(x))
        module(x).sum().backward()
        assert all(p.grad is not None for p in module.parameters())


def test_a_clip_s_positions_are_fitted_to_another_size_and_length(tiny_clip):
    path = saved(tiny_clip[0].state_dict())
    for modality, spec, shape in (
        ("image", ImageInput(size=64), (2, 3, 64, 64)),
        ("text", TextInput(length=6), (2, 6)),
    ):
        module, _ = encoders.build("open_clip:tiny", modality, spec)
        encoders.load_weights(module, "open_clip:tiny", modality, spec, path)
        x = torch.rand(shape) if modality == "image" else torch.randint(1, 20, shape)
        assert module.eval()(x).shape == (2, 12)


def test_weights_of_a_wider_clip_are_refused(tiny_clip):
    import open_clip as library

    wide = {"context_length": 9, "vocab_size": 20, "width": 24, "heads": 2, "layers": 1}
    other = library.CLIP(12, library.get_model_config("tiny")["vision_cfg"], wide)
    module, _ = encoders.build("open_clip:tiny", "text", TextInput(length=9))
    with pytest.raises(UserError, match="other shape: "):
        encoders.load_weights(
            module, "open_clip:tiny", "text", TextInput(length=9), saved(other.state_dict())
        )


def test_weights_are_published_where_open_clip_says():
    source = open_clip.source("ViT-B-32@laion2b_s34b_b79k")
    assert source.repo == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    assert source.files == ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    assert open_clip.source("ViTamin-S@datacomp1b").files == (
        "pytorch_model.safetensors",
        "pytorch_model.bin",
    )


def test_bundles_load_with_and_without_their_wrapping():
    published, module = tiny_wave("wav2vec2"), tiny_wave("wav2vec2")
    plain = {key.removeprefix("model."): value for key, value in published.state_dict().items()}
    old = {  # as torch saved normalised weights when the bundles were published
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in plain.items()
    }
    assert old.keys() != plain.keys()
    letters = {"aux.weight": torch.ones(3, 8), "aux.bias": torch.ones(3)}
    for state in (
        plain,
        old,
        old | letters,
        {f"model.{key}": value for key, value in (old | letters).items()},
    ):
        module = tiny_wave("wav2vec2")
        assert not same(module, published, 2, 50)
        encoders.load_weights(
            module, "torchaudio:WAV2VEC2_BASE", "audio", WaveInput(), saved(state)
        )
        x = torch.randn(2, 50)
        torch.testing.assert_close(module(x), published(x))
    assert torchaudio.source("MMS_FA").url.startswith("https://dl.fbaipublicfiles.com/")


def test_a_model_of_the_hub_loads_from_a_folder(bert):
    import transformers

    name = f"hf:{bert}"
    spec = encoders.input_spec(name, "text")
    assert spec == TextInput(length=16, tokenizer=name, padding=0)
    module, _ = encoders.build(name, "text", spec)
    path = encoders.find_weights(name, "text", None)
    assert path == bert / "model.safetensors"
    encoders.load_weights(module, name, "text", spec, path)
    tokens = torch.tensor([[2, 5, 6, 3]])
    theirs = (
        transformers.BertForMaskedLM.from_pretrained(bert).bert(tokens).last_hidden_state.mean(1)
    )
    torch.testing.assert_close(module.eval()(tokens), theirs)
    module(tokens).sum().backward()
    assert all(p.grad is not None for p in module.parameters())

    again, _ = encoders.build(name, "text", spec)
    encoders.load_weights(again, name, "text", spec, saved(module.state_dict(), "own.pt"))
    torch.testing.assert_close(again.eval()(tokens), theirs)


def test_padding_makes_no_difference_to_a_model_of_the_hub(bert):
    module, _ = encoders.build(f"hf:{bert}", "text", TextInput(length=8))
    module.eval()
    tokens = torch.tensor([[2, 5, 6, 3]])
    torch.testing.assert_close(module(tokens), module(torch.nn.functional.pad(tokens, (0, 4))))
    assert module(torch.zeros(2, 8, dtype=torch.int64)).isfinite().all()


def test_weights_that_a_model_of_the_hub_lacks_are_listed(bert):
    state = weights.read(bert / "model.safetensors")
    del state["bert.encoder.layer.0.attention.self.query.weight"]
    module, _ = encoders.build(f"hf:{bert}", "text", TextInput(length=8))
    with pytest.raises(
        UserError, match=r"missing: model\.encoder\.layer\.0\.attention\.self\.query\.weight"
    ):
        encoders.load_weights(module, f"hf:{bert}", "text", TextInput(length=8), saved(state))
    state = weights.read(bert / "model.safetensors")
    state["bert.embeddings.word_embeddings.weight"] = torch.ones(3, 8)
    with pytest.raises(
        UserError, match=r"other shape: model\.embeddings\.word_embeddings\.weight \(3, 8\) instead"
    ):
        encoders.load_weights(module, f"hf:{bert}", "text", TextInput(length=8), saved(state))


def test_a_model_of_the_hub_that_can_t_be_had(bert):
    with pytest.raises(UserError, match="no tokenizer: "):
        encoders.input_spec("hf:nobody/nothing", "text")
    with pytest.raises(UserError, match="takes 16 tokens, not 77"):
        encoders.build(f"hf:{bert}", "text", TextInput(length=77))


def test_transformers_is_asked_for_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'umemma\[transformers\]'"):
        hf.library()


# Low-rank adapters. ---------------------------------------------------------------------------------------------------


def test_fresh_adapters_change_nothing_and_a_step_changes_the_output():
    module, _ = encoders.build("timm:test_vit", "image", ImageInput(size=32))
    module.eval()
    x = torch.rand(2, 3, 32, 32)
    before = module(x)
    encoders.add_lora(module, rank=2, alpha=4.5, dropout=0.0)
    torch.testing.assert_close(module(x), before)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in trained}
    assert layers == {"qkv", "proj", "fc1", "fc2"}
    module(x).square().sum().backward()
    assert all(p.grad is not None for p in trained.values())
    torch.optim.SGD(trained.values(), lr=0.1).step()
    assert not torch.allclose(module(x), before)

    other, _ = encoders.build("timm:test_vit", "image", ImageInput(size=32))
    encoders.add_lora(other, rank=2, alpha=4.5, dropout=0.0)
    other.load_state_dict(module.state_dict())
    assert same(module, other, 2, 3, 32, 32)


def test_no_adapter_stands_where_it_would_be_passed_by(tiny_clip):
    """Every adapter gets a gradient: its layer is called."""
    tower, _ = encoders.build("open_clip:tiny", "text", TextInput(length=9))
    beit, _ = encoders.build("timm:beitv2_base_patch16_224", "image", ImageInput(size=32))
    beit.blocks = beit.blocks[:1]
    for module, x in ((tower, torch.randint(1, 20, (2, 9))), (beit, torch.rand(2, 3, 32, 32))):
        encoders.add_lora(module, rank=2, alpha=4, dropout=0.0)
        module(x).square().sum().backward()
        trained = [name for name, p in module.named_parameters() if p.requires_grad]
        assert trained
        assert not [name for name in trained if module.get_parameter(name).grad is None]
        assert not [name for name in trained if ".attn.out_proj." in name or ".qkv." in name]


def test_adapters_reach_the_attention_of_wav2vec2():
    module = tiny_wave("wav2vec2")
    encoders.add_lora(module, rank=2, alpha=4, dropout=0.0)
    assert any("attention.q_proj.lora_A" in name for name, _ in module.named_parameters())


def test_an_encoder_without_linear_layers_takes_no_adapters():
    module, _ = encoders.build("cnn:small", "image", ImageInput())
    with pytest.raises(UserError, match="no linear layer") as caught:
        encoders.add_lora(module, 2, 4, 0.0)
    assert "full or frozen" in caught.value.hint


def test_peft_is_asked_for_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError) as caught:
        encoders.add_lora(nn.Sequential(nn.Linear(1, 1)), 2, 4, 0.0)
    assert "pip install 'umemma[lora]'" in caught.value.hint
