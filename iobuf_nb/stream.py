"""Files, pipes and sockets through a pool: a reader fills buffers, workers compute on them, the buffers return.

The calling thread reads: it takes free buffers, fills them with one `preadv` (`readv` where there are no offsets) and
puts their indices into a `BoundedQueue`. Worker threads take an index, work on the buffer in a kernel without the GIL,
and put the buffer back. The pool bounds the memory, and makes the reader wait when the workers are behind.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._jit import compile_for, kernel
from .pool import BufferPool
from .ring import GET, BoundedQueue, shut, wait
from .syscalls import poll_in, preadv, readv
from .tier import Tier
from .wait import PoolClosed

__all__ = ["ScanResult", "scan"]

_READ_BYTES = 1 << 19  # that one system call asks for at most, where a single buffer is not larger
_READ_BUFFERS = 64  # that one system call fills at most
_POLL_MS = 50  # a pipe that stays silent gives Python this often the chance to see a signal
_REPORT_BYTES = 1 << 26  # read between two reports of progress
_TABLES = 8

_NO_OFFSETS = -1
_ENDED = 0
_SILENT = -(2**31)


@dataclass(frozen=True, eq=False)
class ScanResult:
    """What `scan` found."""

    bytes: int  #: bytes read
    lines: int  #: newline bytes among them, as ``wc -l`` counts
    histogram: NDArray[np.int64]  #: how often each of the 256 byte values occurs
    entropy: float  #: Shannon entropy in bits per byte, from 0 to 8
    seconds: float  #: from the first read to the last result

    @property
    def gb_per_s(self) -> float:
        """Speed in 10**9 bytes a second."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0


@kernel
def _read_some(fd, first, most, pool, queue, lengths, total):
    """Read about `most` more bytes into buffers of `pool`, queue them and add them to total[0].

    Return 1, or how it ended: _ENDED, _SILENT (for a while) or -errno. `first` is the offset of byte 0, or _NO_OFFSETS.
    """
    batch = max(1, min(_READ_BUFFERS, pool.capacity // 2, _READ_BYTES // pool.buffer_size))
    indices = np.empty(batch, np.int64)
    iovec = np.empty((batch, 2), np.int64)
    end = total[0] + most
    while total[0] < end:
        if first == _NO_OFFSETS:
            ready = poll_in(fd, _POLL_MS)
            if ready <= 0:
                return ready if ready else _SILENT
        indices[0] = pool.get()
        taken = 1 + pool.get_many(indices[1:])
        for k in range(taken):
            iovec[k, 0] = pool.arena + indices[k] * pool.stride
            iovec[k, 1] = pool.buffer_size
        if first == _NO_OFFSETS:
            n = readv(fd, iovec.ctypes.data, taken)
        else:
            n = preadv(fd, iovec.ctypes.data, taken, first + total[0])
        left = max(n, 0)
        for k in range(taken):
            if left > 0:
                lengths[indices[k]] = min(left, pool.buffer_size)
                left -= lengths[indices[k]]
                queue.put(indices[k])
            else:
                pool.put(indices[k])
        if n <= 0:
            return n
        total[0] += n
    return 1


@kernel
def count_bytes(buffer, tables):
    """Add how often each byte value occurs in a uint8 `buffer` to the columns of `tables`, of shape (8, 256).

    Eight tables, because two equal bytes in a row would otherwise wait for each other's increment; add them up at last.
    """
    whole = len(buffer) // _TABLES * _TABLES
    for i in range(0, whole, _TABLES):
        for k in range(_TABLES):
            tables[k, buffer[i + k]] += 1
    for i in range(whole, len(buffer)):
        tables[0, buffer[i]] += 1


@kernel
def _count_queued(pool, queue, lengths, tables):
    while True:
        index = wait(queue, GET, -1)
        if index < 0:
            return
        count_bytes(pool.value(index)[: lengths[index]], tables)
        pool.put(index)


def scan(
    source: str | os.PathLike[str] | int,
    *,
    workers: int | None = None,
    buffers: int = 16,
    tier: Tier | int = Tier.GIANT,
    progress: Callable[[int, int | None], None] | None = None,
) -> ScanResult:
    r"""Count the bytes, lines and byte values of a file, pipe or socket in one pass.

    Parameters
    ----------
    source : path or int
        A path, or an open file descriptor, which is read from where it stands to its end and stays open.
    workers : int, optional
        Worker threads, from 1 to 1024; by default one for each processor this process may use.
    buffers : int
        Buffers in the pool: `buffers` times `tier` bytes is all the memory it takes, whatever the size of the file.
    tier : Tier or int
        Bytes of a buffer.
    progress : callable, optional
        Called as ``progress(bytes_read, size)`` now and then; size is None where it is not known.

    Returns
    -------
    ScanResult
        Exact for whatever split into buffers.

    Raises
    ------
    OSError
        The source cannot be opened or read, is a directory, or shrank while it was read.
    TypeError, ValueError
        An argument is out of its range.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"one line\nand another\n")
    ...     file.flush()
    ...     result = scan(file.name)
    >>> result.bytes, result.lines
    (21, 2)
    """
    count = _check.integer("workers", _processors() if workers is None else workers, 1, 1024)
    if isinstance(source, bool) or not isinstance(source, (str, os.PathLike, int)):
        raise TypeError(f"source must be a path or a file descriptor, not {source!r}")
    if isinstance(source, int):
        _check.integer("source (a file descriptor)", source, 0, 2**31 - 1)
    fd = source if isinstance(source, int) else os.open(source, os.O_RDONLY)
    try:
        with BufferPool(buffers, tier) as pool:
            return _scan(fd, source, pool, count, progress)
    finally:
        if fd is not source:
            os.close(fd)


def _scan(fd: int, source: Any, pool: BufferPool, workers: int, progress: Any) -> ScanResult:
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(source))
    regular = stat.S_ISREG(status.st_mode)
    seekable = regular or stat.S_ISBLK(status.st_mode)
    first = os.lseek(fd, 0, os.SEEK_CUR) if seekable else _NO_OFFSETS
    size = max(status.st_size - first, 0) if regular else 0
    queue = BoundedQueue(pool.capacity)
    lengths, total = np.zeros(pool.capacity, np.int64), np.zeros(1, np.int64)
    tables = np.zeros((workers, _TABLES, 256), np.int64)
    compile_for(_read_some, fd, first, _REPORT_BYTES, pool, queue, lengths, total)
    compile_for(_count_queued, pool, queue, lengths, tables[0])
    failed: list[BaseException] = []

    def work(tables: NDArray[np.int64]) -> None:
        try:
            _count_queued(pool, queue, lengths, tables)
        except BaseException as error:
            failed.append(error)
            shut(pool.ring)  # the reader must not wait for buffers that do not come back

    threads = []
    start = time.perf_counter()
    try:
        for k in range(workers):
            thread = threading.Thread(target=work, args=(tables[k],), name=f"scan-{k}", daemon=True)
            thread.start()
            threads.append(thread)
        _read_all(fd, source, first, size, pool, queue, lengths, total, progress)
    except PoolClosed:
        if not failed:
            raise
    finally:
        queue.close()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
    seconds = time.perf_counter() - start
    done = int(total[0])
    if done < size and os.fstat(fd).st_size < status.st_size:  # some file systems name sizes that are none
        raise OSError(errno.EIO, f"Shrank while it was read: {done} of {size} bytes were left", str(source))
    if seekable:
        os.lseek(fd, first + done, os.SEEK_SET)
    histogram = tables.sum(axis=(0, 1))
    return ScanResult(done, int(histogram[ord("\n")]), histogram, _entropy(histogram), seconds)


def _read_all(
    fd: int, source: Any, first: int, size: int, pool: Any, queue: Any, lengths: Any, total: Any, progress: Any
) -> None:
    n = 1
    while n != _ENDED:
        n = _read_some(fd, first, _REPORT_BYTES, pool, queue, lengths, total)
        if n < 0 and n not in (_SILENT, -errno.EINTR, -errno.EAGAIN):
            raise OSError(-n, f"{os.strerror(-n)} after {total[0]} bytes", str(source))
        if progress is not None:
            progress(int(total[0]), size or None)


def _entropy(histogram: NDArray[np.int64]) -> float:
    """Return the Shannon entropy, in bits, of a distribution given by counts."""
    counts = histogram[histogram > 0]
    if len(counts) < 2:
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
