"""The files around the code agree: Python versions, CI, hooks, Makefile, citation."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tomllib

import pytest
from ruamel.yaml import YAML
from toys import documents
from toys.project import ROOT

from umemma._version import __version__

VERSIONS = ["3.11", "3.12", "3.13"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def load_yaml(name):
    return YAML(typ="safe").load(ROOT / name)


def test_the_declared_python_versions_are_those_that_ci_runs():
    (job,) = load_yaml(".github/workflows/ci.yml")["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == VERSIONS
    prefix = "Programming Language :: Python :: "
    declared = [name for name in PROJECT["classifiers"] if name.startswith(prefix)]
    assert declared == [prefix + version for version in VERSIONS]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_the_documents_name_the_declared_python_versions():
    spelled = "3.11, 3.12 {} 3.13"
    assert spelled.format("or") in (ROOT / ".ci" / "run").read_text()
    assert spelled.format("and") in (ROOT / "constraints.txt").read_text()
    assert spelled.format("or") in documents.read("README.md")
    assert spelled.format("or") in documents.read("docs/getting-started.md")


def test_the_workflow_runs_what_decides_and_nothing_else():
    (job,) = load_yaml(".github/workflows/ci.yml")["jobs"].values()
    (run,) = [step for step in job["steps"] if "run" in step]
    assert run["run"] == ".ci/run"
    assert run["env"] == {"PYTHON": "python${{ matrix.python }}"}
    assert '"${PYTHON:-python3}" -m venv' in (ROOT / ".ci" / "run").read_text()


def test_hooks_are_local_and_run_what_ci_runs():
    repositories = load_yaml(".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    (repository,) = repositories
    script = (ROOT / ".ci" / "run").read_text()
    for hook in repository["hooks"]:
        assert f"\n{hook['name']}" in script
        assert hook["entry"].startswith(hook["name"])
        assert hook["language"] == "system"


def test_the_makefile_has_the_usual_targets_and_runs_files_that_exist():
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony.split() == ["check", "test", "fast", "docs", "bench"]
    assert re.findall(r"^(\w+):$", text, re.MULTILINE) == phony.split()
    for file in re.findall(r"\bbenchmarks/\w+\.py\b|\.ci/\w+", text):
        assert (ROOT / file).is_file()


def test_the_citation_names_this_version_and_the_paper():
    citation = load_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == [{"name": "The umemma authors"}]
    (paper,) = citation["references"]
    assert paper["url"].endswith("2310.06383")
    text = " ".join(documents.read("docs/index.md").split())
    assert paper["title"] in text


def test_the_source_distribution_has_every_file_of_the_project():
    """MANIFEST.in, as setuptools reads it, beside the package and what is always in it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone")
    always = {"LICENSE", "README.md", "pyproject.toml", "MANIFEST.in"}
    files = {name for name in listed.stdout.splitlines() if not name.startswith("umemma/")}
    patterns: list[str] = []
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        command, *words = line.split() or [""]
        if command == "graft":
            patterns += [f"{word}/*" for word in words]
        elif command == "include":
            patterns += words
    covered = {name for name in files if any(fnmatch.fnmatch(name, word) for word in patterns)}
    assert files - covered - always == set()
    for word in patterns:
        assert fnmatch.filter(files, word), f"MANIFEST.in names {word}, which isn't there"


@pytest.mark.parametrize("pipeline", ["dvc.yaml", "compare/dvc.yaml"])
@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes").glob("*.yaml")))
def test_a_recipe_has_every_setting_that_a_pipeline_names(recipe, pipeline):
    settings = load_yaml(f"recipes/{recipe}")
    for name, stage in load_yaml(pipeline)["stages"].items():
        for setting in stage.get("params", []):
            if isinstance(setting, dict):  # {file: settings}
                (named,) = setting.values()
            else:
                named = [setting]
            for path in named:
                node = settings
                for part in path.partition(".${")[0].split("."):
                    assert part in node, f"{name}: {path}"
                    node = node[part]
