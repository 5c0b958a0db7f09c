"""Files of weights: where they are, how they are downloaded, how they are read.

Only files are downloaded, and unpickling is restricted to tensors.
"""

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

from umemma.encoders.published_names import describe_library, shorten_keys
from umemma.errors import UserError
from umemma.system.http import NotServed, fetch_http
from umemma.types import Source

FOLDER = Path("data/weights")  # in the project
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
HUB_TIMEOUT = 10.0  # s
# What torch.load raises for files that it refuses or that are damaged, found by damaging some.
UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    RuntimeError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
HINT = "Use a .safetensors file, or a torch file that holds nothing but tensors."
# Of a whole pickled model: umemma never unpickles, and who trusts the file can.
PICKLE_HINT = (
    f"{HINT} If you trust the file, convert it where the code of its model is installed: "
    """python -c "import torch; torch.save(torch.load('{path}', weights_only=False)"""
    """.state_dict(), '{converted}')\""""
)


class Upstream(NamedTuple):
    """Where weights are published.

    Either one of `files`, the preferred first, in a Hugging Face repository or in a local folder of
    the name `repo`; or a URL.
    """

    repo: str = ""
    files: tuple[str, ...] = ()
    url: str = ""


# Find and download. ---------------------------------------------------------------------------


def placed_name(name: str) -> Path:
    """Return data/weights/<family>/<variant>, without the suffix."""
    family, _, variant = name.partition(":")
    return FOLDER / family / variant.lstrip("/")


def find_placed(name: str) -> Path | None:
    """Return the file that a person placed in the project for an encoder."""
    stem = placed_name(name)
    for suffix in SUFFIXES:
        file = stem.with_name(f"{stem.name}{suffix}")  # not with_suffix: names have dots
        if file.is_file():
            return file
    return None


def find_cached(source: Upstream) -> Path | None:
    """Return the published file where it is on this machine already."""
    if source.url:
        path = _torch_hub_path(source.url)
        return path if path.is_file() else None
    if Path(source.repo).is_dir():
        paths = [Path(source.repo, file) for file in source.files]
        return next((path for path in paths if path.is_file()), None)
    from huggingface_hub import try_to_load_from_cache

    for file in source.files:
        cached = try_to_load_from_cache(source.repo, file)
        if isinstance(cached, str):
            return Path(cached)
    return None


def fetch_weights(source: Upstream) -> Path:
    """Return the published file, downloaded if need be.

    NotServed, without a long wait, where neither this machine nor the network has it.
    """
    cached = find_cached(source)
    if cached:
        return cached
    if source.url:
        path = _torch_hub_path(source.url)
        fetch_http(source.url, path, Source(path.name), retries=2)
        return path
    if Path(source.repo).is_dir():
        raise _not_in_repo(source)
    return _download_from_hub(source)


def _download_from_hub(source: Upstream) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if not is_online():
        raise NotServed("the hub can't be reached, and no copy is in its cache")
    for file in source.files:
        try:
            return Path(hf_hub_download(source.repo, file))
        except LocalEntryNotFoundError as error:  # an EntryNotFoundError, but of the network
            raise NotServed(_join_lines(error)) from None
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            # The hub's errors are OSErrors; ValueError: the name is impossible.
            raise NotServed(_join_lines(error)) from None
    raise _not_in_repo(source)


def _not_in_repo(source: Upstream) -> NotServed:
    return NotServed(f"{source.repo} holds no {' or '.join(source.files)}")


def is_online() -> bool:
    """Whether the hub may be asked and answers.

    Without this question the hub's own retries take minutes.
    """
    import requests
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        requests.head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except requests.RequestException:
        return False
    return True


def _torch_hub_path(url: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", url.rsplit("/", 1)[-1])


# Read. ----------------------------------------------------------------------------------------


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict, also one inside a training checkpoint. UserError for anything else."""
    try:
        content = _load_file(path)
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}", str(path), HINT) from None
    except UNREADABLE as error:
        reason = _join_lines(error).split(". ")[0]
        hint = HINT
        if isinstance(error, pickle.UnpicklingError) and path.suffix != ".safetensors":
            converted = path.with_name(f"{path.stem}-state.pt")
            hint = PICKLE_HINT.format(path=path, converted=converted)
        raise UserError(f"can't be loaded safely as weights: {reason}", str(path), hint) from None
    state = _find_state(content)
    if not state:
        raise UserError("holds no weights", str(path), HINT)
    return state


def _load_file(path: Path) -> object:
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    with warnings.catch_warnings():
        # A file that can't be loaded gives an error that says so.
        warnings.simplefilter("ignore")
        return torch.load(
            path,
            map_location="cpu",
            weights_only=True,
            mmap=zipfile.is_zipfile(path),
        )


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        what = f"not readable as weights: {_join_lines(error)}"
        raise UserError(what, str(path), HINT) from None


def _find_state(content: object) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of the one inside a training checkpoint."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        return {}
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            tensors[str(key)] = value
    return strip_prefix(tensors, "module.")  # as DistributedDataParallel saves them


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the same tensors with `prefix` off their names, where all have it."""
    if not all(key.startswith(prefix) for key in state):
        return dict(state)
    return {key.removeprefix(prefix): value for key, value in state.items()}


def take_own_encoder(state: Mapping[str, Tensor], modality: str, path: Path) -> dict[str, Tensor]:
    """Return the encoder of a modality out of a model of umemma; another state as it is.

    Such a model has the names `encoders.<modality>.<name>`, and heads and probes beside them.
    UserError where it has no encoder of the modality.
    """
    prefix = "encoders."
    if not any(key.startswith(prefix) for key in state):
        return dict(state)
    prefix += f"{modality}."
    own = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
    if not own:
        trained = sorted({key.split(".")[1] for key in state if key.startswith("encoders.")})
        what = f"is a model of {', '.join(trained)}, without an encoder of {modality}"
        raise UserError(what, str(path), f"Name a model that was trained on {modality}.")
    return own


# Load. ----------------------------------------------------------------------------------------


def fits(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a state has the names and shapes of the module's own."""
    expected = module.state_dict()
    if expected.keys() != state.keys():
        return False
    return all(expected[key].shape == state[key].shape for key in expected)


def load_state(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load every weight of `module` from `state`.

    UserError with the names that are missing, unexpected or of another shape.
    """
    expected = module.state_dict()
    shapes: list[str] = []
    for key, tensor in expected.items():
        if key in state and state[key].shape != tensor.shape:
            shapes.append(f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}")
    missing: Iterable[str] = expected.keys() - state.keys()
    unexpected: Iterable[str] = state.keys() - expected.keys()
    if not shapes:
        missing, unexpected = module.load_state_dict(state, strict=False)
    differences: list[str] = []
    if missing:
        differences.append(f"missing: {shorten_keys(sorted(missing))}")
    if unexpected:
        differences.append(f"unexpected: {shorten_keys(sorted(unexpected))}")
    if shapes:
        differences.append(f"other shape: {shorten_keys(shapes)}")
    if differences:
        what = f"these are not the weights of this encoder; {'; '.join(differences)}"
        hint = (
            f"{describe_library(state)}Name the weights of exactly this encoder, or train from "
            "scratch with `weights: none`."
        )
        raise UserError(what, where, hint)


def _join_lines(error: Exception) -> str:
    return " ".join(str(error).split())
