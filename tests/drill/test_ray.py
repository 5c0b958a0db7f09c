"""A Ray cluster of two nodes that loses one: the shards are those of one machine."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from toys.drill import read_tree
from toys.project import ROOT, TESTS, quick

from umemma.stages import preprocess
from umemma.system import executors

pytestmark = [pytest.mark.drill, pytest.mark.slow]

SHARDS = Path("data/shards/digits")
LOST_AFTER = 3  # shards


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_shards_of_a_cluster_that_loses_a_node(trained, tmp_path, monkeypatch, count):
    from ray.cluster_utils import Cluster

    folder = tmp_path / "project"
    shutil.copytree(trained / "data/raw", folder / "data/raw")
    monkeypatch.chdir(folder)
    params = quick("preprocess.shard_size=50")
    preprocess.run(params, workers=1)
    expected = read_tree(SHARDS)
    shutil.rmtree(SHARDS)

    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{TESTS}")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    lost = threading.Event()

    def lose() -> None:
        while len(list(SHARDS.glob("*.tar"))) < LOST_AFTER:
            time.sleep(0.01)
        cluster.remove_node(second, allow_graceful=False)
        lost.set()

    threading.Thread(target=lose, daemon=True).start()
    try:
        preprocess.run(params, executor=executors.run_on_ray(cluster.address))
        assert lost.wait(60)
    finally:
        cluster.shutdown()
    wrong = [name for name, data in expected.items() if read_tree(SHARDS).get(name) != data]
    count("lost node: preprocess", 1, len(wrong))
    assert read_tree(SHARDS) == expected
