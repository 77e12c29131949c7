"""Kernels over an io_uring: queue operations on a pool's buffers, submit them, deliver what has completed."""

from __future__ import annotations

import errno
import functools

import numpy as np
from numba import types

from .._free.free_list import give, take
from .._free.owners import disown, take_back
from .._free.waiting import put_and_wake
from .._jit.compile import hot, kernel
from .._jit.handle import WORD_POINTER, HandleType
from .._threads.clock import FOREVER_NS, now_ns
from .._threads.gil import LOOK_NS, check_signals, process_id, regain_gil, release_gil
from .._threads.libc import memcpy
from .._threads.outcomes import CLOSED, FORKED, FULL, NOT_OUT, OK, OUT_OF_RANGE, UNDER_WAY
from ..atomics import load, store
from .liburing import (
    CQE_BUFFER,
    CQE_BUFFER_SHIFT,
    CQE_BYTES,
    CQE_MORE,
    SQE_BUFFER_SELECT,
    buf_ring_add,
    buf_ring_advance,
    cq_advance,
    get_sqe,
    peek_batch_cqe,
    prep_read_fixed,
    prep_recv_multishot,
    prep_write_fixed,
    sqe_set_buf_group,
    sqe_set_data,
    sqe_set_flags,
    submit,
    submit_and_wait,
    timespec,
)

# A ring's words. A ring has one user at a time, and handing it to another thread synchronizes the two; so none of these
# accesses pairs with another, except that closing a registration increases NUMBER, which its users check.
PROCESS = 0  # the process that made it: a forked child shares its memory with the parent, and must not touch it
NUMBER = 1  # of the registration that may use it; increased when that one ends
LIMIT = 2  # capacity of the completion queue
IN_FLIGHT = 3  # operations queued and not completed
TAIL = 4  # entries ever handed out
PROVIDED = 5  # buffers that Linux may receive into
STARVED = 6  # receivers that wait for such buffers
ENTRIES = 7  # from here on, the address of each entry of the submission queue

# states[index]: IDLE; an operation is in flight on the caller's buffer (THEIRS) or on one taken here (OURS); the index
# represents a receiver that is armed (RECEIVER) or starved (WAITING); the buffer is provided to Linux (BUFFER).
# An operation is in flight from THEIRS to RECEIVER; all from OURS on return to the pool when the registration ends.
IDLE, THEIRS, OURS, RECEIVER, WAITING, BUFFER = range(6)
READ, WRITE = range(2)

_STARVED_NS = 1_000_000  # how often to try the pool for a buffer while a receiver is starved


class RingType(HandleType):
    """The numba type of `Ring`."""

    def __init__(self) -> None:
        super().__init__("Ring", [("_uring", types.int64), ("_words", WORD_POINTER), ("entries", types.int64)])


class RegisteredType(HandleType):
    """The numba type of `RegisteredPool`; includes that of its pool."""

    _integers = ("_number", "_per_piece", "_provide", "_group", "_mask", "_memory_info")
    _arrays = ("_states", "_length_words", "_offset_words", "_descriptor_words")

    def __init__(self, pool: types.Type) -> None:
        members: list[tuple[str, types.Type]] = [("pool", pool), ("ring", RING_TYPE)]
        members += [(name, types.int64) for name in self._integers] + [(name, WORD_POINTER) for name in self._arrays]
        super().__init__(f"RegisteredPool of {pool}", members)


RING_TYPE = RingType()
registered_type = functools.cache(RegisteredType)


@hot
def usable(registered):
    """Return 0, or CLOSED or FORKED if the registration cannot be used any more."""
    words = registered.ring._words
    if load(words, NUMBER) != registered._number:
        return CLOSED
    return FORKED if process_id() != load(words, PROCESS) else 0


@hot
def add(words, i, n):
    """Add `n` to one of the ring's words, which only one thread uses at a time."""
    store(words, i, load(words, i) + n)


@hot
def begin(registered, index, state):
    """Disown a checked-out buffer for an operation or for internal use: 0, or NOT_OUT, without effect."""
    if disown(registered.pool, index, True) != OK:
        return NOT_OUT
    store(registered._states, index, state)
    return 0


@hot
def finish(registered, index):
    """Return a buffer to its owner."""
    store(registered._states, index, IDLE)
    if registered.pool.checked:
        take_back(registered.pool, index)


@kernel
def flush(ring, wait_ns):
    """Submit all queued operations and wait up to `wait_ns` for a completion; the number submitted, or -errno."""
    words = np.empty(3, np.int64)  # a timespec, and room for the pointer that the waiting function stores
    words[0], words[1] = timespec(wait_ns)
    address = words.ctypes.data
    state = release_gil()  # also to submit: a read of a cached file copies it during the call
    n = submit_and_wait(ring._uring, address + 16, 1, address, 0) if wait_ns > 0 else submit(ring._uring)
    regain_gil(state)
    return np.int64(n)


@kernel
def next_entry(ring):
    """Return the address of a free entry, submitting if that is needed to get one, or -errno."""
    entry = get_sqe(ring._uring)
    if entry == 0:
        status = flush(ring, 0)
        entry = get_sqe(ring._uring)
        if entry == 0:
            return status if status < 0 else -errno.EAGAIN
    tail = load(ring._words, TAIL)
    store(ring._words, ENTRIES + tail % ring.entries, entry)
    store(ring._words, TAIL, tail + 1)
    return entry


@kernel
def enqueue(registered, operation, state, fd, index, offset, length):
    """Queue a read or a write of one buffer; 0, -errno or a refusal, both without effect."""
    pool, ring = registered.pool, registered.ring
    if index < 0 or index >= pool.capacity:
        return OUT_OF_RANGE
    if load(registered._states, index) != IDLE:
        return UNDER_WAY
    if load(ring._words, IN_FLIGHT) >= load(ring._words, LIMIT):
        return -errno.EBUSY
    status = begin(registered, index, state)
    if status != 0:
        return status
    entry = next_entry(ring)
    if entry < 0:
        finish(registered, index)
        return entry
    address = pool.arena + index * pool.stride
    if length < 0:
        length = pool.buffer_size
    if operation == READ:
        prep_read_fixed(entry, fd, address, length, offset, index // registered._per_piece)
    else:
        prep_write_fixed(entry, fd, address, length, offset, index // registered._per_piece)
    sqe_set_data(entry, index)
    store(registered._offset_words, index, offset)
    store(registered._descriptor_words, index, fd)
    add(ring._words, IN_FLIGHT, 1)
    return 0


@kernel
def queue_one(registered, operation, fd, index, offset, length):
    """Queue an operation on a checked-out buffer."""
    status = usable(registered)
    return status if status != 0 else enqueue(registered, operation, THEIRS, fd, index, offset, length)


@kernel
def queue_reads(registered, fd, offset, end):
    """Queue reads of consecutive parts into free buffers while there are any, and submit; offset reached, or -errno."""
    status = usable(registered)
    if status != 0:
        return status
    start = offset
    while offset < end:
        index = take(registered.pool)
        if index < 0:
            break
        length = min(registered.pool.buffer_size, end - offset)
        status = enqueue(registered, READ, OURS, fd, index, offset, length)
        if status != 0:
            give(registered.pool, index)
            break
        offset += length
    if offset > start:
        flush(registered.ring, 0)  # operations that fail to be submitted stay queued, and `complete` reports why
    return status if status < 0 and offset == start and status != -errno.EBUSY else offset


@kernel
def arm(registered, index):
    """Queue the multishot receive that buffer `index` represents; 0 or -errno."""
    ring = registered.ring
    if load(ring._words, IN_FLIGHT) >= load(ring._words, LIMIT):
        return -errno.EBUSY
    entry = next_entry(ring)
    if entry < 0:
        return entry
    prep_recv_multishot(entry, load(registered._descriptor_words, index), 0, 0, 0)
    sqe_set_flags(entry, SQE_BUFFER_SELECT)
    sqe_set_buf_group(entry, 0)
    sqe_set_data(entry, index)
    store(registered._states, index, RECEIVER)
    add(ring._words, IN_FLIGHT, 1)
    return 0


@kernel
def provide(registered):
    """Provide Linux with buffers to receive into, up to the requested number, then rearm starved receivers."""
    pool, words = registered.pool, registered.ring._words
    n = 0
    while load(words, PROVIDED) + n < registered._provide:
        index = take(pool)
        if index < 0:
            break
        begin(registered, index, BUFFER)
        address = pool.arena + index * pool.stride
        buf_ring_add(registered._group, address, pool.buffer_size, index, registered._mask, n)
        n += 1
    if n > 0:
        buf_ring_advance(registered._group, n)
        add(words, PROVIDED, n)
    if load(words, STARVED) > 0 and load(words, PROVIDED) > 0:
        for index in range(pool.capacity):
            if load(registered._states, index) == WAITING and arm(registered, index) == 0:
                add(words, STARVED, -1)


@kernel
def start_receiver(registered, fd):
    """Take a buffer to represent the receiver, and queue the receive; 0, -errno or a refusal."""
    status = usable(registered)
    if status != 0:
        return status
    if registered._provide == 0:
        return -errno.ENOBUFS
    index = take(registered.pool)
    if index < 0:
        return -errno.ENOBUFS
    provide(registered)
    store(registered._descriptor_words, index, fd)
    begin(registered, index, WAITING)
    status = arm(registered, index)
    if status != 0:
        finish(registered, index)
        give(registered.pool, index)
    return status


@hot
def deliver(registered, queue, index, result):
    """Record a result and put the index into the queue; False, without effect, if the queue is full."""
    state = load(registered._states, index)
    finish(registered, index)
    store(registered._length_words, index, result)
    if put_and_wake(queue, index):
        return True
    begin(registered, index, state)
    return False


@kernel
def reap(registered, queue):
    """Deliver completions; return how many indices, and whether the queue had room for all of them."""
    uring, words = registered.ring._uring, registered.ring._words
    cqe = np.empty(3, np.int64)  # its address; then a copy: user_data, result and flags
    halves = cqe[2:].view(np.int32)
    address = cqe.ctypes.data
    done = 0
    while peek_batch_cqe(uring, address, 1) > 0:
        memcpy(address + 8, cqe[0], CQE_BYTES)
        index, result, flags = cqe[1], np.int64(halves[0]), np.int64(halves[1])
        buffer = int((flags >> CQE_BUFFER_SHIFT) & 0xFFFF)
        # A receiver continues unless the stream has ended or failed.
        receives = load(registered._states, index) == RECEIVER and (result > 0 or result == -errno.ENOBUFS)
        received = receives and flags & CQE_BUFFER != 0
        ended = not receives and flags & CQE_MORE == 0
        if received:
            store(registered._descriptor_words, buffer, load(registered._descriptor_words, index))
        if received or ended:
            if not deliver(registered, queue, buffer if received else index, result):
                return done, False
            done += 1
        # From here on nothing can fail.
        if flags & CQE_BUFFER:
            add(words, PROVIDED, -1)
            if not received:
                finish(registered, buffer)
                give(registered.pool, buffer)
        if flags & CQE_MORE == 0:
            add(words, IN_FLIGHT, -1)
            if not ended:
                store(registered._states, index, WAITING)
                add(words, STARVED, 1)
        cq_advance(uring, 1)
    return done, True


@hot
def under_way(words):
    """Return the number of operations that have not ended."""
    return load(words, IN_FLIGHT) + load(words, STARVED)


@kernel
def gather(registered, queue, at_least, timeout_ns):
    """Submit, and deliver until `at_least` are delivered, nothing is in flight, or time is up; how many, or -errno."""
    status = usable(registered)
    if status != 0:
        return status
    ring = registered.ring
    end = FOREVER_NS if timeout_ns < 0 else now_ns() + timeout_ns
    wait_ns = 0
    done = 0
    while True:
        provide(registered)
        status = flush(ring, wait_ns)
        n, room = reap(registered, queue)
        done += n
        if not room:
            return done if done > 0 else FULL
        if status < 0 and status != -errno.ETIME and status != -errno.EINTR:
            return done if done > 0 else status
        left = end - now_ns()
        if done >= at_least or under_way(ring._words) == 0 or left <= 0:
            return done
        check_signals()
        wait_ns = min(left, _STARVED_NS if load(ring._words, STARVED) > 0 else LOOK_NS)


@kernel
def submit_all(registered):
    """Submit; return the number of operations, or -errno."""
    status = usable(registered)
    return status if status != 0 else flush(registered.ring, 0)
