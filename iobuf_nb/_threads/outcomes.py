"""How an operation ends that did not get its index: status values in kernels, exceptions from Python."""

from __future__ import annotations

import queue

# What an operation returns instead of an index or item, which is never negative.
OK = 0  # done, where there is nothing to return
EMPTY = -1  # nothing to take, or no room

# Refusals stand below every -errno, so that one integer can be a count, -errno or a refusal.
LEAST_ERRNO = -4095
OUT_OF_RANGE = -5001  # there is no such buffer
NOT_OUT = -5002  # the buffer is not checked out
UNDER_WAY = -5003  # an operation of io_uring on the buffer is under way
CLOSED = -5004
FORKED = -5005  # this is a forked child, which may not wait or use the ring
FULL = -5006  # the queue of completions is full
UNFENCED = -5007  # membarrier(2) fails, so buffers in magazines are out of reach
TAKEN = -5008  # another thread was quicker

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


class Closed(RuntimeError):
    """The pool, queue, magazine or registration has been closed."""


PoolClosed = Closed  # deprecated: its former name
