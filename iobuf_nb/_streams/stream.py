"""Streams: a source of any size through a user's kernel, piece by piece, in bounded memory.

Every worker thread has one buffer of a pool checked out and repeats three steps without the GIL (see `pieces`):

1. claim the next piece of the source;
2. read it into the buffer;
3. run the kernel on it, while it is still in this processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._jit import check
from .._log import logger
from .._memory.aligned import MAX_BUFFER_BYTES, MAX_BYTES, MAX_ITEMS
from .._memory.tier import Tier
from .._pools.pool import BufferPool
from .crew import require_real_threads, require_threads
from .decompress import check_decompress
from .errors import StreamError
from .job import Job, compile_for_workers
from .kernel import form_of, prepared
from .output import NOWHERE, PLACED
from .progress import Stopwatch, Throughput, processors, reporter
from .runs import run
from .share import WHOLE, Share, SharedSource
from .sinks import Collector, Sink, Target, leave_at_end, sink_for
from .source import plain_paths, sources_of
from .spares import own_pool
from .state import check_combine, combined, make_states, type_of
from .units import LARGE_PIECE, SLACK, Units, like_of, seen_by_kernels
from .work import Form

__all__ = ["StreamError", "StreamResult", "stream"]

_URING_BUFFERS = 8  # per worker, to keep several reads queued at the disk
_MAPPED_PIECES = 4  # that make one, if `tier` does not say how large pieces are: with light kernels each call counts
_READ_AHEAD = 2  # buffers into which one thread reads for the workers, beside those that they have


@dataclass(frozen=True, eq=False)
class StreamResult(Throughput):
    """The result of `stream`."""

    state: Any  #: the workers' states, merged by `combine`; without it, a list of them
    bytes: int  #: bytes processed by the kernel
    seconds: float  #: from the first read to the last result, without `compile_seconds`
    compile_seconds: float  #: spent before reading to compile kernels, or to load them from the cache
    names: tuple[str, ...] = ()  #: of the sources, in their order; a kernel's parameter `source` is an index of it
    collected: NDArray[Any] | None = None  #: what kernels returned, in the order of the source, with `collect`
    written: int = 0  #: bytes of output
    mapped: int = 0  #: bytes, of those processed, that were mapped and not copied


def stream(
    source: Any,
    kernel: Any,
    *,
    state: Any = None,
    combine: Callable[[Any, Any], Any] | None = None,
    per_file: bool = False,
    output: Any = None,
    collect: DTypeLike | None = None,
    output_dtype: DTypeLike | None = None,
    output_items: int | None = None,
    workers: int | None = None,
    tier: Tier | int | None = None,
    buffers: int | None = None,
    pool: BufferPool[Any] | None = None,
    engine: Literal["auto", "preadv", "uring", "mmap"] = "auto",
    direct: bool = False,
    record: int | None = None,
    dtype: DTypeLike | None = None,
    delimiter: bytes | None = None,
    ordered: bool = False,
    overlap: Sequence[int] = (0, 0),
    start: int = 0,
    stop: int | None = None,
    skip: int = 0,
    decompress: str | None = None,
    progress: bool | Callable[[int, int | None], None] = False,
) -> StreamResult:
    r"""Run a kernel over files, pipes, sockets or memory, piece by piece, on several threads.

    Parameters
    ----------
    source : path, pattern, URL, file descriptor, socket, binary file or memory; or a list, tuple or iterator of them
        Paths and files: a string with ``*``, ``?`` or ``[`` that is no path stands for the files that match, sorted
        (`glob.glob`, with ``**``). A regular file is read up to the size it has at the start. Files of a list that are
        given by their paths are looked at first and then read together, by one crew of threads.
        A string such as ``s3://bucket/key``, ``https://host/file`` or ``memory://name`` that is no path is the URL of a
        remote object that fsspec knows, or a pattern of such; it needs the extra ``remote``, and the package that
        fsspec needs for it. It is read by ranges of up to 4 MiB, eight of them ahead of the workers, and the first
        ranges of eight further objects: that takes up to 72 MiB beside the buffers. Not with `direct` and the engines
        "mmap" and "uring". Requests are repeated as often as fsspec does, and no more. ``file://`` stands for a path.
        A file descriptor is read from its current position to its end, and stays open. A file object, raw or buffered,
        is read from its own position, including data it has read ahead or not yet written, and is left positioned at
        the end. File objects whose data differ from those of their descriptor, such as text or gzip files, are refused,
        and so is any other object with ``fileno()``.
        Memory is bytes, a bytearray, memoryview, mmap or C-contiguous array; it must not change meanwhile, and kernels
        get copies of its pieces. Bytes that are also the name of a file are refused.
        Messages of sockets, or of pipes in packet mode, are joined but never cut: one of more than 1 MiB is an error.
        An empty message ends datagrams, which have no other end.
        A pipe that holds the usual 64 KiB is enlarged to 256 KiB, if the system allows it; one of another size is left.
        Several sources form one stream, but no piece spans two of them.
    kernel : function compiled by ``numba.njit``
        Called as ``kernel(buffer, n, offset, state)``: a contiguous array of `n` items, which is the kernel's own until
        it returns; the offset of the first item in bytes from the beginning of the first source; and the worker's
        state. It may have more parameters, which are recognised by their names, in any order: ``source``, the index of
        the source in the result's `names`; ``before`` and ``after``, the numbers of items of `overlap` around the
        piece; ``output``, an array for results, and then it returns how many it has put there. A kernel compiled with
        explicit signatures needs one for these types; all numbers are int64.
        64 bytes after the last item can be read, too. They are zero, or, if the piece is mapped, what follows
        in the file.
    state : value that kernels accept and can change in place, a callable that makes one, or None
        Each worker has its own: a deep copy of `state`, or the result of a call; all of one type. `state` itself is not
        modified. If calls return the same object, workers share it and must not write to the same places.
    combine : callable, optional
        ``combine(a, b)`` merges two states into one, such as ``np.add``; a shared state counts once.
    per_file : bool
        Keep states apart by source: the result's `state` is a list with one for each. Needs `combine`, or one worker.
    output : path, file descriptor, socket, binary file or Sink, optional
        Where to write what kernels return, in the order of the source. A path is written under a temporary name beside
        it (``.iobuf_nb-*``), which becomes the file at the end: after a failure it is as it was. A descriptor is
        written from its position on; a failure leaves part of the output there.
    collect : dtype, optional
        Return what kernels return as one array of this dtype, in the order of the source. The memory is anonymous, and
        counts as shared memory.
    output_dtype : dtype, optional
        The dtype of the kernel's ``output``; by default that of `buffer`. May have a shape, as `dtype` may.
    output_items : int, optional
        The length of ``output``; by default the most items that a piece has.
    workers : int, optional
        Number of threads, from 1 to 1024; by default the number of processors that this process may use. A kernel
        compiled with ``parallel=True`` has its own threads, and takes one worker. A source of one piece is processed in
        the calling thread.
    tier : Tier or int, optional
        Bytes of a piece at most; a piece is the whole records or lines that fit. By default `Tier.GIANT`, 256 KiB,
        which fits into a processor's cache, and up to 1 MiB for records that are mapped; 1 MiB with `direct` or
        `decompress`. A line must not be longer.
    buffers : int, optional
        Number of buffers in the pool, which bounds the memory; by default one per worker, and two more for what one
        thread must read (`decompress`; a part of a pipe).
    pool : BufferPool, optional
        Use the buffers of this pool, instead of a new one of `buffers` times `tier` bytes. It may be shared: a worker
        that finds no free buffer waits. Pieces are 64 bytes smaller than buffers, in buffers of 64 KiB or more one
        page, and with `direct` two.
    engine : {"auto", "preadv", "uring", "mmap"}
        "preadv": every worker reads for itself. "mmap": maps regular files, where that is safe, and reads elsewhere: a
        mapping needs a read lease (fcntl(2)), which holds up whoever wants to write to the file, until the pieces at
        work are done; there is none of a file that is open for writing, of another user's (but for root) and on most
        network file systems. Nothing is mapped with `ordered`, `overlap` and `direct`. What is mapped counts as memory
        of this process, but is the page cache's. A process that wants to write and opens the file non-blocking is
        refused (EWOULDBLOCK) instead of held up. A kernel must not take longer for some pieces than
        ``/proc/sys/fs/lease-break-time``, 45 seconds by default, or who waits is let in, and a truncated file kills
        this process (SIGBUS). "auto": reads; of files from 64 MiB on, workers measure both ways and go on in the
        faster one. "uring": io_uring reads regular files into eight buffers per worker while the workers process
        others. Not with `ordered`, `delimiter`, `output`, `collect`, `overlap`, `per_file` or a part of a source; needs
        the extra ``uring`` and real threads, not those of gevent or eventlet, which run one at a time.
    direct : bool
        Bypass the page cache (open(2), O_DIRECT); needs paths.
    record : int, optional
        Bytes of a record; records are never split. By default the size of `dtype`.
    dtype : optional
        The dtype of `buffer`. With a shape, such as ``("f4", (1024,))``, `buffer` is an array of rows. By default
        uint8; the dtype and the shape of the rows of a single array in memory, or of the first of several sources if
        its name ends in ``.npy``; then all sources must be such files, and their headers are not part of the data.
    delimiter : bytes, optional
        1 to 64 bytes that end a line, such as ``b"\n"``: each piece is whole lines. The last line of a source need not
        end with it. Of a delimiter that can overlap itself, such as ``b"\n\n"``, pieces are only cut where no earlier
        occurrence overlaps it.
    ordered : bool
        Call the kernel on one piece at a time, in order, with one state for all of them.
    overlap : pair of int
        Items before and after each piece that `buffer` has, too, except beyond the ends of a source: the piece is
        ``buffer[before : before + n]``. Not with `delimiter`.
    start, stop : int, optional
        Read only these bytes of each source, like a slice; with `delimiter`, the lines that begin there.
    skip : int
        Records, or with `delimiter` lines, that are left out at the beginning of each source.
    decompress : {None, "auto", "gzip", "zstd", "lz4", "bz2", "xz"}
        Read what compressed sources hold, which one thread decompresses for the workers; bgzip and zstd files of
        several frames on several threads. "auto" goes by the first bytes, and reads other sources as they are. Needs
        the extra ``compression`` for zstd and lz4, and to be fast for gzip.
    progress : bool or callable
        True shows a tqdm progress bar. A callable is called as ``progress(bytes_done, size)`` repeatedly, and at the
        end; `size` is None if unknown.

    Returns
    -------
    StreamResult

    Raises
    ------
    StreamError
        The kernel raised, returned a wrong number, or wrote past the end of its output; the message names the piece.
    OSError
        A source cannot be opened, read or decompressed, or shrank meanwhile, with its name, and the offset in the
        message; of several files, the message says how many were read whole. A remote object has changed (EIO), or its
        server does not read by ranges (ENOTSUP). The output cannot be written, with its name.
    ValueError, TypeError
        An argument has the wrong type or is out of range; the kernel cannot be compiled for these arguments; a source
        ends inside a record, or a line is longer than a piece. Exceptions of `state` and `combine` propagate
        unchanged.
    ImportError
        The package for a compressed format, for a URL or for the progress bar is missing.
    MemoryError, RuntimeError
        The system cannot provide the buffers or the threads; Python is shutting down.
    Closed, WouldBlock
        `pool` is closed; it has no free buffer and is `nonblocking`.

    Notes
    -----
    It blocks until the source has ended. When it returns or raises, all threads have ended and all buffers are back in
    the pool; only a second Ctrl-C at the same moment may leave a worker running a little longer. Any number of streams
    may run at once, in several threads.

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

    Positions of a value:

    >>> @njit
    ... def find(buffer, n, offset, state, output):
    ...     found = 0
    ...     for k in range(n):
    ...         if buffer[k] == 7:
    ...             output[found] = offset + k
    ...             found += 1
    ...     return found
    >>> stream(np.arange(1000, dtype=np.uint8), find, collect=np.int64).collected
    array([  7, 263, 519, 775])
    """
    require_threads()
    check_combine(combine)
    if not isinstance(engine, str) or engine not in ("auto", "preadv", "uring", "mmap"):
        raise ValueError(f"engine must be 'auto', 'preadv', 'uring' or 'mmap', not {engine!r}")
    alone = getattr(kernel, "targetoptions", {}).get("parallel", False) and not ordered
    usual = 1 if alone else processors()
    count = check.integer("workers", usual if workers is None else workers, 1, 1024)
    if alone and count > 1:
        raise ValueError(f"workers must be 1 for a kernel with parallel=True, not {count}")
    ordered = bool(ordered)
    share, source = source if isinstance(source, SharedSource) else (WHOLE, source)
    paths = plain_paths(source)
    items, like, header = seen_by_kernels(sources_of(source if paths is None else paths[:1]), dtype)
    units = Units(like, record, delimiter, overlap, start, stop, skip)
    decompress = check_decompress(decompress)
    has_output = output is not None or collect is not None
    form = form_of(kernel, bool(units.delimiter), ordered or has_output)
    output_like = _output_like(form, output, collect, output_dtype, output_items, units)
    if per_file and combine is None and count > 1 and not ordered:
        raise ValueError("per_file=True needs combine, because several workers may read one file; or pass workers=1")
    if engine == "uring":
        _check_ring(units, form, ordered, per_file or share.windows is not None)
    if decompress is not None and (direct or engine in ("uring", "mmap")):
        raise ValueError("decompress reads in a thread of its own: leave out direct, and engine or use engine='preadv'")
    watch = Stopwatch()
    with ExitStack() as stack:
        owned = pool is None
        if pool is None:
            default = LARGE_PIECE if direct or decompress is not None else Tier.GIANT
            size = check.integer("tier", default if tier is None else tier, 1, MAX_BUFFER_BYTES)
            size = units.ring_bytes(size, direct) if engine == "uring" else size
            each = _URING_BUFFERS if engine == "uring" else 1
            ahead = 0 if units.whole and decompress is None else _READ_AHEAD
            most = count * each + ahead if buffers is None else check.integer("buffers", buffers, 1, MAX_ITEMS)
            check.integer("buffers * tier", most * size, 1, MAX_BYTES)  # checked here to name these arguments
            with watch.compiling():
                pool = stack.enter_context(own_pool(most, size if engine == "uring" else size + SLACK))
        elif not isinstance(pool, BufferPool):
            raise TypeError(f"pool must be a BufferPool, not {pool!r:.60}")
        elif tier is not None or buffers is not None:
            raise ValueError("pool has its own number and size of buffers: leave out tier and buffers, or pool")
        plan = units.plan(pool, direct, "ring" if engine == "uring" else "own" if owned else "given")
        room = plan.step // plan.item if output_items is None else output_items
        states = make_states(state, 1 if ordered else count)
        report = stack.enter_context(reporter(progress, "stream"))
        with watch.compiling():
            compile_for_workers(pool, may_wait=not owned or engine == "uring" or pool.capacity < count)
            ready = prepared(kernel, form, units.like, output_like, states[0])
        target, name, collector = Target(NOWHERE, 0, 0, 0), "", None
        if output is not None:
            if isinstance(output, Sink):
                output._expect(output_like)
            target, name = stack.enter_context(sink_for(output))
        elif collect is not None:
            collector = Collector(stack)
            target = collector.target
        if tier is None and owned and not has_output:
            plan = plan._replace(mapped_length=_MAPPED_PIECES * plan.length)
        job = Job(
            ready,
            units.like,
            output_like,
            lambda: _again(state, states[0]),
            states * count if ordered else states,
            plan._replace(
                ordered=int(ordered), per_file=int(per_file), output_item=output_like[:1].nbytes, **target._asdict()
            ),
            room if has_output else 0,
            pool,
            name,
            report,
            watch,
        )
        run(job, items, paths, units, header, engine, direct, decompress, share)
        if target.output == PLACED and output is not None:
            leave_at_end(target, job.written)
        collected = collector.array(output_like, job.written) if collector else None
    merged = _per_file(job, share.index, combine) if per_file else combined(states, combine) if combine else states
    logger.debug(
        "stream of %d bytes in %.3f s, %.3f s of it to compile", job.bytes, watch.seconds, watch.compile_seconds
    )
    return StreamResult(
        merged,
        job.bytes,
        watch.seconds,
        watch.compile_seconds,
        tuple(job.names),
        collected,
        job.written,
        job.mapped,
    )


def stream_share(share: Share, source: Any, kernel: Any, **options: Any) -> StreamResult:
    """Run a stream over its share of the sources of another one.

    Parameters
    ----------
    share : Share
        Which of the sources it reads, and which windows of them. Those are of `start`, `stop` and `skip`, which are
        still needed where `decompress` is.
    source, kernel, **options
        As for `stream`; paths, URLs or memory. `dtype` as `windows_of` says.

    Returns
    -------
    StreamResult
        With `per_file`, `state` has those of this share's sources.

    Raises
    ------
    OSError
        A source has another size than its window says (EIO), or as `stream`.
    StreamError, ValueError, TypeError, ImportError, MemoryError, RuntimeError, Closed, WouldBlock
        As `stream`.

    Examples
    --------
    >>> from numba import njit
    >>> @njit
    ... def first(buffer, n, offset, state, source):
    ...     state[0], state[1], state[2] = offset, buffer[0], source
    >>> from iobuf_nb._streams.share import Window
    >>> window = Window(low=6, high=8, known=1, first=0, last=10, size=10)
    >>> share = Share(index=3, base=1000, windows=(window,))
    >>> stream_share(share, np.arange(10, dtype="u1"), first, state=np.zeros(3, int), workers=1).state
    [array([1006,    6,    3])]
    """
    return stream(SharedSource(share, source), kernel, **options)


def _output_like(
    form: Form, output: Any, collect: Any, output_dtype: Any, output_items: Any, units: Units
) -> NDArray[Any]:
    """Return an array like what the kernel is to fill; refuse arguments about output that do not fit together."""
    if output is None and collect is None:
        if "output" in form.names:
            raise ValueError("the kernel has a parameter output: say where that goes, by output= or collect=")
        for name, value in ("output_dtype", output_dtype), ("output_items", output_items):
            if value is not None:
                raise ValueError(f"{name}={value!r:.60} needs output= or collect=")
        return np.zeros(1, np.uint8)
    if output is not None and collect is not None:
        raise ValueError("output and collect exclude each other: pass one of them")
    if "output" not in form.names:
        name = "collect" if output is None else "output"
        raise TypeError(
            f"{name}= needs a kernel(buffer, n, offset, state, output) that returns how many items of output it filled"
        )
    if output_items is not None:
        check.integer("output_items", output_items, 1, MAX_BYTES)
    if collect is not None:
        if output_dtype is not None:
            raise ValueError("output_dtype is for output=: collect= has the dtype already")
        return like_of("collect", collect)
    return units.like if output_dtype is None else like_of("output_dtype", output_dtype)


def _check_ring(units: Units, form: Form, ordered: bool, per_file: bool) -> None:
    """Refuse what io_uring cannot be used for."""
    if ordered or units.delimiter or form.turns or not units.whole or per_file:
        raise ValueError(
            "engine='uring' reads pieces of one size, which complete in any order: leave out ordered, delimiter, "
            "output, collect, overlap, start, stop, skip and per_file, or use engine='auto'"
        )
    require_real_threads("engine='uring'")


def _again(state: Any, like: Any) -> Any:
    """Make one more state, of the type of one that was made before."""
    made = make_states(state, 1)[0]
    if type_of(made) != type_of(like):
        raise TypeError(f"state must make the same type for each source, not {type_of(like)} and {type_of(made)}")
    return made


def _per_file(job: Job, first: int, combine: Callable[[Any, Any], Any] | None) -> list[Any]:
    """Return the state of each source, merged from those of the workers that read it."""
    found: dict[int, list[Any]] = {}
    for (index, _), state in sorted(job.per_file.items(), key=itemgetter(0)):
        found.setdefault(index - first, []).append(state)
    states = (found.get(index) or [job.state()] for index in range(len(job.names)))
    return [combined(each, combine) if combine else each[0] for each in states]
