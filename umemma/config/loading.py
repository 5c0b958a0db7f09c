"""Read params.yaml and apply --set; write it with other values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML  # YAML 1.2 as DVC reads it, where 1e-3 is a number
from ruamel.yaml.error import YAMLError

from umemma.config.params import Params
from umemma.errors import UserError
from umemma.system.files import new_file
from umemma.validation import validate


def load_params(file: Path = Path("params.yaml"), sets: Sequence[str] = ()) -> Params:
    """Read and validate a settings file.

    sets: changes, each written `section.key=value`, where the value is YAML.
    """
    hint = "Run umemma in the project root, start a project with umemma init, or use --params."
    data = read_yaml(file, hint)
    if not isinstance(data, dict):
        raise UserError(
            "contains no settings",
            str(file),
            "Write sections and keys into it, as in the project's params.yaml.",
            usage=True,
        )
    return _validate_with(data, sets, str(file))


def read_yaml(file: Path, hint: str) -> Any:
    """Return the content of a YAML file. UserError, with the hint if there is no such file."""
    try:
        return _yaml().load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("no such file", str(file), hint, usage=True) from None
    except (YAMLError, UnicodeDecodeError, IsADirectoryError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"not readable as YAML: {reason}",
            str(file),
            "Correct the file.",
            usage=True,
        ) from None


def default_params(dataset: str, sets: Sequence[str] = ()) -> Params:
    """Return the default settings of a dataset, for use without a settings file."""
    return _validate_with({"dataset": dataset, "modalities": []}, sets, "settings")


def write_params(file: Path, sets: Sequence[str], out: Path) -> None:
    """Write a settings file with changes as in `load_params` to `out`; its comments stay."""
    yaml = YAML()
    yaml.width = 100
    yaml.preserve_quotes = True
    data = yaml.load(file.read_text(encoding="utf-8"))
    for text in sets:
        _set(data, text)
    with new_file(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        yaml.dump(data, stream)


def _validate_with(data: dict[str, Any], sets: Sequence[str], where: str) -> Params:
    for text in sets:
        _set(data, text)
    if sets:
        where = f"{where} with --set"
    return validate(Params, data, where)


def _set(data: dict[str, Any], text: str) -> None:
    """Change one value of `data` in place, as `section.key=value` says."""
    path, equals, value_text = text.partition("=")
    if not equals or not all(path.split(".")):
        raise UserError(
            f"cannot read {text!r}",
            "--set",
            "Write it as --set section.key=value.",
            usage=True,
        )
    try:
        value = _yaml().load(value_text)
    except (YAMLError, RecursionError):
        raise UserError(
            f"{value_text!r} is not a YAML value",
            f"--set {path}",
            "Quote the value.",
            usage=True,
        ) from None
    *sections, key = path.split(".")
    node = data
    for depth, section in enumerate(sections, 1):
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise UserError(
                f"{section!r} holds a value, not a section",
                f"--set {path}",
                f"Set the whole section: --set '{'.'.join(sections[:depth])}={{...}}'.",
                usage=True,
            )
    node[key] = value


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)
