"""How an operation ends that did not get its index: status values in kernels, exceptions from Python."""

from __future__ import annotations

import queue

# Results of an operation that moves one integer, in kernels and below the Python methods.
EMPTY = -1
CLOSED = -2
FORKED = -3
UNFENCED = -5  # beside what `ring` adds
NO_WAIT_IN_A_CHILD = "a forked child cannot wait on what its parent made: nobody could ever wake it"

NO_FENCE = (
    "membarrier(2) has begun to fail in this process, as under a new seccomp filter: "
    "what lies in a magazine can only be got through that"
)


class WouldBlock(BlockingIOError, queue.Empty, queue.Full):
    """An operation that may not wait, or not any longer, found nothing to take or no room.

    It is a `BlockingIOError` to those who think of I/O, and a `queue.Empty` and a `queue.Full` to those who think of
    queues.
    """


class PoolClosed(RuntimeError):
    """The pool or queue has been closed."""


TAKEN = -4  # beside EMPTY, CLOSED and FORKED: another thread was quicker
