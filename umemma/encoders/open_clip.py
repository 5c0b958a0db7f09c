"""`open_clip:MODEL[@PRETRAINED]`: the image tower or the text tower of a CLIP. D is the width of their common space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from umemma.encoders import hf
from umemma.encoders.weights import Upstream
from umemma.errors import UserError
from umemma.types import ImageInput, InputSpec, TextInput

if TYPE_CHECKING:
    from collections.abc import Mapping

MODALITIES = ("image", "text", "video")
PRETRAINED = True
# CustomTextCLIP builds both towers; the one that isn't wanted is as small as it gets, and dropped.
NO_IMAGE = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 8, "image_size": 8}
POSITIONS = "text.positional_embedding"
NO_TEXT = {"layers": 1, "width": 8, "heads": 1, "vocab_size": 1, "context_length": 1}


def names() -> tuple[str, ...]:
    import open_clip

    tags = (f"{model}@{tag}" for model, tag in open_clip.list_pretrained())
    return *open_clip.list_models(), *tags


def input_spec(variant: str, modality: str) -> InputSpec:
    from open_clip.transform import PreprocessCfg

    model, tag = _parts(variant)
    config = _config(model)
    if modality == "text":
        text = config["text_cfg"]
        own = "hf_tokenizer_name" in text or "tokenizer_kwargs" in text
        tokenizer = f"open_clip:{model}" if own else "clip"
        hub = text.get("hf_model_name")
        padding = (
            hf.padding(hub) if hub else int("SigLIP" in model and "SigLIP2" not in model)
        )  # 1 in SigLIP's first
        return TextInput(
            length=text.get("context_length", 77), tokenizer=tokenizer, padding=padding
        )
    known: Mapping[str, Any] = vars(PreprocessCfg()) | tag
    size, mean, std = config["vision_cfg"].get("image_size", 224), known["mean"], known["std"]
    return ImageInput(size=size, mean=mean, std=std, crop=known["resize_mode"] == "shortest")


def build(variant: str, spec: InputSpec) -> tuple[nn.Module, int]:
    import open_clip

    model, tag = _parts(variant)
    config = _config(model)
    text = isinstance(spec, TextInput)
    if isinstance(spec, TextInput):
        config["text_cfg"] |= {"hf_model_pretrained": False}
        if "hf_model_name" not in config["text_cfg"]:
            config["text_cfg"] |= {"context_length": spec.length}
        else:
            hf.library()
        config["vision_cfg"] = NO_IMAGE
    else:
        assert isinstance(spec, ImageInput)
        if spec.channels != 3:
            raise UserError("its pictures have 3 channels", f"open_clip:{variant}", usage=True)
        config["vision_cfg"] |= {"timm_model_pretrained": False, "image_size": spec.size}
        config["text_cfg"] = NO_TEXT
    quick = config.get("quick_gelu", False) or tag.get("quick_gelu", False)
    both = open_clip.CustomTextCLIP(
        config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=quick
    )
    return (TextTower(both.text) if text else ImageTower(both.visual)), config["embed_dim"]


def width(variant: str) -> int:
    return int(_config(_parts(variant)[0])["embed_dim"])


def source(variant: str) -> Upstream:
    """UserError without a PRETRAINED: a model alone doesn't say which weights."""
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    model, tag = _parts(variant)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(model)
        some = (
            f"Name one: {', '.join(f'open_clip:{model}@{one}' for one in tags[:4])}"
            if tags
            else "None are known"
        )
        raise UserError(
            "which weights? Add @PRETRAINED",
            f"open_clip:{variant}",
            f"{some}; or give a file as weights; `weights: none` trains from scratch.",
            usage=True,
        )
    repo, _, file = tag["hf_hub"].rpartition("/")
    if not repo:
        return Upstream(url=tag["url"])
    file = file or HF_WEIGHTS_NAME
    safe = (
        HF_SAFE_WEIGHTS_NAME
        if file == HF_WEIGHTS_NAME
        else f"{file.rpartition('.')[0]}.safetensors"
    )
    return Upstream(repo, (safe, file))


def convert(
    state: dict[str, Tensor], module: nn.Module, variant: str, spec: InputSpec
) -> dict[str, Tensor]:
    """As open_clip.factory.load_checkpoint does, and of the result the tower's own part."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import (
        convert_to_custom_text_state_dict,
        resize_pos_embed,
        resize_text_pos_embed,
    )

    if "image_encoder.model.patch_emb.0.block.conv.weight" in state or any(
        "rbr_conv" in key for key in state
    ):
        state = convert_state_dict(module, state)
    if "positional_embedding" in state:
        state = convert_to_custom_text_state_dict(state)
    tower = "text." if isinstance(module, TextTower) else "visual."
    state = {
        key: value
        for key, value in state.items()
        if key.startswith(tower) and not key.endswith("position_ids")
    }
    if isinstance(module, ImageTower):
        resize_pos_embed(state, module)
    own, theirs = module.state_dict().get(POSITIONS), state.get(POSITIONS)
    if own is not None and theirs is not None and own.shape[1:] == theirs.shape[1:]:
        resize_text_pos_embed(state, module)
    return state


def _parts(variant: str) -> tuple[str, dict[str, Any]]:
    """The model's name, and what is known of the weights that are named after the @."""
    import open_clip

    model, _, tag = variant.partition("@")
    return model, open_clip.get_pretrained_cfg(model, tag) if tag else {}


def _config(model: str) -> dict[str, Any]:
    import open_clip

    return open_clip.get_model_config(model)  # a copy


class ImageTower(nn.Module):
    """(B, 3, H, W) -> (B, D). The tower keeps the name that it has in a whole CLIP."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, x: Tensor) -> Tensor:
        return _pooled(self.visual(x))


class TextTower(nn.Module):
    """(B, T) token numbers -> (B, D)."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = text

    def forward(self, tokens: Tensor) -> Tensor:
        return _pooled(self.text(tokens))


def _pooled(out: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return out[0] if isinstance(out, tuple) else out  # CoCa's towers give their tokens too
