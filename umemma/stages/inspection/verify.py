"""verify: compare the shards with their index, byte for byte and sample for sample."""

from __future__ import annotations

from umemma.config import Params
from umemma.data import shard_reader
from umemma.data.shard_reader import Index
from umemma.errors import UserError
from umemma.system.log import make_progress
from umemma.system.storage import Store

SHOWN = 20  # problems that an error lists


def run(params: Params) -> Index:
    """Return the index where every shard is as it says. Raises UserError with all problems."""
    store = Store(params.paths.shards)
    index = shard_reader.read_index(store, params.shard_settings())
    total = sum(index.samples(split) for split in index.splits)
    problems: list[str] = []
    with make_progress() as bars:
        bar = bars.add_task(f"verify {params.name}", total=total, note="")
        for split in index.splits:
            for shard in index.shards(split):
                problems += shard_reader.verify_shard(store, index, split, shard)
                bars.advance(bar, shard.samples)
    if problems:
        raise _make_error(store, problems)
    return index


def _make_error(store: Store, problems: list[str]) -> UserError:
    title = f"{len(problems)} things are wrong"
    if len(problems) == 1:
        title = "1 thing is wrong"
    lines = [f"{title}:", *problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"... and {len(problems) - SHOWN} more")
    hint = shard_reader.REMAKE
    if store.remote:  # preprocess doesn't compare the checksums of these
        hint = "Remove the files named, then run: umemma preprocess"
    return UserError("\n".join(lines), store.url, hint)
