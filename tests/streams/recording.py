"""Kernels that record all they get, and what was recorded, piece by piece."""

import os
from dataclasses import dataclass

import numpy as np
from numba import njit
from support import until

from iobuf_nb._streams.addresses import bytes_at
from iobuf_nb._streams.pieces import PAD

#: Words of the first row of a log: rows and bytes in use, and whether anything did not fit; set by the test: the bytes
#: of an item, and whether kernels overwrite what they were given.
ROWS, USED, FULL, ITEM, SPOIL = range(5)
#: Words of the other rows.
SOURCE, OFFSET, ITEMS, BEFORE, AFTER, LENGTH, AT = range(7)


@njit(nogil=True)
def _note(buffer, n, offset, state, source, before, after):
    log, seen = state
    row, at, size = log[0, ROWS] + 1, log[0, USED], buffer.nbytes
    if row >= len(log) or at + size + PAD > len(seen):
        log[0, FULL] = 1
        return
    given = bytes_at(buffer.ctypes.data)
    for k in range(size + PAD):
        seen[at + k] = given[k]
    log[row, SOURCE], log[row, OFFSET], log[row, ITEMS] = source, offset, n
    log[row, BEFORE], log[row, AFTER], log[row, LENGTH], log[row, AT] = before, after, len(buffer), at
    log[0, ROWS], log[0, USED] = row, at + size + PAD


@njit(nogil=True)
def _spoil(buffer, state):
    if state[0][0, SPOIL]:
        given = bytes_at(buffer.ctypes.data)
        for k in range(buffer.nbytes):
            given[k] = 255


@njit(nogil=True)
def look(buffer, n, offset, state, source, before, after):
    """Record what came."""
    _note(buffer, n, offset, state, source, before, after)
    _spoil(buffer, state)


@njit(nogil=True)
def pick(buffer, n, offset, state, before, output, after, source):
    """Record what came, and put two of three items into the output."""
    _note(buffer, n, offset, state, source, before, after)
    first, count = offset // state[0][0, ITEM], 0
    for k in range(n):
        if (first + k) % 3:
            output[count] = buffer[before + k]
            count += 1
    _spoil(buffer, state)
    return count


def picked(data, offset, item):
    """Return what `pick` puts into the output for items that begin at an offset."""
    items = np.frombuffer(data, np.uint8).reshape(-1, item)
    return items[(offset // item + np.arange(len(items))) % 3 > 0].tobytes()


def log(item, room, spoil=False, rows=6000):
    """Return what makes states for these kernels, with room for so many bytes and pieces."""

    def make():
        words = np.zeros((rows, 8), np.int64)
        words[0, ITEM], words[0, SPOIL] = item, spoil
        return words, np.zeros(room, np.uint8)

    return make


@dataclass
class Piece:
    """What one call got: its bytes with those of its neighbours, and the bytes after them."""

    source: int
    offset: int
    items: int
    before: int
    after: int
    length: int
    data: bytes
    pad: bytes


def recorded(state):
    """Return the pieces of one state in the order in which they came."""
    words, seen = state
    assert not words[0, FULL], "the log is too small for what came"
    item, found = int(words[0, ITEM]), []
    for row in words[1 : words[0, ROWS] + 1].tolist():
        size, at = row[LENGTH] * item, row[AT]
        end = at + size
        found.append(Piece(*row[:6], seen[at:end].tobytes(), seen[end : end + PAD].tobytes()))
    return found


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def none_left(opened):
    """Wait until no more descriptors are open than before; other threads of the process may have some for a moment."""
    until(lambda: open_descriptors() <= opened)
