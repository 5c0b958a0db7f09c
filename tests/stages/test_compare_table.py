"""The table of a comparison: its differences, by group and against the baseline."""

from __future__ import annotations

import numpy as np
import pytest
from toys.experiments import ToyCommands, write_unimodal_models
from toys.project import quick

from umemma.data import shard_reader
from umemma.evaluation import experiments
from umemma.evaluation.paired_test import run_paired_test, sample_contributions
from umemma.stages.compare import table
from umemma.system.storage import Store


@pytest.mark.slow
def test_the_table_is_of_the_experiments_by_group_and_against_the_baseline_of_the_settings(project):
    """umt is right on one more sample of four, which is in one of two groups."""
    sets = ["compare.presets=[late-fusion, umt, ume-mma]", "compare.seeds=[0]"]
    params = quick(*sets, "compare.baseline=umt")
    index = shard_reader.read_index(Store(params.paths.shards), params.shard_settings())
    for experiment in experiments.plan_experiments(params):
        write_unimodal_models(params, experiment, index.fingerprint)
        ToyCommands(params, index.fingerprint).drive(experiment)
    differences = table.run(params).differences
    assert [(d.method, d.baseline) for d in differences] == [("ume-mma", "umt")] * 5
    first = differences[0]
    assert (first.column, first.difference) == ("audio+image", -1 / 4)
    apart = np.array([[[0.0], [0.0], [0.0], [-1.0]]])
    contributions = sample_contributions(apart, np.ones((1, 1)))
    test = run_paired_test(*contributions, {"group": list("aabb")})
    assert first.low == test.low[0]
    report = table.run(quick(*sets))
    baselines = ["late-fusion"] * 5 + ["uni-modal average"] * 5 + ["umt"] * 5
    assert [d.baseline for d in report.differences] == baselines
    assert report.setup.samples == 4
