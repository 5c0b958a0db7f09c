"""A frozen encoder that nothing augments gives a sample the same feature in every epoch: it is computed once and kept.

Kept features lie in runs/<dataset>/features/, named by a fingerprint of the encoder, its weights, its input and the samples.
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
    """The modalities whose features training doesn't change."""
    return [m for m in model.modalities if m in model.frozen and m not in augments]


@contextlib.contextmanager
def cache_features(
    model: LateFusion,
    splits: Mapping[str, LoadedSplit],
    names: Sequence[str],
    folder: Path,
    made_from: Mapping[str, Any],
    batch_size: int,
    device: torch.device,
) -> Iterator[dict[str, LoadedSplit]]:
    """The splits with features in place of the inputs of `names`, and the model, for as long as the block lasts, without
    their encoders. made_from: what the samples depend on besides their keys."""
    if not names:
        yield dict(splits)
        return
    own = {
        m: {
            "umemma": __version__,
            "made_from": dict(made_from),
            "encoder": _weights(model.encoders[m]),
        }
        for m in names
    }
    for m in names:
        own[m] |= {
            "input": repr(next(iter(splits.values())).specs[m]),
            "precision": str(model.precision),
        }
    replaced = {}
    for name, split in splits.items():
        where = {}
        for m in names:
            there = split.present[:, sorted(split.specs).index(m)].tolist()
            samples = _text([f"{key} {has}" for key, has in zip(split.keys, there, strict=True)])
            where[m] = (
                folder / f"{name}-{m}-{fingerprint(own[m] | {'samples': samples})}.safetensors"
            )
        replaced[name] = split.with_features(_features(model, split, where, batch_size, device))
    with torch.no_grad():
        model.eval()
        one = torch.ones(1, dtype=torch.bool)
        blanks = {m: model.encode_one(m, model.get_buffer(f"blank_{m}"), one)[0] for m in names}
    with model.on_features(blanks):
        yield replaced


def _features(
    model: LateFusion,
    split: LoadedSplit,
    where: Mapping[str, Path],
    batch_size: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """{modality: (N, D_m)} on the CPU, from where they were kept or from one pass, shared among the processes."""
    found = {m: _read(path) for m, path in where.items()}
    if all(distributed.all_gather_object(all(x is not None for x in found.values()))):
        return {m: x for m, x in found.items() if x is not None}
    features = encode_samples(
        model,
        split.select_modalities(where.keys()),
        sorted(where),
        np.arange(len(split)),
        batch_size,
        device,
    )
    if distributed.is_main():
        try:
            for m, path in where.items():
                with new_file(path) as aside:
                    save_tensors({"features": features[m].contiguous()}, aside)
        except (OSError, SafetensorError) as error:
            logger.warning(
                f"Features can't be kept on the disk: {error}. Training goes on with those in memory."
            )
        logger.debug(
            f"features of {', '.join(where)}: {len(split)} samples, kept in {next(iter(where.values())).parent}"
        )
    return features


def encode_samples(
    model: LateFusion,
    split: LoadedSplit,
    names: Sequence[str],
    numbers: np.ndarray,
    batch_size: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """{modality: (n, D_m)} on the CPU, of the samples `numbers` (n,), from one pass shared among the processes. names: the
    modalities of the split, sorted."""
    chunks: dict[str, list[Tensor]] = {m: [torch.empty(0, model.dims[m])] for m in names}
    model.eval()
    mine = numbers[np.array(distributed.rank_indices(len(numbers)), dtype=np.int64)]
    with torch.no_grad():
        for batch in split.batches(cut_batches(mine, batch_size), device):
            for i, m in enumerate(names):
                chunks[m].append(model.encode_one(m, batch.inputs[m], batch.present[:, i]).cpu())
    return {
        m: distributed.gather_rows(torch.cat(parts), len(numbers)) for m, parts in chunks.items()
    }


def _read(path: Path) -> Tensor | None:
    try:
        return load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None


def _weights(encoder: nn.Module) -> str:
    digest = hashlib.sha256(repr(encoder).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _text(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
