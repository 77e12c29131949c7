"""What is streamed, and what looks at it: sources of every kind, and a kernel that checks what it gets."""

import os
import socket
import threading
from collections import namedtuple
from contextlib import contextmanager

import numpy as np
import pytest
from numba import njit
from support import why_no_io_uring

from iobuf_nb import syscalls

# Words of the state of `check`.
SUM, BYTES, BLOCKS, NEXT, RECORD, DELIMITER, END, BAD = range(8)


@njit(nogil=True)
def check(buffer, n, offset, state):
    """Sum up bytes weighted by their position, and look whether the block is what was promised."""
    if len(buffer) != n or n % state[RECORD] or offset % state[RECORD]:
        state[BAD] += 1
    if state[DELIMITER] >= 0 and offset + n != state[END] and buffer[n - 1] != state[DELIMITER]:
        state[BAD] += 1
    if state[NEXT] >= 0:
        state[BAD] += offset != state[NEXT]
        state[NEXT] = offset + n
    state[BLOCKS] += 1
    state[BYTES] += n
    state[SUM] += (np.arange(offset + 1, offset + n + 1) * buffer).sum()


def fresh(size, record=1, delimiter=-1, ordered=False):
    return np.array([0, 0, 0, 0 if ordered else -1, record, delimiter, size, 0], np.int64)


def expect(result, data):
    state = np.sum(result.state, axis=0)
    weights = np.arange(1, len(data) + 1)
    assert state[BAD] == 0
    assert state[BYTES] == result.bytes == len(data)
    assert state[SUM] == (weights * np.frombuffer(data, np.uint8)).sum()
    assert result.seconds > 0 and result.gb_per_s >= 0


def text(n, seed=0):
    """Return `n` bytes, one in twenty of them a newline."""
    return np.random.default_rng(seed).choice(np.arange(20, dtype=np.uint8) + 10, n).tobytes()


@contextmanager
def fed(kind, data, chunk):
    """Give the reading end of a pipe or socket into which a thread writes `data` in pieces."""
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())

    def write():
        try:
            for start in range(0, len(data), chunk):
                syscalls.write_full(writer, data[start : start + chunk])
        except (BrokenPipeError, ConnectionResetError):  # the stream has failed, and the reading end is closed
            pass
        finally:
            os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield reader
    finally:
        os.close(reader)
        thread.join()


KINDS = ["path", "descriptor", "list", "pipe", "socket", "mmap", "direct"] + ["uring"] * (not why_no_io_uring())


WITH_URING = [{"engine": "uring"}, {"engine": "uring", "direct": True}] * ("uring" in KINDS)


needs_uring = pytest.mark.skipif(not WITH_URING, reason=why_no_io_uring() or "io_uring works")


# ---- file objects ----------------------------------------------------------------------------------------------------


ENGINES = [{}, {"ordered": True}, {"delimiter": b"\n"}, {"engine": "mmap"}, *WITH_URING[:1]]


Pair = namedtuple("Pair", "one other")


@njit
def fail_at(buffer, n, offset, state):
    if offset <= state[0] < offset + n:
        raise ZeroDivisionError("no way", offset)
