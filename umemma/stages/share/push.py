"""push: a model and its card -> a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from umemma.errors import UserError
from umemma.models import hub, saved_model
from umemma.models.hf_files import locate_hf_folders
from umemma.system.files import sha256


def run(folder: Path, repo: str, card: Path, private: bool) -> str:
    """Upload a model, after a check that its folder is complete. Return the hash of the commit.

    UserError for a name that is none, and for a folder that is incomplete or damaged.
    """
    if not re.fullmatch(hub.REPO, repo, re.ASCII):
        raise UserError(f"{repo!r} is no owner/name", "umemma push", usage=True)
    hint = "Train it: umemma finetune-ensemble"
    info = saved_model.read_info(folder, hint)
    locate_hf_folders(folder, info.hf, hint)
    weights = folder / saved_model.WEIGHTS
    if not weights.is_file() or sha256(weights) != info.weights_sha256:
        raise UserError("weights differ from model.json: truncated or altered", str(weights), hint)
    if not card.is_file():
        raise UserError("no model card", str(card), f"Run: umemma card {folder} --repo {repo}")
    return hub.push_model(folder, repo, card, private)
