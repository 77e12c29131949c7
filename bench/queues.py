"""From a thread to a coroutine: `BoundedQueue` in bulk against `asyncio.Queue`, which is fed through the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from iobuf_nb import BoundedQueue

from .names import ASYNCIO_QUEUE, ASYNCIO_QUEUE_BATCHES, BATCH, QUEUE_SINGLY, QUEUE_TO_ASYNCIO, ROOM
from .table import Settings, Table
from .workloads.queues import TO_ASYNCIO


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Let another thread work during the block, and wait for it at its end."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


async def through_ours(n: int, bulk: bool) -> int:
    """Pass `n` items through a `BoundedQueue`; return their sum."""
    queue = BoundedQueue(ROOM)
    items, out = np.arange(n) % ROOM, np.empty(ROOM if bulk else 0, np.int64)

    def feed() -> None:
        done = 0
        while done < n:
            done += queue.put_many(items[done : done + BATCH])
            if done < n:
                queue.put(int(items[done]))  # waits for room
                done += 1

    total = taken = 0
    with beside(feed):
        while taken < n:
            total += await queue.aget()
            rest = queue.get_many(out)
            total += int(out[:rest].sum())
            taken += 1 + rest
    return total


async def through_asyncio(n: int, batch: int) -> int:
    """Pass `n` items through an `asyncio.Queue`, `batch` of them by each call into the loop; return their sum."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    items = (np.arange(n) % ROOM).tolist()

    def put_all(some: list[int]) -> None:
        for item in some:
            queue.put_nowait(item)

    def feed() -> None:
        for begin in range(0, n, batch):
            if batch == 1:
                loop.call_soon_threadsafe(queue.put_nowait, items[begin])
            else:
                loop.call_soon_threadsafe(put_all, items[begin : begin + batch])

    with beside(feed):
        return sum([await queue.get() for _ in range(n)])


def timed(through: Callable[[int], Coroutine[Any, Any, int]], n: int) -> float:
    """Return the microseconds that an item takes, and see that all came."""
    start = time.perf_counter()
    total = asyncio.run(through(n))
    seconds = time.perf_counter() - start
    assert total == int((np.arange(n) % ROOM).sum()), "items were lost"
    return 1e6 * seconds / n


CASES: dict[str, Callable[[int], Coroutine[Any, Any, int]]] = {
    QUEUE_TO_ASYNCIO: partial(through_ours, bulk=True),
    QUEUE_SINGLY: partial(through_ours, bulk=False),
    ASYNCIO_QUEUE: partial(through_asyncio, batch=1),
    ASYNCIO_QUEUE_BATCHES: partial(through_asyncio, batch=BATCH),
}


def run(settings: Settings) -> list[Table]:
    """Measure how long an item takes, of `n` in a row."""
    n, runs = (20_000, 3) if settings.quick else (100_000, 9)
    table = Table(TO_ASYNCIO)
    table.measure({name: partial(timed, through, n) for name, through in CASES.items()}, runs, settings.seed)
    return [table]
