"""Get+put in kernels, alone and against another thread: pool and ring, two compare-and-swaps, and Vyukov's ring."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from iobuf_nb import BoundedQueue, BufferPool, Tier, aligned_mem, atomics
from iobuf_nb.ring import get_item, put_item

from .measure import Table
from .vyukov import VyukovQueue

FULL = 1000
SLOTS = 1024


@njit(nogil=True)
def floor(words: Any, n: int) -> None:
    """Do what any such pair must: two uncontended compare-and-swaps, on two lines of its own."""
    for k in range(n):
        atomics.compare_and_swap(words, 0, k, k + 1)
        atomics.compare_and_swap(words, 32, k, k + 1)


@njit(nogil=True)
def try_pairs(pool: Any, n: int) -> None:
    """Get and put by status."""
    for _ in range(n):
        pool.try_put(pool.try_get())


@njit(nogil=True)
def pairs(pool: Any, n: int) -> None:
    """Get and put as most code would."""
    for _ in range(n):
        pool.put(pool.get())


@njit(nogil=True)
def bare_pairs(queue: Any, n: int) -> None:
    """Get and put without a look at who waits: what waiting costs those who need not."""
    for _ in range(n):
        put_item(queue, get_item(queue))


def timed(function: Callable[..., None], argument: Any, n: int) -> float:
    """Return nanoseconds a round."""
    if isinstance(argument, np.ndarray):
        argument[:] = 0
    start = time.perf_counter()
    function(argument, n)
    return (time.perf_counter() - start) / n * 1e9


def side_by_side(argument: Any, n: int) -> float:
    """Return nanoseconds a round of two threads that get and put on the same thing, as they both come to it."""
    start = threading.Barrier(3)

    def work() -> None:
        start.wait()
        try_pairs(argument, n)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - began) / (2 * n) * 1e9


def run(quick: bool) -> list[Table]:
    """Measure; the pools hold 1000 buffers, the rings 1000 items in 1024 slots."""
    n, runs = (1_000_000, 5) if quick else (5_000_000, 15)
    words = aligned_mem(512, 128).view(np.int64)
    queue = BoundedQueue(SLOTS)
    queue._put_first(FULL)
    silent = BoundedQueue(SLOTS)
    silent._put_first(FULL)
    cases = {
        "floor: two CAS": (floor, words),
        "BoundedQueue": (try_pairs, queue),
        "BoundedQueue, wakes nobody": (bare_pairs, silent),
        "pool, unchecked": (try_pairs, BufferPool(FULL, Tier.NANO, checked=False)),
        "pool, checked": (try_pairs, BufferPool(FULL, Tier.NANO)),
        "pool, unchecked, get/put": (pairs, BufferPool(FULL, Tier.NANO, checked=False)),
        "pool, checked, get/put": (pairs, BufferPool(FULL, Tier.NANO)),
        "Vyukov": (try_pairs, VyukovQueue(SLOTS, FULL)),
    }
    table = Table("Uncontended get+put in a kernel", "ns")
    table.measure({name: partial(timed, *case, n) for name, case in cases.items()}, runs)
    table.compare("BoundedQueue", "BoundedQueue, wakes nobody", "<= 1.05")
    table.compare("pool, unchecked", "floor: two CAS", "<= 1.6")
    table.compare("pool, unchecked, get/put", "floor: two CAS", "<= 1.6")
    table.compare("pool, checked", "floor: two CAS", "<= 2.5")
    table.compare("pool, checked, get/put", "floor: two CAS", "<= 2.5")
    table.compare("BoundedQueue", "Vyukov", "<= 1.1")
    table.compare("pool, unchecked", "Vyukov", "<= 1.1")
    shared = Table("Get+put of two threads on one queue or pool", "ns")
    names = "BoundedQueue", "pool, unchecked", "pool, checked", "Vyukov"
    shared.measure({name: partial(side_by_side, cases[name][1], n) for name in names}, runs)
    shared.compare("BoundedQueue", "Vyukov", "< 1")
    return [table, shared]
