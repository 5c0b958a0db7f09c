"""The documents: links that lead somewhere, complete references, a site that builds."""

from __future__ import annotations

import ast
import posixpath
import re
import subprocess
import sys

import error_reference
import pytest
import setting_reference
import typer
from repository_links import EXTERNAL, find_links, rewrite_links
from ruamel.yaml import YAML
from toys import documents
from toys.project import ROOT

from umemma import config, datasets
from umemma._version import __version__
from umemma.cli import app
from umemma.config import PRESETS
from umemma.models.factory import input_specs
from umemma.validation import validate

URL = re.compile(r"https?://[a-z0-9.-]+\.[a-z]{2,}(/[^\s<>\"]*)?", re.IGNORECASE)
LOADED = re.compile(r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc=\"([^\"]*)\"")
LINKED = re.compile(r"<link\b[^>]*?\bhref=\"([^\"]*)\"[^>]*>")


@pytest.mark.parametrize("name", documents.documents())
def test_every_link_leads_to_a_file_and_an_anchor(name):
    for target in find_links(documents.read_whole(name)):
        if EXTERNAL.match(target):
            assert target.startswith("mailto:") or URL.fullmatch(target), target
            continue
        path, _, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
        assert (ROOT / file).exists(), f"{name}: {target}"
        if anchor:
            assert file.endswith(".md"), f"{name}: {target}"
            assert anchor in documents.anchors(file), f"{name}: {target}"


def test_a_link_out_of_the_pages_becomes_a_page_or_plain_text():
    code = "```\n[g](../h)\n```\n"
    text = "[a](../ARCHITECTURE.md#x) [b](numbers.md) [`c`](../umemma/errors.py) [d](https://e.f)\n"
    changed = rewrite_links(text + code, "docs/index.md", "index.md")
    assert changed == f"[a](architecture.md#x) [b](numbers.md) `c` [d](https://e.f)\n{code}"
    text = "[a](docs/numbers.md) [b](CHANGELOG.md) ![c](docs/images/c.png)"
    changed = rewrite_links(text, "ARCHITECTURE.md", "architecture.md")
    assert changed == "[a](numbers.md) [b](changelog.md) ![c](images/c.png)"
    changed = rewrite_links(
        "[a](../../README.md) [b](../x.md)", "docs/reference/r.md", "reference/r.md"
    )
    assert changed == "a [b](../x.md)"


def test_the_command_reference_has_every_command_and_option():
    page = documents.read_whole("docs/reference/commands.md")
    for name, command in typer.main.get_command(app).commands.items():
        if command.hidden:
            continue
        assert page.count(f"## umemma {name} {{") == 1
        section = page.split(f"## umemma {name} {{")[1].split("\n## ")[0]
        if "The same command as" in section:
            continue
        for parameter in command.params:
            if not parameter.hidden and parameter.name != "help":
                assert parameter.help or parameter.metavar, f"{name} {parameter.name}: no help"
                for option in parameter.opts:
                    shown = option if option.startswith("-") else option.upper()
                    assert f"`{shown}`" in section, f"{name} {option}"


def test_every_setting_has_one_description():
    described = {
        (group, name) for group, names in setting_reference.DESCRIPTIONS.items() for name in names
    }
    listed = set()
    for section in setting_reference.sections():
        for name in section.names:
            listed.add((section.group, name))
            in_schema = section.model.model_fields[name].description is not None
            in_file = (section.group, name) in described
            assert in_schema != in_file, f"{section.group}.{name}: {in_schema=}, {in_file=}"
    assert described <= listed, f"no such setting: {sorted(described - listed)}"


def test_the_settings_reference_has_every_key_of_the_recipes():
    page = documents.read_whole("docs/reference/settings.md")
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        for key in _keys(YAML(typ="safe").load(path)):
            listed = re.search(rf"\| `{key}` \||\n#+ [\w. ]*\b{key} [\w ]*{{#", page)
            assert listed, f"{path.name}: {key}"


def _keys(node):
    """The keys of the sections of a recipe, without those that users name."""
    for key, value in node.items():
        if key in ("encoders", "augment"):
            for section in value.values():
                if isinstance(section, dict):
                    yield from _keys(section)
            continue
        yield key
        if isinstance(value, dict) and key not in (
            "columns",
            "pattern_weights",
            "rates",
            "missing",
            "modalities",
        ):
            yield from _keys(value)


def test_the_list_of_errors_has_every_error_of_the_source():
    raised = 0
    listed = 0
    paths = sorted(error_reference.PACKAGE.rglob("*.py"))
    for path in paths:
        if path.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                raised += node.func.id in ("UserError", "unknown_name") and bool(node.args)
        listed += len(list(error_reference.messages(path, {})))
    assert listed == raised > 100
    page = error_reference.generate()
    assert "unknown dataset &lt;name&gt;" in page
    assert "Write it as --set section.key=value." in page


def test_every_file_belongs_to_an_area_of_errors_that_exists():
    for title, _, places in error_reference.AREAS:
        for place in places:
            assert (error_reference.PACKAGE / place).exists(), f"{title}: {place}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        html = page.read_text()
        stylesheets = [match[1] for match in LINKED.finditer(html) if "canonical" not in match[0]]
        for address in [*LOADED.findall(html), *stylesheets]:
            assert not address.startswith(("http", "//")), f"{page.name} loads {address}"
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", style.read_text()), (
            f"{style.name} loads from another host"
        )
    settings = (tmp_path / "reference" / "settings.html").read_text()
    assert 'id="preprocess-media"' in settings
    assert "generated:" not in settings


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_dataset_has_a_recipe_that_fits_it(name):
    params = config.load_params(ROOT / "recipes" / f"{name}.yaml")
    module = datasets.get_module(name)
    assert params.dataset == module.SPEC.name == name
    validate(module.Options, params.preprocess.options, "settings")
    params.check_modalities(module.SPEC.modalities)
    assert set(params.encoders) == set(params.modalities)
    input_specs({m: params.encoder(m) for m in params.modalities})
    assert f"| `{name}` |" in documents.read("docs/datasets.md")


def test_the_training_guide_lists_every_preset():
    page = documents.read("docs/training.md")
    for preset, switches in PRESETS.items():
        assert f"| `{preset}` | {' | '.join(switches)} |" in page


CODE_FILE = re.compile(r"`(umemma/[\w/]+\.py)`")
CELL_END = re.compile(r"(?<!\\)\|")  # in a cell, a bar is written \|


def _paper_rows():
    """The file, the code names and the test names of each row of the tables of paper-to-code."""
    for line in documents.read("docs/paper-to-code.md").splitlines():
        cells = [cell.strip() for cell in CELL_END.split(line)]
        for position, cell in enumerate(cells):
            file = CODE_FILE.fullmatch(cell)
            if file:
                names = re.findall(r"`(\w+)`", cells[position + 1])
                tests = re.findall(r"`(test_\w+)`", cells[position + 2])
                yield file[1], names, tests


def test_the_way_from_the_paper_leads_to_code_and_tests_that_exist():
    rows = list(_paper_rows())
    assert len(rows) > 40
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    existing = set(re.findall(r"^ *def (test_\w+)\(", "\n".join(sources), re.MULTILINE))
    for file, names, tests in rows:
        source = (ROOT / file).read_text()
        assert names, f"{file}: a row without a function"
        assert tests, f"{file}: a row without a test"
        for name in names:
            defined = rf"^ *(?:def|class) {name}\b|^{name}\b"
            assert re.search(defined, source, re.MULTILINE), f"{file} has no {name}"
        assert set(tests) <= existing, f"no such test: {sorted(set(tests) - existing)}"


def test_the_shipped_settings_are_those_of_the_digits():
    assert config.load_params(ROOT / "params.yaml") == config.load_params(
        ROOT / "recipes" / "digits.yaml"
    )


def test_constraints_pin_versions_only():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line) for line in lines)


def test_the_changelog_knows_this_version():
    assert f"## {__version__}" in documents.read("CHANGELOG.md")


def test_the_changelog_has_the_usual_headings():
    changelog = documents.read("CHANGELOG.md")
    headings = re.findall(r"^### (.+)$", changelog, re.MULTILINE)
    assert headings
    assert set(headings) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
