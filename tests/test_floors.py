"""The structure: imports go down only, and dvc.yaml's deps are what each stage's code really imports."""

from __future__ import annotations

import ast
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "umemma"

# Rooms by floor, lowest first. Words may build on one another in the order given.
FLOORS: list[set[str]] = [
    {""},  # umemma/__init__.py
    {"errors"},
    {"contracts", "checks"},
    {"config"},
    {"distributed"},
    {"files", "seeds", "log"},
    {"rawfiles", "store", "executors", "processes"},
    {"fetch", "archives"},
    {"datasets", "modalities", "encoders", "missing", "metrics", "calibration", "objective"},
    {"figures", "page"},
    {"shards", "predictions", "fusion", "checkpoint", "optimizer"},
    {"packing", "loader", "incoming", "rivals", "runs"},
    {"models", "patterns", "features", "trainer", "grid", "analysis", "answers", "diagnosis"},
    {"linear_probe"},
    {"learning", "predictor", "summary", "cells", "comparison"},
    {"sections"},
    {"report", "standings"},
    {"stages"},
    {"cli"},
    {"__main__"},
]
# Rooms that carry words and files around but can't change a number: not deps of a DVC stage.
PLUMBING = {"", "errors", "contracts", "checks", "config", "files", "log", "store", "executors", "processes"}
PLUMBING |= {"distributed", "runs"}


def room(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def imports(file: Path) -> set[Path]:
    """The files of the package that `file` imports, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("umemma."):
            names.add(node.value)  # a plug-in table's module
    found = set()
    for name in names:
        if name.split(".")[0] == "umemma":
            path = ROOT / name.replace(".", "/")
            found |= {one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()}
    return found - {file}


def data_of(file: Path) -> set[Path]:
    """Files beside it that are no Python and that it names."""
    names = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
    return {path for path in file.parent.iterdir() if path.name in names and path.suffix not in ("", ".py")}


def test_imports_go_down_only():
    wrong = []
    for file in PACKAGE.rglob("*.py"):
        for other in imports(file):
            own, its = room(file), room(other)
            same_family = own == its and own != "stages"
            of_the_stages = file.name == "__init__.py" or other.name == "__init__.py"
            if not same_family and not (own == its == "stages" and of_the_stages) and floor(its) >= floor(own):
                wrong.append(f"{file.relative_to(ROOT)} imports {other.relative_to(ROOT)}")
    assert not wrong


def test_every_file_has_a_floor():
    assert {room(file) for file in PACKAGE.rglob("*.py")} == set().union(*FLOORS)


def closure(file: Path) -> set[Path]:
    seen, todo = set(), [file]
    while todo:
        if (one := todo.pop()) not in seen:
            seen.add(one)
            todo += imports(one)
    return seen


def stage_deps(stage: str) -> set[str]:
    """What a DVC stage has to depend on: the code it imports, a package as a folder, and no plumbing."""
    files = {one for one in closure(PACKAGE / "stages" / f"{stage}.py") if room(one) not in PLUMBING}
    packages = {"datasets", "modalities", "encoders"}
    whole = {one for one in files if room(one) in packages}
    deps = {f"umemma/{room(one)}" for one in whole}
    deps |= {str(path.relative_to(ROOT)) for one in files - whole for path in {one} | data_of(one)}
    return deps - {"umemma/stages/__init__.py"}


def test_dvc_stages_depend_on_the_code_they_import():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    files = {"download": "download", "preprocess": "preprocess", "pretrain-unimodal": "pretrain"}
    files |= {"finetune-ensemble": "finetune", "evaluate-missing": "evaluate"}
    for name, file in files.items():
        deps = {dep for dep in stages[name]["deps"] if dep.startswith("umemma/")}
        assert deps == stage_deps(file), name


def test_the_comparison_depends_on_the_code_that_its_processes_import():
    stages = YAML(typ="safe").load(ROOT / "compare" / "dvc.yaml")["stages"]
    files = {"compare-unimodal": ("compare", "pretrain"), "compare-cell": ("compare", "finetune", "evaluate")}
    files |= {"compare-table": ("tabulate", "evaluate")}
    for name, several in files.items():
        deps = [dep for dep in stages[name]["deps"] if dep.startswith("umemma/")]
        assert deps == sorted(set().union(*map(stage_deps, several))), name


def test_help_imports_no_torch():
    """cli.py and the words below it stay light; what imports torch is imported inside a command."""
    heavy = {"torch", "torchaudio", "webdataset", "matplotlib", "sklearn", "pyarrow"}
    for name in ("cli", "errors", "contracts", "checks", "config", "distributed", "files", "seeds", "log"):
        for node in ast.parse((PACKAGE / f"{name}.py").read_text()).body:
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not heavy & {module.split(".")[0] for module in modules}, name
