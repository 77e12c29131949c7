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
from .ring import BoundedQueue, wait_get
from .syscalls import poll_in, preadv, readv
from .tier import Tier

__all__ = ["ScanResult", "scan"]

_READ_BYTES = 1 << 19  # that one system call asks for at most, where a single buffer is not larger
_READ_BUFFERS = 64  # that one system call fills at most
_POLL_MS = 50  # a pipe that stays silent gives Python this often the chance to see a signal
_REPORT_BYTES = 1 << 26  # read between two reports of progress
_TABLES = 8

_NO_OFFSETS = -1
_ENDED = 0
_SILENT = -(2**31)


@dataclass(frozen=True)
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
def _read_some(fd, offset, most, pool, queue, lengths):
    """Read about `most` bytes into buffers of `pool` and queue them: bytes read, _ENDED, _SILENT or -errno."""
    batch = max(1, min(_READ_BUFFERS, pool.capacity // 2, _READ_BYTES // pool.buffer_size))
    indices = np.empty(batch, np.int64)
    iovec = np.empty((batch, 2), np.int64)
    done = 0
    while done < most:
        if offset == _NO_OFFSETS:
            ready = poll_in(fd, 0 if done else _POLL_MS)
            if ready <= 0:
                return done if done else ready if ready else _SILENT
        indices[0] = pool.get()
        taken = 1 + pool.get_many(indices[1:])
        for k in range(taken):
            iovec[k, 0] = pool.arena + indices[k] * pool.stride
            iovec[k, 1] = pool.buffer_size
        if offset == _NO_OFFSETS:
            n = readv(fd, iovec.ctypes.data, taken)
        else:
            n = preadv(fd, iovec.ctypes.data, taken, offset + done)
        left = max(n, 0)
        for k in range(taken):
            if left > 0:
                lengths[indices[k]] = min(left, pool.buffer_size)
                left -= lengths[indices[k]]
                queue.put(indices[k])
            else:
                pool.put(indices[k])
        if n <= 0:
            return done if done else n
        done += n
    return done


@kernel
def count_bytes(buffer, histogram):
    """Add how often each byte value occurs in a uint8 `buffer` to the 256 words of `histogram`."""
    # Several tables: two equal bytes in a row would otherwise wait for each other's increment.
    tables = np.zeros((_TABLES, 256), np.int64)
    whole = len(buffer) // _TABLES * _TABLES
    for i in range(0, whole, _TABLES):
        for k in range(_TABLES):
            tables[k, buffer[i + k]] += 1
    for i in range(whole, len(buffer)):
        tables[0, buffer[i]] += 1
    for k in range(_TABLES):
        for value in range(256):
            histogram[value] += tables[k, value]


@kernel
def _count_queued(pool, queue, lengths, histogram):
    while True:
        index = wait_get(queue, -1)
        if index < 0:
            return
        count_bytes(pool.value(index)[: lengths[index]], histogram)
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
        A path, or an open file descriptor, which is read from where it stands and stays open.
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
    lengths = np.zeros(pool.capacity, np.int64)
    histograms = np.zeros((workers, 256), np.int64)
    threads = [
        threading.Thread(target=_count_queued, args=(pool, queue, lengths, histogram), name=f"scan-{k}", daemon=True)
        for k, histogram in enumerate(histograms)
    ]
    compile_for(_read_some, fd, first, _REPORT_BYTES, pool, queue, lengths)
    compile_for(_count_queued, pool, queue, lengths, histograms[0])
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    try:
        total = _read_all(fd, source, first, size, pool, queue, lengths, progress)
    finally:
        queue.close()
        for thread in threads:
            thread.join()
    seconds = time.perf_counter() - start
    if total < size:
        raise OSError(errno.EIO, f"Shrank while it was read: {total} of {size} bytes were left", str(source))
    histogram = histograms.sum(axis=0)
    return ScanResult(total, int(histogram[ord("\n")]), histogram, _entropy(histogram), seconds)


def _read_all(fd: int, source: Any, first: int, size: int, pool: Any, queue: Any, lengths: Any, progress: Any) -> int:
    total = 0
    while True:
        offset = _NO_OFFSETS if first == _NO_OFFSETS else first + total
        n = _read_some(fd, offset, _REPORT_BYTES, pool, queue, lengths)
        if n == _ENDED:
            return total
        if n > 0:
            total += n
            if progress is not None:
                progress(total, size or None)
        elif n not in (_SILENT, -errno.EINTR, -errno.EAGAIN):
            raise OSError(-n, f"{os.strerror(-n)} after {total} bytes", str(source))


def _entropy(histogram: NDArray[np.int64]) -> float:
    """Return the Shannon entropy, in bits, of a distribution given by counts."""
    counts = histogram[histogram > 0]
    if len(counts) < 2:
        return 0.0
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
