"""Vyukov's bounded MPMC queue on the same atomics and the same kind of handle, to compare with.

A cell is two words, a sequence number and the item. Operations claim a position by a compare-and-swap on a cursor, then
write the cell, then publish it by its sequence number (1024cores.net, "Bounded MPMC queue"). A thread that stops in
between blocks every other thread that reaches its cell.
"""

from __future__ import annotations

import numpy as np
from numba import types

from iobuf_nb import aligned_mem
from iobuf_nb._jit.compile import hot
from iobuf_nb._jit.faces import kernel_method
from iobuf_nb._jit.handle import WORD_POINTER, Handle, HandleType
from iobuf_nb.atomics import compare_and_swap, load, store

HEAD, TAIL, CELLS = 0, 16, 32


class VyukovType(HandleType):
    """The numba type of `VyukovQueue`."""

    def __init__(self) -> None:
        super().__init__("VyukovQueue", [("_words", WORD_POINTER), ("mask", types.int64)])


@hot
def try_get(queue):
    """Take the oldest item, or return -1."""
    position = load(queue._words, HEAD, "relaxed")
    while True:
        cell = CELLS + 2 * (position & queue.mask)
        ahead = load(queue._words, cell) - (position + 1)
        if ahead == 0:
            if compare_and_swap(queue._words, HEAD, position, position + 1, "relaxed"):
                item = load(queue._words, cell + 1, "relaxed")
                store(queue._words, cell, position + queue.mask + 1)
                return item
        elif ahead < 0:
            return -1
        position = load(queue._words, HEAD, "relaxed")


@hot
def try_put(queue, item):
    """Append an item, or return False."""
    position = load(queue._words, TAIL, "relaxed")
    while True:
        cell = CELLS + 2 * (position & queue.mask)
        ahead = load(queue._words, cell) - position
        if ahead == 0:
            if compare_and_swap(queue._words, TAIL, position, position + 1, "relaxed"):
                store(queue._words, cell + 1, item, "relaxed")
                store(queue._words, cell, position + 1)
                return True
        elif ahead < 0:
            return False
        position = load(queue._words, TAIL, "relaxed")


class VyukovQueue(Handle):
    """A queue of `capacity` (a power of two) cells that holds the items 0 to `full` - 1."""

    def __init__(self, capacity: int, full: int) -> None:
        self._words = aligned_mem(8 * (CELLS + 2 * capacity), 128).view(np.int64)
        self._words[CELLS::2] = np.arange(capacity)
        self._words[CELLS : CELLS + 2 * full : 2] += 1
        self._words[CELLS + 1 : CELLS + 2 * full : 2] = np.arange(full)
        self._words[TAIL] = full
        self.mask = capacity - 1
        self._describe(VYUKOV_TYPE)

    def was_size(self) -> int:
        """Return how many items it holds; exact while no thread uses it."""
        return int(self._words[TAIL] - self._words[HEAD])


VYUKOV_TYPE = VyukovType()
kernel_method(VyukovType, "try_get", try_get)
kernel_method(VyukovType, "try_put", try_put)
