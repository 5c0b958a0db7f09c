"""Trained models on the Hugging Face hub: hf://owner/name[@revision].

Only the files of a model folder are downloaded, within bounds, from one commit, whose hash the log
names. Nothing is unpickled: what else a repository holds stays there. `HF_ENDPOINT` names another
hub, `HF_HUB_OFFLINE` allows the cache only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from loguru import logger

from umemma.config import Paths
from umemma.errors import UserError

PREFIX = "hf://"
REPO = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
NAME = re.compile(rf"hf://(?P<repo>{REPO})(@(?P<revision>[\w./-]{{1,200}}))?", re.ASCII)
COMMIT = re.compile("[0-9a-f]{40}")
CARD = "README.md"
MEBIBYTE = 2**20
# The most bytes of each file of a model.
BOUNDS = {
    Paths.ABOUT: 64 * MEBIBYTE,
    Paths.METRICS: 64 * MEBIBYTE,
    Paths.WEIGHTS: 2**35,
}
NEEDED = (Paths.ABOUT, Paths.WEIGHTS)
TOKENIZER = re.compile(r"hf/[0-9a-f]{8}/[\w.-]+\.(json|txt|model)", re.ASCII)
MAX_TOKENIZER = 64 * MEBIBYTE
MAX_FILES = 100
HINT = "Check the name, the network, and for a private model the login: hf auth login"


class HubName(NamedTuple):
    """A repository, and a branch, tag or commit of it; None is its main branch."""

    repo: str
    revision: str | None


def is_on_hub(name: str | Path) -> bool:
    return str(name).startswith(PREFIX)


def parse_name(text: str) -> HubName:
    """Return the parts of hf://owner/name[@revision]. UserError for anything else."""
    match = NAME.fullmatch(text)
    if match is None:
        hint = "Write it as hf://owner/name or hf://owner/name@revision."
        raise UserError(f"cannot read {text!r}", "model", hint, usage=True)
    return HubName(match["repo"], match["revision"])


def bound_of(name: str) -> int | None:
    """Return the most bytes of a file of a model folder, None for a file that is none of it."""
    if TOKENIZER.fullmatch(name):
        return MAX_TOKENIZER
    return BOUNDS.get(name)


def fetch_model(text: str) -> Path:
    """Return the folder of a model of the hub, downloaded if need be.

    UserError where it can't be, and for a repository that holds no model of umemma.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    name = parse_name(text)
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        commit, sizes = _describe(text, name, endpoint)
        for file in _select_files(text, sizes):
            path = hf_hub_download(name.repo, file, revision=commit, endpoint=endpoint)
            folder = Path(path.removesuffix(file))
    except (HfHubHTTPError, ValueError) as error:  # the hub has answered
        raise _refuse(text, error) from None
    except _network_errors() as error:  # or offline by intent
        return _find_cached(text, name, error)
    logger.info(f"{text}: commit {commit}")
    return folder


def _describe(text: str, name: HubName, endpoint: str | None) -> tuple[str, dict[str, Any]]:
    """Return the hash of the commit, and {file: bytes}. UserError for what no hub answers."""
    from huggingface_hub import HfApi

    refusal = UserError("its answer describes no repository", text, "Check HF_ENDPOINT.")
    try:
        info = HfApi(endpoint).model_info(name.repo, revision=name.revision, files_metadata=True)
        sizes = {str(file.rfilename): file.size for file in info.siblings or []}
    except (TypeError, KeyError, AttributeError, RecursionError):  # of JSON of another form
        raise refusal from None
    if not COMMIT.fullmatch(str(info.sha)):
        raise refusal
    return str(info.sha), sizes


def _select_files(text: str, sizes: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files of a model. UserError for one that is missing or too large."""
    for needed in NEEDED:
        if needed not in sizes:
            raise UserError(f"holds no model of umemma: no {needed}", text, HINT)
    wanted = [name for name in sorted(sizes) if bound_of(name) is not None]
    if len(wanted) > MAX_FILES:
        raise UserError(f"has {len(wanted)} files of a model, at most {MAX_FILES}", text)
    for name in wanted:
        bound = bound_of(name) or 0
        if not isinstance(sizes[name], int) or sizes[name] > bound:
            raise UserError(f"{name} has {sizes[name]} bytes, at most {bound} are taken", text)
        yield name


def _find_cached(text: str, name: HubName, reason: Exception) -> Path:
    """Return the folder of a model that was downloaded before. UserError where none was."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = snapshot_download(name.repo, revision=name.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        raise _refuse(text, reason) from None
    logger.info(f"{text}: commit {Path(path).name}, from the cache")
    return Path(path)


def _network_errors() -> tuple[type[Exception], ...]:
    """Return what the hub's library raises where the network fails.

    Its versions have different HTTP libraries, whose base of all errors is a base of its own.
    """
    from huggingface_hub.errors import HfHubHTTPError

    bases = [base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    return (*bases, OSError)


def push_model(folder: Path, repo: str, card: Path, private: bool) -> str:
    """Upload a model folder and its card as one commit, and return the hash of the commit.

    UserError where the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = {CARD: card}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and bound_of(name) is not None:
            files[name] = path
    operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    api = HfApi(os.environ.get("HF_ENDPOINT"))
    failures: tuple[type[Exception], ...] = (*_network_errors(), ValueError)
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        commit = api.create_commit(repo, operations, commit_message="Model of umemma")
    except failures as error:
        raise _refuse(f"{PREFIX}{repo}", error) from None
    return commit.oid


def _refuse(text: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:300]
    return UserError(f"the hub: {reason}", text, HINT)
