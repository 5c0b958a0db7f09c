"""The tokenizers and configurations of transformers that lie in the folder of a trained model.

An `hf:` encoder needs them to predict, so the folder holds them and the original is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from umemma.errors import UserError
from umemma.system.files import sha256
from umemma.types import Plain
from umemma.validation import fingerprint

HF_FOLDER = "hf"


class HfFiles(Plain):
    """The folder of a tokenizer, and perhaps a configuration, inside the model's folder.

    files: {file name: checksum}.
    """

    folder: Annotated[str, Field(pattern=r"^hf/[0-9a-f]{8}$")]
    files: dict[Annotated[str, Field(pattern=r"^[^/\\]+\.(json|txt|model)$")], str]


def save_hf_files(hub_names: Mapping[str, bool], model_folder: Path) -> dict[str, HfFiles]:
    """Write the files of each name into the model's folder; see factory.find_hub_names."""
    return {
        name: _save_one(name, with_config, model_folder) for name, with_config in hub_names.items()
    }


def _save_one(name: str, with_config: bool, model_folder: Path) -> HfFiles:
    """Write one tokenizer into a folder that is named after the content.

    Programs cache a tokenizer by its path. With a path per content, none of them can use the
    tokenizer of an older training.
    """
    # `hf` imports torch, which a question to saved predictions does without.
    from umemma.encoders import hf

    temporary = model_folder / HF_FOLDER / "made"
    temporary.mkdir(parents=True)
    hf.save_tokenizer(name, temporary, with_config)
    checksums = _compute_checksums(temporary)
    content_hash = fingerprint({name: checksums})[:8]
    relative_path = f"{HF_FOLDER}/{content_hash}"
    temporary.rename(model_folder / relative_path)
    return HfFiles(folder=relative_path, files=checksums)


def _compute_checksums(folder: Path) -> dict[str, str]:
    """Return {name: checksum} of everything in a folder; "" for what is not a file."""
    checksums: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        checksums[path.name] = sha256(path) if path.is_file() else ""
    return checksums


def locate_hf_folders(
    model_folder: Path,
    saved: Mapping[str, HfFiles],
    hint: str,
) -> dict[str, str]:
    """Return {"hf:NAME": "hf:FOLDER"}, FOLDER being the absolute path in the model's folder.

    UserError with `hint` where one is missing or altered.
    """
    located: dict[str, str] = {}
    for name, hf_files in saved.items():
        folder = model_folder / hf_files.folder
        if not _is_unaltered(folder, hf_files):
            what = f"the tokenizer of hf:{name} is missing, truncated or altered"
            raise UserError(what, str(folder), hint)
        located[f"hf:{name}"] = f"hf:{folder.absolute()}"
    return located


def _is_unaltered(folder: Path, hf_files: HfFiles) -> bool:
    try:
        return _compute_checksums(folder) == hf_files.files
    except OSError:
        return False
