"""The marker of a shard: what the shard was made from, and what it contains.

A shard is a WebDataset tar (`train-000000.tar`), a Parquet table with one row per sample
(`train-000000.parquet`) and its marker (`train-000000.json`), which is written last. A shard is
good where its marker is whole, `is_current` and matches the checksums of the other two files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from pydantic import ConfigDict, Field

from umemma.system.files import sha256
from umemma.system.storage import Store
from umemma.types import Plain
from umemma.validation import fingerprint

SHOWN = 8  # reasons that a summary names


class ShardMarker(Plain):
    """What vouches for a shard. `samples` are in the tar; `failed` samples and those `left_out` by
    the settings have a row in the table only.

    reasons: {why a sample failed: how many}; broken: {which media of a sample in the tar cannot be
    read, and why: how many such samples}; size: bytes of the tar; sha256, rows_sha256: checksums of
    the tar and of the table; input_hash: the hash of everything that the shard was made from;
    content_hash: the hash of the other fields of the marker.

    In JSON, input_hash is called "made_from" and content_hash "itself", as in earlier versions.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    name: str
    samples: int
    failed: int
    left_out: int
    reasons: dict[str, int]
    broken: dict[str, int] = {}
    size: int
    sha256: str
    rows_sha256: str
    input_hash: str = Field(validation_alias="made_from", serialization_alias="made_from")
    content_hash: str = Field(default="", validation_alias="itself", serialization_alias="itself")

    @property
    def rows_name(self) -> str:
        """The file name of the table; `name` is that of the tar."""
        return self.name.replace(".tar", ".parquet")

    @property
    def marker_name(self) -> str:
        """The file name of the marker itself."""
        return self.name.replace(".tar", ".json")

    @property
    def broken_samples(self) -> int:
        """The number of samples in the tar with a medium that cannot be read."""
        return sum(self.broken.values())

    @property
    def has_failures(self) -> bool:
        """Whether a sample failed or has a medium that cannot be read."""
        return bool(self.failed or self.broken)

    def compute_content_hash(self) -> str:
        """Return what `content_hash` has to be."""
        return fingerprint(self.model_dump(mode="json", exclude={"content_hash"}))


def read_marker(store: Store, name: str) -> ShardMarker | None:
    """Return the marker of the shard `name` ("train-000000"), None where there is no whole one."""
    try:
        marker = ShardMarker.model_validate_json(store.read(f"{name}.json") or b"")
    except ValueError:
        return None
    if marker.content_hash != marker.compute_content_hash():
        return None
    return marker


def is_current(
    store: Store,
    marker: ShardMarker | None,
    input_hash: str,
    *,
    thorough: bool = False,
) -> bool:
    """Return whether a shard is there and was made from the input with this hash.

    thorough: also compare the checksums of its files, where they are on this machine.
    """
    if marker is None or marker.input_hash != input_hash:
        return False
    if store.size(marker.name) != marker.size:
        return False
    if thorough and not store.remote:
        return not list_damage(store, marker)
    return bool(store.size(marker.rows_name))


def list_damage(store: Store, marker: ShardMarker) -> list[str]:
    """Return a line for each file of a shard that is missing, truncated or altered."""
    checksums = {
        marker.name: marker.sha256,
        marker.rows_name: marker.rows_sha256,
    }
    damage = []
    for name, checksum in checksums.items():
        with store.local(name) as path:
            if path is None:
                damage.append(f"{name} is missing")
            elif sha256(path) != checksum:
                damage.append(f"{name} is truncated or altered")
    return damage


def summarize_reasons(counts: Iterable[Mapping[str, int]]) -> str:
    """Return the commonest of all reasons in `counts` {reason: how many}.

    For example "3 x file is missing; 1 x a video with no frames".
    """
    reasons = Counter[str]()
    for mapping in counts:
        reasons.update(mapping)
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(SHOWN))
