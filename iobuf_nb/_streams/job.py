"""A job: one call of `stream`, which runs its kernel over one group of sources after another."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from numba import typeof, types
from numpy.typing import NDArray

from .._free.free_list import give, take, wait_for_buffer
from .._free.queue import QUEUE_TYPE
from .._free.waiting import close_queue
from .._jit import c_methods
from .._jit.compile import compile_for, kernel
from .._memory.aligned import aligned_mem
from .._pools.bounded_queue import BoundedQueue
from .._pools.pool import BufferPool
from .._threads.outcomes import WouldBlock
from .crew import LOOK_S, Crew, compile_methods, nothing_lost, put_back, require_real_threads
from .errors import StreamError
from .feed import Feed, MakeReader, Stopped, get_buffer
from .kernel import Prepared
from .order import stop_turns
from .output import GUARD, GUARD_BYTE, NEGATIVE, NOT_WRITTEN, PAST_THE_END, TOO_MANY
from .pieces import (
    AHEAD_END,
    ANOTHER,
    AT,
    CLAIM,
    CLAIMED,
    DONE,
    END,
    ENDED,
    MAPPED,
    PAD,
    PIECE,
    POSITION,
    REPLACED,
    SHORT_AT,
    SOURCE,
    STOP,
    STOPPED,
    STREAM_WORDS,
    TOO_LONG,
    TORN,
    UNKNOWN,
    WORKER_WORDS,
    WRITTEN,
    Plan,
)
from .progress import Stopwatch
from .remote import Remote
from .share import Window
from .source import Opened, changed, printable
from .table import Table
from .units import SLACK, Units
from .work import FED_WORDS, work_in_turns, work_on_fed, work_on_files, work_on_ring

_WORDS = types.int64[::1]


class Job:
    """What all runs of one call have in common, and the totals over its sources.

    Parameters
    ----------
    kernel, like, output_like
        The kernel, ready to be called, and an array each like what it sees and what it fills.
    state : callable
        Makes a new state.
    states : list
        One for each worker; the same one for all if kernels run in order.
    plan : Plan
        What does not depend on the source.
    room : int
        Items of an output array; 0 if there is no output.
    """

    def __init__(
        self, kernel: Prepared | Any, like: NDArray[Any], output_like: NDArray[Any], state: Callable[[], Any],
        states: list[Any], plan: Plan, room: int, pool: BufferPool, target: str,
        report: Callable[[int, int | None], None], watch: Stopwatch,
    ) -> None:  # fmt: skip
        self.kernel, self.like = kernel, like
        self.state, self.states = state, states
        self.plan = plan
        self.pool = pool
        self.target = target
        self.report = report
        self.watch = watch
        self.names: list[str] = []
        self.per_file: dict[tuple[int, int], Any] = {}  # states by source and worker
        self.base = self.bytes = self.written = self.mapped = 0
        size = room * output_like[:1].nbytes
        self._outputs = []
        for _ in states:
            memory = np.full(size + GUARD, GUARD_BYTE, np.uint8)
            self._outputs.append(memory[:size].view(output_like.dtype).reshape(room, *output_like.shape[1:]))

    # ---- files and memory --------------------------------------------------------------------------------------------

    def run_files(self, table: Table) -> None:
        """Run the kernel over all pieces of a table, on one crew; a single one in this thread."""
        table.finish()
        plan = self.plan._replace(claims=table.claims)
        words = self._words()
        with self.watch.compiling():
            on_files = self.kernel.worker(work_on_files, _WORDS, types.int64, mapping=table.may_map)
            crew = Crew(stopper(words)) if plan.claims > 1 else None

        def is_over() -> bool:
            return bool(words[STOP] or words[CLAIMED] >= plan.claims)

        def work(k: int) -> None:
            index = self._buffer(is_over)
            if index >= 0:
                try:
                    memory = self.pool.arena + index * self.pool.stride
                    self.watch.start()
                    self._work(on_files, plan, words, (table.words, memory), k, table)
                finally:
                    self.pool.put(index)

        def report() -> None:
            self.report(self.bytes + int(words[DONE]), self.bytes + table.bytes)

        try:
            if crew is None:
                work(0)
            else:
                crew.run(work, range(min(len(self.states), plan.claims)), report)
            self.watch.stop()
            table.require_unchanged(plan.delimiter_size > 0)
        except OSError as error:
            raise _counted(error, table) from None
        finally:
            table.close()
        self._count(words)
        self.report(self.bytes, self.bytes)

    # ---- one source --------------------------------------------------------------------------------------------------

    def run_in_turns(self, source: Opened, index: int) -> None:
        """Run the kernel over a source that only one worker can read at a time."""
        words = self._words()
        read_ahead, words[ENDED] = source.read_ahead()
        words[AHEAD_END] = len(read_ahead)
        ahead = np.empty(max(len(read_ahead), 0 if source.seekable else source.unit), np.uint8)
        ahead[: len(read_ahead)] = np.frombuffer(read_ahead, np.uint8)
        carry = np.empty(0 if source.seekable else self.plan.step, np.uint8)
        plan = self._plan_for(source, index)._replace(ahead=ahead.ctypes.data, carry=carry.ctypes.data)
        own = source.own_end()
        if own is not None:
            plan = plan._replace(fd=own, nonblocking=1)
        with self.watch.compiling():
            turn = BoundedQueue(1)
            turn.put(0)
            on_pieces = self.kernel.worker(work_in_turns, QUEUE_TYPE, types.int64)
            crew = Crew(stopper(words, turn))

        tight = self.pool.stride < plan.step + PAD  # buffers of a ring have no room behind a piece

        def work(k: int) -> None:
            own = aligned_mem(plan.step + SLACK) if tight else None
            buffer = self._buffer(lambda: bool(words[STOP] or words[ENDED] or words[POSITION] >= plan.size))
            if buffer >= 0:
                try:
                    memory = self.pool.arena + buffer * self.pool.stride if own is None else own.ctypes.data
                    self.watch.start()
                    self._work(on_pieces, plan, words, (turn, memory), k, source)
                finally:
                    self.pool.put(buffer)

        self.base += self._run_on(source, plan, words, crew, work)

    def run_fed(
        self, source: Opened | Remote, index: int, units: Units, reader: MakeReader, window: Window | None = None
    ) -> int:
        """Run the kernel over what this thread reads, while the workers process what it has read.

        Return the position at which it has ended.
        """
        require_real_threads(f"{printable(source.name)}: reading ahead")
        plan = self.plan._replace(base=self.base, source=index)
        words = self._words()
        size = window and window.high - window.low
        fed = np.zeros(self.pool.capacity * FED_WORDS, np.int64)
        rows = fed.reshape(-1, FED_WORDS)
        with self.watch.compiling():
            ready = BoundedQueue(self.pool.capacity)
            on_fed = self.kernel.worker(work_on_fed, QUEUE_TYPE, typeof(self.pool), _WORDS)
            crew = Crew(stopper(words, ready))
            ready.try_get()
            ready.try_put(0)
            ready.try_get()
            compile_for(close_queue, ready)

        def work(k: int) -> None:
            self._work_on_ready(on_fed, plan, words, (ready, self.pool, fed), k, source)

        def is_stopped() -> bool:
            return bool(words[STOP])

        def report() -> None:
            self.report(self.bytes + int(words[DONE]), self.bytes + size if size else None)

        position = 0

        def pump() -> None:
            nonlocal position
            with suppress(Stopped):
                feed = Feed(source.name, units, plan, reader(is_stopped), window, source.first if window else 0)
                number = 0
                while True:
                    buffer = get_buffer(self.pool, is_stopped, first=number == 0)
                    memory = buffer_memory(self.pool, buffer, plan.step + PAD)
                    piece = None
                    try:
                        piece = feed.fill(memory)
                    finally:
                        if piece is None:
                            self.pool.put(buffer)
                    if piece is None:
                        break
                    rows[buffer, :6] = memory.ctypes.data, *piece[:2], number, *piece[2:]
                    if not ready.try_put(buffer):
                        self.pool.put(buffer)
                        raise Stopped
                    number += 1
                    report()
                position = feed.position
            ready.close()

        self.watch.start()
        with nothing_lost(self.pool, crew):
            try:
                crew.run(work, range(len(self.states)), report, pump)
            finally:
                put_back(ready, self.pool)
        self.watch.stop()
        self._count(words)
        self.report(self.bytes, self.bytes if size else None)
        return position

    def run_ring(self, source: Opened, index: int) -> None:
        """Read a source with io_uring in this thread, and let the workers process what has arrived."""
        from ..uring import Ring

        plan = self._plan_for(source, index)
        words = self._words()
        words[SHORT_AT] = UNKNOWN
        with self.watch.compiling():
            ready = BoundedQueue(self.pool.capacity)
        end = plan.first + -(-plan.size // plan.align) * plan.align

        def work(k: int) -> None:
            memory = np.empty(plan.step + PAD, np.uint8)
            shared = ready, self.pool, registered.lengths, registered.offsets, memory.ctypes.data
            self._work_on_ready(on_ring, plan, words, shared, k, source)

        offset = plan.first

        def pump() -> None:
            nonlocal offset
            while not words[STOP] and (offset < end or registered.in_flight):
                offset = registered.read_batch(plan.fd, offset, end)
                if registered.complete(ready, timeout=LOOK_S) == 0 and not registered.in_flight:
                    with suppress(WouldBlock), self.pool.lease(timeout=LOOK_S):
                        pass  # a buffer is free again
                self.report(self.bytes + int(words[DONE]), self.bytes + plan.size)
            ready.close()

        with ExitStack() as stack:
            with self.watch.compiling():
                on_ring = self.kernel.worker(work_on_ring, QUEUE_TYPE, typeof(self.pool), _WORDS, _WORDS, types.int64)
                crew = Crew(stopper(words, ready))
                ring = stack.enter_context(Ring(min(self.pool.capacity, _URING_ENTRIES)))
                registered = stack.enter_context(self.pool.register(ring))
                registered.read_batch(plan.fd, end, end)  # these do nothing yet, except to be compiled
                registered.complete(ready, registered.in_flight)
                ready.try_get()
                compile_for(close_queue, ready)
            self.watch.start()
            try:
                self.base += self._run_on(source, plan, words, crew, work, pump)
            finally:
                put_back(ready, self.pool)

    def _run_on(
        self, source: Opened, plan: Plan, words: NDArray[np.int64], crew: Crew,
        work: Callable[[int], None], first: Callable[[], None] | None = None,
    ) -> int:  # fmt: skip
        """Run a crew on one source, and see whether it has changed; return how many bytes were processed."""
        size = source.size

        def report() -> None:
            self.report(self.bytes + int(words[DONE]), self.bytes + size if size else None)

        crew.run(work, range(len(self.states)), report, first)
        self.watch.stop()
        done = int(words[DONE])
        torn = words[SHORT_AT] and done != min(source.size, words[SHORT_AT])
        if torn or (done < source.size and source.has_shrunk()):
            raise source.changed(done)  # some file systems report sizes that mean nothing
        source.leave_at(done)
        self._count(words)
        self.report(self.bytes, self.bytes if size else None)
        return done

    def _plan_for(self, source: Opened, index: int) -> Plan:
        return self.plan._replace(
            fd=source.fd,
            seekable=int(source.seekable),
            first=source.first,
            size=source.size or UNKNOWN,  # virtual files, such as those in /proc, report 0
            base=self.base,
            source=index,
            packets=source.packets,
            unit=source.unit,
            terminal=int(source.terminal),
        )

    # ---- workers -----------------------------------------------------------------------------------------------------

    def _words(self) -> NDArray[np.int64]:
        words = np.zeros(STREAM_WORDS, np.int64)
        words[WRITTEN] = self.written
        return words

    def _count(self, words: NDArray[np.int64]) -> None:
        """Add a run to the totals."""
        self.bytes += int(words[DONE])
        self.mapped += int(words[MAPPED])
        self.written = int(words[WRITTEN])

    def state_of(self, index: int, k: int) -> Any:
        """Return the state that worker `k` has for a source."""
        key = index, 0 if self.plan.ordered else k
        if key not in self.per_file:
            self.per_file.setdefault(key, self.state())
        return self.per_file[key]

    def _work(
        self, work: Any, plan: Plan, words: NDArray[np.int64], shared: tuple[Any, ...], k: int,
        sources: Table | Opened | Remote, own: NDArray[np.int64] | None = None,
    ) -> None:  # fmt: skip
        """Run a worker's kernel to its end; raise the error of the piece on which it failed."""
        own = own_words() if own is None else own
        state, output = self.states[k], self._outputs[k]
        if plan.per_file and isinstance(sources, Table):
            own[SOURCE] = -1
        elif plan.per_file:
            state = self.state_of(plan.source, k)
        while True:
            try:
                ended, position = work(plan, words, *shared, output, self.like, state, own)
            except Exception as error:  # not Ctrl-C, which comes here if this is the main thread
                row = int(own[SOURCE])
                raise StreamError(sources.name_of(row), sources.first_of(row) + int(own[AT]), error) from error
            if ended != ANOTHER:
                break
            state = self.state_of(sources.index_of(int(own[SOURCE])), k)  # type: ignore[union-attr]
        if ended not in (END, PIECE, STOPPED):
            raise self.failure(ended, plan, position, sources, int(own[SOURCE]))

    def _work_on_ready(
        self,
        work: Any,
        plan: Plan,
        words: NDArray[np.int64],
        shared: tuple[Any, ...],
        k: int,
        source: Opened | Remote,
    ) -> None:
        """Run a worker that takes filled buffers from a queue, and return the one at which it failed."""
        own = own_words()
        try:
            self._work(work, plan, words, shared, k, source, own)
        finally:
            if own[CLAIM] >= 0:
                self.pool.put(int(own[CLAIM]))

    def _buffer(self, is_over: Callable[[], bool]) -> int:
        """Return a buffer, or -1 if the other workers finish before one is free."""
        while not is_over():
            index = self.pool.try_get()  # its kernel is compiled already; that of a wait may not be
            if index >= 0:
                return index
            try:
                return self.pool.get(timeout=LOOK_S)
            except WouldBlock:
                if self.pool.nonblocking:
                    raise
        return -1

    def failure(self, ended: int, plan: Plan, position: int, sources: Table | Opened | Remote, row: int) -> Exception:
        """Return the error for a worker's final status, at a position of one of its sources."""
        filename, offset = sources.name_of(row), sources.first_of(row) + position
        name = printable(filename)
        if ended == TORN:
            return ValueError(f"{name} ends at offset {offset} inside a record of {plan.record} bytes")
        if ended == TOO_LONG:
            longer = f"a line at offset {offset} that is longer than a piece, {plan.step} bytes"
            return ValueError(f"{name} has {longer}: tier, or the buffers of pool, must be larger")
        if ended == REPLACED:
            return changed(filename, 0, sources.size_of(row))
        if ended in _MISUSES:
            sentence = _MISUSES[ended].format(len(self._outputs[0]))
            return StreamError(filename, offset, ValueError(sentence))
        if ended <= NOT_WRITTEN:
            return OSError(NOT_WRITTEN - ended, os.strerror(NOT_WRITTEN - ended), self.target)
        if ended == -errno.EINVAL and plan.align > 1:
            return OSError(errno.EINVAL, "direct=True is refused by the file system", filename)
        return OSError(-ended, f"{os.strerror(-ended)} at offset {offset}", filename)


_URING_ENTRIES = 64
_MISUSES = {
    TOO_MANY: "the kernel returned more than the {} items for which output has room: pass a larger output_items",
    NEGATIVE: "the kernel returned a negative number of items, instead of how many of the {} of output it has filled",
    PAST_THE_END: "the kernel wrote past the end of output, which has {} items: pass a larger output_items",
}


def buffer_memory(pool: BufferPool, index: int, n: int) -> NDArray[np.uint8]:
    """Return `n` bytes from the beginning of a buffer on: there may be room behind it."""
    memory = (ctypes.c_uint8 * n).from_address(pool.arena + index * pool.stride)
    return np.frombuffer(memoryview(memory), np.uint8)


def own_words() -> NDArray[np.int64]:
    """Return the words of a worker."""
    own = np.zeros(WORKER_WORDS, np.int64)
    own[CLAIM] = -1
    return own


def _counted(error: OSError, table: Table) -> OSError:
    """Return an error that says how many of several sources were read whole."""
    if len(table) < 2:
        return error
    reason = f"{error.strerror}; {table.whole} of {len(table)} sources were read whole"
    return OSError(error.errno, reason, error.filename)


@kernel
def _stop(words, queues):
    """Make all workers end, also those waiting at a queue."""
    stop_turns(words)
    for queue in queues:
        close_queue(queue)


def stopper(words: NDArray[np.int64], *queues: BoundedQueue) -> Callable[[], None]:
    """Return what stops the workers that share `words` and wait at `queues`."""
    if not queues:
        compile_for(stop_turns, words)  # compiled now, not while handling Ctrl-C
        return lambda: stop_turns(words)
    compile_for(_stop, words, queues)
    return lambda: _stop(words, queues)


def compile_for_workers(pool: BufferPool, may_wait: bool) -> None:
    """Compile what workers call to get and put buffers; the wait for one only if they may wait."""
    compile_methods(may_wait)
    if may_wait or c_methods.WHY_NOT is not None:
        compile_for(take, pool._core)
    if may_wait:
        compile_for(wait_for_buffer, pool._core, 0)
    if c_methods.WHY_NOT is not None:
        compile_for(give, pool._core, 0)
