"""What limits a cluster: the cost of tasks in each process, and what follows: ``python -m bench.scheduling``.

Scheduler, client and workers have a process each, so that what a task takes of each of them can be told apart. The
workers are many in one process, with a thread each: what they do is next to nothing, and only its cost is of interest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np

from .cluster.tasks import nothing, streamed
from .names import DASK_MAP, ON_CLUSTER
from .startup import ROOT
from .streams.timing import new_file
from .streams.work import HISTOGRAM
from .table import header, row

PIECE = 1 << 12  # bytes of a task
IDLE = 5  # seconds in which the cost of doing nothing is measured
SCHEDULER = """
import asyncio
from distributed import Scheduler

async def serve():
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:
        print(scheduler.address, flush=True)
        await scheduler.finished()

asyncio.run(serve())
"""
WORKERS = """
import asyncio, sys
from distributed import Worker

async def work(address, count):
    workers = await asyncio.gather(*(Worker(address, nthreads=1, dashboard_address=":0") for _ in range(count)))
    print("all there", flush=True)
    await asyncio.gather(*(worker.finished() for worker in workers))

asyncio.run(work(sys.argv[1], int(sys.argv[2])))
"""


class Used(NamedTuple):
    """Seconds of each process's processor, seconds of the clock, and bytes that workers sent each other."""

    scheduler: float
    workers: float
    client: float
    clock: float
    sent: float

    def less(self, other: Used, times: float = 1.0) -> Used:
        """Return what is left without `other`."""
        return Used(*(mine - times * theirs for mine, theirs in zip(self, other, strict=True)))


def used(client: Any) -> Used:
    """Return what has been used so far."""

    def of_worker(dask_worker: Any) -> tuple[float, int]:
        return time.process_time(), dask_worker.transfer_outgoing_bytes_total

    workers = client.run(of_worker).values()
    return Used(
        client.run_on_scheduler(time.process_time),
        max(seconds for seconds, _ in workers),  # of their one process
        time.process_time(),
        time.perf_counter(),
        sum(sent for _, sent in workers),
    )


@contextmanager
def program(text: str, *arguments: object) -> Iterator[str]:
    """Run a program in a process of its own; yield the first line that it prints."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """Yield a client of a new cluster."""
    from distributed import Client

    with ExitStack() as stack:
        address = stack.enter_context(program(SCHEDULER))
        stack.enter_context(program(WORKERS, address, workers))
        yield stack.enter_context(Client(address))


def of_dask(client: Any, count: int) -> None:
    """Call an empty function on the cluster, so many times."""
    assert client.gather(client.map(nothing, range(count), pure=False)) == [*range(count)]


def of_stream(client: Any, count: int) -> None:
    """Count the values of so many pieces."""
    with new_file() as path:
        with open(path, "wb") as file:
            file.truncate(count * PIECE)
        found = streamed(client, path, HISTOGRAM, piece_bytes=PIECE)
        assert found[0] == count * PIECE // 4


def costs(client: Any, run: Callable[[Any, int], None], count: int) -> Used:
    """Return what one of so many tasks takes, without what the cluster takes when it is idle."""
    before = used(client)
    time.sleep(IDLE)
    start = used(client)
    run(client, count)
    whole = used(client).less(start)
    idle = start.less(before)
    share = whole.clock / idle.clock
    taken = whole.less(idle._replace(clock=0.0, sent=0.0), share)
    return Used(*(figure / count for figure in taken))


def limits(seconds: float) -> list[str]:
    """Return what follows if a task takes so many seconds of the scheduler: bytes of a task, by workers and speed."""
    speeds = 0.1, 1.0, 10.0  # GB/s of one worker
    lines = header("workers", *(f"at {speed:g} GB/s each" for speed in speeds))
    for workers in 10, 100, 1000:
        lines.append(row(workers, *(f"{workers * speed * 1e9 * seconds / 2**20:.1f} MiB" for speed in speeds)))
    return lines


def main() -> None:
    """Measure, and print what follows."""
    parser = argparse.ArgumentParser(prog="python -m bench.scheduling", description=__doc__)
    parser.add_argument("tasks", nargs="*", type=int, default=[1000, 10_000], help="numbers of tasks")
    parser.add_argument("--workers", nargs="+", type=int, default=[2, 10, 100], help="numbers of workers")
    options = parser.parse_args()
    print(
        *header("workers", "tasks", "of", "scheduler, us", "worker, us", "client, us", "clock, us", "sent, B"), sep="\n"
    )
    of_scheduler = []
    for workers in options.workers:
        with cluster(workers) as client:
            for run in (of_dask, of_stream):
                run(client, 4 * workers)  # to warm up
            for count in options.tasks:
                for name, run in ((DASK_MAP, of_dask), (ON_CLUSTER, of_stream)):
                    *seconds, sent = costs(client, run, count)
                    print(
                        row(workers, count, name, *(f"{1e6 * each:.0f}" for each in seconds), f"{sent:.0f}"), flush=True
                    )
                of_scheduler.append(seconds[0])
    median = float(np.median(of_scheduler))
    print(f"\nTasks of at least this size do not wait for the scheduler, which takes {1e6 * median:.0f} us for each:\n")
    print(*limits(median), sep="\n")


if __name__ == "__main__":
    main()
