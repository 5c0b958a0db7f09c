"""Answers from new media: those of the evaluation, in whatever form the media come, and everything put in wrong."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from toys.media import film
from toys.models import RATE, call, saved
from toys.project import quick

import umemma
from umemma import datasets
from umemma.data import shard_reader
from umemma.data.loader import cut_batches
from umemma.data.storage import Store
from umemma.errors import UserError
from umemma.evaluation.calibration import Calibration, probabilities
from umemma.missing import list_patterns, make_keep_table
from umemma.models.predict_inputs import NOTHING, Failure, decode_sample
from umemma.models.predictor import Prediction
from umemma.stages import predict
from umemma.training import train
from umemma.types import ImageInput, Packing, Sound, format_pattern


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 24), dtype=np.uint8)


def noise(seed: int = 0) -> np.ndarray:
    return (3000 * np.random.default_rng(seed).standard_normal(RATE // 2)).astype(np.int16)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a model, media and a table; the current directory."""
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "model")
    Image.fromarray(picture()).save("x.png")
    soundfile.write("x.wav", noise(), RATE)
    soundfile.write("quiet.wav", 0 * noise(), RATE)
    rows = "key,image,audio a,x.png,x.wav b,x.png, c,,x.wav d,, e,no.png,x.wav f,x.wav, g,x.png,quiet.wav h,x.png"
    Path("table.csv").write_text("\n".join(rows.split()) + "\n")
    return tmp_path


def chances(found: Any) -> np.ndarray:
    return np.array(list(found.probabilities.values()))


def test_answers_are_those_of_the_evaluation(project):
    """Of original media, for every subset: as the packed samples are answered, calibrated."""
    params = quick()
    fitted = {
        "audio": {"temperature": 0.5, "bias": [1.0, 0.0, -1.0]},
        "audio+image": {"temperature": 2.0, "bias": []},
        "image": {"temperature": 1.0, "bias": [0.0, 0.5, 0.0]},
    }
    model = umemma.load(saved(Path("m"), calibration=fitted, **params.encoders))
    weights = load_file("m/model.safetensors")
    assert all(
        torch.equal(weights[n], x) for n, x in model.model.state_dict().items() if "probes" not in n
    )
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    data = train.DataSource(Store(params.paths.shards), index, model.specs, params.machine, 0)
    digits = datasets.get_module("digits")
    options = digits.Options(**params.preprocess.options)
    media = {record.key: record.media for record in digits.records(params.paths.raw, options)}
    with contextlib.ExitStack() as stay:
        split = data.load("test", stay, "test")
        (batch,) = split.batches(cut_batches(range(12), 12), torch.device("cpu"))
    logits = model.model.pattern_logits(
        batch, torch.from_numpy(make_keep_table(model.modalities))
    ).numpy()
    for i, pattern in enumerate(list_patterns(model.modalities)):
        calibrated = Calibration.of(fitted[format_pattern(pattern)]).apply(logits[:, i])
        found = list(
            model.predict_many([{m: media[key][m] for m in pattern} for key in split.keys[:12]])
        )
        expected = probabilities(calibrated, "multiclass")
        np.testing.assert_allclose([chances(one) for one in found], expected, atol=1e-6)
        assert {one.present for one in found} == {pattern}
    alone = umemma.load(params.paths.pretrain("image"))
    assert alone.predict(image=media[split.keys[0]]["image"]).present == ("image",)


def test_each_subset_has_its_own_calibration(tmp_path):
    """With the logits 0 and ln 2 the chances are 1 : 2; at half the temperature 1 : 4; with ln 4 more for the first 4 : 2."""
    fitted = {
        "audio": {"temperature": 0.5, "bias": []},
        "image": {"temperature": 1.0, "bias": [math.log(4), 0.0]},
    }
    model = umemma.load(saved(tmp_path / "m", head=(0.0, math.log(2)), calibration=fitted))
    both = model.predict(image=picture(), audio=(noise(), RATE))
    assert both.probabilities == pytest.approx({"class 0": 1 / 3, "class 1": 2 / 3})
    assert (both.label, both.present) == ("class 1", ("audio", "image"))
    assert model.predict(audio=(noise(), RATE), image=None).probability == pytest.approx(4 / 5)
    image = model.predict(image=picture())
    assert (image.label, image.present) == ("class 0", ("image",))
    assert image.probability == pytest.approx(2 / 3)


@pytest.mark.parametrize("image", [b"no picture", "no.png", np.zeros((4, 4)), 3])
def test_a_medium_that_cannot_be_read_is_absent(place, image):
    """Of the wrong type too: what is given for one modality doesn't decide about the others."""
    model = umemma.load("model")
    audio = (noise(), RATE)
    found, without = model.predict(image=image, audio=audio), model.predict(audio=audio)
    assert (found.probabilities, found.present) == (without.probabilities, ("audio",))
    assert ([reason.split(":")[0] for reason in found.broken], without.broken) == (["image"], ())
    strict = umemma.load("model", broken="fail")
    assert strict.predict(audio=audio) == without
    with pytest.raises(UserError, match="image"):
        strict.predict(image=image, audio=audio)


def test_where_every_medium_is_broken_the_error_names_them(place):
    with pytest.raises(UserError, match=r"^audio x\.png: not readable .*; image: file is missing$"):
        umemma.load("model").predict(audio="x.png", image="no.png")


def test_a_policy_that_is_not_known(place):
    with pytest.raises(UserError, match="unknown policy 'absnt'") as error:
        umemma.load("model", broken="absnt")
    assert "'absent'" in error.value.hint


def test_of_a_multilabel_task_every_label_over_a_half(tmp_path):
    model = umemma.load(
        saved(tmp_path / "m", "text", task="multilabel", head=(math.log(3), -1.0, 0.1))
    )
    found = model.predict(text="two dogs")
    assert found.label == ("class 0", "class 2")
    assert found.probability[0] == pytest.approx(3 / 4)
    both = umemma.load(
        saved(tmp_path / "both", "image+text", task="multilabel", head=(math.log(3), -1.0, 0.1))
    )
    assert both.predict(text="two dogs", image="no.png").broken == ("image: file is missing",)
    model = umemma.load(saved(tmp_path / "none", "text", task="multilabel", head=(-1.0, -1.0)))
    assert model.predict(text="two dogs").label == ()


@pytest.mark.parametrize("absent", ["zero", "blank", "learned"])
def test_one_by_one_is_as_in_a_batch(tmp_path, absent):
    model = umemma.load(saved(tmp_path / "m", absent=absent))
    every = [{"image": picture(i)} if i % 3 else {"audio": Sound(noise(i), RATE)} for i in range(7)]
    every += [
        {"image": b"no"},
        {},
        Failure("given up"),
        {"image": picture(9), "audio": (noise(9), RATE)},
    ]
    batch = list(model.predict_many(iter(every), batch_size=4))
    ones = [next(model.predict_many([one])) for one in every]
    for one, other in zip(batch, ones, strict=True):
        if isinstance(one, Failure):
            assert one == other
            continue
        assert (one.label, one.present) == (other.label, other.present)
        np.testing.assert_allclose(chances(one), chances(other), atol=1e-6)
    reasons = [one.reason for one in batch if isinstance(one, Failure)]
    assert reasons == ["image: not a readable image: unknown format", NOTHING, "given up"]
    assert list(model.predict_many([])) == []


def test_media_in_every_form_give_the_same(place):
    model = umemma.load("model")
    png, wav = Path("x.png").read_bytes(), Path("x.wav").read_bytes()
    images = ["x.png", Path("x.png"), png, picture(), Image.open("x.png")]
    sounds = [
        "x.wav",
        Path("x.wav"),
        wav,
        Sound(noise(), RATE),
        (noise(), RATE),
        (noise() / np.float32(32768), RATE),
    ]
    assert len({tuple(model.predict(image=one).probabilities.values()) for one in images}) == 1
    assert len({tuple(model.predict(audio=one).probabilities.values()) for one in sounds}) == 1
    colours = np.stack([picture()] * 3, -1)
    transparent = Image.fromarray(colours).convert("RGBA")
    assert model.predict(image=colours) == model.predict(image=transparent)


def test_a_video_is_seen_and_heard(tmp_path):
    path = film(tmp_path / "a.mp4")
    model = umemma.load(saved(tmp_path / "m", "audio+video"))
    both = model.predict(audio=str(path), video=str(path))
    assert both.present == ("audio", "video")
    assert model.predict(video=path.read_bytes()) == model.predict(video=path)
    deaf = film(tmp_path / "deaf.mp4", tone=None)
    assert model.predict(audio=deaf, video=deaf).present == ("video",)


def test_threads_share_a_model(tmp_path):
    model = umemma.load(saved(tmp_path / "m", "image+text"))
    given = [{"image": picture(i), "text": f"number {i}"} for i in range(8)]
    expected = list(model.predict_many(given, batch_size=1))
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: model.predict(**given[i])}))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(8)] == expected


def test_loading_leaves_the_callers_chance_alone(tmp_path):
    folder = saved(tmp_path / "m")
    torch.manual_seed(1)
    umemma.load(folder)
    number = torch.rand(())
    torch.manual_seed(1)
    assert torch.rand(()) == number


def test_umemma_is_imported_without_torch():
    code = "import sys, umemma; assert callable(umemma.load) and not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# What is put in wrong. ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, NOTHING),
        ({"image": None}, NOTHING),
        ({"audio": "quiet.wav"}, NOTHING),
        ({"video": "x.mp4"}, "unknown modality 'video'"),
        ({"image": "x.wav"}, "image x.wav: not a readable image"),
        ({"audio": "x.png"}, "audio x.png: not readable video or sound"),
        ({"image": "no.png"}, "image no.png: file is missing"),
        ({"image": "model"}, "image model: not a file"),
        ({"image": b""}, "image bytes: not a readable image"),
        ({"image": picture().astype(float)}, "has to be"),
        ({"image": picture()[None]}, "has to be"),
        ({"image": picture()[:0]}, "has to be"),
        ({"image": Image.fromarray(picture().astype(np.int32))}, "not an image"),
        ({"image": 3}, "image int: not an image"),
        ({"audio": noise()}, "not an image"),
        ({"audio": (noise(), 0)}, "has to be"),
        ({"audio": (noise().astype(np.int64), RATE)}, "has to be"),
        ({"audio": (np.stack([noise()] * 2), RATE)}, "has to be"),
    ],
)
def test_no_answer_is_one_error(place, given, message):
    with pytest.raises(UserError) as error:
        umemma.load("model").predict(**given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": None}, "classes"),
        ({"classes": ["a", "a", "b"]}, "names a class twice"),
        ({"classes": ["a", "b"]}, "weights do not fit"),
        ({"media": {"side": "large"}}, "media.side"),
        ({"task": "regression"}, "task"),
        ({"calibration": {}}, "'audio'|'audio\\+image'"),
        ({"weights_sha256": "0"}, "truncated or altered"),
        ({"settings": {}}, "settings.modalities"),
    ],
)
def test_a_folder_that_was_altered_is_refused(place, change, message):
    path = Path("model/model.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message) as error:
        umemma.load("model")
    assert "umemma finetune-ensemble" in error.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.json", None, "not there yet"),
        ("model.json", b"[", "not JSON"),
        ("model.safetensors", None, "no such file"),
        ("model.safetensors", b"", "truncated or altered"),
    ],
)
def test_a_folder_that_is_incomplete_is_refused(place, name, content, message):
    Path("model", name).unlink()
    if content is not None:
        Path("model", name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        umemma.load("model")


def test_code_of_a_stranger_runs_only_where_it_is_trusted(place):
    Path("theirs.py").write_text(
        "from torch import nn\n"
        "from umemma.types import ImageInput\n"
        "open('ran', 'a').close()\n"
        "def flat():\n"
        "    return nn.Flatten(), 3 * 8 * 8, ImageInput(size=8)\n"
    )
    saved(Path("theirs"), image="import:theirs:flat")
    Path("ran").unlink()
    sys.modules.pop("theirs")
    with pytest.raises(UserError, match=r"(?s)runs code .* --trust"):
        umemma.load("theirs")
    assert not Path("ran").exists()
    assert umemma.load("theirs", trust=True).predict(image=picture()).present == ("image",)


# The command. ---------------------------------------------------------------------------------------------------------


def test_a_sample_on_the_command_line(place, capsys):
    assert call("predict", "--model", "model", "--image", "x.png", "--top", "2") == 0
    said = capsys.readouterr().out
    found = umemma.load("model").predict(image="x.png")
    assert "from image" in said
    assert f"{found.probability:.1%}" in said
    assert said.count("class ") == 3  # the head of the table and two rows
    assert call("predict", "--model", "model", "--image", "x.png", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["label"] == found.label
    assert answer["probabilities"] == pytest.approx(found.probabilities)
    assert answer["broken"] == []


def test_a_sample_with_a_broken_medium_is_answered_with_a_warning(place, capsys):
    sample = ["predict", "--model", "model", "--image", "x.wav", "--audio", "x.wav", "--json"]
    assert call(*sample) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert (answer["present"], answer["broken"]) == (
        ["audio"],
        ["image: not a readable image: unknown format"],
    )
    assert said.err == "image x.wav: not a readable image: unknown format; predicted without it\n"
    assert call(*sample, "--broken", "fail") == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        "Error: image x.wav: not a readable image: unknown format\n",
    )


def test_a_table_becomes_a_row_each(place, capsys, monkeypatch):
    monkeypatch.setattr("umemma.stages.predict.ROW_GROUP", 3)
    assert (
        call("predict", "--model", "model", "--manifest", "table.csv", "--out", "out/p.parquet")
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        "out/p.parquet: 5 predicted, 3 failed",
        "  predicted without a medium that can't be read: 1 x image: file is missing",
        f"  failed: 1 x {NOTHING}",
        "  failed: 1 x image: not a readable image: unknown format",
        "  failed: 1 x unreadable row: wrong number of cells",
    ]
    with pq.ParquetFile("out/p.parquet") as file:
        assert file.num_row_groups == 3
        assert json.loads(file.schema_arrow.metadata[b"classes"]) == [
            "class 0",
            "class 1",
            "class 2",
        ]
        rows = file.read().to_pylist()
    assert [row["key"] for row in rows] == [*"abcdefg", "8"]  # the last row can't be read
    assert [row["present"] for row in rows] == [
        "audio+image",
        "image",
        "audio",
        None,
        "audio",
        None,
        "image",
        None,
    ]
    assert [row["reason"] for row in rows] == [
        *(
            None,
            None,
            None,
            NOTHING,
            "image: file is missing",
            "image: not a readable image: unknown format",
            None,
        ),
        "unreadable row: wrong number of cells",
    ]
    assert [row["label"] is None for row in rows] == [row["present"] is None for row in rows]
    assert rows[4] == rows[2] | {
        "key": "e",
        "reason": "image: file is missing",
    }  # as if no image had been named
    found = umemma.load("model").predict(image="x.png", audio="x.wav")
    assert rows[0]["label"] == found.label
    assert rows[0]["probabilities"] == pytest.approx(chances(found))
    assert rows[0]["probability"] == max(rows[0]["probabilities"])


def test_processes_give_what_this_one_gives(place):
    tables = []
    for workers in (0, 2):
        predict.run_table(
            Path("model"), Path("table.csv"), Path("p.parquet"), workers=workers, batch_size=3
        )
        tables.append(pq.read_table("p.parquet").to_pylist())
    for one, two in zip(*tables, strict=True):
        for number in ("probability", "probabilities"):
            assert one.pop(number) == pytest.approx(two.pop(number), abs=1e-6)
        assert one == two


def test_columns_have_names_and_texts_are_words_or_files(place, capsys):
    saved(Path("words"), "text", task="multilabel")
    Path("sub").mkdir()
    Path("sub/a.txt").write_text("two dogs")
    Path("sub/t.jsonl").write_text('{"caption": "two dogs", "file": "a.txt"}\n{"file": "a.txt"}\n')
    table = ["predict", "--model", "words", "--manifest", "sub/t.jsonl"]
    assert call(*table, "--columns", "text=caption", "--out", "w.parquet") == 0
    assert call(*table, "--columns", "text=file", "--text-files", "--out", "f.parquet") == 0
    words, files = (pq.read_table(name).to_pylist() for name in ("w.parquet", "f.parquet"))
    assert [row["reason"] for row in words] == [None, NOTHING]
    assert files[0] == words[0] == files[1] | {"key": "1"}
    capsys.readouterr()
    assert call("predict", "--model", "words", "--text", "sub/a.txt", "--text-files", "--json") == 0
    assert json.loads(capsys.readouterr().out)["probabilities"]["class 0"] == pytest.approx(
        words[0]["probabilities"][0]
    )


def test_a_table_without_an_answer_is_a_failure(place, capsys):
    Path("t.csv").write_text("image\nno.png\n")
    assert (
        call("predict", "--model", "model", "--manifest", "t.csv", "--out", "p.parquet", "--json")
        == 1
    )
    found = json.loads(capsys.readouterr().out)
    assert found == {"answered": 0, "broken": {}, "failed": {"image: file is missing": 1}}
    assert pq.read_table("p.parquet").num_rows == 1


def test_by_choice_a_row_with_a_broken_medium_fails(place, capsys):
    Path("t.csv").write_text("key,image,audio\na,no.png,x.wav\nb,x.png,x.wav\nc,no.png,no.wav\n")
    table = ["predict", "--model", "model", "--manifest", "t.csv", "--out", "p.parquet", "--json"]
    assert call(*table, "--broken", "fail") == 0
    two = "audio: file is missing; image: file is missing"
    failed = {"image: file is missing": 1, two: 1}
    assert json.loads(capsys.readouterr().out) == {"answered": 1, "broken": {}, "failed": failed}
    assert call(*table) == 0
    broken = {"image: file is missing": 1}
    assert json.loads(capsys.readouterr().out) == {
        "answered": 2,
        "broken": broken,
        "failed": {two: 1},
    }
    assert call(*table[:-1], "--broken", "drop") == 2
    assert "'drop'" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_keep_the_policy(place, workers):
    for policy, answered in (("absent", 5), ("fail", 4)):
        counts = predict.run_table(
            Path("model"), Path("table.csv"), Path("p.parquet"), workers=workers, broken=policy
        )
        assert (counts.answered, sum(counts.broken.values()), sum(counts.failed.values())) == (
            answered,
            answered - 4,
            8 - answered,
        )


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("", 2, "nothing to predict from"),
        ("--video x.mp4", 2, "unknown modality 'video'"),
        ("--image x.wav", 2, "image x.wav: not a readable image"),
        ("--image no.png", 2, "image no.png: file is missing"),
        ("--image x.png --model nowhere", 1, "nowhere/model.json: not there yet"),
        ("--image x.png --manifest table.csv --out p.parquet", 2, "don't go together"),
        ("--manifest table.csv", 2, "don't go together"),
        ("--manifest no.csv --out p.parquet", 2, "no such file"),
        ("--manifest x.png --out p.parquet", 2, "not a table by its name"),
        ("--manifest table.csv --out p.csv", 2, "ends in .parquet"),
        ("--manifest other.csv --out p.parquet", 2, "no column is named audio or image"),
        ("--manifest empty.csv --out p.parquet", 1, "no rows in it"),
        ("--manifest broken.parquet --out p.parquet", 1, "can't be read"),
        (
            "--manifest table.csv --out p.parquet --columns image=picture",
            2,
            "unknown column 'picture'",
        ),
        (
            "--manifest table.csv --out p.parquet --columns video=image",
            2,
            "unknown modality 'video'",
        ),
        ("--manifest table.csv --out p.parquet --columns image", 2, "--columns image=COLUMN"),
        ("--manifest table.csv --out x.png/p.parquet", 2, "ends in .parquet|can't be written"),
    ],
)
def test_what_is_put_in_wrong_is_one_message(place, capsys, words, status, message):
    Path("other.csv").write_text("picture\nx.png\n")
    Path("empty.csv").write_text("image\n")
    Path("broken.parquet").write_bytes(b"PAR1")
    before = {path.name for path in place.iterdir()}
    found = call("predict", "--model", "model", *words.split())
    captured = capsys.readouterr()
    assert any(part in captured.err for part in message.split("|"))
    assert found == (1 if "can't be written" in captured.err else status)
    assert captured.out == ""
    assert {path.name for path in place.iterdir()} - before <= {"logs"}


def test_the_ensemble_of_the_settings_is_the_default(place, capsys):
    assert call("predict", "--image", "x.png") == 2
    assert "params.yaml: no such file" in capsys.readouterr().err
    Path("params.yaml").write_text("dataset: digits\nmodalities: [audio, image]\n")
    assert call("predict", "--image", "x.png") == 1
    assert (
        "models/digits/ensemble/model.json: not there yet\nRun: umemma finetune-ensemble"
        in capsys.readouterr().err
    )
    saved(Path("models/digits/ensemble"))
    assert call("predict", "--image", "x.png") == 0


def test_a_path_that_cannot_be_looked_at_is_a_failure_of_its_row():
    found = decode_sample({"image": "a" * 300}, Packing(), {"image": ImageInput(size=8)})
    assert found == Failure("image: file can't be read")


def test_a_class_is_shown_as_it_is_written(capsys):
    table = predict.make_class_table(
        Prediction("[/x]", 0.5, {"[/x]": 0.5, "[red]": 0.5}, ("image",)), 2
    )
    Console().print(table)
    text = capsys.readouterr().out
    assert "[/x]" in text
    assert "[red]" in text
