"""Every test of encoders runs in an empty project folder, with empty caches and no network."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """A project folder of its own, empty caches and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))


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
