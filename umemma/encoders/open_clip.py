"""`open_clip:MODEL[@PRETRAINED]`: the image tower or the text tower of a CLIP.

D is the width of the space that both towers share.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from umemma.encoders import hf
from umemma.encoders.weights import Upstream
from umemma.errors import UserError
from umemma.types import ImageInput, InputSpec, TextInput

MODALITIES = ("image", "text", "video")
PRETRAINED = True
# CustomTextCLIP builds both towers. The one that is not needed is made as small as possible, and
# dropped.
NO_IMAGE = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
NO_TEXT = {"layers": 1, "width": 8, "heads": 1, "vocab_size": 1, "context_length": 1}
POSITIONS = "text.positional_embedding"
MAX_TAGS_SHOWN = 4


def names() -> tuple[str, ...]:
    import open_clip

    tagged = (f"{model}@{tag}" for model, tag in open_clip.list_pretrained())
    return *open_clip.list_models(), *tagged


def input_spec(variant: str, modality: str) -> InputSpec:
    model, weights_config = _split_variant(variant)
    config = _model_config(model)
    if modality == "text":
        return _text_input(model, config["text_cfg"])
    return _image_input(config["vision_cfg"], weights_config)


def _text_input(model: str, config: dict[str, Any]) -> TextInput:
    tokenizer = "clip"
    if "hf_tokenizer_name" in config or "tokenizer_kwargs" in config:
        tokenizer = f"open_clip:{model}"
    hub_name = config.get("hf_model_name")
    padding = 0
    if hub_name:
        padding = hf.find_padding(hub_name)
    elif "SigLIP" in model and "SigLIP2" not in model:
        padding = 1
    length = config.get("context_length", 77)
    return TextInput(length=length, tokenizer=tokenizer, padding=padding)


def _image_input(config: dict[str, Any], weights_config: dict[str, Any]) -> ImageInput:
    from open_clip.transform import PreprocessCfg

    preprocessing = vars(PreprocessCfg()) | weights_config
    return ImageInput(
        size=config.get("image_size", 224),
        mean=preprocessing["mean"],
        std=preprocessing["std"],
        crop=preprocessing["resize_mode"] == "shortest",
    )


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    import open_clip

    model, weights_config = _split_variant(variant)
    config = _model_config(model)
    if isinstance(spec, TextInput):
        _configure_text_tower(config, spec)
    else:
        assert isinstance(spec, ImageInput)
        if spec.channels != 3:
            what = "its pictures have 3 channels"
            raise UserError(what, f"open_clip:{variant}", usage=True)
        config["vision_cfg"] |= {"timm_model_pretrained": False, "image_size": spec.size}
        config["text_cfg"] = NO_TEXT
    quick_gelu = config.get("quick_gelu", False) or weights_config.get("quick_gelu", False)
    width = config["embed_dim"]
    clip = open_clip.CustomTextCLIP(
        width,
        config["vision_cfg"],
        config["text_cfg"],
        quick_gelu=quick_gelu,
    )
    if isinstance(spec, TextInput):
        return TextTower(clip.text), width
    return ImageTower(clip.visual), width


def _configure_text_tower(config: dict[str, Any], spec: TextInput) -> None:
    text_config = config["text_cfg"]
    text_config["hf_model_pretrained"] = False
    if "hf_model_name" in text_config:
        hf.import_transformers()
    else:
        text_config["context_length"] = spec.length
    config["vision_cfg"] = NO_IMAGE


def width(variant: str) -> int:
    model, _ = _split_variant(variant)
    return int(_model_config(model)["embed_dim"])


def source(variant: str) -> Upstream:
    """Return where the weights are. UserError without a PRETRAINED: a model has several weights."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    model, weights_config = _split_variant(variant)
    if not weights_config:
        raise _unnamed_weights(model)
    repo, _, file = weights_config["hf_hub"].rpartition("/")
    if not repo:
        return Upstream(url=weights_config["url"])
    if not file or file == HF_WEIGHTS_NAME:
        return Upstream(repo, (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME))
    return Upstream(repo, (f"{file.rpartition('.')[0]}.safetensors", file))


def _unnamed_weights(model: str) -> UserError:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    suggestion = "None are known"
    if tags:
        names = [f"open_clip:{model}@{tag}" for tag in tags[:MAX_TAGS_SHOWN]]
        suggestion = f"Name one: {', '.join(names)}"
    hint = f"{suggestion}; or give a file as weights; `weights: none` trains from scratch."
    return UserError("which weights? Add @PRETRAINED", f"open_clip:{model}", hint, usage=True)


def convert(
    state: dict[str, Tensor],
    module: nn.Module,
    variant: str,
    spec: InputSpec,
) -> dict[str, Tensor]:
    """Convert as open_clip.factory.load_checkpoint does, and return the part of the tower."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import (
        convert_to_custom_text_state_dict,
        resize_pos_embed,
        resize_text_pos_embed,
    )

    if _is_mobile_clip(state):
        state = convert_state_dict(module, state)
    if "positional_embedding" in state:
        state = convert_to_custom_text_state_dict(state)
    state = _select_tower(state, module)
    if isinstance(module, ImageTower):
        resize_pos_embed(state, module)
    if _has_positions_of_same_width(state, module):
        resize_text_pos_embed(state, module)
    return state


def _has_positions_of_same_width(state: dict[str, Tensor], module: nn.Module) -> bool:
    """Whether a text's position embeddings differ from the module's in their number only."""
    saved = state.get(POSITIONS)
    expected = module.state_dict().get(POSITIONS)
    if saved is None or expected is None:
        return False
    return saved.shape[1:] == expected.shape[1:]


def _is_mobile_clip(state: dict[str, Tensor]) -> bool:
    """Whether these are weights of MobileCLIP, which are published in names of their own."""
    if "image_encoder.model.patch_emb.0.block.conv.weight" in state:
        return True
    return any("rbr_conv" in key for key in state)


def _select_tower(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    tower = "text." if isinstance(module, TextTower) else "visual."
    selected: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(tower) and not key.endswith("position_ids"):
            selected[key] = value
    return selected


def _split_variant(variant: str) -> tuple[str, dict[str, Any]]:
    """Return the model's name, and open_clip's configuration of the weights named after the @."""
    import open_clip

    model, _, tag = variant.partition("@")
    if not tag:
        return model, {}
    return model, open_clip.get_pretrained_cfg(model, tag)


def _model_config(model: str) -> dict[str, Any]:
    """Return a copy of open_clip's configuration of a model."""
    import open_clip

    return open_clip.get_model_config(model)


class ImageTower(nn.Module):
    """(B, 3, H, W) -> (B, D). The tower has the name that it has in a whole CLIP."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, x: Tensor) -> Tensor:
        return _drop_tokens(self.visual(x))


class TextTower(nn.Module):
    """(B, T) token numbers -> (B, D)."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = text

    def forward(self, tokens: Tensor) -> Tensor:
        return _drop_tokens(self.text(tokens))


def _drop_tokens(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Return the pooled feature. CoCa's towers return the features of their tokens beside it."""
    if isinstance(output, tuple):
        return output[0]
    return output
