"""The Dockerfile, without Docker: what it copies exists and is sent, and it doesn't run as root."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch

from toys.project import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read_instructions():
    """Return the (INSTRUCTION, arguments) of the file, continued lines joined."""
    lines = re.sub(r"\\\n", " ", TEXT).splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def find(name):
    return [arguments for instruction, arguments in read_instructions() if instruction == name]


def list_copied():
    sources = []
    for arguments in find("COPY"):
        sources += arguments.split()[:-1]
    return sources


def test_every_instruction_is_one_of_docker():
    known = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {instruction for instruction, _ in read_instructions()} <= known
    assert json.loads(*find("ENTRYPOINT")) == ["umemma"]
    assert PROJECT["project"]["scripts"]["umemma"]
    assert json.loads(*find("CMD")) == ["--help"]


def test_what_it_copies_exists_and_is_sent_to_the_daemon():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    assert ignored[1] == "*"
    copied = list_copied()
    assert sorted(copied) == sorted(sent)
    for name in copied:
        assert (ROOT / name).exists(), name


def test_it_copies_all_that_the_package_is_built_from():
    copied = list_copied()
    needed = ["pyproject.toml", "constraints.txt", PROJECT["project"]["readme"], "umemma"]
    needed.append("recipes")  # a link in umemma/project, which the source distribution follows
    for path in (ROOT / "umemma").rglob("*"):
        if path.is_symlink():
            needed.append(str(path.resolve().relative_to(ROOT)))
    assert set(needed) <= set(copied)


def test_it_installs_pinned_packages_and_writes_no_address_of_an_index():
    (command,) = [line for line in find("RUN") if "pip install" in line]
    assert '-c constraints.txt ".[${EXTRAS}]"' in command
    assert "EXTRAS=serve" in find("ARG")
    assert "serve" in PROJECT["project"]["optional-dependencies"]
    assert not re.search(r"https?:|--index-url|--extra-index-url|--trusted-host", TEXT)
    (image,) = find("FROM")
    assert fnmatch(image, "python:3.1[123]-slim")


def test_it_runs_as_a_user_who_is_not_root():
    (user,) = find("USER")
    assert user not in ("root", "0")
    instructions = read_instructions()
    created = [line for line in find("RUN") if "useradd" in line]
    assert f"--uid 1000 {user}" in created[0]
    last_run = max(i for i, (name, _) in enumerate(instructions) if name == "RUN")
    assert instructions.index(("USER", user)) > last_run
