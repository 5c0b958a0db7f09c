"""Results, tables and requests of strangers, for the commands that take them: the rules of
test_hostile hold, and nothing that they hold is markup on a page or a command to the terminal."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sqlite3
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import requests
from huggingface_hub import constants
from toys.audits import make_rows
from toys.hostile import COUNT, DEEP, EVIL, NAMES, VALUES, mutate, replace_each
from toys.hub import serve_hub
from toys.models import call, save_model, write_media
from toys.predictions import four_samples
from toys.project import quick
from toys.serving import save_wide_model, start_thread

import umemma
from umemma.errors import UserError
from umemma.evaluation.search.space import parse_space
from umemma.serving.limits import Limits
from umemma.stages import tune

pytestmark = [pytest.mark.drill, pytest.mark.slow]

Input = TypeVar("Input")
MOST = 200  # inputs of each kind
SHOWN = 12  # faults


def find_faults(capsys, *words: str) -> list[str]:
    """Run a command on a strange input, and return what is wrong with how it ends."""
    try:
        status = call(*words)
    except Exception:  # noqa: BLE001 - any is a defect, and all of them are listed
        return [traceback.format_exc()[-1500:]]
    said = capsys.readouterr()
    faults = []
    if status not in (0, 1, 2):
        faults.append(f"exit status {status}: {said.err[-500:]}")
    if "\x1b[2J" in said.err + said.out:
        faults.append("a command to the terminal")
    if len(said.err + said.out) > 100_000:
        faults.append(f"{len(said.err + said.out)} characters of output")
    return faults


def finish(count, name: str, tried: int, faults: list[str]) -> None:
    """Count what was tried, and fail where something was found."""
    count(name, tried, len(faults))
    if faults:
        pytest.fail("\n\n".join(sorted(set(faults))[:SHOWN]), pytrace=False)


def find_markup(*files: Path) -> list[str]:
    """Return the files where a name of theirs is markup."""
    found = []
    for path in files:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if "<img" in text.replace(r"\<img", "") or "\x1b" in text:
            found.append(f"markup in {path}")
    return found


def draw(inputs: Iterable[Input], seed: str) -> list[Input]:
    """Return at most MOST of the inputs, drawn by chance."""
    found = list(inputs)
    return random.Random(seed).sample(found, min(MOST, len(found)))


def find_markup_of_card(path: Path) -> list[str]:
    """Return what is markup between the metadata and the settings, which are YAML, of a card."""
    if not path.exists():
        return []
    body, _, _ = path.read_text(encoding="utf-8").partition("## Training settings")
    page = path.with_name("body.md")
    page.write_text(body.split("---\n", 2)[2], encoding="utf-8")
    path.unlink()
    return find_markup(page)


def write_tables(rows: list[dict[str, Any]], chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield the suffix and the bytes of a table: with strange cells, then damaged."""
    columns = list(rows[0])
    for name in columns:
        for value in VALUES:
            lines = [json.dumps(row | {name: value}) for row in rows]
            yield "jsonl", "\n".join(lines).encode()
    renamed = [{**row, EVIL: row[columns[-1]]} for row in rows]
    yield "jsonl", "\n".join(map(json.dumps, renamed)).encode()
    for name in NAMES:
        yield "jsonl", "\n".join(json.dumps(row | {columns[0]: name}) for row in rows).encode()
    yield "jsonl", b'{"key":' + b"[" * DEEP
    table = pa.Table.from_pylist(rows)
    whole = {"csv": io.BytesIO(), "parquet": io.BytesIO()}
    pyarrow.csv.write_csv(table, whole["csv"])
    pq.write_table(table, whole["parquet"])
    whole["jsonl"] = io.BytesIO("\n".join(map(json.dumps, rows)).encode())
    for suffix, file in whole.items():
        for _ in range(COUNT // 2):
            yield suffix, mutate(file.getvalue(), chance)
    for suffix in whole:
        yield suffix, b""
        yield suffix, b"\n" * 1000
        yield suffix, b"\x00" * 1000


def test_tables_of_answers(inside, capsys, count):
    faults, tried = [], 0
    rows = make_rows()
    for suffix, data in draw(write_tables(rows, random.Random("audit")), "audit")[: MOST // 3]:
        path = inside / f"answers.{suffix}"
        path.write_bytes(data)
        words = ("--out", "report", "--set", "evaluate.bootstrap=20", "--set", "evaluate.draws=1")
        faults += find_faults(capsys, "audit", str(path), *words)
        faults += find_markup(*(inside / "report").glob("*.[hm]*"))
        tried += 1
    finish(count, "hostile: tables of answers", tried, faults)


def test_tables_of_masks_and_protocols(inside, capsys, count):
    four_samples().save(inside / "kept.parquet", "test")
    faults, tried = [], 0
    rows = [{"key": key, "present": "audio+image"} for key in "abcd"]
    for suffix, data in draw(write_tables(rows, random.Random("masks")), "masks"):
        (inside / f"masks.{suffix}").write_bytes(data)
        words = ("--predictions", "kept.parquet", "--masks", f"masks.{suffix}")
        faults += find_faults(capsys, "protocol", *words)
        tried += 1
    (inside / "wards.csv").write_text("key,ward\na,n\nb,s\nc,n\nd,s\n")
    rule = {"by": "ward", "rates": {"n": 0.5}, "otherwise": 0.1}
    good = {"missing": {"audio": rule, "image": 0.3}, "table": "wards.csv"}
    texts = [json.dumps(data).encode() for data in replace_each(good)]
    texts += [b"[" * DEEP, b"&a [*a]", b"missing: !!python/name:os.system", b"", b"\x00"]
    chance = random.Random("protocols")
    texts += [mutate(json.dumps(good).encode(), chance) for _ in range(COUNT)]
    for text in draw(texts, "protocols"):
        (inside / "p.yaml").write_bytes(text)
        faults += find_faults(capsys, "protocol", "p.yaml", "--predictions", "kept.parquet")
        tried += 1
    finish(count, "hostile: masks and protocols", tried, faults)


METRICS = {
    "metric": "accuracy",
    "accuracy": {"audio+image": 0.9, "audio": 0.8, "image": 0.7},
    "unimodal": {"audio": 0.8, "image": 0.7},
    "worst_case": {"value": 0.5, "low": 0.4, "high": 0.6},
    "gaps": {"audio": {"value": 0.1, "low": 0.0, "high": 0.2}},
    "contributions": {"audio": {"value": 0.1, "low": 0.0, "high": 0.2}},
    "dataset": "frogs",
    "variant": "",
    "split": "test",
    "preset": "ume-mma",
    "init": "unimodal",
    "mma": "all",
    "train": "all",
    "seed": 0,
    "samples": 200,
    "train_missing": {"audio": 0.5},
}
SCORE = {
    "train": "complete",
    "method": "ume",
    "metric": "accuracy",
    "column": "audio+image",
    "mean": 0.5,
    "std": 0.1,
    "seeds": 3,
}
COMPARISON = {
    "about": {"dataset": "frogs", "variant": "", "split": "test", "samples": 200},
    "scores": [SCORE, SCORE | {"column": "audio"}, SCORE | {"column": "image"}],
}


def list_documents(good: Any, chance: random.Random) -> Iterator[bytes]:
    for data in replace_each(good):
        yield json.dumps(data).encode()
    for _ in range(COUNT):
        yield mutate(json.dumps(good).encode(), chance)
    yield b"[" * DEEP
    yield b'{"a":' * DEEP


def test_folders_of_a_leaderboard(inside, capsys, count):
    chance = random.Random("leaderboard")
    faults, tried = [], 0
    for name, good in (("metrics.json", METRICS), ("compare.json", COMPARISON)):
        folder = inside / name.partition(".")[0]
        folder.mkdir()
        for data in draw(list_documents(good, chance), name):
            (folder / name).write_bytes(data)
            faults += find_faults(capsys, "leaderboard", str(folder))
            faults += find_markup(inside / "leaderboard.html", inside / "leaderboard.md")
            tried += 1
    finish(count, "hostile: folders of a leaderboard", tried, faults)


def test_results_of_a_card(inside, capsys, count):
    folder = save_model(inside / "model")
    about = json.loads((folder / "model.json").read_text())
    about.pop("content_hash")
    about["settings"]["seed"] = 0
    about["settings"]["finetune"] |= {"preset": "ume-mma", "init": "unimodal"}
    about["settings"]["finetune"] |= {"mma": "all", "train": "all"}
    (inside / "results").mkdir()
    chance = random.Random("card")
    faults, tried = [], 0
    documents = [(data, json.dumps(about).encode()) for data in list_documents(METRICS, chance)]
    for changed in replace_each(about["settings"]):
        data = json.dumps(about | {"settings": changed}).encode()
        documents.append((json.dumps(METRICS).encode(), data))
    for metrics, info in draw(documents, "card"):
        (inside / "results/metrics.json").write_bytes(metrics)
        (folder / "model.json").write_bytes(info)
        faults += find_faults(capsys, "card", "model", "--results", "results")
        faults += find_markup_of_card(inside / "card/README.md")
        tried += 1
    finish(count, "hostile: results of a card", tried, faults)


def test_studies(inside, count):
    space = parse_space(["finetune.batch_size=[16, 32]", "finetune.epochs=1..9"])

    def search(folder: Path, trials: int) -> tune.TuneReport:
        return tune.search(folder, lambda s: quick(*s), space, trials, lambda p, f: 0.5)

    search(inside / "good", 3)
    good = (inside / "good/study.db").read_bytes()
    chance = random.Random("studies")
    files = [mutate(good, chance) for _ in range(COUNT)]
    files += [b"", b"SQLite format 3\x00" + bytes(4096)]
    for statement in list_changes(inside / "good/study.db"):
        path = inside / "changed.db"
        path.write_bytes(good)
        with contextlib.suppress(sqlite3.Error), sqlite3.connect(path) as database:
            database.execute(statement)
        database.close()
        files.append(path.read_bytes())
    faults = []
    for number, data in enumerate(draw(files, "studies")[: MOST // 3]):
        folder = inside / str(number)
        folder.mkdir()
        (folder / "study.db").write_bytes(data)
        try:
            report = search(folder, 4)
            tune.make_trial_table(report, str, 10)
        except UserError:
            pass
        except Exception:  # noqa: BLE001 - as above
            faults.append(traceback.format_exc()[-1500:])
    finish(count, "hostile: studies", number + 1, faults)


def list_changes(path: Path) -> Iterator[str]:
    """Yield statements that drop, empty or change each table and column of a study."""
    with sqlite3.connect(path) as database:
        tables = [
            row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        for table in tables:
            yield f"DROP TABLE {table}"
            yield f"DELETE FROM {table}"
            for column in database.execute(f"PRAGMA table_info({table})"):
                for value in ("NULL", "-1", "'x'", "'{}'", "'[1]'", "1e400", "x'00ff'"):
                    yield f"UPDATE OR IGNORE {table} SET {column[1]} = {value}"
    database.close()


def test_tables_of_init(inside, capsys, count):
    faults, tried = [], 0
    rows = []
    for number in range(40):
        row = {"photo": f"{number}.png", "said": f"some words {number} to say", "age": number % 7}
        rows.append({**row, "label": "ab"[number % 2]})
    for suffix, data in draw(write_tables(rows, random.Random("init")), "init"):
        (inside / f"table.{suffix}").write_bytes(data)
        faults += find_faults(capsys, "init", f"table.{suffix}", "--label", "label", "--yes")
        for name in ("params.yaml", "dvc.yaml", ".dvcignore", ".gitignore"):
            text = (inside / name).read_text() if (inside / name).exists() else ""
            if "\x1b" in text:
                faults.append(f"an escape in {name}")
            (inside / name).unlink(missing_ok=True)
        tried += 1
    finish(count, "hostile: tables of init", tried, faults)


# A form that ends in a file leaves it to Python to close it, which Starlette's parser does not.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_requests(inside, count):
    save_wide_model(inside / "model")
    write_media(inside)
    model = umemma.load(inside / "model", device="cpu")
    chance = random.Random("requests")
    sample = {"text": "dogs", "scan": [1, 2], "chart": {"age": 61.5, "ward": "north"}}
    sample["wrist"] = {"samples": [[0.5, -1.0]] * 20, "rate": 50}
    bodies = [json.dumps(data).encode() for data in replace_each(sample)]
    bodies += [mutate(json.dumps(sample).encode(), chance) for _ in range(COUNT)]
    bodies += [b"[" * DEEP, b'{"scan":' + b"[" * DEEP, b"9" * DEEP, b'"' + b"\\ud800" * 9 + b'"']
    form = requests.Request(
        "POST",
        "http://x/",
        data={"text": "dogs", "scan": "[1, 2]"},
        files={"image": ("a.png", (inside / "x.png").read_bytes())},
    ).prepare()
    kind = form.headers["content-type"]
    asked = [("application/json", body) for body in bodies]
    asked += [(kind, mutate(form.body, chance)) for _ in range(COUNT * 3)]
    asked += [(kind + "x", form.body), ("multipart/form-data", form.body), (kind, b"")]
    for name in NAMES:
        upload = {"image": (name, b"x"), name: ("x", b"x")}
        try:
            made = requests.Request("POST", "http://x/", files=upload).prepare()
        except ValueError:
            continue
        asked.append((made.headers["content-type"], made.body))
    for suffix in ("png", "wav"):
        good = (inside / f"x.{suffix}").read_bytes()
        modality = {"png": "image", "wav": "audio"}[suffix]
        for _ in range(COUNT):
            files = {modality: mutate(good, chance)}
            made = requests.Request("POST", "http://x/", files=files).prepare()
            asked.append((made.headers["content-type"], made.body))
    faults = []
    with start_thread(model, Limits(2**21, 8, 2)) as address:
        for content_type, body in draw(asked, "requests"):
            headers = {"Content-Type": content_type}
            got = requests.post(f"{address}/predict", data=body, headers=headers, timeout=60)
            if got.status_code >= 500 or str(inside) in got.text or "Traceback" in got.text:
                faults.append(f"{got.status_code}: {got.text[:300]} to {body[:200]!r}")
            if got.headers["content-type"] != "application/json":
                faults.append(f"{got.headers['content-type']} to {body[:200]!r}")
    finish(count, "hostile: requests", min(MOST, len(asked)), faults)


def test_models_of_the_hub(inside, monkeypatch, capsys, count):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(inside / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = save_model(inside / "model")
    write_media(inside)
    chance = random.Random("hub")
    good = {name: (folder / name).read_bytes() for name in ("model.json", "model.safetensors")}
    commits = []
    for name in good:
        commits += [good | {name: mutate(good[name], chance)} for _ in range(COUNT // 2)]
    commits += [good | {f"hf/{'a' * 8}/{name}": b"{}"} for name in (*NAMES, "../../../evil.json")]
    commits += [good | {name: b"x"} for name in (*NAMES, EVIL, "../../evil.json")]
    faults, tried = [], 0
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for number, files in enumerate(draw(commits, "commits")):
            hub.add(f"me/toy{number}", files)
            faults += find_faults(
                capsys, "predict", "--model", f"hf://me/toy{number}", "--image", "x.png"
            )
            tried += 1
        files = [{"rfilename": name, "size": 1} for name in good]
        truth = {"id": "me/x", "sha": "a" * 40, "siblings": files}
        answers = [truth | {"sha": sha} for sha in (*NAMES, None, 3, EVIL)]
        answers += list(replace_each(truth))
        answers += [[], 3, EVIL, None]
        hub.add("me/x", good)
        for answer in draw(answers, "answers"):
            hub.answer = answer
            faults += find_faults(capsys, "predict", "--model", "hf://me/x", "--image", "x.png")
            tried += 1
    finish(count, "hostile: models of the hub", tried, faults)
