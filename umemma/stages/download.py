"""download: put the raw files of a dataset into data/raw/<dataset>/, with download.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from umemma import datasets
from umemma.config import Paths
from umemma.data.conversion import converter
from umemma.data.downloader import Downloader
from umemma.data.fetcher import is_address
from umemma.errors import UserError
from umemma.system.log import make_progress
from umemma.types import NO_KINDS

TABLES = "manifest"  # the dataset whose files may come as Parquet files or shards


def run(
    dataset: str,
    options: Mapping[str, Any],
    origin: str = "",
    modalities: Mapping[str, str] = NO_KINDS,
    name: str = "",
) -> Path:
    """Put the raw files of `dataset` with its `options` in place and return their folder.

    A source that is in place and right stays. A source without a known checksum is replaced where
    the file or folder `origin` has other content for it. The others are made, or come from `origin`
    (a file, a folder or an http(s) address), or, where that is empty, from their own addresses. Of
    Hugging Face Parquet files and WebDataset shards a table and its media are written first.
    At the end, download.json lists every file with its checksum. modalities: {name: kind}, as in
    the settings. name: that of the raw folder, by default the dataset's.

    Raises UserError for files that are unavailable, with the steps that a person can take, for a
    hostile or damaged archive, and where the disk is too small.
    """
    module = datasets.get_module(dataset)
    checked = datasets.read_options(module, options, modalities)
    if origin and not is_address(origin):
        _check_scheme(origin)
        origin = str(Path(origin).expanduser().absolute())
        if Path(origin).is_dir() and not any(Path(origin).iterdir()):
            what = "an empty folder, there is nothing to take from it"
            raise UserError(what, origin, "Name the folder that holds the files.", usage=True)
        if not Path(origin).exists():
            raise UserError(
                "no such file or folder",
                origin,
                "Name a file, a folder or an http(s) address.",
                usage=True,
            )
    folder = Paths(name or dataset).raw
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with make_progress() as bars:
            is_local = dataset == TABLES and origin and not is_address(origin)
            if is_local and converter.place(Path(origin), folder, checked.table, bars):
                origin = ""  # everything is in place, and is checked and listed as usual
            downloader = Downloader(dataset, module.SPEC, folder, origin, bars)
            downloader.place_all(module.sources(folder, checked))
            downloader.write_list()
    except OSError as error:  # a disk that is full, read-only or belongs to others
        raise UserError(
            f"cannot write: {error.strerror or error}",
            str(error.filename or folder),
            f"Correct this, then resume with: umemma download {dataset}",
        ) from error
    return folder


def _check_scheme(origin: str) -> None:
    """Raise UserError for an address that is neither http nor https."""
    scheme, mark, _ = origin.partition("://")
    if mark:
        hint = "Download it first, then name the folder. Addresses are http:// or https://."
        raise UserError(f"can't download from {scheme}:// addresses", "--from", hint, usage=True)
