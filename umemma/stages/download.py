"""download: the raw files of a dataset -> data/raw/<dataset>/, with their checksums in download.json."""

from __future__ import annotations

from pathlib import Path

from umemma import datasets
from umemma.config import Paths
from umemma.files import new_folder, sha256, write_json


def run(dataset: str) -> Path:
    """Fetch `dataset`; the marker is written last. Returns the folder."""
    module = datasets.get(dataset)
    folder = Paths(dataset).raw
    with new_folder(folder) as aside:
        module.download(aside)
        files = {path.relative_to(aside).as_posix(): sha256(path) for path in sorted(aside.rglob("*"))}
        about = {"dataset": dataset, "licence": module.SPEC.licence, "citation": module.SPEC.citation, "files": files}
        write_json(aside / "download.json", about)
    return folder
