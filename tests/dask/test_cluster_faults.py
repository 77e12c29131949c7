"""A stream on a cluster whose workers are killed, come late, or are not there at all."""

import contextlib
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


@contextlib.contextmanager
def new_cluster():
    """A client of two new worker processes: Dask may not start one again that dies while it is just being started."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
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
        self.killed = []

    def __call__(self, done, size):
        if done >= self.after and not self.killed:
            workers = self.client.run(os.getpid)
            self.killed = self.choose(sorted(workers))
            for address in self.killed:
                os.kill(workers[address], signal.SIGKILL)


def workers_killed(path, times):
    """Stream several times, and each time kill a worker at a random moment; return how many died."""
    rng = random.Random(times)
    killed = 0
    for _ in range(times):
        with new_cluster() as client:
            client.register_plugin(PoolPlugin(4, 4096))
            before = {*client.nthreads()}
            killer = Killer(client, rng.randrange(80) * len(DATA) // 100, lambda workers: rng.sample(workers, 1))
            assert run(client, path, progress=killer, pool="pool") == DATA.sum()
            killed += len(killer.killed)
            (other,) = before - {*killer.killed}
            assert client.run(lambda: worker_pool().available(), workers=[other]) == {other: 4}
    return killed


def test_a_worker_that_is_killed(path):
    assert workers_killed(path, 2) == 2


@pytest.mark.long
def test_twenty_runs_with_a_worker_that_is_killed(path, record_property):
    killed = workers_killed(path, 20)
    assert killed == 20
    record_property("workers killed while a stream ran on them", killed)


def test_all_workers_are_killed(path):
    with new_cluster() as client:
        killer = Killer(client, 1, lambda workers: workers)
        assert run(client, path, progress=killer) == DATA.sum() and len(killer.killed) == 2


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


def test_a_piece_that_kills_every_worker(tmp_path):
    data = np.zeros(20_000, np.uint8)
    data[10_000] = 7
    path = tmp_path / "data"
    path.write_bytes(data.tobytes())
    with new_cluster() as client:
        client.cluster.scheduler.allowed_failures = 1
        with pytest.raises(StreamError, match="2 workers died while they had this piece, the last at tcp://") as caught:
            stream(client, path, kernels.deadly, piece_bytes=10_000)
    assert (caught.value.filename, caught.value.offset) == (str(path), 10_000)
    assert isinstance(caught.value.__cause__, distributed.KilledWorker)
