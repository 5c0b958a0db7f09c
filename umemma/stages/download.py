"""download: the raw files of a dataset -> data/raw/<dataset>/, with their checksums in download.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from umemma import datasets
from umemma.config import Paths
from umemma.data.downloader import Downloader, is_address
from umemma.errors import UserError
from umemma.system.log import progress
from umemma.validation import checked


def run(dataset: str, options: Mapping[str, Any], origin: str = "") -> Path:
    """Bring the raw files of `dataset` with its `options`, describe them in download.json, and return their folder.

    A source that is in place and right stays; without a known checksum, one that a file or folder `origin` has with other
    content is not right. Others are made, or come from `origin` (a file, a folder or an http(s) address; the sources' own
    addresses are not asked then), or from their own addresses. UserError for those that can't
    be had, with the steps that a person can take, for a hostile or damaged archive, and where the disk is too small.
    """
    module = datasets.get(dataset)
    chosen = checked(module.Options, options, "settings", "preprocess.options")
    if origin and not is_address(origin):
        origin = str(Path(origin).expanduser().absolute())
        if not Path(origin).exists():
            raise UserError(
                "no such file or folder",
                origin,
                "Name a file, a folder or an http(s) address.",
                usage=True,
            )
    folder = Paths(dataset).raw
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with progress() as bars:
            job = Downloader(dataset, module.SPEC, folder, origin, bars)
            job.place_all(module.sources(folder, chosen))
            job.describe()
    except OSError as error:  # full, read-only, not ours
        hint = f"Mend it and run again, it goes on where it stopped: umemma download {dataset}"
        raise UserError(
            f"the disk refuses: {error.strerror or error}", str(error.filename or folder), hint
        ) from error
    return folder
