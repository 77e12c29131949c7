"""Turns: how workers share a source that only one of them can read at a time: a pipe, a socket, a terminal.

The turn is the one item of a queue of capacity one: the worker that gets it reads on, cuts after the last whole record
or line, and puts it back before it computes. The words from POSITION on are written only with the turn: its put (P2 of
`_free.queue`) releases them to the next worker's get (G1).
"""

from __future__ import annotations

import errno

import numpy as np

from .._jit.compile import kernel
from .._threads.libc import ioctl, memcpy, memset
from ..atomics import load, store
from ..syscalls import POLL_IN, READ, RECV, call, poll_in
from .files import read_at
from .lines import last_cut
from .pieces import (
    AHEAD,
    AHEAD_END,
    CARRIED,
    END,
    ENDED,
    NUMBER,
    PAD,
    PIECE,
    POSITION,
    STOP,
    STOPPED,
    TOO_LONG,
    TORN,
)

_MORE_MS = 1  # how long a worker waits for more if its buffer is not half full: turns that change often take time
_LOOK_MS = 50  # how often workers waiting for data check whether to stop

# What a read returns: bytes, or one message, cut to the buffer. An empty message does not end a connection of messages
# (SOCK_SEQPACKET); it does end datagrams, which have no other end.
BYTES = 0
MESSAGES = 1
CONNECTED = 2

# Linux's values.
_MSG_TRUNC, _MSG_DONTWAIT, _POLLRDHUP, _FIONREAD = 0x20, 0x40, 0x2000, 0x541B


@kernel
def claim_in_turn(plan, words, memory):
    """Read on, holding the turn: status, address, bytes, position."""
    position = load(words, POSITION, "relaxed")
    if load(words, ENDED, "relaxed"):
        return TORN if load(words, CARRIED, "relaxed") else END, 0, 0, position
    address = memory
    if plan.seekable:
        left = plan.size - position
        want = plan.step if plan.step < left else left
        offset = plan.first + position
        if plan.align > 1:
            address += offset % plan.align
        have = read_at(plan.fd, plan.align, address, offset, want)
        if have < 0:
            return have, 0, 0, position
        ended = have < want or position + have == plan.size
        whole = _whole(plan, address, have, ended, int(position > 0))
    else:
        have = load(words, CARRIED, "relaxed")
        memcpy(memory, plan.carry, have)
        whole = 0
        ended = False
        while not ended and (have < plan.step or whole == 0):  # a line that fits may end with the source
            room = plan.step - have
            if load(words, AHEAD, "relaxed") == load(words, AHEAD_END, "relaxed"):
                if whole and poll_in(plan.fd, _MORE_MS if have < plan.step // 2 else 0) == 0:
                    break  # there is enough for a piece: run the kernel rather than wait long for more
                direct = room >= plan.unit
                n = _read_what_comes(plan, memory + have if direct else plan.ahead, room if direct else plan.unit)
                if n < 0 and n != -errno.EAGAIN:
                    return n, 0, 0, position + have
                if load(words, STOP, "relaxed"):
                    return STOPPED, 0, 0, position
                ended = n == 0
                if n < 0:
                    n = 0
                if not direct:
                    store(words, AHEAD, 0, "relaxed")
                    store(words, AHEAD_END, n, "relaxed")
                    n = 0
            elif room == 0:
                break  # it is longer
            else:
                start = load(words, AHEAD, "relaxed")
                n = load(words, AHEAD_END, "relaxed") - start
                if n > room:
                    n = room
                memcpy(memory + have, plan.ahead + start, n)
                store(words, AHEAD, start + n, "relaxed")
            have += n
            if n or ended:
                whole = _whole(plan, memory, have, ended, int(position > 0))
        memcpy(plan.carry, memory + whole, have - whole)
    store(words, CARRIED, have - whole, "relaxed")
    if ended:
        store(words, ENDED, 1, "relaxed")  # at once, because a terminal may be read again after its end
    if have == 0:
        return END, 0, 0, position
    if whole == 0:
        return TORN if ended else TOO_LONG, 0, 0, position
    memset(address + whole, 0, PAD)
    store(words, POSITION, position + whole, "relaxed")
    store(words, NUMBER, load(words, NUMBER, "relaxed") + 1, "relaxed")
    return PIECE, address, whole, position


@kernel
def _read_what_comes(plan, memory, room):
    """Read from a pipe, socket or device after a brief wait: bytes, 0 at the end, -EAGAIN if none came, or an error."""
    if plan.nonblocking:
        n = call(READ, plan.fd, memory, room, 0)
        if n != -errno.EAGAIN:
            return n
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
def _whole(plan, address, have, ended, inside):
    """Return how many of `have` bytes are whole records or lines; the last line of a source needs no delimiter."""
    if plan.delimiter_size == 0:
        return have - have % plan.record
    if ended:
        return have
    cut = last_cut(plan, address, 0, have, inside)
    return cut if cut > 0 else 0
