"""Sinks: where the output of a stream goes: a new file, a descriptor, or memory."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from mmap import MAP_PRIVATE, PROT_READ, PROT_WRITE
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _command
from .._jit import check
from .._memory.aligned import MAX_BUFFER_BYTES, MAX_BYTES, MAX_ITEMS
from .._memory.files import descriptor
from .._memory.tier import Tier
from .._pools.bounded_queue import BoundedQueue
from .._pools.pool import BufferPool
from .._threads.outcomes import Closed
from ..atomics import store
from .crew import put_back
from .output import BUFFERS, IN_TURN, PLACED, SINK_CLOSED, SOCKET

_PIPE_BUF = 4096  # what a pipe takes without blocking once it is writable
TEMPORARY = ".iobuf_nb-"  # how the names of files begin that are not complete


class Target(NamedTuple):
    """How, to which descriptor, from which offset on, and how many bytes at once `output` writes."""

    output: int
    target: int
    target_first: int
    target_most: int


@contextmanager
def sink_for(output: Any) -> Iterator[tuple[Target, str]]:
    """Open what `output` names for a ``with`` block, and yield how to write to it, and its name.

    If the block raises, a file that is named by its path stays as it was.
    """
    if isinstance(output, Sink):
        with output._filled() as target:
            yield target, "a sink"
        return
    if hasattr(output, "fileno"):
        output = descriptor("output", output, at_offset=True)
    if isinstance(output, bool) or not isinstance(output, (int, str, os.PathLike)):
        raise TypeError(
            f"output must be a path, a file descriptor, a socket, a binary file or a Sink, not {output!r:.60}"
        )
    if not isinstance(output, int):
        with _new_file(check.path("output", output)) as fd:
            yield Target(PLACED, fd, 0, 0), os.fspath(output)
        return
    fd = check.integer("output (a file descriptor)", output, 0, 2**31 - 1)
    with ExitStack() as stack:
        yield _opened(fd, stack), str(fd)


def _of_descriptors(path: str) -> bool:
    """Whether a link stands for an open file, as /dev/stdout does, which would go on under its old name."""
    folder = os.path.realpath(os.path.dirname(path))
    return folder == "/dev" or folder.startswith("/proc/")


@contextmanager
def _new_file(path: str) -> Iterator[int]:
    """Yield the descriptor of a new file, which takes the name `path` at the end of the block, if it does not raise."""
    if os.path.islink(path) and _of_descriptors(path):
        raise ValueError(
            f"output must be a regular file, or a descriptor, not {path!r}: pass the descriptor, such as 1"
        )
    path = os.path.realpath(path)  # a link stays, and leads to the new file
    before = os.stat(path) if os.path.lexists(path) else None
    if before is not None and not stat.S_ISREG(before.st_mode):
        raise ValueError(f"output must be a regular file, or a descriptor, not {path!r}: open it and pass its fileno()")
    temporary = os.path.join(os.path.dirname(path), f"{TEMPORARY}{os.urandom(8).hex()}")
    _command.temporaries.add((temporary, None))
    try:
        mode = stat.S_IMODE(before.st_mode) if before is not None else 0o666
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        try:
            if before is not None:
                os.fchmod(fd, mode)  # the umask does not count: this file replaces one
            yield fd
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        _command.temporaries.discard((temporary, None))


def _opened(fd: int, stack: ExitStack) -> Target:
    """Return how to write to a descriptor from where it stands."""
    kind = os.fstat(fd).st_mode
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "output must be open for writing", str(fd))
    if stat.S_ISREG(kind) and not flags & os.O_APPEND:
        return Target(PLACED, fd, os.lseek(fd, 0, os.SEEK_CUR), 0)
    if stat.S_ISSOCK(kind):
        return Target(SOCKET, fd, 0, 1 << 20)
    if not stat.S_ISFIFO(kind):
        return Target(IN_TURN, fd, 0, 1 << 30)
    # A descriptor of its own does not block, so that Ctrl-C can end a stream whose reader is slow.
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Target(IN_TURN, fd, 0, _PIPE_BUF)
    stack.callback(os.close, own)
    return Target(IN_TURN, own, 0, 1 << 30)


def leave_at_end(target: Target, written: int) -> None:
    """Set the position of a file that was written at offsets to the end of what was written."""
    os.lseek(target.target, target.target_first + written, os.SEEK_SET)


_C = ctypes.c_int
_mmap = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_size_t, _C, _C, _C, ctypes.c_long)(
    ("mmap", ctypes.CDLL(None))
)
_munmap = ctypes.CFUNCTYPE(_C, ctypes.c_void_p, ctypes.c_size_t)(("munmap", ctypes.CDLL(None)))


class Sink:
    """Where the output of a stream goes block by block, for another thread: buffers of a pool, and a queue.

    Parameters
    ----------
    buffers : int
        Number of buffers, from 1 to 2**32: as many blocks wait, at most, for the thread that takes them.
    tier : Tier or int
        Bytes of a buffer, and of a block at most.

    Attributes
    ----------
    pool : BufferPool
        The buffers.
    queue : BoundedQueue
        The indices of the buffers that hold a block, in the order of the output. Closed once the stream has ended.
    lengths : int64 array of shape (buffers,)
        The bytes of the block in each buffer.

    Raises
    ------
    TypeError, ValueError
        An argument is not an integer, or out of its range.
    MemoryError
        The system cannot provide that much address space.

    Notes
    -----
    Iterating yields the blocks, as arrays of the output's dtype, each valid until the next one is asked for. It waits
    for blocks, and ends when the stream has ended; if that failed, it raises RuntimeError. In a kernel, take an index
    from `queue`, and put it back into `pool`. Several threads may take blocks, each of which comes to one of them.

    Examples
    --------
    >>> import threading
    >>> import numpy as np
    >>> from numba import njit
    >>> from iobuf_nb import stream
    >>> @njit
    ... def double(buffer, n, offset, state, output):
    ...     for k in range(n):
    ...         output[k] = 2 * buffer[k]
    ...     return n
    >>> sink = Sink()
    >>> thread = threading.Thread(target=stream, args=(np.arange(4.0), double), kwargs={"output": sink})
    >>> thread.start()
    >>> [block.tolist() for block in sink]
    [[0.0, 2.0, 4.0, 6.0]]
    >>> thread.join()
    """

    __module__ = "iobuf_nb"  # as tracebacks name it

    def __init__(self, buffers: int = 4, tier: Tier | int = Tier.GIANT) -> None:
        buffers = check.integer("buffers", buffers, 1, MAX_ITEMS)
        size = check.integer("tier", tier, 1, MAX_BUFFER_BYTES)
        check.integer("buffers * tier", buffers * size, 1, MAX_BYTES)
        self.pool = BufferPool(buffers, size)
        self.queue = BoundedQueue(buffers)
        self.lengths: NDArray[np.int64] = np.zeros(buffers, np.int64)
        self._words = np.array(
            [
                self.pool._address, self.queue._address, self.lengths.ctypes.data, buffers, self.pool.arena,
                self.pool.stride, self.pool.buffer_size, 0,
            ],
            np.int64,
        )  # fmt: skip
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)
        self._shape: tuple[int, ...] = ()
        self._used = self._failed = False

    def close(self) -> None:
        """End the stream that fills this sink, with BrokenPipeError: nobody takes its blocks any more."""
        store(self._words, SINK_CLOSED, 1, "relaxed")
        put_back(self.queue, self.pool)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        while True:
            try:
                index = self.queue.get()
            except Closed:
                break
            block = self.pool.value(index)[: self.lengths[index]].view(self._dtype).reshape(-1, *self._shape)
            try:
                yield block
            finally:
                self.pool.put(index)
        if self._failed:
            raise RuntimeError("the stream that filled this sink has failed: its output is not complete")

    def _expect(self, like: NDArray[Any]) -> None:
        """Note what the output is made of."""
        self._require_new()
        if like[:1].nbytes > self.pool.buffer_size:
            raise ValueError(
                f"output must be a Sink whose buffers hold an item of {like[:1].nbytes} bytes, not of "
                f"{self.pool.buffer_size} bytes"
            )
        self._dtype, self._shape = like.dtype, like.shape[1:]

    def _require_new(self) -> None:
        if self._used:
            raise ValueError("output must be a Sink that no stream has filled yet: make a new one")

    @contextmanager
    def _filled(self) -> Iterator[Target]:
        """Let a stream fill this sink in a ``with`` block."""
        self._require_new()
        self._used = self._failed = True
        try:
            yield Target(BUFFERS, self._words.ctypes.data, 0, 0)
            self._failed = False
        finally:
            self.queue.close()


class Collector:
    """Memory without a limit, as a file without a name (memfd_create(2)), for `collect`."""

    def __init__(self, stack: ExitStack) -> None:
        self.fd = os.memfd_create("iobuf_nb", os.MFD_CLOEXEC)
        stack.callback(os.close, self.fd)

    @property
    def target(self) -> Target:
        """How to write to it."""
        return Target(PLACED, self.fd, 0, 0)

    def array(self, like: NDArray[Any], written: int) -> NDArray[Any]:
        """Return what was written, as an array of the dtype and item shape of `like`."""
        if written == 0:
            return np.zeros((0, *like.shape[1:]), like.dtype)
        # Not mmap.mmap, which holds a descriptor. Private, so that a forked child gets a copy.
        address = _mmap(None, written, PROT_READ | PROT_WRITE, MAP_PRIVATE, self.fd, 0)
        if address == -1:
            raise MemoryError(f"the system cannot provide {written} bytes of address space")
        memory = (ctypes.c_char * written).from_address(address)
        weakref.finalize(memory, _munmap, address, written).atexit = False
        return np.frombuffer(memoryview(memory), like.dtype).reshape(-1, *like.shape[1:])
