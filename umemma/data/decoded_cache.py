"""The cache of decoded samples: what one training has decoded, the next one maps into its memory.

The samples of a split are decoded alike in every stage, for every seed and in every experiment of a
comparison. A file per split and modality in runs/<dataset>/decoded/ has them as they are held in
memory, those samples only that have the modality. It is memory-mapped, so processes of one machine
share its pages. Its name has a fingerprint of the samples, of the shards, of what the encoder takes
and of the libraries that decode; a file of another fingerprint is replaced. Texts are not cached:
what they become depends on the files of a tokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from umemma import modalities
from umemma._version import __version__
from umemma.data.decoding import SampleDataset
from umemma.system import distributed
from umemma.system.files import new_file, save_tensors
from umemma.types import TextInput
from umemma.validation import fingerprint

LIBRARIES = ("av", "numpy", "pillow", "soundfile", "torch", "torchaudio", "torchvision")


def load_or_decode(
    dataset: SampleDataset,
    folder: Path,
    split: str,
    sources: Mapping[str, Any],
    decode: Callable[[SampleDataset], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Return {modality: (N, ...)} of all samples, from the cache or by `decode`, which fills it.

    sources: what the samples depend on besides their keys. A modality is decoded if any process
    lacks its file.
    """
    paths = {}
    cached = {}
    for m, spec in dataset.specs.items():
        if isinstance(spec, TextInput):
            continue
        name = f"{split}-{m}-{_fingerprint(dataset, m, sources)}.safetensors"
        paths[m] = folder / name
        rows = _read(paths[m], len(_list_present(dataset, m)))
        if rows is not None:
            cached[m] = rows
    in_every_process = set(cached).intersection(*distributed.all_gather_object(set(cached)))
    rest = [m for m in dataset.specs if m not in in_every_process]
    decoded: dict[str, Tensor] = {}
    if rest:
        decoded = decode(dataset.select_modalities(rest))
    inputs = {}
    for m in dataset.specs:
        if m in in_every_process:
            inputs[m] = _add_absent(dataset, m, cached[m])
            continue
        inputs[m] = decoded.pop(m)
        if m not in paths:
            continue
        present = _list_present(dataset, m)
        if distributed.is_main():
            _write(inputs[m][present], paths[m], f"{split}-{m}-")
        distributed.all_gather_object(None)  # so that the file is there
        # It is mapped into memory: the processes of a machine have its rows once, together.
        rows = _read(paths[m], len(present))
        if rows is not None:
            inputs[m] = _add_absent(dataset, m, rows)
    return inputs


def _list_present(dataset: SampleDataset, modality: str) -> Tensor:
    """Return the numbers of the samples that have a modality."""
    return torch.from_numpy(dataset.media.has(modality)).nonzero()[:, 0]


def _add_absent(dataset: SampleDataset, modality: str, rows: Tensor) -> Tensor:
    """Return (N, ...): the rows of the samples that have the modality, blank inputs elsewhere."""
    present = _list_present(dataset, modality)
    if len(present) == len(dataset.keys):
        return rows
    spec = dataset.specs[modality]
    blank: Tensor = modalities.find_module(spec).make_blank(spec)
    inputs = blank[None].repeat(len(dataset.keys), *[1] * blank.ndim)
    inputs[present] = rows
    return inputs


def _fingerprint(dataset: SampleDataset, modality: str, sources: Mapping[str, Any]) -> str:
    keys = [dataset.keys[i] for i in _list_present(dataset, modality).tolist()]
    return fingerprint(
        {
            "umemma": __version__,
            "libraries": [_find_version(name) for name in LIBRARIES],
            "made_from": dict(sources),
            "input": repr(dataset.specs[modality]),
            "samples": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
        }
    )


def _find_version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # installed without metadata
        return "unknown"


def _read(path: Path, count: int) -> Tensor | None:
    """Return the cached rows, None for a file that is missing or damaged."""
    try:
        rows = load_file(path)["inputs"]
    except (OSError, SafetensorError, KeyError):
        return None
    if len(rows) != count:
        return None
    return rows


def _write(rows: Tensor, path: Path, prefix: str) -> None:
    """Write the rows, and remove what was cached of this split and modality before."""
    try:
        with new_file(path) as temporary:
            save_tensors({"inputs": rows.contiguous()}, temporary)
        for old in path.parent.glob(f"{prefix}*.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        logger.warning(
            f"Cannot cache decoded samples: {error}. They are decoded again by the next command."
        )
