"""Text: UTF-8 in the shards, tokens for the encoder, and the deletion of tokens in training."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch
from toys.augmentation import MANY_NUMBERS, augment_batch
from toys.media import PACKING

from umemma.errors import UserError
from umemma.modalities import text
from umemma.types import TextInput


def test_text_is_utf8(tmp_path):
    assert text.pack("  Grüße \n", PACKING) == ("txt", "Grüße".encode())
    (tmp_path / "a.txt").write_bytes("\ufeffword".encode())
    assert text.pack(tmp_path / "a.txt", PACKING) == ("txt", b"word")
    assert text.pack(" \n", PACKING) is None
    for bad in ("Grüße".encode("latin-1"), "\ud800"):
        with pytest.raises(ValueError, match="not UTF-8"):
            text.pack(bad, PACKING)
    too_long = "x" * (2**20 + 1)
    with pytest.raises(ValueError, match="over the size bound"):
        text.pack(too_long, PACKING)


# Tokenizers. --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_threads_that_share_a_tokenizer_get_their_own_lengths(bert):
    """Of two text modalities, say, whose encoders have one name."""
    words = b"a b c d e f " * 20
    wrong = []

    def decode(length):
        spec = TextInput(length=length, tokenizer=f"hf:{bert}")
        for _ in range(200):
            tokens = text.decode(words, spec)
            if len(tokens) != length or tokens[-1] != 3:  # [SEP]
                wrong.append(tokens)

    threads = [threading.Thread(target=decode, args=(length,)) for length in (6, 8, 10, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.slow
def test_text_becomes_tokens():
    tokens = text.decode(b"A photo of a cat", TextInput(length=8))  # as in CLIP's own examples
    assert tokens.tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    tokens = text.decode(b"a photo of a cat", TextInput(length=4))
    assert tokens.tolist() == [49406, 320, 1125, 49407]
    blank = text.make_blank(TextInput(length=4))
    assert blank.tolist() == [49406, 49407, 0, 0]
    blank = text.make_blank(TextInput(length=4, padding=7))
    assert blank.tolist() == [49406, 49407, 7, 7]
    with pytest.raises(ValueError, match="not UTF-8"):
        text.decode(b"\xff", TextInput())


def test_an_open_clip_model_brings_its_tokenizer():
    tokens = text.decode(b"a cat", TextInput(tokenizer="open_clip:ViT-B-32"))
    assert torch.equal(tokens, text.decode(b"a cat", TextInput(tokenizer="clip")))
    with pytest.raises(UserError, match="unknown model of open_clip 'ViT-B-33'") as caught:
        text.decode(b"a cat", TextInput(tokenizer="open_clip:ViT-B-33"))
    assert "Did you mean 'ViT-B-32'" in caught.value.hint


def test_a_tokenizer_of_transformers_in_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[UNK]": 0, "a": 1, "cat": 2}
    words = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    # It has no token for padding.
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    tokenizer.save_pretrained(tmp_path)
    spec = TextInput(length=4, tokenizer=f"hf:{tmp_path}", padding=9)
    assert text.decode(b"a dog a", spec).tolist() == [1, 0, 1, 9]
    assert text.decode(b"a cat a cat a cat", spec).tolist() == [1, 2, 1, 2]
    assert text.make_blank(spec).tolist() == [9, 9, 9, 9]


def test_tokenizers_that_cannot_be_had(tmp_path):
    for name in ("clap", "open_clip:", "hf", "sentencepiece:x"):
        with pytest.raises(UserError, match=f"unknown tokenizer '{name}'"):
            text.make_blank(TextInput(tokenizer=name))
    pytest.importorskip("transformers")
    names = [
        f"hf:{tmp_path}",
        f"hf:{tmp_path / 'nowhere'}",
        f"open_clip:local-dir:{tmp_path}",
    ]
    for name in names:
        with pytest.raises(UserError, match="is unavailable") as caught:
            text.make_blank(TextInput(tokenizer=name))
        assert "cache of Hugging Face" in caught.value.hint


def test_a_tokenizer_whose_library_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="transformers") as caught:
        text.make_blank(TextInput(tokenizer="hf:never-tried"))
    assert caught.value.hint == "Install transformers."


# Augmentation. ------------------------------------------------------------------------------------


def delete_tokens(
    tokens: list[int],
    numbers: list[float],
    dropout: float = 0.5,
    padding: int = 0,
) -> list[int]:
    """Delete tokens of one text by these draws."""
    spec = TextInput(length=len(tokens), padding=padding)
    drawn = {"dropout": np.array([numbers])}
    batch = torch.tensor([tokens])
    return text.augment(batch, spec, text.Augment(dropout=dropout), drawn)[0].tolist()


def test_tokens_are_deleted_and_the_rest_moves_up():
    left = delete_tokens([1, 5, 6, 7, 2, 0], [0.0, 0.9, 0.4, 0.6, 0.0, 0.0])
    assert left == [1, 5, 7, 2, 0, 0]
    left = delete_tokens([1, 5, 6, 7, 2, 9], [0.0, 0.9, 0.4, 0.3, 0.0, 0.0], padding=9)
    assert left == [1, 5, 2, 9, 9, 9]
    # 0 is a token here too.
    left = delete_tokens([1, 0, 6, 0, 2, 0], [0.0, 0.9, 0.4, 0.6, 0.0, 0.0])
    assert left == [1, 0, 0, 2, 0, 0]


def test_one_token_and_the_marks_always_stay():
    left = delete_tokens([1, 5, 6, 7, 2, 0], [0.0, 0.1, 0.3, 0.2, 0.0, 0.0])
    assert left == [1, 6, 2, 0, 0, 0]
    assert delete_tokens([1, 2, 0], [0.0, 0.0, 0.0]) == [1, 2, 0]
    assert delete_tokens([0, 0, 0], [0.0, 0.0, 0.0]) == [0, 0, 0]
    assert delete_tokens([1, 5, 2], [0.9, 0.1, 0.9], dropout=1.0) == [1, 5, 2]


def test_tokens_are_deleted_as_often_as_is_asked_for():
    tokens = torch.full((4000, 77), 5)
    augmented = augment_batch(text, tokens, TextInput(), MANY_NUMBERS, dropout=0.2)
    mean_length = (augmented != 0).sum(1).double().mean()
    assert mean_length == pytest.approx(2 + 75 * 0.8, abs=0.2)
