"""Pieces: how the workers of a stream divide a source, read a piece each, and run a kernel on it.

Pieces of a regular file are claimed by one fetch-and-add on the position and read in parallel. Where the position of a
piece is known only once the previous one has been read (pipes, sockets, lines), and where order matters, workers claim
and read in turns. A turn is the one item of a queue of capacity one: the worker that gets it has the turn. Ordered
streams have two turns, one to read and one to compute, and a worker takes the second before it gives up the first: so
no piece overtakes another, and one is read while another is computed on.

Every process that finds no cached code compiles these kernels, so they avoid what takes numba long: slice assignments,
`min` and `max`, and arrays where an address will do.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .._free.free_list import give
from .._free.queue import LINE_PAIR
from .._free.waiting import put_and_wake, wait_to_get
from .._jit.compile import kernel, tiny
from .._jit.faces import compiled_as
from .._threads.libc import ioctl, memcpy
from ..atomics import compare_and_swap, fetch_add, load, store
from ..syscalls import POLL_IN, PREAD, READ, RECV, call, call_full, poll_in

UNKNOWN = 2**62  # the size of a source that does not report one
_LOOK_MS = 50  # how often workers waiting for data check whether to stop

# What a read returns: bytes, or one message, cut to the buffer. An empty message does not end a connection of messages
# (SOCK_SEQPACKET); it does end datagrams, which have no other end.
BYTES = 0
MESSAGES = 1
CONNECTED = 2

# Linux's values.
_MSG_TRUNC, _MSG_DONTWAIT, _POLLRDHUP, _FIONREAD = 0x20, 0x40, 0x2000, 0x541B

# How a claim ends, beside -errno.
PIECE = 1
END = 0
STOPPED = -10_001
TORN = -10_002
TOO_LONG = -10_003

# Words shared by the workers, two cache lines apart. POSITION, DONE and SHORT are counters, each decided by one
# read-modify-write; what they count is read by others only after the workers have ended. STOP releases to the loads of
# it. The words from ENDED on are written only with the turn, an item of a queue: its put (P2 of `_free.queue`) releases
# them to the next worker's get (G1).
POSITION = 0 * LINE_PAIR  # bytes claimed
DONE = 1 * LINE_PAIR  # bytes processed by the kernel
SHORT = 2 * LINE_PAIR  # the first position at which a read came short
STOP = 3 * LINE_PAIR  # 1: workers are to end
ENDED = 4 * LINE_PAIR  # 1: the source has ended; this and the next three are written only with the turn
CARRIED = ENDED + 1  # bytes of the next piece that were read with the previous one
AHEAD, AHEAD_END = ENDED + 2, ENDED + 3  # start and end of the bytes read ahead of those
STREAM_WORDS = 5 * LINE_PAIR


class Plan(NamedTuple):
    """How to divide one source into pieces, fixed before the workers start."""

    fd: int
    seekable: int  # 1: pieces are read by offset
    first: int  # the offset at which the stream begins
    size: int  # bytes to read; UNKNOWN: to the end
    base: int  # bytes of the sources before this one
    step: int  # bytes of a piece at most, a multiple of record
    align: int  # offsets and lengths of reads are multiples of it
    record: int
    delimiter: int  # the byte that ends a line; -1: pieces are not lines
    in_turn: int  # 1: workers claim and read in turns
    ordered: int  # 1: and compute in turns
    mapped: int  # the address of the byte at offset 0, if the source is mapped; else 0
    packets: int  # BYTES, MESSAGES or CONNECTED
    unit: int  # smallest room for a read that cuts nothing off
    terminal: int  # 1: EIO means the end
    ahead: int  # the address of the read-ahead memory, with room for a unit
    carry: int  # the address of the memory between two turns, with room for a step


NO_PLAN = Plan(*[0] * len(Plan._fields))


@kernel
def _claim(plan, words, memory):
    """Claim and read a piece of a full step, or the last one: status, address, bytes, position."""
    position = fetch_add(words, POSITION, plan.step)
    if position >= plan.size:
        return END, 0, 0, position
    left = plan.size - position
    want = plan.step if plan.step < left else left
    n, address = _read_at(plan, memory, position, want)
    if n < 0:
        return n, 0, 0, position
    if n < want:
        _note_short(words, position + n)
    if n % plan.record:
        return TORN, 0, 0, position + n
    return PIECE if n else END, address, n, position


@kernel
def _note_short(words, position):
    short = load(words, SHORT)
    while position < short and not compare_and_swap(words, SHORT, short, position):
        short = load(words, SHORT)


@kernel
def _read_at(plan, memory, position, want):
    """Read `want` bytes of a seekable source, fewer at its end: how many, or -errno; and the address of the first."""
    offset = plan.first + position
    if plan.mapped:
        return want, plan.mapped + offset
    skip = offset % plan.align
    length = -(-(skip + want) // plan.align) * plan.align
    n = call_full(PREAD, plan.fd, memory, length, offset - skip)
    if n >= skip:
        n = n - skip if n - skip < want else want
    elif n > 0:
        n = 0
    return n, memory + skip


@kernel
def _claim_in_turn(plan, words, memory):
    """Read on, holding the turn, and cut after the last whole record or line: status, address, bytes, position."""
    position = load(words, POSITION)
    if load(words, ENDED):
        return TORN if load(words, CARRIED) else END, 0, 0, position
    if plan.seekable:
        left = plan.size - position
        want = plan.step if plan.step < left else left
        have, address = _read_at(plan, memory, position, want)
        if have < 0:
            return have, 0, 0, position
        ended = have < want or position + have == plan.size
        whole = _whole(plan, address, have, ended)
    else:
        address = memory
        have = load(words, CARRIED)
        memcpy(memory, plan.carry, have)
        whole = 0
        ended = False
        while not ended and have < plan.step:
            room = plan.step - have
            if load(words, AHEAD) == load(words, AHEAD_END):
                if whole and poll_in(plan.fd, 0) == 0:
                    break  # there is enough for a piece: run the kernel rather than wait for more
                direct = room >= plan.unit
                n = _read_what_comes(plan, memory + have if direct else plan.ahead, room if direct else plan.unit)
                if n < 0 and n != -errno.EAGAIN:
                    return n, 0, 0, position + have
                if load(words, STOP):
                    return STOPPED, 0, 0, position
                ended = n == 0
                if n < 0:
                    n = 0
                if not direct:
                    store(words, AHEAD, 0)
                    store(words, AHEAD_END, n)
                    n = 0
            else:
                start = load(words, AHEAD)
                n = load(words, AHEAD_END) - start
                if n > room:
                    n = room
                memcpy(memory + have, plan.ahead + start, n)
                store(words, AHEAD, start + n)
            have += n
            if n or ended:
                whole = _whole(plan, memory, have, ended)
        memcpy(plan.carry, memory + whole, have - whole)
    store(words, CARRIED, have - whole)
    if ended:
        store(words, ENDED, 1)  # at once, because a terminal may be read again after its end
    if have == 0:
        return END, 0, 0, position
    if whole == 0:
        return TORN if ended else TOO_LONG, 0, 0, position
    store(words, POSITION, position + whole)
    return PIECE, address, whole, position


@kernel
def _read_what_comes(plan, memory, room):
    """Read from a pipe, socket or device after a brief wait: bytes, 0 at the end, -EAGAIN if none came, or an error."""
    ready = poll_in(plan.fd, _LOOK_MS)
    if ready <= 0:
        return ready if ready < 0 else -errno.EAGAIN
    if plan.packets == BYTES:
        n = call(READ, plan.fd, memory, room, 0)
        return 0 if plan.terminal and n == -errno.EIO else n
    n = call(RECV, plan.fd, memory, room, _MSG_TRUNC | _MSG_DONTWAIT)
    if n >= room:
        return -errno.EMSGSIZE
    return -errno.EAGAIN if n == 0 and plan.packets == CONNECTED and not _is_over(plan.fd) else n


@kernel
def _is_over(fd):
    """Whether the peer of a connection of messages has closed it, and no message is left."""
    words = np.zeros(2, np.int64)  # struct pollfd: int fd, short events, short revents; an int
    words[0] = fd | _POLLRDHUP << 32
    closed = call(POLL_IN, fd, words.ctypes.data, 1, 0) > 0
    ioctl(fd, _FIONREAD, words[1:].ctypes.data)
    return closed and words[1] == 0


@kernel
def _whole(plan, address, have, ended):
    """Return how many of `have` bytes are whole records or lines; the last line of a source needs no delimiter."""
    if plan.delimiter < 0:
        return have - have % plan.record
    if ended:
        return have
    memory = _bytes_at(address)
    for k in range(have - 1, -1, -1):
        if memory[k] == plan.delimiter:
            return k + 1
    return 0


@tiny
def _run_on(function, plan, words, address, n, position, like, state, current):
    """Run `function` on a piece."""
    current[0] = position
    items = n // like.itemsize
    function(_items_at(address, items, like), items, plan.base + position, state)
    fetch_add(words, DONE, n)


@kernel
def work_on_pieces(function, plan, words, memory, like, state, current):
    """Run `function` on pieces, claimed in parallel, until none is left: how it ended, and at which position.

    current[0] is the position of the piece being processed; `like` is an array of the dtype that the kernel sees.
    """
    while True:
        status, address, n, position = _claim(plan, words, memory)
        if status != PIECE or load(words, STOP):
            return status, position
        _run_on(function, plan, words, address, n, position, like, state, current)


@kernel
def work_in_turns(function, plan, words, turn, order, memory, like, state, current):
    """Run `function` on pieces, claimed in turns; otherwise as `work_on_pieces`."""
    while True:
        if wait_to_get(turn, -1) < 0:
            return STOPPED, 0
        status, address, n, position = _claim_in_turn(plan, words, memory)
        if plan.ordered and status == PIECE and wait_to_get(order, -1) < 0:
            return STOPPED, 0
        put_and_wake(turn, 0)
        if status != PIECE or load(words, STOP):
            return status, position
        _run_on(function, plan, words, address, n, position, like, state, current)
        if plan.ordered:
            put_and_wake(order, 0)


@kernel
def work_on_queue(function, plan, words, ready, pool, lengths, offsets, like, state, current):
    """Run `function` on filled buffers from a queue: how it ended, and at which position.

    current[1] is the buffer being processed, or -1; otherwise as `work_on_pieces`.
    """
    while True:
        index = wait_to_get(ready, -1)
        if index < 0:
            return END, 0
        current[1] = index
        position = offsets[index] - plan.first
        current[0] = position
        left = plan.size - position
        want = plan.step if plan.step < left else left
        n = lengths[index]
        address = pool.arena + index * pool.stride
        if n < 0:
            return n, position
        if n < want and plan.align == 1:  # interrupted, or at the end
            more = call_full(PREAD, plan.fd, address + n, want - n, offsets[index] + n)
            if more < 0:
                return more, position + n
            n += more
        if n > want:
            n = want
        if n < want:
            _note_short(words, position + n)
        if n % plan.record:
            return TORN, position + n
        if load(words, STOP):
            return STOPPED, position
        items = n // like.itemsize
        if items:
            function(_items_at(address, items, like), items, plan.base + position, state)
        fetch_add(words, DONE, n)
        current[1] = -1
        give(pool, index)


@intrinsic
def _pointer(typingctx: Any, address: Any, like: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), codegen


@compiled_as(lambda address, n, like: carray(_pointer(address, like), (n,)))
def _items_at(address: int, n: int, like: NDArray[Any]) -> NDArray[Any]:
    """Return the `n` items at an address, with the dtype of `like`."""
    memory = (ctypes.c_char * (n * like.itemsize)).from_address(address)
    return np.frombuffer(memoryview(memory), like.dtype)


_BYTE = np.zeros(1, np.uint8)


@compiled_as(lambda address: _pointer(address, _BYTE))
def _bytes_at(address: int) -> Any:
    """Return the bytes from an address on, to be read by their indices."""
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))
