"""verify: shards against their index, byte for byte and sample for sample."""

from __future__ import annotations

from umemma.config import Params
from umemma.data import shard_reader
from umemma.data.shard_reader import Index
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.system.log import progress


def run(params: Params) -> Index:
    """The index, when every shard is as it says. UserError, with all that is wrong, when not."""
    store = Store(params.paths.shards)
    index = shard_reader.read_index(store, params.shard_settings())
    found: list[str] = []
    with progress() as bars:
        bar = bars.add_task(
            f"verify {params.dataset}", total=sum(map(index.samples, index.splits)), note=""
        )
        for split in index.splits:
            for shard in index.shards(split):
                found += shard_reader.verify(store, index, split, shard)
                bars.advance(bar, shard.samples)
    if found:
        listed = "\n".join(
            found[:20] + ([f"... and {len(found) - 20} more"] if len(found) > 20 else [])
        )
        what = "1 thing is wrong" if len(found) == 1 else f"{len(found)} things are wrong"
        hint = (
            "Remove the files named, then run: umemma preprocess"
            if store.remote
            else shard_reader.REMAKE
        )
        raise UserError(f"{what}:\n{listed}", store.url, hint)
    return index
