"""The workloads on our side, each once, as kernels over anything that gets and puts; `peers/work.h` has the same in C.

A thread that finds a pool empty or a queue full pauses, longer each time, then yields the processor, and tries again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from iobuf_nb import BoundedQueue, BufferPool, atomics, pause
from iobuf_nb._jit.compile import hot, kernel
from iobuf_nb._threads.parking import spin

from .names import (
    BATCH,
    BUFFER,
    CHECKED,
    HELD,
    ITEMS,
    MAGAZINE,
    MAGAZINE_256,
    MAGAZINE_CHECKED,
    POOL,
    RING,
    ROOM,
    STATS,
    VYUKOV,
    WAITING_CHECKED,
    WAITING_POOL,
    WAITING_RING,
)
from .vyukov import VyukovQueue

CORES = len(os.sched_getaffinity(0))


@hot
def take(pool):
    """Get until there is one."""
    turn = 0
    item = pool.try_get()
    while item < 0:
        spin(turn)
        turn += 1
        item = pool.try_get()
    return item


@hot
def give(pool, item):
    """Put until there is room."""
    turn = 0
    while not pool.try_put(item):
        spin(turn)
        turn += 1


@kernel
def get_put(pool, n):
    for _ in range(n):
        give(pool, take(pool))


@kernel
def get_put_waiting(pool, n):
    for _ in range(n):
        pool.put(pool.get())


@kernel
def hold_and_return(pool, held, n):
    for _ in range(0, n, len(held)):
        for j in range(len(held)):
            held[j] = take(pool)
        for j in range(len(held)):
            give(pool, held[j])


@kernel
def get_put_many(pool, batch, n):
    done = 0
    while done < n:
        got = pool.get_many(batch)
        if got == len(batch):  # a slice is a new array
            pool.put_many(batch)
        else:
            pool.put_many(batch[:got])
        done += got


@kernel
def fail(pool, n):
    """Return how many of `n` gets succeeded; none should."""
    found = 0
    for _ in range(n):
        found += pool.try_get() + 1
    return found


@kernel
def drain(pool, held):
    """Get items until there are none, and return how many there were."""
    n = 0
    item = pool.try_get()
    while item >= 0:
        held[n] = item
        n += 1
        item = pool.try_get()
    return n


@kernel
def refill(pool, held):
    for k in range(len(held)):
        give(pool, held[k])


@kernel
def produce(queue, n):
    for k in range(n):
        give(queue, k & (ROOM - 1))
    return 0


@kernel
def consume(queue, n):
    total = 0
    for _ in range(n):
        total += take(queue)
    return total


@kernel
def produce_waiting(queue, n):
    for k in range(n):
        queue.put(k & (ROOM - 1))
    return 0


@kernel
def consume_waiting(queue, n):
    total = 0
    for _ in range(n):
        total += queue.get()
    return total


@kernel
def write(pool, queue, n):
    for k in range(n):
        index = take(pool)
        pool.value(index)[:] = k & 255
        give(queue, index)
    return 0


@kernel
def read(pool, queue, n):
    total = 0
    for _ in range(n):
        index = take(queue)
        for byte in pool.value(index):
            total += byte
        give(pool, index)
    return total


@kernel
def swap_twice(words, n):
    """Do the least that a get and a put need: two uncontended compare-and-swaps, on two cache lines."""
    for k in range(n):
        atomics.compare_and_swap(words, 0, k, k + 1)
        atomics.compare_and_swap(words, 32, k, k + 1)


@kernel
def meet(words, n):
    """Spin until `n` threads are here, so that none of them starts alone."""
    atomics.fetch_add(words, 0, 1)
    while atomics.load(words, 0) < n:
        pause(1)


def race(roles: Sequence[Callable[[], Any]]) -> tuple[float, list[Any]]:
    """Run each role on a thread of its own; return nanoseconds from the first start to the last end, and results."""
    words = np.zeros(1, np.int64)

    def work(role: Callable[[], Any]) -> tuple[int, int, Any]:
        meet(words, len(roles))
        start = time.perf_counter_ns()
        result = role()
        return start, time.perf_counter_ns(), result

    with ThreadPoolExecutor(len(roles)) as executor:
        starts, ends, results = zip(*executor.map(work, roles), strict=True)
    return max(ends) - min(starts), list(results)


@dataclass
class Subject:
    """A queue or pool: how to make one that holds the items 0 to ITEMS - 1, and what each thread uses of it."""

    make: Callable[[], Any]
    seat: Callable[[Any], Any] = lambda pool: pool
    queue: Callable[[], Any] | None = None  # makes an empty one with ROOM

    get_put, produce, consume = staticmethod(get_put), staticmethod(produce), staticmethod(consume)

    def run(self, workload: str, n: int, threads: int) -> float:
        """Return the nanoseconds that `workload` took for each of its rounds."""
        nanoseconds: float = getattr(self, workload)(n, threads)
        return nanoseconds

    def side_by_side(self, function: Callable[..., Any], n: int, threads: int, scratch: int = 0) -> float:
        """Run `function(seat, n)` on each thread, or `function(seat, an array of length scratch, n)`."""
        pool = self.make()
        arrays = [np.empty(scratch, np.int64)] if scratch else []
        nanoseconds, _ = race([partial(function, self.seat(pool), *map(np.copy, arrays), n) for _ in range(threads)])
        assert left(pool) == ITEMS, "items were lost"
        return nanoseconds / (threads * n)

    def pairs(self, n: int, threads: int) -> float:
        """W1 and W2: get and put."""
        return self.side_by_side(self.get_put, n, threads)

    def hold(self, n: int, threads: int) -> float:
        """W6: get HELD items, then put them all."""
        return self.side_by_side(hold_and_return, n, threads, HELD)

    def bulk(self, n: int, threads: int) -> float:
        """W4: get many, put many."""
        return self.side_by_side(get_put_many, n, threads, BATCH)

    def empty(self, n: int, threads: int) -> float:
        """W5: get from an empty pool."""
        seat = self.seat(pool := self.make())
        held = np.empty(ITEMS, np.int64)
        assert drain(seat, held) == ITEMS
        nanoseconds, (found,) = race([partial(fail, self.seat(pool), n)])
        assert found == 0
        refill(seat, held)
        return nanoseconds / n

    def transfer(self, n: int, threads: int) -> float:
        """W3: through a queue from one thread to another."""
        assert self.queue is not None
        queue = self.queue()
        nanoseconds, (_, total) = race([partial(self.produce, queue, n), partial(self.consume, queue, n)])
        assert total == (np.arange(n) & (ROOM - 1)).sum() and left(queue) == 0, "items were lost"
        return nanoseconds / n

    def buffers(self, n: int, threads: int) -> float:
        """W7: one thread writes buffers, another reads them and puts them back."""
        pool, queue = self.make(), BoundedQueue(ROOM)
        writer, reader = self.seat(pool), self.seat(pool)
        nanoseconds, (_, total) = race([partial(write, writer, queue, n), partial(read, reader, queue, n)])
        assert total == (np.arange(n) & 255).sum() * BUFFER and left(pool) == ITEMS, "buffers or bytes were lost"
        return nanoseconds / n


class Waiting(Subject):
    """The same through `get` and `put`, as most code would use it: they wait, and raise errors."""

    get_put = staticmethod(get_put_waiting)
    produce, consume = staticmethod(produce_waiting), staticmethod(consume_waiting)


def left(pool: Any) -> int:
    """Return how many items it holds; exact while no thread uses it."""
    n: int = pool.available() if isinstance(pool, BufferPool) else pool.was_size()
    return n


def full_queue() -> BoundedQueue:
    """Return a BoundedQueue that holds the items."""
    queue = BoundedQueue(ROOM)
    queue._put_first(ITEMS)
    return queue


def floor(n: int) -> float:
    """Return the nanoseconds of two compare-and-swaps."""
    words = np.zeros(48, np.int64)
    nanoseconds, _ = race([partial(swap_twice, words, n)])
    return nanoseconds / n


checked, unchecked = partial(BufferPool, ITEMS, BUFFER), partial(BufferPool, ITEMS, BUFFER, checked=False)

SUBJECTS = {
    RING: Subject(full_queue, queue=partial(BoundedQueue, ROOM)),
    POOL: Subject(unchecked),
    CHECKED: Subject(checked),
    MAGAZINE: Subject(unchecked, seat=BufferPool.magazine),
    MAGAZINE_256: Subject(unchecked, seat=partial(BufferPool.magazine, size=256)),
    MAGAZINE_CHECKED: Subject(checked, seat=BufferPool.magazine),
    VYUKOV: Subject(partial(VyukovQueue, ROOM, ITEMS), queue=partial(VyukovQueue, ROOM, 0)),
}
OBSERVED = {STATS: Subject(partial(checked, stats=True))}
WAITING = {
    WAITING_RING: Waiting(full_queue, queue=partial(BoundedQueue, ROOM)),
    WAITING_POOL: Waiting(unchecked),
    WAITING_CHECKED: Waiting(checked),
}
