"""Files of weights: where they lie, how they come, how they are read. Only files are fetched, and none is unpickled freely."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from umemma.errors import UserError
from umemma.system.http import NotServed, http
from umemma.types import Source

FOLDER = Path("data/weights")  # in the project
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
PATIENCE = 10.0  # s for the hub to answer at all
# What torch.load raises for files that it refuses or that are damaged, as found by damaging some.
UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, RuntimeError),
    *(AssertionError, AttributeError, LookupError, TypeError, ValueError),
)
SHOWN = 6  # keys of each kind in an error


class Upstream(NamedTuple):
    """Where weights are published: one of `files` (the better first) in a Hugging Face repository or in a local folder
    of that name; else a URL."""

    repo: str = ""
    files: tuple[str, ...] = ()
    url: str = ""


def place(name: str) -> Path:
    """data/weights/<family>/<variant>, without the suffix."""
    family, _, variant = name.partition(":")
    return FOLDER / family / variant.lstrip("/")


def placed(name: str) -> Path | None:
    """The file that a person put in the project for an encoder."""
    stem = place(name)
    files = (
        stem.with_name(f"{stem.name}{suffix}") for suffix in SUFFIXES
    )  # not with_suffix: names have dots
    return next((file for file in files if file.is_file()), None)


def cached(source: Upstream) -> Path | None:
    """The published file, where it is on this machine already."""
    if source.url:
        path = _hub_file(source.url)
        return path if path.is_file() else None
    if Path(source.repo).is_dir():
        found = [
            Path(source.repo, file) for file in source.files if Path(source.repo, file).is_file()
        ]
        return found[0] if found else None
    from huggingface_hub import try_to_load_from_cache

    paths = (try_to_load_from_cache(source.repo, file) for file in source.files)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def fetch(source: Upstream) -> Path:
    """The published file. NotServed, soon, where there is neither a copy on this machine nor a network."""
    if path := cached(source):
        return path
    if source.url:
        path = _hub_file(source.url)
        http(source.url, path, Source(path.name), retries=2)
        return path
    if Path(source.repo).is_dir():
        raise NotServed(f"{source.repo} holds no {' or '.join(source.files)}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if not online():
        raise NotServed("the hub can't be reached, and no copy is in its cache")
    for file in source.files:
        try:
            return Path(hf_hub_download(source.repo, file))
        except LocalEntryNotFoundError as error:  # an EntryNotFoundError, but of the network
            raise NotServed(_one_line(error)) from None
        except EntryNotFoundError:
            continue
        except (
            OSError,
            ValueError,
        ) as error:  # the hub's errors are OSErrors; ValueError: no such name can be
            raise NotServed(_one_line(error)) from None
    raise NotServed(f"{source.repo} holds no {' or '.join(source.files)}")


def online() -> bool:
    """Whether the hub may be asked and answers. Asking first is what keeps its own retries from taking minutes."""
    import requests
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(constants.ENDPOINT, timeout=PATIENCE)
    except requests.RequestException:
        return False
    return True


def read(path: Path) -> dict[str, Tensor]:
    """A state dict, out of the wrapping of a training checkpoint if need be. UserError for anything else."""
    hint = "Use a .safetensors file, or a torch file that holds nothing but tensors."
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                return _unwrapped(load_file(path))
            except SafetensorError as error:
                raise UserError(
                    f"not readable as weights: {_one_line(error)}", str(path), hint
                ) from None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that can't be loaded, which the error says
            state = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}", str(path), hint) from None
    except UNREADABLE as error:
        reason = _one_line(error).split(". ")[0]
        raise UserError(f"can't be loaded safely as weights: {reason}", str(path), hint) from None
    if not (state := _unwrapped(state)):
        raise UserError("holds no weights", str(path), hint)
    return state


def _unwrapped(state: object) -> dict[str, Tensor]:
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        return {}
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    return without(tensors, "module.")  # as DistributedDataParallel saves them


def without(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors with `prefix` off their names, where all have it."""
    strip = len(prefix) if all(key.startswith(prefix) for key in state) else 0
    return {key[strip:]: value for key, value in state.items()}


def fits(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    own = module.state_dict()
    return own.keys() == state.keys() and all(own[key].shape == state[key].shape for key in own)


def load(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Every weight of `module` from `state`. UserError with what is missing, left over or of another shape."""
    own = module.state_dict()
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if shapes:
        missing: Iterable[str] = own.keys() - state.keys()
        unexpected: Iterable[str] = state.keys() - own.keys()
    else:
        missing, unexpected = module.load_state_dict(state, strict=False)
    problems = {"missing": sorted(missing), "unexpected": sorted(unexpected), "other shape": shapes}
    if wrong := [f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys]:
        raise UserError(
            f"these are not the weights of this encoder; {'; '.join(wrong)}",
            what,
            "Name the weights of this very encoder, or train from scratch with `weights: none`.",
        )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _hub_file(url: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
