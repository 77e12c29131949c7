"""Fixtures of this folder: clusters that are started once for all its tests, and are gone before others begin."""

import functools
from contextlib import ExitStack
from pathlib import Path

import pytest

try:
    import distributed

    from iobuf_nb import dask
except ImportError:  # the extra is not installed
    collect_ignore_glob = ["test_*.py"]

# Fixtures of the session would keep worker processes that other folders' tests take for children left behind.
_running = ExitStack()


@functools.cache
def _cluster(**options):
    return _running.enter_context(distributed.LocalCluster(n_workers=2, dashboard_address=":0", **options))


@functools.cache
def _client(cluster):
    return _running.enter_context(distributed.Client(cluster))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem):
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        _running.close()
        _client.cache_clear()
        _cluster.cache_clear()


@pytest.fixture
def cluster():
    """A cluster of two worker processes on this machine, of one thread each."""
    return _cluster(threads_per_worker=1)


@pytest.fixture
def client(cluster):
    """A client of the cluster with two worker processes, both of which are there."""
    client = _client(cluster)
    client.wait_for_workers(2, timeout=60)
    return client


@pytest.fixture
def local_client():
    """A client of a cluster of two workers in this very process, where lines can be counted."""
    return _client(_cluster(threads_per_worker=2, processes=False))


@pytest.fixture
def registered(local_client):
    """What registers a plugin with the cluster in this process, for one test."""
    names = set()

    def register(*arguments, **options):
        plugin = dask.PoolPlugin(*arguments, **options)
        names.add(plugin.name)
        local_client.register_plugin(plugin)

    yield register
    for name in names:
        local_client.unregister_worker_plugin(name)
