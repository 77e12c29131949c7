"""Messages from one process to another, and there and back.

The sender, or who answers, is a forked process that a command starts for each sample; so all sides are measured in
turn, and those that are not wait for their command in a read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ..names import CHANNEL_IN_KERNELS
from ..table import Settings, Table
from ..workloads.processes import ONE_WAY, ONE_WAY_SMALL, ROUND_TRIP, ROUND_TRIP_APART
from ..workloads.workload import Workload
from .ways import COPY, WAYS, Message, Way, absent, fork

LIMIT = 60  # seconds that a sample may take; one that works takes less than one
BATCHES = 5  # of a sample


def message_of(size: int) -> Message:
    """Return a message of so many bytes."""
    return np.random.default_rng(1).integers(0, 1 << 30, size // 8)


def sum_of(message: Message, n: int) -> int:
    """Return what `n` of these messages add up to, each with its number in front."""
    return n * int(message[1:].sum()) + n * (n - 1) // 2


class Other:
    """A forked process that does its work as often as it is told."""

    def __init__(self, open_ends: Callable[[], Callable[[int], object]]) -> None:
        commands, self.commands = fork.Pipe(False)
        self.process = fork.Process(target=self._serve, args=(open_ends, commands), daemon=True)
        self.process.start()

    def _serve(self, open_ends: Callable[[], Callable[[int], object]], commands: Any) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        work = open_ends()
        while n := commands.recv():
            work(n)
        del work

    def tell(self, n: int) -> None:
        """Let it work on `n` messages."""
        self.commands.send(n)

    def end(self) -> None:
        """End it, at work or not."""
        with contextlib.suppress(OSError):  # it has ended by itself
            self.tell(0)
        self.process.join(1)  # so that it can close what it has open
        self.process.kill()
        self.process.join()
        self.commands.close()


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise TimeoutError where this takes too long."""

    def late(*_: object) -> None:
        raise TimeoutError(f"no end after {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class OneWay:
    """Messages that another process sends to this one."""

    def __init__(self, make: type[Way], size: int) -> None:
        self.way, self.message = make(size), message_of(size)
        self.other = Other(lambda: partial(self.way.send_all(), self.message.copy()))

    def open(self) -> None:
        """Open the end of this process."""
        self.receive_all = self.way.receive_all()

    def end(self) -> None:
        """End the other process, and close what this one has open."""
        self.other.end()
        self.way.close()

    def sample(self, n: int) -> float:
        """Return gigabytes a second, in the least disturbed of some batches."""
        return n // BATCHES * self.way.size / min(self.seconds(n // BATCHES) for _ in range(BATCHES)) / 1e9

    def seconds(self, n: int) -> float:
        """Return how long it takes from a command to the last message."""
        start = time.perf_counter()
        self.other.tell(n)
        found = self.receive_all(n)
        taken = time.perf_counter() - start
        assert found == sum_of(self.message, n), "messages were lost, or came with other contents"
        return taken


class RoundTrip:
    """Messages to another process, which answers each with the same."""

    def __init__(self, make: type[Way], size: int) -> None:
        self.there, self.back, self.message = make(size, COPY), make(size, COPY), message_of(size)
        self.other = Other(self._answer)

    def _answer(self) -> Callable[[int], None]:
        receive, send = self.there.receiver(), self.back.sender()
        answer = self.message.copy()

        def work(n: int) -> None:
            for k in range(n):
                answer[0] = k
                if receive() == answer.tobytes():
                    send(answer)

        return work

    def open(self) -> None:
        """Open the ends of this process."""
        self.send, self.receive = self.there.sender(), self.back.receiver()

    def end(self) -> None:
        """End the other process, and close what this one has open."""
        self.other.end()
        self.there.close()
        self.back.close()

    def sample(self, n: int) -> float:
        """Return the median in microseconds."""
        message, times = self.message.copy(), []
        self.other.tell(n)
        for k in range(n):
            message[0] = k
            start = time.perf_counter_ns()
            self.send(message)
            found = self.receive()
            times.append(time.perf_counter_ns() - start)
            assert found == message.tobytes(), "the answer is to another message"
        return statistics.median(times) / 1e3


class RoundTripApart(RoundTrip):
    """The same, where each process has a processor of its own while they work."""

    def _answer(self) -> Callable[[int], None]:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        return super()._answer()

    def sample(self, n: int) -> float:
        everywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(everywhere)})
        try:
            return super().sample(n)
        finally:
            os.sched_setaffinity(0, everywhere)


def measured(
    workload: Workload, kind: Any, size: int, n: int, settings: Settings, ways: dict[str, type[Way]]
) -> list[Table]:
    """Measure `n` messages of `size` bytes a sample on each of these ways."""
    missing = absent()
    table = Table(workload, missing=[reason for name, reason in missing.items() if name in ways])
    sides = {name: kind(make, size) for name, make in ways.items() if name not in missing}  # all fork before threads
    cases: dict[str, Callable[[], float]] = {}
    try:
        for name, side in sides.items():
            try:
                with limited():
                    side.open()
                    side.sample(n)
                cases[name] = partial(side.sample, n)
            except Exception as error:  # of any package
                table.missing.append(f"{name}: {type(error).__name__}: {error}")
        with limited():
            table.measure(cases, 3 if settings.quick else 15, settings.seed, warm_up=False)
    finally:
        for side in sides.values():
            side.end()
    return [table]


def count(settings: Settings) -> int:
    """Return how many messages a sample has."""
    return 500 if settings.quick else 2500


def large(settings: Settings) -> list[Table]:
    """Measure messages of 64 KiB."""
    return measured(ONE_WAY, OneWay, 1 << 16, count(settings), settings, WAYS)


def small(settings: Settings) -> list[Table]:
    """Measure messages of 4 KiB."""
    return measured(ONE_WAY_SMALL, OneWay, 1 << 12, count(settings), settings, WAYS)


def round_trips(settings: Settings) -> list[Table]:
    """Measure messages of 64 bytes, there and back, where Linux runs the processes and where each has a processor."""
    ways = {name: make for name, make in WAYS.items() if name != CHANNEL_IN_KERNELS}
    tables = measured(ROUND_TRIP, RoundTrip, 64, count(settings), settings, ways)
    if len(os.sched_getaffinity(0)) > 1:
        tables += measured(ROUND_TRIP_APART, RoundTripApart, 64, count(settings), settings, ways)
    return tables
