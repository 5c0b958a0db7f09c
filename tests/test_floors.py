"""Imports go down the floors only, and dvc.yaml depends on the code that each stage imports."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "umemma"

# Folders, and files on top, by floor, lowest first. A file may import from the floors below its own
# and from its folder.
FLOORS: list[set[str]] = [
    {"errors", "types", "presets", "_version"},
    {"validation", "system"},
    {"missing", "config", "datasets", "modalities", "encoders"},
    {"evaluation", "data"},
    {"models", "reports"},
    {"training", "serving"},
    {"stages"},
    {"cli", "__init__"},
    {"__main__"},
]
# A stage imports no other stage, whatever their folder.
APART = {"stages"}
# These carry settings, files and messages and cannot change a number, so no DVC stage depends on
# them.
PLUMBING = {
    "umemma/__init__.py",
    "umemma/_version.py",
    "umemma/system/storage.py",
    "umemma/errors.py",
    "umemma/presets.py",
    "umemma/types.py",
    "umemma/validation.py",
}
PLUMBING_FOLDERS = ("umemma/config/", "umemma/system/")
NOT_PLUMBING = "umemma/system/seeds.py"


def room(file: Path, package: Path = PACKAGE) -> str:
    """Return the folder of a file, or the name of a file at the top of the package."""
    return file.relative_to(package).with_suffix("").parts[0]


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def resolve(name: str, level: int, file: Path, root: Path) -> str:
    """Return the absolute name of a module that `file` imports with `level` leading dots."""
    if level == 0:
        return name
    package = list(file.relative_to(root).with_suffix("").parts[:-1])
    package = package[: len(package) - level + 1]
    if name:
        package.append(name)
    return ".".join(package)


def is_dynamic_import(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", "") or getattr(node.func, "id", "")
    return name in {"import_module", "__import__", "find_spec"}


def resolve_dynamic(text: str, file: Path, root: Path) -> set[str]:
    """Return the modules that the argument `text` of import_module may name.

    The package of a relative name is another argument of the call, so each package above the file
    is taken.
    """
    if not text.startswith("."):
        return {text}
    names = set()
    package: list[str] = []
    for part in file.relative_to(root).parts[:-1]:
        package.append(part)
        names.add(".".join([*package, text.lstrip(".")]))
    return names


@functools.cache
def imported_names(file: Path, root: Path) -> set[str]:
    """Return the modules that a file names.

    Imports at the top and inside functions, relative ones and import_module are seen.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = resolve(node.module or "", node.level, file, root)
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif is_dynamic_import(node) and node.args and isinstance(node.args[0], ast.Constant):
            names |= resolve_dynamic(str(node.args[0].value), file, root)
        elif isinstance(node, ast.Constant) and str(node.value).startswith("umemma."):
            names.add(str(node.value))  # the module of a plug-in, in its table
    return names


@functools.cache
def imports(file: Path, root: Path = ROOT) -> set[Path]:
    """Return the files of the package that `file` imports."""
    files: set[Path] = set()
    for name in imported_names(file, root):
        if name.split(".")[0] != "umemma":
            continue
        path = root / name.replace(".", "/")
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                files.add(candidate)
    return files - {file, root / "umemma" / "__init__.py"}


def wrong_imports(root: Path) -> list[str]:
    """Return each import that goes up, sideways to another folder, or to another stage."""
    package = root / "umemma"
    wrong = []
    for file in sorted(package.rglob("*.py")):
        for other in sorted(imports(file, root)):
            here = room(file, package)
            there = room(other, package)
            of_the_package = "__init__.py" in (file.name, other.name)
            if here == there and (here not in APART or of_the_package):
                continue
            if floor(there) >= floor(here):
                wrong.append(f"{file.relative_to(root)} imports {other.relative_to(root)}")
    return wrong


def test_imports_go_down_only():
    assert not wrong_imports(ROOT)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("system/low.py", "from umemma.stages import evaluate"),
        ("system/low.py", "from ..stages import evaluate"),
        ("system/low.py", "def lazy():\n    from umemma.stages.evaluate import run"),
        (
            "system/low.py",
            "import importlib\nimportlib.import_module('.stages.evaluate', 'umemma')",
        ),
        ("low.py", "import importlib\nimportlib.import_module('.stages.evaluate', __name__)"),
        ("system/low.py", "import importlib\nimportlib.import_module('umemma.stages.evaluate')"),
        ("encoders/low.py", "from umemma.modalities import image"),
        ("stages/low.py", "from umemma.stages import evaluate"),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_seen(file, line, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.FLOORS", [*FLOORS[:1], FLOORS[1] | {"low"}, *FLOORS[2:]])
    for name in ("stages/evaluate.py", "modalities/image.py"):
        path = tmp_path / "umemma" / name
        path.parent.mkdir(parents=True)
        path.write_text("")
    path = tmp_path / "umemma" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    (wrong_import,) = wrong_imports(tmp_path)
    assert wrong_import.startswith(f"umemma/{file} imports umemma/")


def test_every_file_has_a_floor():
    assert {room(file) for file in PACKAGE.rglob("*.py")} == set().union(*FLOORS)


def test_no_module_imports_itself_round_a_circle():
    files = {file for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"}
    remaining = {file: imports(file) & files for file in files}
    while True:
        free = {file for file, others in remaining.items() if not others}
        if not free:
            break
        for file in free:
            del remaining[file]
        for others in remaining.values():
            others -= free
    assert not remaining


def test_the_training_loop_names_no_stage():
    """What differs between pretraining and fine-tuning is handed to the loop."""
    tree = ast.parse((PACKAGE / "training" / "trainer.py").read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        for kind in ("id", "arg", "attr"):
            names.add(getattr(node, kind, ""))
    assert not names & {"stage", "pretrain", "finetune", "pretraining", "finetuning"}


def test_at_most_fourteen_modules_in_a_folder():
    folders = [path for path in PACKAGE.rglob("*") if path.is_dir()]
    for folder in [PACKAGE, *folders]:
        assert len(list(folder.glob("*.py"))) <= 14, folder


# dvc.yaml -----------------------------------------------------------------------------------------


def closure(file: Path) -> set[Path]:
    """Return `file` and all the files of the package that it imports, directly or not."""
    seen: set[Path] = set()
    todo = [file]
    while todo:
        next_file = todo.pop()
        if next_file not in seen:
            seen.add(next_file)
            todo += imports(next_file)
    return seen


def names_data(file: Path) -> set[Path]:
    """Return the files beside `file` that are no Python and that it names."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    files = set()
    for path in file.parent.iterdir():
        if path.name in names and path.suffix not in ("", ".py"):
            files.add(path)
    return files


def is_plumbing(name: str) -> bool:
    if name in PLUMBING or name.startswith(PLUMBING_FOLDERS):
        return name != NOT_PLUMBING
    return Path(name).name == "__init__.py"


def needed(stages: tuple[str, ...]) -> set[str]:
    """Return the code that `stages` import and that can change a number, as paths."""
    files: set[Path] = set()
    for stage in stages:
        files |= closure(PACKAGE / "stages" / f"{stage}.py")
    for file in list(files):
        files |= names_data(file)
    names = {str(path.relative_to(ROOT)) for path in files}
    return {name for name in names if not is_plumbing(name)}


STAGES = {
    "dvc.yaml": {
        "download": ("download",),
        "preprocess": ("preprocess",),
        "pretrain-unimodal": ("pretrain",),
        "finetune-ensemble": ("finetune",),
        "evaluate-missing": ("evaluate",),
    },
    "compare/dvc.yaml": {
        "compare-unimodal": ("compare/cells", "pretrain"),
        "compare-cell": ("compare/cells", "finetune", "evaluate"),
        "compare-table": ("compare/table", "evaluate"),
    },
}
CASES = [(file, stage) for file, stages in STAGES.items() for stage in stages]
# These stages run within seconds. They depend on whole folders, so that dvc.yaml is readable.
CHEAP = {"evaluate-missing", "compare-table"}
PLUG_INS = {"datasets", "modalities", "encoders"}


def files_of(dependency: str) -> set[str]:
    """Return the files that a dependency stands for."""
    path = ROOT / dependency
    if path.is_file():
        return {dependency}
    names = set()
    for file in path.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            names.add(str(file.relative_to(ROOT)))
    return names


@pytest.mark.parametrize(("file", "stage"), CASES)
def test_a_dvc_stage_depends_on_the_code_that_it_imports(file, stage):
    dvc = YAML(typ="safe").load(ROOT / file)["stages"]
    dependencies = [name for name in dvc[stage]["deps"] if name.startswith("umemma/")]
    assert dependencies == sorted(set(dependencies))
    needs = needed(STAGES[file][stage])
    covered: set[str] = set()
    for dependency in dependencies:
        files = files_of(dependency)
        assert files & needs, f"{dependency} isn't imported"
        is_folder_allowed = stage in CHEAP or dependency.split("/")[1] in PLUG_INS
        unneeded = {name for name in files - needs if Path(name).name != "__init__.py"}
        reason = f"{dependency} would run {stage} again for {sorted(unneeded)}"
        assert is_folder_allowed or not unneeded, reason
        covered |= files
    assert not needs - covered


def test_help_imports_no_torch():
    """cli/ and what it imports stay light; what imports torch is imported inside a command."""
    heavy = {"torch", "torchaudio", "webdataset", "matplotlib", "sklearn", "pyarrow"}
    light = ["errors", "presets", "types", "validation"]
    light += [f"cli/{path.stem}" for path in (PACKAGE / "cli").glob("*.py")]
    light += [f"config/{path.stem}" for path in (PACKAGE / "config").glob("*.py")]
    light += ["system/distributed", "system/files", "system/seeds", "system/log"]
    for name in light:
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        modules = []
        for node in tree.body:
            if isinstance(node, ast.Import):
                modules += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules.append(node.module or "")
        assert not heavy & {module.split(".")[0] for module in modules}, name
