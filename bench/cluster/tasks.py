"""What a task costs that does nothing, and the first task of a new worker."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from ..names import DASK_MAP, FIRST_TASK, FIRST_TASK_CPU, ON_CLUSTER
from ..streams.timing import new_file
from ..streams.work import LOOK, NEWLINES, Work
from ..table import Settings, Table
from ..workloads.cluster import CLUSTER_FIRST, CLUSTER_TASKS
from .sizes import sizes
from .workers import new_workers

PIECE = 1 << 12  # bytes of a task that does nothing


def nothing(k: int) -> int:
    """Be a task of Dask's."""
    return k


def streamed(client: Any, path: str, work: Work, **options: Any) -> np.ndarray:
    """Return the state of a stream on a cluster."""
    from iobuf_nb import dask

    found: np.ndarray = dask.stream(client, path, **work._asdict(), **options).state
    return found


def empty(client: Any, settings: Settings) -> Table:
    """Measure tasks of one piece each, with all that a stream does besides, and as many of Dask's alone."""
    count = sizes(settings).tasks
    with new_file() as path:
        np.ones(count * PIECE // 4, np.float32).tofile(path)

        def ours() -> float:
            start = time.perf_counter()
            found = streamed(client, path, LOOK, piece_bytes=PIECE)
            taken = time.perf_counter() - start
            assert found[0] == count, f"{found[0]} pieces in place of {count}"
            return taken / count * 1e6

        def theirs() -> float:
            start = time.perf_counter()
            found = client.gather(client.map(nothing, range(count), pure=False))
            taken = time.perf_counter() - start
            assert found == [*range(count)]
            return taken / count * 1e6

        table = Table(CLUSTER_TASKS)
        table.measure({ON_CLUSTER: ours, DASK_MAP: theirs}, 3 if settings.quick else 9, settings.seed)
        return table


class Started(NamedTuple):
    """What the first task of a worker took, in seconds."""

    wall: float  # as the client sees it
    cpu: float  # of the worker


def started(path: str) -> Started:
    """Run a stream on a new worker."""
    with new_workers(1) as client:
        (before,) = client.run(time.process_time).values()
        start = time.perf_counter()
        found = streamed(client, path, NEWLINES)
        wall = time.perf_counter() - start
        (after,) = client.run(time.process_time).values()
    assert found[0] == 1
    return Started(wall, after - before)


def first(client: Any, settings: Settings) -> Table:
    """Measure on workers that are new; their caches of compiled code are not, from the second one on."""
    table = Table(CLUSTER_FIRST)
    with new_file() as path:
        with open(path, "wb") as file:
            file.write(b"a line\n")
        for run in range(1 + sizes(settings).starts):
            taken = started(path)
            for name, seconds in zip((FIRST_TASK, FIRST_TASK_CPU), taken, strict=True):
                if run:
                    table.samples.setdefault(name, []).append(seconds)
    return table
