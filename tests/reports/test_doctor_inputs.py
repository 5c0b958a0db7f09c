"""What the doctor says of the encoders' inputs: cut texts and enlarged pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from umemma.config import Params
from umemma.reports.doctor.inputs import describe_inputs


def describe(texts=(), **changes) -> list[str]:
    settings = {"dataset": "manifest", "modalities": ["image", "text"], **changes}
    return list(describe_inputs(Params(**settings), {"text": texts}))


def test_the_lengths_of_texts_and_the_share_that_is_cut(tmp_path):
    Path(tmp_path / "a.txt").write_text("one two three four five six")
    texts = ["a dog", "three small words", tmp_path / "a.txt", "x"]
    (note,) = describe(texts, encoders={"text": {"input": {"length": 5}}})
    # Two tokens are marks, so what has more than three words is cut.
    assert note == (
        "text: of 4 texts half have up to 2 words, the longest has 6. The encoder reads 5 tokens "
        "(encoders.text.input.length): 25.0 % of them are longer and are cut."
    )


def test_of_an_encoder_that_needs_files_only_words_are_counted():
    (note,) = describe(["a dog"], encoders={"text": "hf:nowhere/nothing"})
    assert note == "text: of 1 texts half have up to 2 words, the longest has 2."


@pytest.mark.parametrize(("side", "is_told"), [(256, True), (320, False)])
def test_pictures_that_are_stored_smaller_than_the_encoder_takes_them(side, is_told):
    notes = describe(
        preprocess={"media": {"side": side}}, encoders={"image": {"input": {"size": 300}}}
    )
    assert [f"a shorter side of {side} pixels" in note for note in notes] == [True] * is_told
    assert all("encoders.image.input.size" in note for note in notes)
