"""What a request holds -> {modality: medium}, as Predictor.predict takes them.

A medium of a request never becomes a path: what is not a text or numbers is the bytes of a file.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from starlette.datastructures import UploadFile

from umemma.errors import unknown_name
from umemma.modalities import text
from umemma.serving.limits import MAX_VALUES
from umemma.serving.refusals import Refusal

Media: TypeAlias = dict[str, Any]
Kinds: TypeAlias = Mapping[str, str]  # {modality: its kind}
# What the kinds of numbers are in JSON.
NUMBERS = {
    "vector": "a list of numbers",
    "series": 'a list of rows of numbers, or {"samples": rows, "rate": Hz}',
    "table": "an object {column: cell}",
}
RATES = (1e-9, 1e9)  # Hz
FILE_HINT = "In JSON a file is its bytes in base64; in a form it is an uploaded file."


def read_json(body: bytes, kinds: Kinds) -> Media:
    """Return the media of {modality: medium} as JSON; null is absent.

    A text is a string; a vector, a series and the cells of a row are JSON, or a file; every other
    medium is a file, whose bytes are in base64. Refusal for anything else, UserError for an unknown
    modality.
    """
    sample = _parse(body, "the body")
    if not isinstance(sample, dict):
        raise Refusal(400, "the body is not a JSON object", 'Send {"MODALITY": MEDIUM, ...}.')
    media: Media = {}
    for m, value in sample.items():
        kind = _find_kind(m, kinds)
        if value is not None:
            media[m] = _convert(m, kind, value)
    return media


def read_form(fields: Sequence[tuple[str, UploadFile | str]], kinds: Kinds) -> Media:
    """Return the media of the fields of a form, each of which has the name of its modality.

    A field is an uploaded file, a text, or JSON of a vector, a series or cells; an empty one is
    absent. Refusal and UserError as for `read_json`.
    """
    media: Media = {}
    for m, value in fields:
        kind = _find_kind(m, kinds)
        if isinstance(value, str):
            medium = _convert_field(m, kind, value)
        elif value.filename or value.size:
            medium = _check_text(m, kind, value.file.read())
        else:
            medium = None  # what a browser sends of a file that nobody chose
        if medium is None:
            continue
        if m in media:
            raise Refusal(422, f"{m}: sent twice", "Send each modality once.")
        media[m] = medium
    return media


def _find_kind(m: str, kinds: Kinds) -> str:
    if m not in kinds:
        raise unknown_name("modality", m, kinds)
    return kinds[m]


def _convert_field(m: str, kind: str, value: str) -> Any:
    """Return the medium of a field that is no file; None for an empty one."""
    if kind == "text":
        return _check_text(m, kind, value)
    if not value.strip():
        return None
    if kind not in NUMBERS:
        raise Refusal(422, f"{m}: has to be a file", FILE_HINT)
    return _convert_numbers(m, kind, _parse(value.encode(errors="replace"), m))


def _convert(m: str, kind: str, value: Any) -> Any:
    """Return the medium that a value of JSON is. Refusal for one of the wrong type."""
    if kind == "text":
        if not isinstance(value, str):
            raise Refusal(422, f"{m}: has to be a string")
        return _check_text(m, kind, value)
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(422, f"{m}: not base64", FILE_HINT) from None
    if kind not in NUMBERS:
        raise Refusal(422, f"{m}: has to be a file", FILE_HINT)
    return _convert_numbers(m, kind, value)


def _convert_numbers(m: str, kind: str, value: Any) -> Any:
    """Return a list, cells, or the (samples, rate) of a series. Refusal for anything else."""
    if isinstance(value, dict if kind == "table" else list):
        return value
    if kind == "series" and isinstance(value, dict) and value.keys() == {"samples", "rate"}:
        samples, rate = value["samples"], value["rate"]
        if isinstance(samples, list) and _is_rate(rate):
            return samples, float(rate)
    raise Refusal(422, f"{m}: has to be {NUMBERS[kind]}")


def _is_rate(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and RATES[0] < value < RATES[1]


def _check_text(m: str, kind: str, value: str | bytes) -> str | bytes:
    """Return a medium. Refusal for a text that is too long."""
    data = value
    if isinstance(data, str):
        data = data.encode(errors="replace")
    if kind == "text" and len(data) > text.MAX_BYTES:
        raise Refusal(413, f"{m}: a text over {text.MAX_BYTES:,} bytes", "Send less of it.")
    return value


def _parse(data: bytes, where: str) -> Any:
    """Return what JSON says. Refusal for what is none, or has too many values."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        hint = "Send long series as files, such as .npy."
        raise Refusal(413, f"{where}: JSON of more than {MAX_VALUES:,} values", hint)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Refusal(400, f"{where} is not JSON") from None
