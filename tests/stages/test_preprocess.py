"""Shards are made once: kills, several tasks, other settings, changed and broken files."""

from __future__ import annotations

import csv
import functools
import http.server
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from toys.media import film
from toys.shards import Quiet

from umemma import cli, config
from umemma.data.shard_plan import count_records
from umemma.data.shard_reader import read_index, read_split
from umemma.errors import UserError
from umemma.stages import download, preprocess
from umemma.stages.inspection import verify
from umemma.system import executors
from umemma.system.storage import Store
from umemma.types import DatasetSpec, Record

SETTINGS = """
dataset: manifest
modalities: [image, text]
preprocess:
  shard_size: 4
  options: {table: table.csv, columns: {image: picture, text: words}, label: what, split: split}
"""
SHARDS = Path("data/shards/manifest")


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    """A project with a downloaded table of 30 pictures: 5 shards of train, 2 of val, 2 of test."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(SETTINGS)
    raw = tmp_path / "data" / "raw" / "manifest"
    raw.mkdir(parents=True)
    chance = np.random.default_rng(0)
    with (raw / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["picture", "words", "what", "split"])
        for i in range(30):
            Image.fromarray(chance.integers(0, 255, (9, 9), np.uint8)).save(raw / f"{i}.png")
            split = "train" if i < 18 else "val" if i < 24 else "test"
            rows.writerow([f"{i}.png", f"word {i}" if i % 3 else "", "ab"[i % 2], split])
    fetch()
    return raw


def fetch() -> None:
    download.run("manifest", config.load_params().preprocess.options)


def run(*sets: str, workers: int = 1, **more):
    return preprocess.run(config.load_params(sets=sets), workers, **more)


def tree(folder: Path = SHARDS) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def touched(before: dict[str, int]) -> set[str]:
    """The tars that were written since."""
    return {name for name, at in times().items() if before.get(name) != at}


def times() -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in SHARDS.glob("*.tar")}


def test_a_table_becomes_shards(table):
    index = run()
    assert {split: [s.samples for s in shards] for split, shards in index.splits.items()} == {
        "train": [4, 4, 4, 4, 2],
        "val": [4, 2],
        "test": [4, 2],
    }
    assert (index.classes, index.modalities, index.task) == (
        ["a", "b"],
        ["image", "text"],
        "multiclass",
    )
    records = {record.key: record for record in read_split(Store(str(SHARDS)), index, "val")}
    assert len(records) == 6
    assert sum("text" in record.media for record in records.values()) == 4
    assert verify.run(config.load_params()) == index
    leftovers = {"index.json"} | {
        f"{name[:-4]}.{suffix}" for name in times() for suffix in ("tar", "parquet", "json")
    }
    assert set(tree()) == leftovers


def test_the_same_bytes_from_any_number_of_processes_and_tasks(table):
    run(workers=1)
    once = tree()
    shutil.rmtree(SHARDS)
    run(workers=2)
    assert tree() == once
    shutil.rmtree(SHARDS)
    with pytest.raises(UserError, match="4 of 9 shards are missing") as error:
        run(share=preprocess.Share(2, 0))
    assert "other tasks may be writing them" in error.value.what
    assert not (SHARDS / "index.json").exists()
    run(share=preprocess.Share(2, 1))
    assert tree() == once
    shutil.rmtree(SHARDS)


@pytest.mark.slow
def test_the_same_bytes_from_a_ray_cluster_of_two_nodes(table, monkeypatch):
    from ray.cluster_utils import Cluster

    run(workers=1)
    once = tree()
    shutil.rmtree(SHARDS)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        run(executor=executors.run_on_ray(cluster.address))
    finally:
        cluster.shutdown()
    assert tree() == once


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 4])
def test_after_a_kill_only_what_is_missing_is_made(table, after):
    run()
    whole = tree()
    shutil.rmtree(SHARDS)
    command = [sys.executable, "-m", "umemma", "preprocess", "--workers", "2"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONWARNINGS": ""})
    until = time.monotonic() + 60
    while len(list(SHARDS.glob("*-*.json"))) < after:
        assert time.monotonic() < until
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(workers, timeout=30)  # they end with it
    host = platform.node().replace(".", "-")
    (SHARDS / f".train-000004.tar.{host}-{process.pid}.part").write_bytes(b"half")
    done = {path.stem for path in SHARDS.glob("*-*.json")}
    before = times()
    run()
    assert touched(before) == {f"{name}.tar" for name in ({path[:-4] for path in times()} - done)}
    assert tree() == whole


def test_a_rerun_makes_nothing(table):
    run()
    before = times()
    run()
    run(workers=2)
    run("preprocess.max_failures=0.5")
    assert touched(before) == set()


def test_other_settings_say_so_and_remake_everything(table, messages):
    run()
    run("preprocess.media.side=4")
    assert any("preprocess.media.side: 256 there, 4 here" in message for message in messages)
    small = tree()
    shutil.rmtree(SHARDS)
    run("preprocess.media.side=4")
    assert tree() == small
    run("preprocess.media.side=4", "preprocess.shard_size=100")
    assert set(times()) == {"train-000000.tar", "val-000000.tar", "test-000000.tar"}


def test_a_default_that_is_written_out_or_left_out_changes_nothing(table, messages):
    settings = Path("params.yaml").read_text()
    run()
    before = tree()
    longer = settings.replace("split: split}", "split: split, key: null, shares: {train: 0.7}}")
    Path("params.yaml").write_text(longer.replace("table: table.csv, ", ""))
    store = Store(str(SHARDS))
    read_index(store, config.load_params().shard_settings())
    run()
    assert tree() == before
    # An index of an earlier version doesn't say what the defaults are.
    old = json.loads(before["index.json"])
    del old["defaults"], old["defaults_hash"]
    (SHARDS / "index.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="made with other settings"):
        read_index(store, config.load_params().shard_settings())
    run()
    assert tree() == before
    assert not any("other settings" in message for message in messages)
    Path("params.yaml").write_text(longer.replace("0.7", "0.6, val: 0.25"))
    with pytest.raises(UserError, match=r"preprocess\.options\.shares"):
        read_index(store, config.load_params().shard_settings())


def test_a_changed_file_remakes_its_shard_only(table):
    run()
    Image.new("L", (9, 9)).save(table / "7.png")
    with pytest.raises(UserError, match="raw file is missing or differs"):
        run()
    fetch()
    before = times()
    run()
    assert len(touched(before)) == 1


def test_failures_are_counted_summed_up_and_retried(table):
    good = (table / "7.png").read_bytes()
    for name in (7, 8):
        (table / f"{name}.png").write_bytes(good[:60])
    fetch()
    fail, some = "preprocess.broken=fail", "preprocess.max_failures=0.1"
    truncated = "2 x image: not a readable image: truncated"
    with pytest.raises(
        UserError, match=f"2 of 30 samples could not be packed: {truncated}"
    ) as error:
        run(fail)
    assert "--retry-failed" in error.value.hint
    assert "preprocess.broken" not in error.value.hint
    assert not (SHARDS / "index.json").exists()
    before = times()
    index = run(fail, some)
    assert touched(before) == set()
    assert (index.failures(), index.broken()) == (truncated, "")
    assert sum(map(index.samples, index.splits)) == 28
    run(fail, some, retry_failed=True)
    assert 1 <= len(touched(before)) <= 2


def test_a_broken_medium_costs_no_sample_that_has_another(table, capsys):
    good = (table / "7.png").read_bytes()
    for name in (7, 9):  # the second has no words: nothing is left of it
        (table / f"{name}.png").write_bytes(good[:60])
    (table / "8.png").unlink()
    fetch()
    with pytest.raises(UserError, match="2 of 30 samples have a medium that can't be read"):
        run()
    before = times()
    with pytest.raises(SystemExit):
        cli.main(["preprocess", "--workers", "1", "--set", "preprocess.max_failures=0.1"])
    assert capsys.readouterr().out.splitlines() == [
        "Shards are in data/shards/manifest: train 17, val 6, test 6 samples",
        "With a medium that can't be read, which counts as absent: "
        "1 x image: not a readable image: truncated; "
        "1 x image: file is missing",
        "Failed: 1 x image: not a readable image: truncated",
    ]
    assert touched(before) == set()
    index = read_index(Store(str(SHARDS)))
    records = {
        record.key: sorted(record.media)
        for record in read_split(Store(str(SHARDS)), index, "train")
    }
    assert (records["row-000008"], records["row-000009"]) == (["text"], ["text"])
    assert "row-000010" not in records
    run("preprocess.max_failures=0.1", retry_failed=True)
    again = {
        shard.name
        for shards in index.splits.values()
        for shard in shards
        if shard.broken or shard.failed
    }
    assert touched(before) == again
    assert len(again) == 3
    with pytest.raises(UserError, match=r"preprocess\.broken: 'absent' there, 'fail' here"):
        verify.run(config.load_params(sets=["preprocess.broken=fail"]))
    assert run("preprocess.max_failures=0.1", "preprocess.broken=fail").samples("train") == 15


def test_a_split_without_samples_is_found_before_any_work():
    spec = DatasetSpec("toy", "", ("text",), ("no", "yes"), "", "", ("train", "val"))
    with pytest.raises(UserError, match="no samples in split 'val'"):
        preprocess.check_splits(count_records([Record("a", "train", 0, {"text": "word"})])[0], spec)


def test_a_worker_that_dies_every_time_leaves_its_shard_missing_and_says_so(table):
    def deadly(function, jobs, workers):
        yield from (function(job) for job in jobs if job.name != "train-000002")

    with pytest.raises(UserError, match="1 of 9 shards are missing: train-000002"):
        run(executor=deadly)
    before = times()
    run()
    assert touched(before) == {"train-000002.tar"}


def test_ctrl_c_leaves_nothing_half_written(table):
    def stop(function, jobs, workers):
        worker = subprocess.Popen([sys.executable, "-c", ""])
        worker.wait()
        host = platform.node().replace(".", "-")
        (SHARDS / f".train-000000.tar.{host}-{worker.pid}.part").write_text("half")
        yield function(next(jobs))
        raise KeyboardInterrupt

    SHARDS.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        run(executor=stop)
    assert sorted(path.name for path in SHARDS.iterdir()) == [
        "train-000000.json",
        "train-000000.parquet",
        "train-000000.tar",
    ]


def test_verify_names_every_file_that_is_wrong(table, capsys):
    run()
    (SHARDS / "train-000000.tar").write_bytes((SHARDS / "train-000000.tar").read_bytes()[:-600])
    (SHARDS / "val-000001.parquet").unlink()
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "2 things are wrong" in said
    assert "Run: umemma preprocess" in said
    assert "train-000000.tar is truncated or altered" in said
    assert "val-000001.parquet is missing" in said
    before = times()
    run()  # as the message says
    assert touched(before) == {"train-000000.tar", "val-000001.tar"}
    verify.run(config.load_params())


def test_a_medium_left_in_place_is_known_by_its_content(table):
    root = table.rename(table.with_name("elsewhere"))
    table.mkdir()
    shutil.move(root / "table.csv", table)
    sets = f"preprocess.options.root={root}"
    download.run("manifest", config.load_params(sets=[sets]).preprocess.options)
    run(sets)
    whole = (root / "7.png").read_bytes()
    (root / "7.png").write_bytes(whole[:-1] + b"?")  # the same size
    before = times()
    run(sets)
    assert len(touched(before)) == 1


def test_a_store_that_is_up_to_date_is_only_read(table):
    index = run()
    handler = functools.partial(Quiet, directory=".")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert run(f"shards=http://127.0.0.1:{server.server_port}/data/shards") == index
        server.shutdown()


def test_shards_may_stand_elsewhere(table):
    run()
    index = run("shards=memory://bucket/shards")
    assert (
        read_index(Store("memory://bucket/shards/manifest"))
        == index
        == read_index(Store(str(SHARDS)))
    )
    assert verify.run(config.load_params(sets=["shards=memory://bucket/shards"])) == index


def test_clips_with_and_without_sound(tmp_path, monkeypatch):
    """What the README's section on own data shows, at a small scale."""
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "clips"
    film(raw / "a.mp4")
    film(raw / "b.mp4", tone=None)
    film(raw / "c.mp4", tone=0.0)
    (raw / "d.mp4").write_bytes((raw / "a.mp4").read_bytes()[:500])
    (raw / "table.csv").write_text(
        "clip,what,split\na.mp4,x,train\nb.mp4,y,train\nc.mp4,x,val\nd.mp4,x,val\n"
    )
    Path("params.yaml").write_text(
        "dataset: manifest\nmodalities: [audio, video]\npreprocess:\n  max_failures: 0.25\n"
        "  options: {columns: {audio: clip, video: clip}, label: what, split: split}\n"
    )
    download.run("manifest", config.load_params().preprocess.options, str(raw))
    index = run(workers=2)
    found = [
        sorted(record.media)
        for split in ("train", "val")
        for record in read_split(Store(str(SHARDS)), index, split)
    ]
    assert sorted(found) == [["audio", "video"], ["video"], ["video"]]
    assert index.failures().startswith("1 x audio: not readable video or sound")
    assert json.loads((SHARDS / "index.json").read_text())["dataset"] == "manifest"
