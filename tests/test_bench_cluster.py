"""The benchmarks of clusters measure what they say: all sides find the same, and every target is measured."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import cluster
from bench.cluster import reading, tasks, workers
from bench.cluster import sizes as cluster_sizes
from bench.streams import sizes
from bench.table import Settings
from bench.workloads.cluster import CLUSTER

pytestmark = pytest.mark.compiled

TINY = cluster_sizes.Sizes(values=1 << 20, text=1 << 20, tasks=20, starts=1)


@pytest.fixture(scope="module")
def client():
    """Two workers, which the parts find open."""
    pytest.importorskip("distributed")
    with workers.two_workers() as client:
        yield client


@pytest.mark.parametrize("part", cluster.PARTS)
def test_all_sides_agree_and_every_target_is_measured(part, client, monkeypatch):
    monkeypatch.setattr(cluster_sizes, "QUICK", TINY)
    monkeypatch.setattr(sizes, "QUICK", sizes.QUICK._replace(runs=1))
    (table,) = cluster.PARTS[part](Settings(True, 1))
    assert table.missing == ([] if part != "groups" or find_spec("pandas") else workers.missing("pandas"))
    for comparison, _ in table.bounds:
        assert comparison.ratios(table.samples) or table.missing, comparison
