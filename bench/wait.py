"""From a put to the return of the get that it wakes in another thread, against Python's standard library."""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from iobuf_nb import Backoff, BoundedQueue, BufferPool

from .names import QUEUE, SIMPLE_QUEUE
from .table import Settings, Table, in_turn
from .workloads.wait import WAIT, WAIT_HIGH, WAIT_IDLE

REST = 0.004  # seconds between two puts: time for the getter to park


class Ours:
    """A waiting `get` of a pool."""

    def __init__(self) -> None:
        self.pool = BufferPool(1, 16)
        self.pool.get()

    def put(self) -> None:
        """Put the only buffer back."""
        self.pool.put(0)

    def get(self) -> None:
        """Wait for it."""
        self.pool.get()


class Slept(Ours):
    """The same pool, where a get tries and sleeps by `Backoff`, as in the Go package."""

    def get(self) -> None:
        """Try and sleep."""
        backoff = Backoff()
        while self.pool.try_get() < 0:
            backoff.wait()


class Conditioned:
    """A deque under threading.Condition."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.items: deque[int] = deque()

    def put(self) -> None:
        """Append and notify."""
        with self.condition:
            self.items.append(0)
            self.condition.notify()

    def get(self) -> None:
        """Wait until there is an item."""
        with self.condition:
            while not self.items:
                self.condition.wait()
            self.items.popleft()


class Queued:
    """One of the standard library's queues."""

    def __init__(self, kind: Callable[[], Any]) -> None:
        self.queue = kind()

    def put(self) -> None:
        """Put an item."""
        self.queue.put(0)

    def get(self) -> None:
        """Wait for it."""
        self.queue.get()


class Enqueued(Queued):
    """A waiting `get` of a BoundedQueue."""

    def __init__(self) -> None:
        super().__init__(lambda: BoundedQueue(1))


CASES: dict[str, Callable[[], Any]] = {
    "BufferPool": Ours,
    "BoundedQueue": Enqueued,
    "threading.Condition": Conditioned,
    QUEUE: partial(Queued, queue.Queue),
    SIMPLE_QUEUE: partial(Queued, queue.SimpleQueue),
    "Backoff only": Slept,
}


def latencies(make: Callable[[], Any], n: int) -> list[float]:
    """Return `n` times in microseconds, each from just before a put to just after the get that it woke."""
    case, woken = make(), [0.0]
    taken = threading.Semaphore(0)

    def work() -> None:
        for _ in range(n):
            case.get()
            woken[0] = time.perf_counter()
            taken.release()

    thread = threading.Thread(target=work)
    thread.start()
    found = []
    for _ in range(n):
        time.sleep(REST)
        start = time.perf_counter()
        case.put()
        taken.acquire()
        found.append((woken[0] - start) * 1e6)
    thread.join()
    return found


def parked_share(make: Callable[[], Any]) -> float:
    """Return the share of a core that a parked getter takes, in percent."""
    case, share = make(), [0.0]

    def work() -> None:
        start = time.thread_time()
        case.get()
        share[0] = time.thread_time() - start

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(1)
    case.put()
    thread.join()
    return 100 * share[0]


def run(settings: Settings) -> list[Table]:
    """Measure medians and 99th percentiles of runs of `n` wake-ups each."""
    n, runs = (100, 3) if settings.quick else (300, 7)
    median, high, idle = Table(WAIT), Table(WAIT_HIGH), Table(WAIT_IDLE)
    for name, make in CASES.items():
        latencies(make, 10)
        median.samples[name], high.samples[name] = [], []
    for name in in_turn(CASES, runs, settings.seed, median.label):
        found = latencies(CASES[name], n)
        median.samples[name].append(statistics.median(found))
        high.samples[name].append(statistics.quantiles(found, n=100)[98])
    idle.measure({name: partial(parked_share, CASES[name]) for name in ("BufferPool", QUEUE)}, 3, settings.seed)
    return [median, high, idle]
