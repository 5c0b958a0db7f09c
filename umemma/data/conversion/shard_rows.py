"""The samples of WebDataset shards: tars in which the files of a sample share what stands before
the first dot of their names.

`a/07.jpg` and `a/07.cls` are the columns `image` and `label` of the sample `a/07`. A part before
the last suffix is the name of the column: `07.left.jpg` is `left`. The keys of `07.json` are
columns too.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from umemma.data.conversion.media_writer import Budget, MediaWriter
from umemma.datasets._manifest.columns import KIND_OF
from umemma.datasets._table import MOST_BYTES
from umemma.errors import UserError
from umemma.system import archives

# {suffix: the column of its content}
TEXTS = {
    "txt": "text",
    "text": "text",
    "transcript": "text",
    "cls": "label",
    "cls2": "label2",
    "id": "id",
    "index": "index",
    "inx": "index",
}
JSON = ("json", "jsn")


def read_rows(
    path: Path, media: MediaWriter, budget: Budget, left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield the samples of a shard, in the order of their first members; their media are written.

    left_out: counts members that are not read, by the reason. Raises UserError for a damaged or
    hostile shard.
    """
    samples: dict[str, dict[str, Any]] = {}
    members = archives.list_members(path)
    with archives.refuse_damage(path), contextlib.closing(members):
        for member in members:
            name = str(PurePosixPath(member.name.replace("\\", "/")))
            archives.check_member(path, member, name, name)
            folder, slash, base = name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            if not stem or not dot:  # hidden, or without a suffix
                continue
            budget.spend(member.size)
            sample = samples.setdefault(f"{folder}{slash}{stem}", {})
            reason = _add_member(sample, member, suffix, media)
            if reason:
                left_out[reason] += 1
    if not any(samples.values()):
        raise UserError("holds no sample", str(path), "Its members are KEY.jpg, KEY.cls and alike.")
    for key, sample in samples.items():
        for column, value in sample.pop("", {}).items():
            sample.setdefault(column, value)
        if sample:
            yield {**sample, "key": key}


def _add_member(
    sample: dict[str, Any], member: archives.Member, suffix: str, media: MediaWriter
) -> str:
    """Add a member to its sample; what JSON says stands at "" until the sample is whole.

    Returns why the member is left out, "" where it is not.
    """
    column, _, last = suffix.rpartition(".")
    last = last.lower()
    kind = KIND_OF.get(f".{last}", "")
    if kind:
        column = column or kind
        if column in sample:
            column = suffix
        content = member.open()
        assert content is not None
        with content:
            sample[column] = media.write(column, content, f"x.{last}")
        return ""
    if last not in TEXTS and last not in JSON:
        return f".{last} is no suffix of a medium, a text or a label"
    if member.size > MOST_BYTES:
        return f"a .{last} of more than a mebibyte"
    content = member.open()
    assert content is not None
    with content:
        text = content.read().decode(errors="surrogateescape")
    if last in TEXTS:
        sample[column or TEXTS[last]] = text
        return ""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return f"a .{last} that is not JSON"
    if isinstance(values, dict):
        sample[""] = {**values, **sample.get("", {})}
        return ""
    sample[column or last] = values
    return ""
