"""A model's folder holds the tokenizer and configuration of transformers that it needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from toys.models import call, change_about, save_model

import umemma
from umemma import config, encoders
from umemma.encoders import hf
from umemma.errors import UserError
from umemma.modalities import text
from umemma.models import predictor, saved_model
from umemma.stages import download, finetune, preprocess, pretrain
from umemma.types import TextInput

WORDS = "a b f"


MODELS = ("pretrain/text", "ensemble")


PROGRAM = """
import json, sys, umemma
text, *folders = sys.argv[1:]
predictions = [umemma.load(folder).predict(text=text) for folder in folders]
print(json.dumps([list(prediction.probabilities.values()) for prediction in predictions]))
"""


def write_tokenizer(folder: Path, names: str) -> None:
    """Write a tokenizer, and nothing else, whose words are letters. It names no padding token."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(["[UNK]", *names])}, "[UNK]")
    )
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=known, unk_token="[UNK]").save_pretrained(
        folder
    )


def train_models(tokenizer: str) -> None:
    """Train uni-modal models and an ensemble on a few texts and pictures.

    The current directory holds the folder "bert".
    """
    raw = Path("table")
    raw.mkdir()
    Image.new("L", (9, 8), 90).save(raw / "x.png")
    rows = [
        f"{' '.join('abcdef'[i % 6 :])},x.png,{i % 2},{side}"
        for side in ("train", "val")
        for i in range(8)
    ]
    (raw / "t.csv").write_text("\n".join(["text,image,label,split", *rows]) + "\n")
    options = "{table: t.csv, columns: {text: text, image: image}, split: split}"
    text_input = f"{{length: 8, tokenizer: '{tokenizer}'}}"
    text_encoder = f"{{name: hf:bert, weights: none, input: {text_input}}}"
    sets = [
        f"preprocess.options={options}",
        f"encoders={{image: {{input: {{size: 8}}}}, text: {text_encoder}}}",
        "modalities=[image, text]",
    ]
    params = config.default_params("manifest", [*sets, "pretrain.epochs=1", "finetune.epochs=1"])
    download.run("manifest", params.preprocess.options, str(raw))
    preprocess.run(params, workers=1)
    for modality in params.modalities:
        pretrain.run(params, modality)
    finetune.run(params)


@pytest.fixture
def place(tmp_path, monkeypatch, bert) -> Path:
    """The current directory, with the folder "bert" of a tiny text model."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict_elsewhere(*folders: Path) -> list[list[float]]:
    """The probabilities that a new process without a network finds for WORDS."""
    command = [sys.executable, "-c", PROGRAM, WORDS, *map(str, folders)]
    around = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=around, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["hf:bert", "hf:./letters"])
def test_a_model_answers_where_its_original_is_not(place, tokenizer):
    """It predicts in another folder and process, without a network.

    The tokenizer may be the one of the encoder, or another one.
    """
    write_tokenizer(Path("letters"), "fedcba")
    train_models(tokenizer)
    here = [umemma.load(f"models/manifest/{name}").predict(text=WORDS) for name in MODELS]
    (place / "gone").mkdir()
    for original in ("bert", "letters"):
        Path(original).rename(place / "gone" / original)
    shutil.move("models/manifest", place / "elsewhere")
    elsewhere = predict_elsewhere(*(place / "elsewhere" / name for name in MODELS))
    for one, other in zip(here, elsewhere, strict=True):
        assert list(one.probabilities.values()) == pytest.approx(other, abs=1e-6)
    about = json.loads((place / "elsewhere/ensemble/model.json").read_text())
    assert set(about["hf"]) == {"bert", tokenizer.removeprefix("hf:")}


def test_a_folder_is_the_same_bytes_wherever_its_parts_came_from(place):
    """And holds neither weights nor code of the original, nor where that lay."""
    settings = json.loads(Path("bert/tokenizer_config.json").read_text())
    settings |= {
        "name_or_path": "/home/somebody/bert",
        "vocab_file": "/home/somebody/vocab.txt",
        "chat_template": "{{ x }}",
    }
    Path("bert/tokenizer_config.json").write_text(json.dumps(settings))
    Path("bert/modeling_bert.py").write_text("1 / 0")
    one = save_model(place / "one", "text", text={"name": "hf:bert", "input": {"length": 8}})
    before = read_files(one)
    Path("x").mkdir()
    shutil.move("bert", "x/bert")
    os.chdir("x")
    two = save_model(place / "two", "text", text={"name": "hf:bert", "input": {"length": 8}})
    assert read_files(two) == before
    (carried,) = json.loads(before["model.json"])["hf"].values()
    inside = {
        name.removeprefix(f"{carried['folder']}/") for name in before if name.startswith("hf/")
    }
    assert (
        inside
        == set(carried["files"])
        == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    )
    assert not [
        name for name, data in before.items() if b"somebody" in data or str(place).encode() in data
    ]
    kept = json.loads(before[f"{carried['folder']}/tokenizer_config.json"])
    assert kept["model_max_length"] == 16
    assert (
        not {"is_local", "local_files_only", "name_or_path"} & kept.keys()
    )  # which the hub's cache answers otherwise


def test_a_model_in_use_may_be_in_any_current_directory(place):
    """A process that decodes texts reads the tokenizer anew, there."""
    save_model(Path("m"), "text", text={"name": "hf:bert", "input": {"length": 8}})
    model = umemma.load("m")
    os.chdir("bert")
    text._get_tokenizer.cache_clear()
    assert model.predict(text=WORDS).present == ("text",)


def test_every_kind_of_tokenizer_comes_back_as_it_was(place):
    """Word pieces, byte pairs, a unigram model: the same tokens, padding and maximum length."""
    import transformers
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    texts = ["A dog sings, by the pond!", "Ünïcode 東京 🙂 don't", "", "dog " * 40]
    kinds = {
        "bytes": (
            models.BPE(),
            trainers.BpeTrainer(special_tokens=["<s>", "</s>", "<pad>"], show_progress=False),
        ),
        "unigram": (
            models.Unigram(),
            trainers.UnigramTrainer(
                special_tokens=["<s>", "</s>", "<pad>", "<unk>"],
                unk_token="<unk>",
                show_progress=False,
            ),
        ),
    }
    for name, (model, trainer) in kinds.items():
        made = Tokenizer(model)
        made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        made.pre_tokenizer = (
            pre_tokenizers.ByteLevel() if name == "bytes" else pre_tokenizers.Metaspace()
        )
        made.decoder = decoders.ByteLevel()
        made.train_from_iterator(texts * 3, trainer)
        marks = [(mark, made.token_to_id(mark)) for mark in ("<s>", "</s>")]
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=marks
        )
        own = transformers.PreTrainedTokenizerFast(
            tokenizer_object=made, pad_token="<pad>", model_max_length=24
        )
        own.save_pretrained(name)
    for name in ("bert", *kinds):
        hf.save_tokenizer(name, Path("kept", name), with_config=name == "bert")
        theirs, ours = (
            TextInput(length=24, tokenizer=f"hf:{place}") for place in (name, f"kept/{name}")
        )
        for one in texts:
            assert torch.equal(text.decode(one.encode(), ours), text.decode(one.encode(), theirs))
    assert encoders.input_spec("hf:kept/bert", "text") == encoders.input_spec(
        "hf:bert", "text"
    ).model_copy(update={"tokenizer": "hf:kept/bert"})


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def truncate_file(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-1])


def remove_file(folder: Path) -> None:
    (folder / "config.json").unlink()


def add_file(folder: Path) -> None:
    (folder / "vocab.txt").write_text("a")


@pytest.mark.parametrize("harm", [remove_folder, truncate_file, remove_file, add_file])
def test_a_tokenizer_that_is_not_whole_is_one_error(place, harm, capsys):
    folder = save_model(place / "m", "text", text={"name": "hf:bert", "input": {"length": 8}})
    about = json.loads((folder / "model.json").read_text())
    settings = about["settings"]
    assert saved_model.find_current(folder, settings, {})
    harm(folder / about["hf"]["bert"]["folder"])
    with pytest.raises(
        UserError, match="the tokenizer of hf:bert is missing, truncated or altered"
    ) as caught:
        umemma.load(folder)
    assert caught.value.hint == predictor.REPAIR_HINT
    assert saved_model.find_current(folder, settings, {}) is None  # so that it is trained again
    assert call("export", "--model", "m") == 1
    assert "Copy the folder again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hf": {}}, "no tokenizer of hf:bert in it"),
        ({"hf": {"bert": {"folder": "../bert", "files": {}}}}, "hf.bert.folder"),
        ({"hf": {"bert": {"folder": "hf/00000000", "files": {"../x.json": ""}}}}, "hf.bert.files"),
        (
            {"hf": {"bert": {"folder": "hf/00000000", "files": {"modeling.py": ""}}}},
            "hf.bert.files",
        ),
        ({"hf": None}, "hf: "),
    ],
)
def test_a_folder_leads_nowhere_else(place, change, message):
    folder = save_model(place / "m", "text", text={"name": "hf:bert", "input": {"length": 8}})
    change_about(folder, change)
    with pytest.raises(UserError, match=message):
        umemma.load(folder)


def test_a_folder_of_a_stranger_runs_no_code(place):
    """Neither Python beside a configuration, nor a kernel of the hub that it names."""
    one = umemma.load(
        save_model(place / "one", "text", text={"name": "hf:bert", "input": {"length": 8}})
    )
    path = Path("bert/config.json")
    own = {
        "auto_map": {"AutoConfig": "code.Own", "AutoModel": "code.Own"},
        "_attn_implementation": "nobody/kernel",
    }
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | own | {"_experts_implementation": "nobody/kernel"}
        )
    )
    Path("bert/code.py").write_text(f"open({str(place / 'ran')!r}, 'w')\nclass Own: pass")
    two = umemma.load(
        save_model(place / "two", "text", text={"name": "hf:bert", "input": {"length": 8}})
    )
    assert two.predict(text=WORDS) == one.predict(text=WORDS)
    config_ = two.model.encoders["text"].model.config
    assert "nobody/kernel" not in (config_._attn_implementation, config_._experts_implementation)
    assert not (place / "ran").exists()
