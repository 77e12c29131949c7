"""Blocks: the pieces of a source for Python code, in order, read ahead by threads."""

from __future__ import annotations

import _thread
import itertools
import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._free.free_list import give
from .._free.waiting import put_and_wake, wait_to_get
from .._jit import check
from .._jit.compile import kernel
from .._memory.aligned import MAX_BUFFER_BYTES, MAX_BYTES, MAX_ITEMS
from .._memory.tier import Tier
from .._pools.bounded_queue import BoundedQueue
from .._pools.pool import BufferPool
from .._threads.gil import LOOK_NS
from .._threads.outcomes import Closed
from ..atomics import fetch_add, load
from .crew import Crew, put_back, require_real_threads, require_threads
from .decompress import check_decompress
from .feed import Feed, MakeReader, Stopped, get_buffer, plain_reader
from .files import (
    CLAIMS_END,
    FILE_WORDS,
    KNOWN,
    LOW,
    claimed,
    close_file,
    leave_file,
    open_file,
    read_lines,
    read_records,
)
from .job import Job, buffer_memory, own_words, stopper
from .order import pass_turn, skip_turn, wait_for_turn
from .pieces import AT, CLAIMED, DONE, END, PAD, PIECE, SCRATCH, SOURCE, STOP, STOPPED
from .progress import Stopwatch, processors
from .remote import Remote
from .runs import run
from .share import Window
from .source import Opened, sources_of
from .table import Table
from .units import LARGE_PIECE, SLACK, Units, seen_by_kernels
from .work import ADDRESS, BYTES, FED_WORDS


@kernel
def _get_buffer(words, pool):
    """Wait for a free buffer; -1 if the workers are to end."""
    while not load(words, STOP, "relaxed"):
        index = wait_to_get(pool, LOOK_NS)
        if index >= 0:
            return index
    return -1


@kernel
def _fill_buffers(plan, words, files, pool, ready, fed, own):
    """Read pieces of files into buffers, and put these into a queue in order: how it ended, and at which position."""
    row = 0
    index = -1
    while True:
        if index < 0:  # before the claim: each number that is claimed has a buffer, so the lowest is never held up
            index = _get_buffer(words, pool)
        if index < 0:
            return STOPPED, 0
        number = fetch_add(words, CLAIMED, 1, "relaxed")
        if number >= plan.claims or load(words, STOP, "relaxed"):
            give(pool, index)
            return END, 0
        while number >= files[row + CLAIMS_END]:
            row += FILE_WORDS
        own[SOURCE] = row // FILE_WORDS
        begin, end = claimed(files, row, number)
        own[AT] = begin
        known = begin == files[row + LOW] and files[row + KNOWN]
        fd = open_file(plan.flags, files, row, own[SCRATCH:])
        if fd < 0:
            give(pool, index)
            return fd, begin
        while begin < end:
            if index < 0:
                index = _get_buffer(words, pool)
                if index < 0:
                    return STOPPED, begin
            memory = pool.arena + index * pool.stride
            if plan.delimiter_size:
                status, address, n, at, begin = read_lines(plan, files, row, fd, 0, memory, begin, end, known)
            else:
                status, address, n, at, begin, _, _ = read_records(plan, files, row, fd, 0, memory, begin, end)
            known = True
            # Mutant: "a block is handed out before its turn"
            if status != PIECE or (n and not wait_for_turn(words, number)):
                give(pool, index)
                return (status if status != PIECE else STOPPED), at
            if n:
                fed[index * FED_WORDS + ADDRESS] = address
                fed[index * FED_WORDS + BYTES] = n
                put_and_wake(ready, index)
                fetch_add(words, DONE, n, "relaxed")
                index = -1
                if begin >= end:
                    pass_turn(words)  # Mutant: "a turn is passed before its block is handed out"
            elif begin >= end:
                skip_turn(words, number)
        if leave_file(files, row):
            close_file(files, row)


class _Reading(Job):
    """Reads sources into buffers, in a thread of its own."""

    def __init__(self, units: Units, plan: Any, pool: BufferPool, workers: int) -> None:
        none = np.zeros(1, np.uint8)
        super().__init__(
            None, units.like, none, lambda: None, [None] * workers, plan, 0, pool, "", lambda done, size: None,
            Stopwatch(),
        )  # fmt: skip
        self._units = units
        self.ready = BoundedQueue(pool.capacity)
        self._fed = np.zeros(pool.capacity * FED_WORDS, np.int64)
        self._stopped = False
        self._process = os.getpid()
        self._stop_run = lambda: None
        self.errors: list[BaseException] = []
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._came = itertools.count()  # the thread, when it begins, and `stop`

    def start(self, *arguments: Any) -> None:
        """Begin to read what `run` is given."""

        def produce() -> None:
            sys.settrace(threading.gettrace())  # as threading does, for debuggers and coverage
            try:
                if next(self._came) == 0:  # else it is stopped already
                    run(self, *arguments)
            except Stopped:
                pass
            except BaseException as error:
                self.errors.append(error)
            finally:
                self.ready.close()
                self._ended.put(None)

        _thread.start_new_thread(produce, ())

    def stop(self) -> None:
        """End reading, and wait until it has ended."""
        if os.getpid() != self._process:
            return  # the threads are in the process that forked this one
        self._stopped = True
        self._stop_run()
        if next(self._came):  # else it will not begin: Ctrl-C came while it was started
            self._ended.get()
        put_back(self.ready, self.pool)
        self.pool._close()  # without a warning of a buffer that Ctrl-C left checked out: nobody else has the pool

    def next(self) -> int:
        """Wait for a buffer that is filled; Closed at the end."""
        if os.getpid() != self._process:
            raise RuntimeError("blocks are read by threads of the process that began to: a forked one must begin anew")
        return self.ready.get()

    def block(self, index: int) -> NDArray[Any]:
        """Return what is in a buffer."""
        row = self._fed[index * FED_WORDS :]
        offset = int(row[ADDRESS]) - self.pool.arena - index * self.pool.stride
        memory = self.pool.value(index)[offset : offset + int(row[BYTES])]
        return memory.view(self.like.dtype).reshape(-1, *self.like.shape[1:])

    def run_files(self, table: Table) -> None:
        table.finish()
        plan = self.plan._replace(claims=table.claims)
        words = self._words()
        self._stop_run = stopper(words)
        if self._stopped:
            raise Stopped  # `run` takes no further sources

        def work(k: int) -> None:
            own = own_words()
            ended, position = _fill_buffers(plan, words, table.words, self.pool, self.ready, self._fed, own)
            if ended not in (END, PIECE, STOPPED):
                raise self.failure(ended, plan, position, table, int(own[SOURCE]))

        try:
            Crew(self._stop_run).run(work, range(min(len(self.states), table.claims)), lambda: None)
            table.require_unchanged(plan.delimiter_size > 0)
        finally:
            table.close()
        self._count(words)

    def run_in_turns(self, source: Opened, index: int) -> None:
        self.run_fed(source, index, self._units, lambda is_stopped: plain_reader(source, is_stopped))

    def run_fed(
        self, source: Opened | Remote, index: int, units: Units, reader: MakeReader, window: Window | None = None
    ) -> int:
        with suppress(Stopped):
            first = source.first if window else 0
            feed = Feed(source.name, units, self.plan, reader(lambda: self._stopped), window, first)
            while True:
                buffer = get_buffer(self.pool, lambda: self._stopped, first=False)
                memory = buffer_memory(self.pool, buffer, self.plan.step + PAD)
                piece = None
                try:
                    piece = feed.fill(memory)
                finally:
                    if piece is None:
                        self.pool.put(buffer)
                if piece is None:
                    break
                self._fed[buffer * FED_WORDS + ADDRESS] = memory.ctypes.data
                self._fed[buffer * FED_WORDS + BYTES] = piece.n
                self.ready.put(buffer)
        return 0


def blocks(
    source: Any,
    *,
    workers: int | None = None,
    tier: Tier | int | None = None,
    buffers: int | None = None,
    engine: Literal["auto", "preadv"] = "auto",
    direct: bool = False,
    record: int | None = None,
    dtype: DTypeLike | None = None,
    delimiter: bytes | None = None,
    start: int = 0,
    stop: int | None = None,
    skip: int = 0,
    decompress: str | None = None,
) -> Iterator[NDArray[Any]]:
    r"""Read a source piece by piece, ahead of the program, and yield each piece as an array.

    Parameters
    ----------
    source, tier, direct, record, dtype, delimiter, start, stop, skip, decompress
        As in `stream`, URLs among them; so are the pieces.
    workers : int, optional
        Number of threads that read, from 1 to 1024; by default the number of processors that this process may use.
    buffers : int, optional
        Number of buffers, at least 2, which bounds the memory, and how far is read ahead; by default two more than
        `workers`.
    engine : {"auto", "preadv"}
        Both are the same.

    Yields
    ------
    array of shape (n, ...), in the order of the source
        The memory of a buffer. It is valid, and may be written to, until the next piece is asked for: copy what is to
        be kept.

    Raises
    ------
    OSError, TypeError, ValueError, ImportError, MemoryError, RuntimeError
        As in `stream`; what is wrong with the arguments at the call, the others after the pieces before.

    Notes
    -----
    Reading begins with the first ``next``, and ends with the iterator: when it is exhausted, closed or dropped, all
    threads have ended. Use an iterator in one thread at a time.

    Examples
    --------
    >>> import hashlib, tempfile
    >>> digest = hashlib.sha256()
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(bytes(1_000_000))
    ...     file.flush()
    ...     for block in blocks(file.name):
    ...         digest.update(block)
    >>> digest.digest() == hashlib.sha256(bytes(1_000_000)).digest()
    True
    """
    require_threads()
    require_real_threads("blocks")
    if engine not in ("auto", "preadv"):
        raise ValueError(f"engine must be 'auto' or 'preadv', not {engine!r:.60}")
    count = check.integer("workers", processors() if workers is None else workers, 1, 1024)
    items, like, header = seen_by_kernels(sources_of(source), dtype)
    units = Units(like, record, delimiter, (0, 0), start, stop, skip)
    decompress = check_decompress(decompress)
    default = LARGE_PIECE if direct or decompress is not None else Tier.GIANT
    size = check.integer("tier", default if tier is None else tier, 1, MAX_BUFFER_BYTES)
    most = count + 2 if buffers is None else check.integer("buffers", buffers, 2, MAX_ITEMS)
    check.integer("buffers * tier", most * size, 1, MAX_BYTES)

    def read() -> Iterator[NDArray[Any]]:
        pool = BufferPool(most, size + SLACK)
        plan = units.plan(pool, direct, "own")._replace(ordered=1)
        reading = _Reading(units, plan, pool, min(count, most - 1))
        try:
            reading.start(items, None, units, header, engine, direct, decompress)
            while True:
                try:
                    index = reading.next()
                except Closed:
                    break
                try:
                    yield reading.block(index)
                finally:
                    pool.put(index)
        finally:
            reading.stop()
        if reading.errors:
            raise reading.errors[0]

    return read()
