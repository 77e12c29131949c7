"""A stream on a cluster whose workers are killed, come late, or are not there at all."""

import os
import random
import signal
import subprocess
import sys
import threading

import cluster_kernels as kernels
import distributed
import numpy as np
import pytest

from iobuf_nb import StreamError
from iobuf_nb.dask import PoolPlugin, stream, worker_pool

pytestmark = [pytest.mark.compiled, pytest.mark.proof]

DATA = np.random.default_rng(7).integers(0, 250, 400_000, dtype=np.uint8)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two worker processes, of which not all may come again."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(DATA.tobytes())
    return str(path)


def run(client, path, **options):
    return stream(
        client, path, kernels.slow, state=np.zeros(1, np.int64), combine=np.add,
        **{"piece_bytes": 4000} | options,
    ).state[0]  # fmt: skip


class Killer:
    """A report of progress that kills workers, once, when so many bytes are done."""

    def __init__(self, client, after, choose):
        self.client, self.after, self.choose = client, after, choose
        self.killed = 0

    def __call__(self, done, size):
        if done >= self.after and not self.killed:
            victims = self.choose(sorted(self.client.run(os.getpid).values()))
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            self.killed = len(victims)


def workers_killed(client, path, times, **options):
    """Stream several times, and each time kill a worker at a random moment; return how many died."""
    rng = random.Random(times)
    killed = 0
    for _ in range(times):
        client.wait_for_workers(2, timeout=60)
        killer = Killer(client, rng.randrange(80) * len(DATA) // 100, lambda pids: rng.sample(pids, 1))
        assert run(client, path, progress=killer, **options) == DATA.sum()
        killed += killer.killed
    return killed


def test_a_worker_that_is_killed(client, path):
    client.register_plugin(PoolPlugin(4, 4096, name="beside"))
    try:
        assert workers_killed(client, path, 2, pool="beside") == 2
        client.wait_for_workers(2, timeout=60)
        assert set(client.run(lambda: worker_pool("beside").available()).values()) == {4}
    finally:
        client.unregister_worker_plugin("beside")


@pytest.mark.long
def test_twenty_runs_with_a_worker_that_is_killed(client, path, record_property):
    killed = workers_killed(client, path, 20)
    assert killed == 20
    record_property("workers killed while a stream ran on them", killed)


def test_all_workers_are_killed(client, path):
    killer = Killer(client, 1, lambda pids: pids)
    assert run(client, path, progress=killer) == DATA.sum() and killer.killed == 2


def test_no_worker_and_one_that_comes_late(path):
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        with pytest.raises(TimeoutError, match=r"no worker for 0.3 seconds \(worker_timeout\)"):
            run(client, path, worker_timeout=0.3)
        later = threading.Timer(0.5, cluster.scale, [1])
        later.start()
        assert run(client, path, piece_bytes=100_000) == DATA.sum()
        later.join()


@pytest.fixture
def address(tmp_path):
    """The address of a scheduler in a process of its own, with a worker in another; then the process of the first."""
    file = tmp_path / "scheduler.json"
    python = [sys.executable, "-m"]
    options = ["--scheduler-file", str(file), "--no-dashboard"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    started = [
        subprocess.Popen([*python, *command, *options], env=environment, stderr=subprocess.DEVNULL)
        for command in (
            ["distributed.cli.dask_scheduler", "--port", "0", "--dashboard-address", ":0"],
            ["distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny"],
        )
    ]
    try:
        with distributed.Client(scheduler_file=str(file), timeout=60) as client:
            yield client.scheduler.address, started[0]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_scheduler_in_a_process_of_its_own_which_is_then_killed(address, path):
    where, scheduler = address
    with distributed.Client(where) as client:
        assert run(client, path) == DATA.sum()

        def kill(done, size):
            if done:
                scheduler.kill()

        with pytest.raises(ConnectionError, match=f"the scheduler at {where} was lost"):
            run(client, path, progress=kill)


def test_a_piece_that_kills_every_worker(cluster, client, tmp_path):
    """The last test: a worker that dies while it starts may not be started again."""
    data = np.zeros(20_000, np.uint8)
    data[10_000] = 7
    path = tmp_path / "data"
    path.write_bytes(data.tobytes())
    cluster.scheduler.allowed_failures = 1
    with pytest.raises(StreamError, match="2 workers died while they had this piece, the last at tcp://") as caught:
        stream(client, path, kernels.deadly, piece_bytes=10_000)
    assert (caught.value.filename, caught.value.offset) == (str(path), 10_000)
    assert isinstance(caught.value.__cause__, distributed.KilledWorker)
