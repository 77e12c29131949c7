"""Fixtures of this folder: clusters that are started once for all tests."""

import pytest

try:
    import distributed

    from iobuf_nb import dask
except ImportError:  # the extra is not installed
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def cluster():
    """A cluster of two worker processes on this machine, of one thread each."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def session_client(cluster):
    with distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def client(session_client):
    """A client of the cluster with two worker processes, both of which are there."""
    session_client.wait_for_workers(2, timeout=60)
    return session_client


@pytest.fixture(scope="session")
def local_client():
    """A client of a cluster of two workers in this very process, where lines can be counted."""
    options = {"n_workers": 2, "threads_per_worker": 2, "processes": False, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


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
