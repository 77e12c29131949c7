"""The benchmarks of clusters measure what they say: all sides find the same, and every target is measured."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import cluster, scheduling
from bench.cluster import sizes as cluster_sizes
from bench.cluster import workers
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


def test_without_dask_there_are_reasons_in_place_of_figures(monkeypatch):
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: None)
    tables = cluster.run(Settings(True, 1))
    assert [table.workload for table in tables] == [*CLUSTER] and not any(table.samples for table in tables)
    assert {reason for table in tables for reason in table.missing} == {
        "all: there is no distributed (pip install 'iobuf-nb[bench]')"
    }


def test_costs_of_tasks_are_those_over_an_idle_cluster(client, monkeypatch):
    monkeypatch.setattr(scheduling, "IDLE", 0.2)
    taken = scheduling.costs(client, scheduling.of_stream, 20)
    # Of so few tasks it may be less than what an idle scheduler takes in the same time, by chance.
    assert -0.1 < taken.scheduler < 1 and 0 < taken.clock < 1 and taken.sent > 0
    idle, whole = scheduling.Used(1, 2, 0, 10, 0), scheduling.Used(3, 3, 4, 5, 6)
    assert whole.less(idle, 0.5) == (2.5, 2, 4, 0, 6)


def test_a_task_must_be_the_larger_the_more_workers_wait_for_it():
    _, _, ten, hundred, thousand = scheduling.limits(2**20 / 1e9)
    assert (ten, hundred, thousand) == (
        "| 10 | 1.0 MiB | 10.0 MiB | 100.0 MiB |",
        "| 100 | 10.0 MiB | 100.0 MiB | 1000.0 MiB |",
        "| 1000 | 100.0 MiB | 1000.0 MiB | 10000.0 MiB |",
    )
