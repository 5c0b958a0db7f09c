"""What the encoders of the settings make of the samples: texts that are cut, enlarged pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from umemma import encoders
from umemma.config import Params
from umemma.errors import UserError
from umemma.modalities import text as text_modality
from umemma.modalities.limits import describe_enlarging, read_file
from umemma.types import InputSpec, TextInput

TEXTS_READ = 1000  # of a modality; records come in a random order
# Families whose inputs are known without a file, the network or code of the user.
OFFLINE = ("cnn", "text", "timm", "torchvision")


def describe_inputs(
    params: Params, texts: Mapping[str, Sequence[str | bytes | Path]]
) -> Iterator[str]:
    """Yield a note for each modality that has something to tell.

    texts: {modality: some of its texts, or their files}.
    """
    for m in params.modalities:
        spec = _find_spec(params, m)
        if spec is not None:
            enlarging = describe_enlarging(m, spec, params.preprocess.media)
            if enlarging:
                yield f"{enlarging}."
        if texts.get(m):
            yield _describe_texts(m, texts[m], spec)


def _find_spec(params: Params, modality: str) -> InputSpec | None:
    """Return what the encoder of a modality takes; None where that can't be told here."""
    encoder = params.encoder(modality)
    if encoder.name.partition(":")[0] not in OFFLINE:
        return None
    try:
        spec = encoders.input_spec(encoder.name, encoder.kind or modality, modality)
        return encoder.adapt(spec, modality)
    except UserError:  # pretraining says what is wrong with the settings
        return None


def _describe_texts(
    modality: str, texts: Sequence[str | bytes | Path], spec: InputSpec | None
) -> str:
    words = []
    cut = 0
    for medium in texts:
        text = _read_text(medium)
        words.append(len(text.split()))
        if isinstance(spec, TextInput):
            cut += text_modality.is_cut(text, spec)
    words.sort()
    about = (
        f"{modality}: of {len(words):,} texts half have up to {words[(len(words) - 1) // 2]:,} "
        f"words, the longest has {words[-1]:,}."
    )
    if not isinstance(spec, TextInput):
        return about
    share = f"{100 * cut / len(words):.1f} %"
    setting = f"encoders.{modality}.input.length"
    return (
        f"{about} The encoder reads {spec.length:,} tokens ({setting}): {share} of them "
        "are longer and are cut."
    )


def _read_text(medium: str | bytes | Path) -> str:
    """Return the words of a text, "" of a file that can't be read, which is reported elsewhere."""
    if isinstance(medium, Path):
        try:
            medium = read_file(medium)
        except ValueError:
            return ""
    if isinstance(medium, bytes):
        return medium.decode("utf-8-sig", errors="replace")
    return medium
