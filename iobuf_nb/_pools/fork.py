"""What a forked child mends: in its copy, all that the parent's other threads were in the middle of.

A fork copies memory and one thread. Wherever the others stood, they left whole queues behind, but a buffer may have
been on its way: taken from the ring and not yet anybody's, or given up and not yet back. The child has one thread and
nothing moves, so it can see which buffers are nowhere, and puts them into the ring. With that:

- every buffer is free, or out and named by `holders`, and anybody may put it: what bulk puts were
  giving back, and what io_uring had in the parent, is its holders' again: the copy is out of their reach;
- nobody waits: the counts of waiters start again, and the parent's event loops and their descriptors are let go of;
- what lies in magazines can be got, also of threads that the child does not have; theirs can be closed.

In a pool that is not checked nobody can tell a buffer that is out from one on its way: both are out there for good.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from .._free import deque
from .._free.owners import restore
from .._free.queue import GET_FD, GETTERS, HANDED, PUTTERS, REQUESTS, SLOTS, STALE
from .._jit.handle import live
from .bounded_queue import BoundedQueue
from .pool import BufferPool, ItemPool

_OF_WAITERS = [GETTERS, PUTTERS, GET_FD, REQUESTS, HANDED, STALE]


def mend() -> None:
    """Mend every queue and pool that there is, while no other thread runs. Compiles nothing and takes no lock."""
    handles = list(live.values())
    for handle in handles:
        if isinstance(handle, BoundedQueue):  # pools have them, too
            handle._words[_OF_WAITERS] = 0
    for handle in handles:
        if isinstance(handle, (BufferPool, ItemPool)):
            mend_pool(handle)


def mend_pool(pool: Any) -> None:
    """Mend one pool."""
    deque.mend(pool._deques)
    restore(pool._owners, pool._bulks)
    on_their_way = []
    if pool._getters is not None:
        on_their_way += _items(pool._getters.handed)
        pool._getters.abandon()
        pool._getters = None
    if pool.checked:
        there = np.zeros(pool.capacity, bool)
        there[[*_items(pool._queue), *deque.indices(pool._deques), *pool.holders(), *on_their_way]] = True
        on_their_way += np.flatnonzero(~there).tolist()
    _put(pool._queue, on_their_way)


def _items(queue: BoundedQueue) -> list[int]:
    """Return what a queue at rest holds."""
    slots = queue._words[SLOTS:]
    full = slots >> queue._index_bits & 1 == 1
    return list((slots[full] & ((1 << queue._index_bits) - 1)).tolist())


def _put(queue: BoundedQueue, items: Iterable[int]) -> None:
    """Append items, for which there must be room, to a queue at rest."""
    slots = queue._words[SLOTS:]
    tail = int(((slots >> queue._index_bits) + 1 >> 1).sum())  # a slot's state tells how many puts it has seen
    for position, item in enumerate(items, tail):
        lap, slot = divmod(position, queue.capacity)
        slots[slot] = 2 * lap + 1 << queue._index_bits | item


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=mend)
