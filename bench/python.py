"""Get+put from plain Python, with every check, against the queues of the standard library."""

from __future__ import annotations

import queue
import time
from functools import partial
from typing import Any

from iobuf_nb import BoundedQueue, BufferPool, Tier

from .measure import Table

FULL = 1000


def pairs(thing: Any, n: int) -> float:
    """Return nanoseconds a round."""
    start = time.perf_counter()
    for _ in range(n):
        thing.put(thing.get())
    return (time.perf_counter() - start) / n * 1e9


def filled(thing: Any) -> Any:
    for k in range(FULL):
        thing.put(k)
    return thing


def run(quick: bool) -> list[Table]:
    """Measure with 1000 buffers in the pools and 1000 items in the queues."""
    n, runs = (100_000, 7) if quick else (500_000, 15)
    cases = {
        "pool, checked": BufferPool(FULL, Tier.NANO),
        "pool, unchecked": BufferPool(FULL, Tier.NANO, checked=False),
        "BoundedQueue": filled(BoundedQueue(FULL + 16, FULL)),
        "queue.SimpleQueue": filled(queue.SimpleQueue()),
        "queue.Queue": filled(queue.Queue()),
    }
    table = Table("Uncontended get+put from Python", "ns")
    table.measure({name: partial(pairs, thing, n) for name, thing in cases.items()}, runs)
    for name in "pool, checked", "BoundedQueue":
        table.compare(name, "queue.SimpleQueue", "<= 1.0")
        table.compare(name, "queue.Queue", "<= 0.05")
    return [table]
