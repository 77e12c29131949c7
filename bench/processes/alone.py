"""What sharing a pool costs a process that is alone, and what is left of one that was killed while it waited."""

from __future__ import annotations

import multiprocessing
import time
from functools import partial
from typing import Any

import numpy as np

from iobuf_nb import BufferPool
from iobuf_nb._free.queue import GETTERS

from ..measure import Sampled
from ..names import AFTER_KILL, BUFFER, CHECKED, ITEMS, NEVER_WAITED, SHARED
from ..table import Settings, Table
from ..work import drain, get_put, refill
from ..workloads.processes import PROCESS_KILLED, PROCESS_PAIRS
from ..workloads.workload import Workload

fork = multiprocessing.get_context("fork")


def nanoseconds(pool: Any, n: int) -> float:
    """Return the nanoseconds of a get and a put."""
    start = time.perf_counter_ns()
    get_put(pool, n)
    return (time.perf_counter_ns() - start) / n


def table(workload: Workload, pools: dict[str, Any], settings: Settings) -> Table:
    """Measure gets and puts in each pool."""
    made = Table(workload)
    seconds, runs = (0.02, 5) if settings.quick else (0.1, 31)
    cases = {name: Sampled(partial(nanoseconds, pool), seconds, tries=3) for name, pool in pools.items()}
    made.measure(cases, runs, settings.seed)
    return made


def shared_pool() -> BufferPool:
    """Return a pool of the size of those in `work`, shared."""
    return BufferPool(ITEMS, BUFFER, shared=True)


def pairs(settings: Settings) -> list[Table]:
    """Measure a shared pool and a private one."""
    return [table(PROCESS_PAIRS, {CHECKED: BufferPool(ITEMS, BUFFER), SHARED: shared_pool()}, settings)]


def kill_a_waiter(pool: BufferPool) -> None:
    """Let a process wait for a buffer of a pool, and kill it when it is parked."""
    held = np.empty(ITEMS, np.int64)
    assert drain(pool, held) == ITEMS
    process = fork.Process(target=pool.get)
    process.start()
    while not pool._queue._words[GETTERS]:  # the flag, which it raises before it parks
        time.sleep(0.001)
    time.sleep(0.01)
    process.kill()
    process.join()
    refill(pool, held)


def after_a_kill(settings: Settings) -> list[Table]:
    """Measure a pool whose waiter was killed and one that was never waited for."""
    pools = {NEVER_WAITED: shared_pool(), AFTER_KILL: shared_pool()}
    kill_a_waiter(pools[AFTER_KILL])
    return [table(PROCESS_KILLED, pools, settings)]
