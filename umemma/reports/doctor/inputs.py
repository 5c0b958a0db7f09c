"""What is made of the samples: columns by their type, texts that are cut, enlarged pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from umemma import encoders
from umemma.config import Params
from umemma.errors import UserError
from umemma.modalities import table
from umemma.modalities import text as text_modality
from umemma.modalities.limits import describe_enlarging, read_file
from umemma.modalities.probe import Probe
from umemma.types import DatasetSpec, InputSpec, Packing, Record, TextInput

TEXTS_READ = 1000  # of a modality; records come in a random order
# Families whose inputs are known without a file, the network or code of the user.
OFFLINE = ("cnn", "text", "timm", "torchvision")


class SampleInputs:
    """What the samples have that a note tells about: some texts, and all rows of tables.

    texts: {modality: up to TEXTS_READ of its texts, or their files}; rows: {modality: what the
    training samples say of its columns, with folds all samples}.
    """

    def __init__(self, spec: DatasetSpec) -> None:
        self.kinds = spec.kinds
        self.has_folds = bool(spec.folds)
        self.texts: dict[str, list[str | bytes | Path]] = {}
        self.rows: dict[str, table.Survey] = {}

    def add(self, record: Record, media_probe: Probe) -> None:
        """Add what a sample has of texts and of rows."""
        lacking = media_probe.absent.keys() | media_probe.broken.keys() | media_probe.unseen
        for m in record.media.keys() - lacking:
            medium = record.media[m]
            kind = self.kinds.get(m, m)
            if kind == "text" and isinstance(medium, str | bytes | Path):
                kept = self.texts.setdefault(m, [])
                if len(kept) < TEXTS_READ:
                    kept.append(medium)
            elif kind == "table":
                packed = table.pack(medium, Packing())
                if packed is not None:
                    split = "train" if self.has_folds else record.split
                    survey = self.rows.setdefault(m, table.Survey(m))
                    survey.add(record.key, split, packed.data)

    def describe(self, params: Params) -> Iterator[str]:
        """Yield a note for each modality that has something to tell."""
        for m in params.modalities:
            spec = _find_spec(params, m)
            if spec is not None:
                enlarging = describe_enlarging(m, spec, params.preprocess.media)
                if enlarging:
                    yield f"{enlarging}."
            if m in self.texts:
                yield _describe_texts(m, self.texts[m], spec)
            if m in self.rows:
                yield "\n".join([f"{m}: its columns are read as", *self.rows[m].summarize()])


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
