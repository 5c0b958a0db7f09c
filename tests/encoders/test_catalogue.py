"""The list that `umemma encoders` prints."""

from __future__ import annotations

import re
import sys

import pytest

from umemma.encoders.catalogue import list_encoders
from umemma.errors import UserError


def test_the_listing_shows_small_families_in_full_and_large_ones_by_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, notes = list_encoders()
    assert [row.name for row in rows] == [
        "cnn:lenet",
        "cnn:small",
        "mlp:linear",
        "mlp:small",
        "series:cnn",
        "series:tcn",
        "series:transformer",
        "text:cnn",
        "text:transformer",
    ]
    assert {row.width for row in rows} == {0, 84, 64, 192, 128}
    assert {note.partition(":")[0] for note in notes} == {
        "hf",
        "import",
        "open_clip",
        "timm",
        "torchaudio",
        "torchvision",
    }
    assert re.search(r"timm: 1,\d\d\d models, for audio, image", "\n".join(notes))


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


def test_the_listing_shows_a_folder_and_an_encoder_of_one_s_own(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list_encoders("hf:bert") == (
        [("hf:bert", "text", 8, "16 tokens", "yes: bert/model.safetensors")],
        [],
    )
    with pytest.raises(UserError, match=r"no (tokenizer|config)"):
        list_encoders("hf:nowhere")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "from umemma.types import TextInput\n"
        "def words():\n"
        "    return nn.Embedding(9, 5), 5, TextInput(length=7)\n"
    )
    (row,), _ = list_encoders("import:mine:words")
    assert (row.width, row.input, row.weights) == (5, "7 tokens", "none needed")
    sys.modules.pop("mine")
