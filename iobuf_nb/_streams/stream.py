"""Streams: a source of any size through a user's kernel, piece by piece, in bounded memory.

Every worker thread has one buffer of a pool checked out and repeats three steps without the GIL (see `pieces`):

1. claim the next piece of the source;
2. read it into the buffer;
3. run the kernel on it, while it is still in this processor's cache.
"""

from __future__ import annotations

import _thread
import math
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import BuiltinFunctionType
from typing import Any, Literal

import numpy as np
from numba import typeof, types
from numpy.typing import DTypeLike, NDArray

from .._free.free_list import give, take
from .._free.queue import QUEUE_TYPE
from .._free.waiting import close_queue, wait_to_get
from .._jit import c_methods, check
from .._jit.compile import compile_for, kernel
from .._memory.aligned import MAX_BUFFER_BYTES, MAX_BYTES, MAX_ITEMS
from .._memory.dtype import element_type
from .._memory.tier import Tier
from .._pools.bounded_queue import BoundedQueue
from .._pools.pool import BufferPool
from .._threads.outcomes import WouldBlock
from ..atomics import store
from .crew import LOOK_S, Crew, compile_methods, require_threads
from .kernel import compiled, ready
from .pieces import (
    AHEAD_END,
    DONE,
    END,
    ENDED,
    PIECE,
    POSITION,
    SHORT,
    STOP,
    STOPPED,
    STREAM_WORDS,
    TOO_LONG,
    TORN,
    UNKNOWN,
    Plan,
    work_in_turns,
    work_on_pieces,
    work_on_queue,
)
from .progress import Stopwatch, Throughput, processors, reporter
from .source import Opened, Source, printable
from .state import check_combine, combined, make_states

ALIGNMENT = 4096  # of addresses, offsets and lengths in direct I/O; no disk requires more
_URING_BUFFERS = 8  # per worker, to keep several reads queued at the disk
_URING_ENTRIES = 64
DIRECT_BYTES = 1 << 20  # default size of a buffer in direct I/O: disks favour large reads


class StreamError(RuntimeError):
    """A kernel raised an exception, which is the ``__cause__``.

    Attributes
    ----------
    filename : str
        The source, or the one of several that the piece comes from.
    offset : int
        Offset of the piece in that source, in bytes.
    """

    __module__ = "iobuf_nb"  # as tracebacks name it

    def __init__(self, filename: str, offset: int, cause: BaseException) -> None:
        super().__init__(filename, offset, cause)
        self.filename = filename
        self.offset = offset

    def __str__(self) -> str:
        cause = self.args[2]
        return f"the kernel failed on the piece at offset {self.offset} of {printable(self.filename)}: {cause!r}"


@dataclass(frozen=True, eq=False)
class StreamResult(Throughput):
    """The result of `stream`."""

    state: Any  #: the workers' states, merged by `combine`; without it, a list of them
    bytes: int  #: bytes processed by the kernel
    seconds: float  #: from the first read to the last result, without `compile_seconds`
    compile_seconds: float  #: spent before reading to compile kernels, or to load them from the cache


def stream(
    source: Any,
    kernel: Any,
    *,
    state: Any = None,
    combine: Callable[[Any, Any], Any] | None = None,
    workers: int | None = None,
    tier: Tier | int | None = None,
    buffers: int | None = None,
    pool: BufferPool | None = None,
    engine: Literal["auto", "preadv", "uring", "mmap"] = "auto",
    direct: bool = False,
    record: int | None = None,
    dtype: DTypeLike = np.uint8,
    delimiter: bytes | None = None,
    ordered: bool = False,
    progress: bool | Callable[[int, int | None], None] = False,
) -> StreamResult:
    r"""Run a kernel over a file, pipe or socket, piece by piece, on several threads.

    Parameters
    ----------
    source : path, file descriptor, socket or binary file; or a list of them
        A file descriptor is read from its current position to its end, and stays open. A file object, raw or buffered,
        is read from its own position, including data it has read ahead or not yet written, and is left positioned at
        the end. File objects whose data differ from those of their descriptor, such as text or gzip files, are refused,
        and so is any other object with ``fileno()``. Several sources form one stream, but no piece spans two of them. A
        regular file is read up to the size it has at the start. Messages of sockets, or of pipes in packet mode, are
        joined but never cut: one of more than 1 MiB is an error. An empty message ends datagrams, which have no other
        end.
    kernel : function compiled by ``numba.njit``
        Called as ``kernel(buffer, n, offset, state)``: a contiguous array of `n` items, which is the kernel's own until
        it returns; the offset of the first item in bytes from the start of the stream; and the worker's state. Its
        return value is ignored. A kernel compiled with explicit signatures needs one for these types, with `n` and
        `offset` as int64.
    state : value that kernels accept and can change in place, a callable that makes one, or None
        Each worker has its own: a deep copy of `state`, or the result of a call; all of one type. `state` itself is not
        modified. If calls return the same object, workers share it and must not write to the same places.
    combine : callable, optional
        ``combine(a, b)`` merges two states into one, such as ``np.add``; a shared state counts once.
    workers : int, optional
        Number of threads, from 1 to 1024; by default the number of processors that this process may use. A kernel
        compiled with ``parallel=True`` has its own threads, and takes one worker.
    tier : Tier or int, optional
        Bytes of a buffer; a piece is the whole records or lines that fit. By default `Tier.GIANT`, 256 KiB, which fits
        into a processor's cache; 1 MiB with `direct`.
    buffers : int, optional
        Number of buffers in the pool, which bounds the memory; by default one per worker.
    pool : BufferPool, optional
        Use the buffers of this pool, instead of a new one of `buffers` times `tier` bytes. It may be shared: a worker
        that finds no free buffer waits.
    engine : {"auto", "preadv", "uring", "mmap"}
        "preadv": every worker reads for itself; "auto" is the same.
        "uring": io_uring reads regular files into eight buffers per worker while the workers process others. Not with
        `ordered` or `delimiter`; needs the extra ``uring`` and real threads, not those of gevent or eventlet, which run
        one at a time.
        "mmap": maps regular files and uses no buffers. Faster for the lightest kernels on files in the page cache, but
        counts as memory of this process, and a file truncated meanwhile kills the process (SIGBUS). Pages that a kernel
        writes to take memory until the stream ends.
    direct : bool
        Bypass the page cache (open(2), O_DIRECT); needs paths, and buffers of at least 4096 bytes.
    record : int, optional
        Bytes of a record; records are never split. By default the size of `dtype`.
    dtype : optional
        The dtype of `buffer`.
    delimiter : bytes, optional
        One byte that ends a line, such as ``b"\n"``: each piece is whole lines. The last line need not end with it.
    ordered : bool
        Call the kernel on one piece at a time, in order, with one state for all of them.
    progress : bool or callable
        True shows a tqdm progress bar. A callable is called as ``progress(bytes_done, size)`` repeatedly, and at the
        end; `size` is None if unknown.

    Returns
    -------
    StreamResult

    Raises
    ------
    StreamError
        The kernel raised; the message names the piece.
    OSError
        The source cannot be opened, read or mapped, or shrank meanwhile; with its name, and the offset in the message.
    ValueError, TypeError
        An argument has the wrong type or is out of range; the kernel cannot be compiled for these arguments; a source
        ends inside a record, or a line is longer than a buffer. Exceptions of `state` and `combine` propagate
        unchanged.
    MemoryError, RuntimeError
        The system cannot provide the buffers or the threads; Python is shutting down.
    Closed, WouldBlock
        `pool` is closed; it has no free buffer and is `nonblocking`.

    When this returns or raises, all threads have ended and all buffers are back in the pool; only a second Ctrl-C at
    the same moment may leave a worker running a little longer.

    Notes
    -----
    It blocks until the source has ended. Any number of streams may run at once, in several threads.

    Examples
    --------
    >>> import tempfile
    >>> from numba import njit
    >>> @njit
    ... def add(buffer, n, offset, state):
    ...     state[0] += buffer.sum()
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     np.arange(100_000, dtype="f8").tofile(file.name)
    ...     stream(file.name, add, state=np.zeros(1), combine=np.add, dtype="f8").state
    array([4.99995e+09])
    """
    require_threads()
    sources = [Source(item) for item in (source if isinstance(source, (list, tuple)) else [source])]
    check_combine(combine)
    if not isinstance(engine, str) or engine not in ("auto", "preadv", "uring", "mmap"):
        raise ValueError(f"engine must be 'auto', 'preadv', 'uring' or 'mmap', not {engine!r}")
    alone = getattr(kernel, "targetoptions", {}).get("parallel", False) and not ordered
    usual = 1 if alone else processors()
    count = check.integer("workers", usual if workers is None else workers, 1, 1024)
    if alone and count > 1:
        raise ValueError(f"workers must be 1 for a kernel with parallel=True, not {count}")
    ordered = bool(ordered)
    like = _like(dtype)
    record, end_of_line = _check_units(record, delimiter, like)
    align = ALIGNMENT if direct else 1
    if engine == "uring" and (ordered or delimiter is not None):
        raise ValueError(
            "engine='uring' reads pieces of one size, which complete in any order: leave out ordered and delimiter"
        )
    if engine == "uring" and not isinstance(_thread.start_new_thread, BuiltinFunctionType):
        # The reader would wait forever: its wait blocks all greenlets.
        raise ValueError(
            "engine='uring' needs threads, which gevent or eventlet has replaced by greenlets: use engine='preadv'"
        )
    watch = Stopwatch()
    with ExitStack() as stack:
        shared = pool is not None
        if pool is None:
            default = DIRECT_BYTES if direct else Tier.GIANT
            size = check.integer("tier", default if tier is None else tier, 1, MAX_BUFFER_BYTES)
            if engine == "uring":
                size = _step(size, record, align, 0, end_of_line)
            each = _URING_BUFFERS if engine == "uring" else 1
            most = count * each if buffers is None else check.integer("buffers", buffers, 1, MAX_ITEMS)
            check.integer("buffers * tier", most * size, 1, MAX_BYTES)  # checked here to name these arguments
            with watch.compiling():
                pool = stack.enter_context(BufferPool(most, size))
        elif not isinstance(pool, BufferPool):
            raise TypeError(f"pool must be a BufferPool, not {pool!r:.60}")
        states = make_states(state, 1 if ordered else count)
        report = stack.enter_context(reporter(progress))
        with watch.compiling():
            _compile_for_workers(pool, may_wait=shared or engine == "uring" or pool.capacity < count)
            kernel = ready(kernel, like, states[0])
        job = _Job(kernel, states * count if ordered else states, like, pool, engine, report, watch)
        for item in sources:
            with item.opened(direct) as opened:
                job.run(opened, align, record, end_of_line, ordered)
    state = combined(states, combine) if combine else states
    return StreamResult(state, job.bytes, watch.seconds, watch.compile_seconds)


def _compile_for_workers(pool: BufferPool, may_wait: bool) -> None:
    """Compile what workers call to get and put buffers; the wait for one only if they may wait."""
    compile_methods(may_wait)
    if may_wait or c_methods.WHY_NOT is not None:
        compile_for(take, pool._core)
    if may_wait:
        compile_for(wait_to_get, pool._core, 0)
    if c_methods.WHY_NOT is not None:
        compile_for(give, pool._core, 0)


class _Job:
    """One call of `stream`: the kernel, ready to be called, and the totals over its sources."""

    def __init__(
        self,
        kernel: Any,
        states: list[Any],
        like: NDArray[Any],
        pool: BufferPool,
        engine: str,
        report: Callable[[int, int | None], None],
        watch: Stopwatch,
    ) -> None:
        self.kernel = kernel
        self.states = states
        self.like = like
        self.pool = pool
        self.engine = engine
        self.report = report
        self.watch = watch
        self.bytes = 0

    def _compiled(self, work: Any, *shared: types.Type) -> Callable[..., Any]:
        """Return a worker's kernel, compiled for the user's kernel and arguments of the types `shared`."""
        return compiled(work, self.kernel, self.like, self.states[0], *shared)

    def run(self, source: Opened, align: int, record: int, delimiter: int, ordered: bool) -> None:
        """Run the kernel over one source."""
        name, size = printable(source.name), source.size
        step = _step(self.pool.buffer_size, record, align, source.first, delimiter)
        if size % record:
            raise ValueError(
                f"{name} must be whole records of {record} bytes, as set by record or dtype, but has {size} bytes"
            )
        if align > 1 and (self.pool.arena % align or self.pool.stride % align):
            raise ValueError(f"direct=True needs buffers at multiples of {align} bytes, not {self.pool.stride} apart")
        if self.engine in ("uring", "mmap") and not source.regular:
            raise ValueError(f"engine={self.engine!r} needs regular files, and {name} is not one")
        if self.engine == "uring" and step != self.pool.buffer_size:
            raise ValueError(f"engine='uring' fills whole buffers: they must have {step} bytes, the size of a piece")
        words = np.zeros(STREAM_WORDS, np.int64)
        words[SHORT] = UNKNOWN
        with ExitStack() as stack:
            mapping = stack.enter_context(source.mapped()) if self.engine == "mmap" and size else None
            read_ahead, words[ENDED] = source.read_ahead()
            words[AHEAD_END] = len(read_ahead)
            ahead = np.empty(max(len(read_ahead), 0 if source.seekable else source.unit), np.uint8)
            ahead[: len(read_ahead)] = np.frombuffer(read_ahead, np.uint8)
            carry = np.empty(0 if source.seekable else step, np.uint8)
            plan = Plan(
                fd=source.fd,
                seekable=int(source.seekable),
                first=source.first,
                size=size or UNKNOWN,  # virtual files, such as those in /proc, report 0
                base=self.bytes,
                step=step,
                align=align,
                record=record,
                delimiter=delimiter,
                in_turn=int(ordered or delimiter >= 0 or size == 0),
                ordered=int(ordered),
                mapped=0 if mapping is None else mapping.ctypes.data,
                packets=source.packets,
                unit=source.unit,
                terminal=int(source.terminal),
                ahead=ahead.ctypes.data,
                carry=carry.ctypes.data,
            )

            def report() -> None:
                self.report(plan.base + int(words[DONE]), plan.base + size if size else None)

            if self.engine == "uring" and size:
                self._run_queued(plan, words, source.name, report)
            else:
                self._run_claimed(plan, words, source.name, report)
        done = int(words[DONE])
        torn = not plan.in_turn and done != min(size, words[SHORT])
        if torn or (done < size and source.has_shrunk()):  # some file systems report sizes that mean nothing
            raise source.changed(done)
        source.leave_at(done)
        self.bytes += done
        self.report(self.bytes, self.bytes if size else None)

    def _run_claimed(self, plan: Plan, words: NDArray[np.int64], name: str, report: Callable[[], None]) -> None:
        """Let every worker read for itself."""
        turns: list[BoundedQueue] = []
        with self.watch.compiling():
            if plan.in_turn:
                turns = [BoundedQueue(1), BoundedQueue(1)]
                for turn in turns:
                    turn.put(0)
                on_pieces = self._compiled(work_in_turns, QUEUE_TYPE, QUEUE_TYPE, types.int64)
            else:
                on_pieces = self._compiled(work_on_pieces, types.int64)
            crew = _crew(words, *turns)

        def work(state: Any) -> None:
            index = self._buffer(plan, words)
            if index >= 0:
                try:
                    memory = self.pool.arena + index * self.pool.stride
                    self.watch.start()
                    self._work(on_pieces, plan, name, (words, *turns, memory), state, np.zeros(1, np.int64))
                finally:
                    self.pool.put(index)

        crew.run(work, self.states, report)
        self.watch.stop()

    def _run_queued(self, plan: Plan, words: NDArray[np.int64], name: str, report: Callable[[], None]) -> None:
        """Read with io_uring in this thread, and let the workers process what has arrived."""
        from ..uring import Ring

        ready = BoundedQueue(self.pool.capacity)
        end = plan.first + -(-plan.size // plan.align) * plan.align

        def work(state: Any) -> None:
            current = np.full(2, -1)
            try:
                shared = words, ready, self.pool, registered.lengths, registered.offsets
                self._work(on_queue, plan, name, shared, state, current)
            finally:
                if current[1] >= 0:
                    self.pool.put(int(current[1]))

        offset = plan.first

        def pump() -> None:
            nonlocal offset
            while not words[STOP] and (offset < end or registered.in_flight):
                offset = registered.read_batch(plan.fd, offset, end)
                if registered.complete(ready, timeout=LOOK_S) == 0 and not registered.in_flight:
                    with suppress(WouldBlock), self.pool.lease(timeout=LOOK_S):
                        pass  # a buffer is free again
                report()
            ready.close()

        with ExitStack() as stack:
            with self.watch.compiling():
                of_words = types.int64[::1]
                on_queue = self._compiled(work_on_queue, QUEUE_TYPE, typeof(self.pool), of_words, of_words)
                crew = _crew(words, ready)
                ring = stack.enter_context(Ring(min(self.pool.capacity, _URING_ENTRIES)))
                registered = stack.enter_context(self.pool.register(ring))
                registered.read_batch(plan.fd, end, end)  # these do nothing yet, except to be compiled
                registered.complete(ready, registered.in_flight)
                ready.try_get()
                compile_for(close_queue, ready)
            self.watch.start()
            try:
                crew.run(work, self.states, report, pump)
                self.watch.stop()
            finally:
                while (index := ready.try_get()) >= 0:
                    self.pool.put(index)

    def _work(self, work: Any, plan: Plan, name: str, shared: tuple[Any, ...], state: Any, current: Any) -> None:
        """Run a worker's kernel to its end; raise the error of the piece on which it failed."""
        try:
            ended, position = work(self.kernel, plan, *shared, self.like, state, current)
        except BaseException as error:
            raise StreamError(name, plan.first + int(current[0]), error) from error
        if ended not in (END, PIECE, STOPPED):
            raise _failure(ended, name, plan, plan.first + position)

    def _buffer(self, plan: Plan, words: NDArray[np.int64]) -> int:
        """Return a buffer, or -1 if the other workers finish before one is free."""
        while not (words[STOP] or words[ENDED] or words[POSITION] >= plan.size):
            index = self.pool.try_get()  # its kernel is compiled already; that of a wait may not be
            if index >= 0:
                return index
            try:
                return self.pool.get(timeout=LOOK_S)
            except WouldBlock:
                if self.pool.nonblocking:
                    raise
        return -1


@kernel
def _stop(words, queues):
    """Make all workers end, also those waiting at a queue."""
    store(words, STOP, 1)
    for queue in queues:
        close_queue(queue)


def _crew(words: NDArray[np.int64], *queues: BoundedQueue) -> Crew:
    """Return a crew whose workers share `words` and wait at `queues`."""
    if not queues:
        store(words, STOP, 0)  # compiled now, as below
        return Crew(lambda: store(words, STOP, 1))
    compile_for(_stop, words, queues)  # compiled now, not while handling Ctrl-C
    return Crew(lambda: _stop(words, queues))


def _failure(ended: int, filename: str, plan: Plan, offset: int) -> Exception:
    """Return the error for a worker's final status."""
    name = printable(filename)
    if ended == TORN:
        return ValueError(f"{name} ends at offset {offset} inside a record of {plan.record} bytes")
    if ended == TOO_LONG:
        longer = f"a line at offset {offset} that is longer than a piece, {plan.step} bytes"
        return ValueError(f"{name} has {longer}: tier, or the buffers of pool, must be larger")
    return OSError(-ended, f"{os.strerror(-ended)} at offset {offset}", filename)


def _like(dtype: DTypeLike) -> NDArray[Any]:
    """Return an array with the dtype that kernels are to see."""
    try:
        element = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"dtype must be one that numba knows, not {dtype!r:.60}") from None
    element_type(element)
    return np.zeros(1, element)


def _check_units(record: Any, delimiter: Any, like: NDArray[Any]) -> tuple[int, int]:
    """Return the bytes of a record, and the byte that ends a line or -1."""
    size = like.itemsize if record is None else check.integer("record", record, 1, MAX_BUFFER_BYTES)
    if size % like.itemsize:
        raise ValueError(f"record must be a multiple of the {like.itemsize} bytes of {like.dtype}, not {size}")
    if delimiter is None:
        return size, -1
    if not isinstance(delimiter, bytes) or len(delimiter) != 1:
        raise ValueError(f"delimiter must be one byte, such as b'\\n', not {delimiter!r:.60}")
    if size != 1:
        raise ValueError(f"delimiter={delimiter!r} needs lines of bytes: leave out record and dtype")
    return 1, delimiter[0]


def _step(plan_room: int, record: int, align: int, first: int, delimiter: int) -> int:
    """Return the bytes of a piece: the most whole records that always fit, with aligned reads, into a buffer."""
    room = plan_room // align * align
    unit = math.lcm(record, align)
    if first % align == 0 and room >= unit and delimiter < 0:
        return room // unit * unit
    step = (room - (align if align > 1 else 0)) // record * record
    if step <= 0:
        wanted = f"a record of {record} bytes" + (f" and {align} bytes around it, for direct=True" if align > 1 else "")
        raise ValueError(f"tier must make buffers that hold {wanted}, not buffers of {plan_room} bytes")
    return step
