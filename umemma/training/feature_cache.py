"""The feature cache: the output of frozen encoders, computed once instead of in every epoch.

A frozen encoder whose input is not augmented gives a sample the same feature in every epoch, and in
every evaluation. Cached features are files in runs/<dataset>/features/, named by a fingerprint of
the encoder, its weights, its input and the samples.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from umemma._version import __version__
from umemma.data.loader import LoadedSplit, cut_batches
from umemma.models.late_fusion import LateFusion
from umemma.system import distributed
from umemma.system.files import new_file, save_tensors
from umemma.validation import fingerprint


def find_frozen(model: LateFusion, augments: Mapping[str, Any]) -> list[str]:
    """Return the modalities whose features are the same in every epoch."""
    return [m for m in model.modalities if m in model.frozen and m not in augments]


@contextlib.contextmanager
def cache_features(
    model: LateFusion,
    splits: Mapping[str, LoadedSplit],
    modalities: Sequence[str],
    folder: Path,
    sources: Mapping[str, Any],
    batch_size: int,
    device: torch.device,
) -> Iterator[dict[str, LoadedSplit]]:
    """Give the splits with features in place of the inputs of `modalities`.

    Within the block the model does without the encoders of `modalities`. sources: what the samples
    depend on besides their keys.
    """
    if not modalities:
        yield dict(splits)
        return
    encoder_hashes = {m: hash_weights(model.encoders[m]) for m in modalities}
    splits_on_features = {}
    for split_name, split in splits.items():
        paths = {}
        for m in modalities:
            inputs = {
                "umemma": __version__,
                "made_from": dict(sources),
                "encoder": encoder_hashes[m],
                "input": repr(split.specs[m]),
                "precision": str(model.precision),
                "samples": _hash_samples(split, m),
            }
            paths[m] = folder / f"{split_name}-{m}-{fingerprint(inputs)}.safetensors"
        features = _load_or_encode(model, split, paths, batch_size, device)
        splits_on_features[split_name] = split.with_features(features)
    with model.on_features(encode_blanks(model, modalities)):
        yield splits_on_features


def encode_blanks(model: LateFusion, modalities: Sequence[str]) -> dict[str, Tensor]:
    """Return {modality: (D_m,)}: the features of the blank inputs."""
    model.eval()
    present = torch.ones(1, dtype=torch.bool)
    blanks = {}
    with torch.no_grad():
        for m in modalities:
            blank = model.get_buffer(f"blank_{m}")
            blanks[m] = model.encode_one(m, blank, present)[0]
    return blanks


def _load_or_encode(
    model: LateFusion,
    split: LoadedSplit,
    paths: Mapping[str, Path],
    batch_size: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Return {modality: (N, D_m)} on the CPU, from the cache or from one pass over the split.

    The pass is shared among the processes. It takes place if any process lacks any of the files.
    """
    cached = {}
    for m, path in paths.items():
        tensor = _read_cached(path)
        if tensor is not None:
            cached[m] = tensor
    is_complete = len(cached) == len(paths)
    if all(distributed.all_gather_object(is_complete)):
        return cached
    selected = split.select_modalities(paths.keys())
    features = encode_samples(
        model,
        selected,
        sorted(paths),
        np.arange(len(split)),
        batch_size,
        device,
    )
    if selected.stream:  # its workers have nothing left to decode
        selected.stream.close()
    if distributed.is_main():
        _write_cache(features, paths)
        folder = next(iter(paths.values())).parent
        logger.debug(f"features of {', '.join(paths)}: {len(split)} samples, cached in {folder}")
    distributed.all_gather_object(None)  # so that the files are there
    for m, path in paths.items():
        # Mapped into memory: the processes of a machine have them once, together.
        cached_rows = _read_cached(path)
        if cached_rows is not None:
            features[m] = cached_rows
    return features


def _write_cache(features: Mapping[str, Tensor], paths: Mapping[str, Path]) -> None:
    try:
        for m, path in paths.items():
            with new_file(path) as temporary:
                save_tensors({"features": features[m].contiguous()}, temporary)
    except (OSError, SafetensorError) as error:
        logger.warning(
            f"Cannot write features to the cache: {error}. Those in memory are used instead."
        )


def _read_cached(path: Path) -> Tensor | None:
    """Return the cached features, None for a file that is missing or damaged."""
    try:
        return load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None


def encode_samples(
    model: LateFusion,
    split: LoadedSplit,
    modalities: Sequence[str],
    indices: np.ndarray,
    batch_size: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Return {modality: (n, D_m)} on the CPU: the features of the samples `indices` (n,).

    They come from one pass that is shared among the processes. modalities: those of the split,
    sorted.
    """
    chunks: dict[str, list[Tensor]] = {m: [torch.empty(0, model.dims[m])] for m in modalities}
    model.eval()
    rank_rows = np.array(distributed.rank_indices(len(indices)), dtype=np.int64)
    rank_batches = cut_batches(indices[rank_rows], batch_size)
    with torch.no_grad():
        for batch in split.batches(rank_batches, device):
            for i, m in enumerate(modalities):
                features = model.encode_one(m, batch.inputs[m], batch.present[:, i])
                chunks[m].append(features.cpu())
    total = len(indices)
    return {m: distributed.gather_rows(torch.cat(parts), total) for m, parts in chunks.items()}


def _hash_samples(split: LoadedSplit, modality: str) -> str:
    """Return a hash of the keys of a split and of which samples have the modality."""
    column = sorted(split.specs).index(modality)
    has_modality = split.present[:, column].tolist()
    lines = [f"{key} {has}" for key, has in zip(split.keys, has_modality, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def hash_weights(encoder: nn.Module) -> str:
    """Return a hash of the structure and the weights of an encoder."""
    digest = hashlib.sha256(repr(encoder).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        tensor_bytes = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(tensor_bytes.numpy().data)
    return digest.hexdigest()
