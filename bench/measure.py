"""How one figure is taken: nanoseconds a round, or the growth of memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

Timed = Callable[[int], float]  # of a number of rounds: nanoseconds for each

RUNNING = 0.9  # of the time that its threads could have run, in a sample that is not disturbed
WHOLE = 960  # rounds come in multiples of it, so that batches are whole


@dataclass
class Sampled:
    """A case for a `Table`: some milliseconds of `timed` on `threads` threads.

    A sample is disturbed if other programs took the processors from these threads for more than a tenth of the time.
    It is then taken again, up to `tries` times in all, and the least disturbed one counts.
    """

    timed: Timed
    seconds: float
    threads: int = 1
    tries: int = 1
    last: float = 0.0
    disturbed: int = 0

    def __call__(self) -> float:
        """Return nanoseconds a round; the first call compiles and finds out how many rounds to run."""
        if not self.last:
            self.timed(WHOLE)
            self.last = self.timed(10 * WHOLE)
        taken: list[tuple[float, float]] = []
        while len(taken) < self.tries and (not taken or taken[-1][0] < RUNNING):
            n = int(self.seconds * 1e9 / self.last / self.threads)
            start, used = time.perf_counter(), time.process_time()
            self.last = self.timed(max(n - n % WHOLE, 10 * WHOLE))
            share = (time.process_time() - used) / (time.perf_counter() - start) / self.threads
            taken.append((share, self.last))
        share, figure = max(taken)
        self.disturbed += share < RUNNING
        return figure


def resident() -> int:
    """Return this process's resident memory in bytes, without pages of mapped files."""
    with open("/proc/self/statm") as file:
        fields = file.read().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def growth(function: Callable[[], object]) -> float:
    """Return the peak growth of resident memory while a function runs, in MiB."""
    done = threading.Event()
    before = resident()
    peak = [before]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    thread = threading.Thread(target=watch)
    thread.start()
    function()
    done.set()
    thread.join()
    return (peak[0] - before) / 2**20
