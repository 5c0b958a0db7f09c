"""An editor with the JSON Schema refuses what umemma refuses, at the same place."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML
from toys.project import ROOT

from umemma import cli, datasets, modalities
from umemma.config import Params
from umemma.errors import UserError
from umemma.evaluation import experiments
from umemma.validation import validate

FILES = [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))]
PLACE = re.compile(r"unknown key '([^']+)'|([^\s:]+): ")
# Places of what is refused because of other settings, or by the text of a value: no schema says it.
BEYOND = re.compile(
    r"encoders|missing\.train|compare\.train|preprocess\.options(\.table)?|augment\..*"
)
BY_HAND = [
    ("dataset", "digit", "dataset"),
    ("modalities", [], "modalities"),
    ("modalities", ["image", "image"], "modalities"),
    ("modalities", ["image", "train"], "modalities"),
    ("modalities", ["1st"], "modalities"),
    ("modalities", {"image": 3}, "modalities.image"),
    ("fold", -1, "fold"),
    ("encoders.image", {"nam": "cnn:small"}, "encoders.image.nam"),
    ("encoders.image", {"lora": {"rank": 0}}, "encoders.image.lora.rank"),
    ("missing.val", {"image": 1.5}, "missing.val.image"),
    ("pretrain.epochs", True, "pretrain.epochs"),
    ("pretrain.modalities", {"image": {"epochs": 0}}, "pretrain.modalities.image.epochs"),
    ("pretrain.modalities", {"image": {"epoch": 1}}, "pretrain.modalities.image.epoch"),
    ("pretrain.class_weights", {"7": -1.0}, "pretrain.class_weights.7"),
    ("pretrain.class_weights", "balance", "pretrain.class_weights"),
    ("finetune.preset", "umemma", "finetune.preset"),
    ("finetune.pattern_weights", {"image": -1}, "finetune.pattern_weights.image"),
    ("finetune.modalities", {"image": {"epochs": 3}}, "finetune.modalities.image.epochs"),
    ("compare.presets", ["ume", "umemma"], "compare.presets.1"),
    ("compare.baseline", "umemma", "compare.baseline"),
    ("compare.folds", [0, -1], "compare.folds.1"),
    ("compare.folds", "some", "compare.folds"),
    ("preprocess.options.snr_db", "loud", "preprocess.options.snr_db"),
    ("augment", {"image": {"flip": 2}}, "augment.image.flip"),
    ("machine.deterministic", "maybe", "machine.deterministic"),
]


def read(path):
    return YAML(typ="safe", pure=True).load(path)


@pytest.fixture(scope="module")
def validator(tmp_path_factory):
    file = tmp_path_factory.mktemp("schema") / "params.schema.json"
    with pytest.raises(SystemExit) as end:
        cli.main(["schema", "--out", str(file)])
    assert end.value.code == 0
    schema = json.loads(file.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def list_their_places(validator, data):
    """Return the paths of what the JSON Schema refuses."""
    places = set()
    for error in validator.iter_errors(data):
        path = [str(part) for part in error.absolute_path]
        if error.validator == "additionalProperties":
            (unknown,) = error.instance.keys() - error.schema["properties"].keys()
            path.append(unknown)
        if error.validator == "required":
            (missing,) = set(error.validator_value) - error.instance.keys()
            path.append(missing)
        places.add(".".join(path))
    return places


def list_our_places(data):
    """Return the paths of what umemma refuses before it looks at any sample."""
    try:
        params = validate(Params, data, "params.yaml")
        module = datasets.get_module(params.dataset)
        datasets.read_options(module, params.preprocess.options, params.modalities)
        known = [*params.modalities, *module.SPEC.modalities]
        params.check_modalities(known, params.modalities)
        params.finetune.switches()
        for modality, options in params.augment.items():
            kind = modalities.get_module(params.modalities[modality])
            validate(kind.Augment, options, "settings", f"augment.{modality}")
        experiments.plan_experiments(params)
    except UserError as error:
        if error.where not in ("params.yaml", "settings"):
            return {error.where}
        matches = [PLACE.match(problem) for problem in error.what.split("; ")]
        return {match[1] or match[2] for match in matches if match}
    return set()


def list_nodes(node, path=()):
    yield path, node
    children = []
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    for key, value in children:
        yield from list_nodes(value, (*path, key))


def change(data, path, value):
    """Return a copy of the settings with another value at a path."""
    changed = copy.deepcopy(data)
    node = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return changed


def mutate(data):
    """Yield (what is changed, where, changed settings) for every node of the settings."""
    for path, node in list_nodes(data):
        if isinstance(node, dict):
            yield "unknown key", path, change(data, (*path, "nonsense"), 1)
        elif isinstance(node, list):
            yield "item", path, change(data, path, [*node, {}])
        if not path:
            continue
        yield "type", path, change(data, path, [[3]])
        if isinstance(node, (int, float)):
            yield "number", path, change(data, path, -1000000)
        if isinstance(node, str):
            yield "word", path, change(data, path, "nonsense")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_schema_accepts_the_shipped_settings(validator, file):
    data = read(file)
    assert list_their_places(validator, data) == list_our_places(data) == set()


@pytest.mark.parametrize("name", ["digits", "manifest", "mfeat", "mmimdb"])
def test_what_the_settings_refuse_the_schema_refuses_at_the_same_place(validator, name):
    data = read(ROOT / "recipes" / f"{name}.yaml")
    refused = Counter()
    for what, path, changed in mutate(data):
        ours = list_our_places(changed)
        theirs = list_their_places(validator, changed)
        if not theirs and all(BEYOND.fullmatch(place) for place in ours):
            continue
        assert theirs == ours, f"{what}: {path}"
        refused[what] += 1
    assert refused.keys() == {"unknown key", "item", "type", "number", "word"}
    assert refused.total() > 100


@pytest.mark.parametrize(("path", "value", "place"), BY_HAND)
def test_a_mistake_has_the_same_place_in_the_schema(validator, path, value, place):
    changed = change(read(ROOT / "params.yaml"), path.split("."), value)
    assert list_their_places(validator, changed) == {place}
    assert list_our_places(changed) == {place}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("modalities", {"audio": "audio", "image": "image"}),
        ("encoders.image", "cnn:small"),
        ("pretrain.modalities", {"image": {"epochs": 3, "encoder": {"learning_rate": 1e-5}}}),
        ("pretrain.class_weights", "balanced"),
        ("pretrain.class_weights", {"7": 2.0}),
        ("pretrain.pos_weight", 3.0),
        ("missing.val", {"audio": 0.5}),
        ("compare.folds", "all"),
        ("machine.deterministic", "warn"),
    ],
)
def test_what_may_be_of_several_types_is_accepted_in_each(validator, path, value):
    changed = change(read(ROOT / "params.yaml"), path.split("."), value)
    assert list_their_places(validator, changed) == list_our_places(changed) == set()


@pytest.mark.parametrize("folds", [None, 5, {"by": "speaker"}])
def test_folds_are_a_number_a_section_or_null(validator, folds):
    data = {"dataset": "manifest", "modalities": ["image"]}
    data["preprocess"] = {"options": {"columns": {"image": "file"}, "folds": folds}}
    assert list_their_places(validator, data) == list_our_places(data) == set()


def test_a_setting_that_is_missing_is_named(validator):
    assert list_their_places(validator, {"dataset": "digits"}) == {"modalities"}
    assert list_our_places({"dataset": "digits"}) == {"modalities"}


def test_it_is_printed_with_what_docstrings_say(validator, capsys):
    with pytest.raises(SystemExit):
        cli.main(["schema"])
    schema = json.loads(capsys.readouterr().out)
    assert schema == validator.schema
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    pretrain = schema["$defs"]["Pretrain"]
    assert pretrain["description"] == "Uni-modal training: one classifier per modality."
    warmup = pretrain["properties"]["warmup"]
    assert warmup["description"] == "the share of all steps in which the learning rate rises."
    assert warmup["default"] == 0.1
    # The help of an encoder's setting goes on in the next line of the docstring.
    name = schema["$defs"]["Encoder"]["properties"]["name"]
    assert name["description"].endswith("stands for a section with only this key.")


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit) as end:
        cli.main(["schema", "--out", str(tmp_path / "folder")])
    assert end.value.code == 1
    assert "folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
