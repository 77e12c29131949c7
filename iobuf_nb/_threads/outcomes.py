"""How an operation ends that got no index or item: a status in kernels, an exception from Python."""

from __future__ import annotations

import queue

# Statuses, which an operation returns instead of an index or item; those are never negative.
OK = 0  # done, and there is no index or item to return
EMPTY = -1  # nothing to take, or no room

# Refusals are below every -errno, so that one integer can be a count, -errno or a refusal.
LEAST_ERRNO = -4095
OUT_OF_RANGE = -5001  # the index is out of range
NOT_OUT = -5002  # the buffer is not checked out
UNDER_WAY = -5003  # an io_uring operation on the buffer is in flight
CLOSED = -5004
FORKED = -5005  # this is a forked child, which may not wait or use the ring
FULL = -5006  # the completion queue is full
UNFENCED = -5007  # membarrier(2) fails, so buffers in magazines cannot be stolen
TAKEN = -5008  # another thread was faster

NO_WAIT_IN_A_CHILD = "a forked child cannot wait on a pool or queue of its parent: no thread is left that could wake it"

NO_FENCE = (
    "membarrier(2) has begun to fail in this process, perhaps under a new seccomp filter: "
    "without it, buffers in magazines can only be got through their own magazine"
)


class WouldBlock(BlockingIOError, queue.Empty, queue.Full):
    """A non-blocking or timed operation found nothing to get, or no room to put.

    It is a `BlockingIOError`, as I/O code expects, and also a `queue.Empty` and a `queue.Full`, as the users of
    `queue.Queue` expect.

    Examples
    --------
    >>> from iobuf_nb import BufferPool
    >>> pool = BufferPool(1, 16)
    >>> index = pool.get()
    >>> try:
    ...     pool.get(block=False)
    ... except WouldBlock:
    ...     print("no free buffer")
    no free buffer
    >>> pool.put(index)
    """

    __module__ = "iobuf_nb"  # as tracebacks name it


class Closed(RuntimeError):
    """The pool, queue, magazine or registration is closed."""

    __module__ = "iobuf_nb"  # as tracebacks name it


PoolClosed = Closed  # deprecated: its former name
