"""preprocess: raw files -> verified WebDataset shards in data/shards/<dataset>/."""

from __future__ import annotations

from umemma import datasets
from umemma.checks import checked, fingerprint
from umemma.config import Params
from umemma.errors import UserError
from umemma.files import new_folder, read_json, sha256
from umemma.log import progress
from umemma.shards import Index, write


def run(params: Params) -> Index:
    """Make all shards anew; the old ones stay until the new ones are whole.

    UserError where the raw files are missing or differ from download.json, or for options the dataset doesn't know.
    """
    module = datasets.get(params.dataset)
    params.check_modalities(module.SPEC.modalities)
    section = params.preprocess
    options = checked(module.Options, section.options, "settings", "preprocess.options")
    again = f"Run: umemma download {params.dataset}"
    raw = read_json(params.paths.raw / "download.json", again)
    if not isinstance(raw.get("files"), dict):
        raise UserError("damaged: lists no files", str(params.paths.raw / "download.json"), again)
    for name, checksum in raw["files"].items():
        path = params.paths.raw / name
        if not path.is_file() or sha256(path) != checksum:
            raise UserError("raw file is missing or differs from download.json", str(path), again)
    settings = params.shard_settings()
    with new_folder(params.paths.shards) as aside, progress() as bars:
        bar = bars.add_task(f"preprocess {params.dataset}", total=None, note="")
        index = write(
            module.records(params.paths.raw, options),
            aside,
            module.SPEC,
            settings,
            fingerprint(settings | {"raw": raw["files"]}),
            shard_size=section.shard_size,
            max_failures=section.max_failures,
            advance=lambda: bars.advance(bar),
        )
        bars.update(bar, total=bars.tasks[0].completed)
    return index
