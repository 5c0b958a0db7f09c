"""The command reference: one section per command, read from the Typer app."""

from __future__ import annotations

import inspect
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from markdown_text import code, escape, table

from umemma.cli import app

CREATES = re.compile(r"^Creates:\s*")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9`])")
STATUS = re.compile(r"^(?:Exit status|The exit status is)\s+(?=\d)")
ANOTHER_STATUS = re.compile(r"^\d+ ")  # "Exit status 1 where a run fails. 75 after SIGTERM."
TYPES = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def generate() -> str:
    """Return the sections of all commands that are not hidden."""
    group = typer.main.get_command(app)
    callbacks = {}
    for registered in app.registered_commands:
        function = registered.callback
        assert function is not None
        callbacks[registered.name or function.__name__.replace("_", "-")] = function
    sections = [_overview(group)]
    documented: dict[Any, str] = {}
    for name, command in group.commands.items():
        if command.hidden:
            continue
        original = documented.setdefault(callbacks[name], name)
        if original == name:
            sections.append(_section(name, command, callbacks[name]))
        else:
            heading = f"## umemma {name} {{#umemma-{name}}}"
            same = f"The same command as [`umemma {original}`](#umemma-{original})."
            sections.append(f"{heading}\n\n{same}")
    return "\n\n".join(sections)


def _overview(group: Any) -> str:
    rows = []
    for name, command in group.commands.items():
        if not command.hidden:
            first, *_ = _paragraphs(command.help)
            summary = SENTENCE_END.split(first)[0]
            rows.append([f"[`umemma {name}`](#umemma-{name})", escape(summary)])
    return table(["command", "what it does"], rows)


def _section(name: str, command: Any, callback: Any) -> str:
    hints = get_type_hints(callback, include_extras=True)
    arguments = []
    options = []
    for parameter in command.params:
        if parameter.hidden or parameter.name == "help":
            continue
        if parameter.param_type_name == "argument":
            arguments.append(parameter)
        else:
            options.append(parameter)
    description, creates, statuses = _parts_of(command.help)
    lines = [f"## umemma {name} {{#umemma-{name}}}"]
    lines.append(f"```text\n{_synopsis(name, arguments, options)}\n```")
    lines.extend(escape(paragraph) for paragraph in description)
    rows = [_row(parameter, hints) for parameter in [*arguments, *options]]
    if rows:
        lines.append(table(["argument or option", "value", "default", "description"], rows))
    lines.append(f"**Creates:** {escape(creates) or 'nothing.'}")
    if statuses:
        lines.append(f"**Exit status:** {escape(' '.join(statuses))}")
    return "\n\n".join(lines)


def _synopsis(name: str, arguments: list[Any], options: list[Any]) -> str:
    words = ["umemma", name]
    for argument in arguments:
        placeholder = argument.metavar or argument.name.upper()
        words.append(placeholder if argument.required else f"[{placeholder}]")
    if options:
        words.append("[OPTIONS]")
    return " ".join(words)


def _parts_of(text: str) -> tuple[list[str], str, list[str]]:
    """(paragraphs of the description, what is created, sentences on the exit status)."""
    description = []
    creates = ""
    statuses: list[str] = []
    for paragraph in _paragraphs(text):
        if CREATES.match(paragraph):
            creates = CREATES.sub("", paragraph)
            continue
        other_sentences = []
        previous_is_status = False
        for sentence in SENTENCE_END.split(paragraph):
            continued = previous_is_status and ANOTHER_STATUS.match(sentence)
            previous_is_status = bool(STATUS.match(sentence) or continued)
            if previous_is_status:
                statuses.append(STATUS.sub("", sentence))
            else:
                other_sentences.append(sentence)
        if other_sentences:
            description.append(" ".join(other_sentences))
    return description, creates, statuses


def _paragraphs(text: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n")]


def _row(parameter: Any, hints: dict[str, Any]) -> list[str]:
    is_argument = parameter.param_type_name == "argument"
    names = (
        [parameter.name.upper()] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    )
    value = "" if getattr(parameter, "is_flag", False) else _value(parameter, hints[parameter.name])
    shown = ""
    if parameter.default not in (None, "") and not getattr(parameter, "is_flag", False):
        shown = code(str(parameter.default))
    return [", ".join(map(code, names)), value, shown, escape(parameter.help or "")]


def _value(parameter: Any, hint: Any) -> str:
    """What the user writes after the option: its placeholder or type, its choices, its bounds."""
    kind, choices = _type_of(hint)
    if choices:
        return " or ".join(code(choice) for choice in choices)
    word = parameter.metavar or TYPES.get(kind, "TEXT")
    bounds = ""
    info = next((extra for extra in get_args(hint) if hasattr(extra, "param_decls")), None)
    if info is not None and info.min is not None:
        bounds = f" ≥ {info.min}"
    return code(word) + bounds


def _type_of(hint: Any) -> tuple[Any, tuple[str, ...]]:
    """(Python type, choices) of a parameter, without Annotated, None and list around it."""
    origin = get_origin(hint)
    if origin is Annotated or origin is list:
        return _type_of(get_args(hint)[0])
    if origin is Literal:
        return str, get_args(hint)
    if origin in (types.UnionType, Union):
        members = [member for member in get_args(hint) if member is not type(None)]
        return _type_of(members[0])
    return hint, ()
