"""A Ray cluster of two nodes that loses one: all ends as on one machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toys.drill import read_tree
from toys.project import ROOT, TESTS, quick

from umemma.stages import preprocess
from umemma.stages.compare import cells, table
from umemma.system import executors

pytestmark = [pytest.mark.drill, pytest.mark.slow]

SHARDS = Path("data/shards/digits")
LOST_AFTER = 3  # shards


@contextlib.contextmanager
def lose_a_node(is_time: Callable[[], bool], monkeypatch) -> Iterator[str]:
    """Start two nodes, lose the second when it is time, and yield the address of the cluster."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{TESTS}")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    lost = threading.Event()

    def lose() -> None:
        while not is_time():
            time.sleep(0.01)
        cluster.remove_node(second, allow_graceful=False)
        lost.set()

    threading.Thread(target=lose, daemon=True).start()
    try:
        yield cluster.address
        assert lost.wait(60)
    finally:
        cluster.shutdown()


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_shards_of_a_cluster_that_loses_a_node(trained, tmp_path, monkeypatch, count):
    folder = tmp_path / "project"
    shutil.copytree(trained / "data/raw", folder / "data/raw")
    monkeypatch.chdir(folder)
    params = quick("preprocess.shard_size=50")
    preprocess.run(params, workers=1)
    expected = read_tree(SHARDS)
    shutil.rmtree(SHARDS)

    def is_time() -> bool:
        return len(list(SHARDS.glob("*.tar"))) >= LOST_AFTER

    with lose_a_node(is_time, monkeypatch) as address:
        preprocess.run(params, executor=executors.run_on_ray(address))
    wrong = [name for name, data in expected.items() if read_tree(SHARDS).get(name) != data]
    count("lost node: preprocess", 1, len(wrong))
    assert read_tree(SHARDS) == expected


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_comparison_on_a_cluster_that_loses_a_node(trained, tmp_path, monkeypatch, count):
    params = quick("compare.presets=[late-fusion, ume, umt]", "compare.seeds=[3]")
    tables = []
    for name in ("alone", "cluster"):
        folder = tmp_path / name
        shutil.copytree(trained / "data", folder / "data")
        monkeypatch.chdir(folder)
        if name == "alone":
            cells.run(params)
        else:
            alone = Path("models/digits/compare/complete/3/pretrain")

            def is_time(folder: Path = alone) -> bool:
                return folder.exists()  # the first uni-modal model is there

            with lose_a_node(is_time, monkeypatch) as address:
                cells.run(params, executor=executors.run_on_ray(address))
        table.run(params)
        tables.append(read_tree(Path("results/digits/compare")))
    lost = [name for name, data in tables[0].items() if tables[1].get(name) != data]
    count("lost node: compare", 1, len(lost))
    assert tables[0] == tables[1]
