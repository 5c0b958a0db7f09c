"""The list of error messages: every UserError that the source raises and what to do about it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from markdown_text import escape, table

import umemma

PACKAGE = Path(umemma.__file__).parent

# Title, anchor, and files and folders of umemma/, of each area; the first match counts.
AREAS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Command line and settings",
        "settings",
        ("cli/", "config/", "validation.py", "missing.py", "stages/inspection/check.py"),
    ),
    (
        "umemma download",
        "download",
        (
            "stages/download.py",
            "data/downloader.py",
            "data/fetcher.py",
            "data/unpacker.py",
            "system/archives.py",
        ),
    ),
    (
        "Raw files and umemma doctor",
        "raw-files",
        ("stages/inspection/doctor.py", "data/raw_folder.py"),
    ),
    (
        "Your own table and umemma init",
        "own-table",
        ("stages/init.py", "datasets/manifest.py", "datasets/_table.py", "datasets/_manifest/"),
    ),
    ("The other datasets", "datasets", ("datasets/",)),
    (
        "umemma preprocess and umemma verify",
        "shards",
        (
            "stages/preprocess.py",
            "stages/inspection/verify.py",
            "data/",
            "system/executors.py",
            "system/subprocesses.py",
        ),
    ),
    ("Media and modalities", "media", ("modalities/",)),
    ("Encoders and weights", "encoders", ("encoders/", "stages/inspection/encoders.py")),
    (
        "Training",
        "training",
        ("training/", "stages/pretrain.py", "stages/finetune.py", "system/distributed.py"),
    ),
    (
        "umemma evaluate, umemma compare and umemma tune",
        "evaluation",
        (
            "stages/evaluate.py",
            "stages/corrupt.py",
            "models/evaluated/",
            "modalities/corruption/",
            "stages/compare/",
            "stages/tune.py",
            "stages/audit.py",
            "evaluation/",
            "reports/",
        ),
    ),
    ("umemma export", "export", ("stages/export.py", "models/onnx/export.py")),
    ("umemma serve", "serve", ("stages/serve.py", "serving/")),
    (
        "umemma predict and trained models",
        "models",
        ("stages/predict.py", "stages/share/", "models/"),
    ),
    ("Files", "files", ("system/", "errors.py")),
)
RAISED = ("UserError", "unknown_name")
NO_HINT = "Correct what the message names."
GIVEN_HINT = "The message says which command to run or what to change."
PLACEHOLDER = re.compile(r"<[^<>]*>")
WORD = re.compile(r"[A-Za-z]")
TEXTS = ast.Constant | ast.JoinedStr | ast.IfExp


@dataclass(frozen=True)
class Message:
    """One UserError of the source. A value that is known only at run time is `<...>`."""

    what: str
    where: str
    hint: str


def generate() -> str:
    """Return the tables of all areas as Markdown."""
    areas: dict[str, list[Message]] = {title: [] for title, _, _ in AREAS}
    paths = sorted(PACKAGE.rglob("*.py"))
    shared = _shared_constants(paths)
    for path in paths:
        areas[area_of(path)].extend(messages(path, shared))
    parts = []
    for title, anchor, _ in AREAS:
        if areas[title]:
            parts.append(f"### {title} {{#errors-{anchor}}}")
            parts.append(table(["message", "what to do"], _rows(areas[title])))
    return "\n\n".join(parts)


def area_of(path: Path) -> str:
    """The title of the area of a source file; the last one for a file that none names."""
    name = path.relative_to(PACKAGE).as_posix()
    for title, _, places in AREAS:
        for place in places:
            if name == place or (place.endswith("/") and name.startswith(place)):
                return title
    return AREAS[-1][0]


def messages(path: Path, shared: Mapping[str, ast.expr]) -> Iterator[Message]:
    """Yield the messages of one source file; `shared` has the constants of all files."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {**shared, **_assignments(tree.body)}
    for scope in _scopes(tree):
        nodes = list(_nodes_of(scope))
        for node in nodes:
            if _is_raised(node) and path.name != "errors.py":
                yield _message(node, {**constants, **_assignments(nodes, node.lineno)})


def _is_raised(node: ast.AST) -> TypeGuard[ast.Call]:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    return node.func.id in RAISED and bool(node.args)


def _shared_constants(paths: Iterable[Path]) -> dict[str, ast.expr]:
    """{NAME: value} of the constants in capitals that only one of the files defines."""
    values: dict[str, list[ast.expr]] = {}
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, value in _assignments(tree.body).items():
            if name.isupper():
                values.setdefault(name, []).append(value)
    return {name: given[0] for name, given in values.items() if len(given) == 1}


def _message(call: ast.Call, names: Mapping[str, ast.expr]) -> Message:
    assert isinstance(call.func, ast.Name)
    given = dict(zip(_parameters(call.func.id), call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    texts = {name: _text(value, names) for name, value in given.items()}
    where = texts.get("where", "")
    if call.func.id == "UserError":
        return Message(texts["what"], where, texts.get("hint", ""))
    hint = "Use one of the known names, which the message lists."
    return Message(f"unknown {texts['kind']} {texts['name']}", where, hint)


def _parameters(function: str) -> tuple[str, ...]:
    if function == "UserError":
        return ("what", "where", "hint")
    return ("kind", "name", "known", "where")


def _text(node: ast.expr, names: Mapping[str, ast.expr]) -> str:
    """The text that an expression gives, with `<name>` for what is not known before run time."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, names) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, names)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, names) + _text(node.right, names)
    if isinstance(node, ast.IfExp):
        branches = [_text(node.body, names), _text(node.orelse, names)]
        return " or ".join(branch for branch in branches if branch)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    if name in names:
        others = {other: value for other, value in names.items() if other != name}
        return _text(names[name], others)
    return f"<{_placeholder(node)}>"


def _placeholder(node: ast.expr) -> str:
    """A word for an expression: the last name in it."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return "type" if node.attr == "__name__" else node.attr
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "format", "split"):
            return "..."
        if node.args and _is_conversion(node.func):
            return _placeholder(node.args[0])
        return _placeholder(node.func).strip("_")
    if isinstance(node, ast.Subscript):
        return _placeholder(node.value)
    return "..."


def _is_conversion(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id in (
        "str",
        "list",
        "sorted",
        "repr",
        "len",
    )


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and every function in it."""
    yield tree
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _nodes_of(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope in source order, without those of functions defined in it."""
    for child in ast.iter_child_nodes(scope):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield child
        yield from _nodes_of(child)


def _assignments(nodes: Iterable[ast.AST], before: int | None = None) -> dict[str, ast.expr]:
    """{name: text} of the assignments of texts: the only one, or the last one before a line."""
    values: dict[str, list[ast.expr]] = {}
    for name, value in _assigned(nodes):
        if before is None or value.lineno < before:
            values.setdefault(name, []).append(value)
    texts = {}
    for name, given in values.items():
        last = max(given, key=lambda value: value.lineno)
        if isinstance(last, TEXTS) and (before is not None or len(given) == 1):
            texts[name] = last
    return texts


def _assigned(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for node in nodes:
        if not isinstance(node, ast.Assign):
            continue
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Name):
            yield target.id, value
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for element, part in zip(target.elts, value.elts, strict=True):
                if isinstance(element, ast.Name):
                    yield element.id, part


def _rows(found: Iterable[Message]) -> Iterator[list[str]]:
    for message in dict.fromkeys(found):
        hint = message.hint
        if hint and not _has_words(hint):
            hint = GIVEN_HINT
        if not _has_words(message.what) and hint in ("", GIVEN_HINT):
            continue  # it passes on a text that stands elsewhere in this list
        text = f"{message.where}: {message.what}" if message.where else message.what
        yield [_cell(text), _cell(hint or NO_HINT)]


def _has_words(text: str) -> bool:
    return bool(WORD.search(PLACEHOLDER.sub("", text)))


def _cell(text: str) -> str:
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
    return "<br>".join(escape(line) for line in lines if line)
