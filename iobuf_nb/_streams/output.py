"""Output: what kernels return is written in the order of the source.

A worker computes its piece into memory of its own. In its turn (see `order`) it learns where that belongs. In a regular
file it then writes it there at once, beside other workers; to a pipe, a socket or a sink, before it passes the turn.
WRITTEN counts the bytes that are written or about to be; only the worker whose turn it is reads and stores it, so V1
and V2 of `order` order these accesses.
"""

from __future__ import annotations

import errno

import numpy as np

from .._free.free_list import give, pool_at
from .._free.handover import queue_at
from .._free.waiting import put_and_wake, wait_to_get
from .._jit.compile import kernel
from .._threads.clock import now_ns
from .._threads.gil import LOOK_NS
from .._threads.libc import memcpy
from ..atomics import load, store
from ..syscalls import POLL_IN, PWRITE, SEND, WRITE, call, call_full
from .addresses import bytes_at, items_at
from .order import pass_turn, wait_for_turn
from .pieces import STOP, STOPPED, WRITTEN

# Where to.
NOWHERE, PLACED, IN_TURN, SOCKET, BUFFERS = range(5)

# How a delivery ends.
DELIVERED = 1
TOO_MANY = -10_101
NEGATIVE = -10_102
PAST_THE_END = -10_103
NOT_WRITTEN = -20_000  # less an errno

# Words of a sink: addresses of its pool, its queue and the lengths of its buffers, how many these are, and where.
SINK_POOL, SINK_QUEUE, SINK_LENGTHS, SINK_BUFFERS, SINK_ARENA, SINK_STRIDE, SINK_BYTES, SINK_CLOSED = range(8)
SINK_WORDS = 8
_WORD = np.zeros(1, np.int64)

GUARD = 64  # bytes after the memory for a kernel's output, which it must leave as they are
GUARD_BYTE = 0xA5
_POLL_OUT = 4 << 32  # as it stands in a struct pollfd
_FLAGS = 0x4040  # MSG_DONTWAIT | MSG_NOSIGNAL


@kernel
def deliver(plan, words, number, output, count, last):
    """Write `count` items of `output`, which belong to piece `number`, and pass its turn if they are its last."""
    if plan.output == NOWHERE:  # but kernels run in order
        if last:
            pass_turn(words)
        return DELIVERED
    if count < 0:
        return NEGATIVE
    if count > len(output):
        return TOO_MANY
    address = output.ctypes.data
    end = bytes_at(address + len(output) * plan.output_item)
    for k in range(GUARD):
        if end[k] != GUARD_BYTE:
            return PAST_THE_END
    # Mutant: "a place in the output is taken before its turn"
    if not wait_for_turn(words, number):
        return STOPPED
    size = count * plan.output_item
    status = DELIVERED
    if plan.output != PLACED:
        if plan.output == BUFFERS:
            status = _fill_buffers(plan, words, address, size)
        else:
            status = _write_out(plan, words, address, size)
        if last and status == DELIVERED:
            pass_turn(words)
        return status
    # Mutant: "a turn is passed before the place in the output is taken"
    place = load(words, WRITTEN, "relaxed")
    store(words, WRITTEN, place + size, "relaxed")
    if last:
        pass_turn(words)
    if size:
        n = call_full(PWRITE, plan.target, address, size, plan.target_first + place)
        if 0 <= n < size:  # once more, to know why
            place += n
            n = call_full(PWRITE, plan.target, address + n, size - n, plan.target_first + place)
        if n < 0:
            status = NOT_WRITTEN + n
    return status


@kernel
def _fill_buffers(plan, words, address, size):
    """Copy to buffers of a sink, and put these into its queue, waiting for free ones."""
    sink = items_at(plan.target, SINK_WORDS, _WORD)
    pool, queue = pool_at(sink[SINK_POOL]), queue_at(sink[SINK_QUEUE])
    lengths = items_at(sink[SINK_LENGTHS], sink[SINK_BUFFERS], _WORD)
    room = sink[SINK_BYTES] // plan.output_item * plan.output_item
    done = 0
    while done < size:
        index = wait_to_get(pool, LOOK_NS)
        if load(words, STOP, "relaxed"):
            if index >= 0:
                give(pool, index)
            return STOPPED
        if load(sink, SINK_CLOSED, "relaxed"):
            if index >= 0:
                give(pool, index)
            return NOT_WRITTEN - errno.EPIPE
        if index >= 0:
            n = size - done if size - done < room else room
            memcpy(sink[SINK_ARENA] + index * sink[SINK_STRIDE], address + done, n)
            lengths[index] = n
            put_and_wake(queue, index)
            done += n
            store(words, WRITTEN, load(words, WRITTEN, "relaxed") + n, "relaxed")
    return DELIVERED


@kernel
def _write_out(plan, words, address, size):
    """Write to a pipe, a socket or a device, without blocking for longer than it takes to see that all must stop."""
    request = np.zeros(1, np.int64)  # struct pollfd: int fd, short events, short revents
    done = 0
    while done < size:
        if load(words, STOP, "relaxed"):
            return STOPPED
        request[0] = plan.target | _POLL_OUT
        ready = call(POLL_IN, plan.target, request.ctypes.data, 1, now_ns() + LOOK_NS)
        if ready == 0:
            continue
        most = size - done if size - done < plan.target_most else plan.target_most
        if plan.output == SOCKET:
            n = call(SEND, plan.target, address + done, most, _FLAGS)
        else:
            n = call(WRITE, plan.target, address + done, most, 0)
        if n < 0 and n != -errno.EAGAIN:
            return NOT_WRITTEN + n
        if n > 0:
            done += n
            store(words, WRITTEN, load(words, WRITTEN, "relaxed") + n, "relaxed")
    return DELIVERED
