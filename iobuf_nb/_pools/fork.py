"""Repairs in a forked child: completes, in its copy, what the parent's other threads were doing.

A fork copies the memory and one thread. Wherever the other threads were, they left the queues valid, but a buffer may
have been in transit: taken from the free queue without an owner yet, or disowned and not yet back in it. The child has
one thread and nothing moves, so it can see which buffers are nowhere and put them into the free queue. Afterwards:

- every buffer is free, or checked out and named by `holders`, and any thread may put it. Buffers that bulk puts were
  returning, or that io_uring was using in the parent, belong to their owners again: the system cannot reach the copy;
- there are no waiters: their counts are reset, and the parent's event loops and their descriptors are dropped;
- buffers in magazines can be got, also those of threads that the child does not have; those magazines can be closed;
- the places of a queue with a dtype are all in use again; a value that another thread was just getting is gone.

Pools and queues that processes share are not copied: there the child takes a process slot of its own.

An unchecked pool cannot tell a checked-out buffer from one in transit: in the child, both stay checked out.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from .._free import depot, deque
from .._free.owners import in_transit, place_of, restore
from .._free.queue import GET_FD, GETTERS, HANDED, PUTTERS, REQUESTS, SLOTS, STALE
from .._jit.handle import live
from .bounded_queue import BoundedQueue
from .item_pool import ItemPool
from .pool import BufferPool
from .sharing import join_in_child
from .value_queue import ValueQueue

_OF_WAITERS = [GETTERS, PUTTERS, GET_FD, REQUESTS, HANDED, STALE]


def mend() -> None:
    """Repair every queue and pool, while no other thread runs. Compiles nothing and takes no lock."""
    handles = list(live.values())
    for handle in handles:
        if getattr(handle, "_segment", None) is not None:
            join_in_child(handle)
        elif isinstance(handle, BoundedQueue):  # the free queues of pools among them
            handle._words[_OF_WAITERS] = 0
    for handle in handles:
        if isinstance(handle, (BufferPool, ItemPool)) and handle._segment is None:
            mend_pool(handle)
        elif isinstance(handle, ValueQueue):
            known = [*_items(handle._free), *_items(handle._full)]
            _put(handle._free, np.setdiff1d(np.arange(handle.capacity), known).tolist())
    for handle in handles:  # last, because a warning may be an error
        if isinstance(handle, BufferPool) and handle._segment is not None and handle._segment.slot is None:
            warnings.warn(f"{handle!r} is closed in this child: no process slot is free", RuntimeWarning, stacklevel=2)


def mend_pool(pool: Any) -> None:
    """Repair one pool."""
    deque.mend(pool._deques)
    depot.mend(pool._depot)
    restore(pool._owners, pool._bulks)
    on_their_way = []
    if pool._getters is not None:
        on_their_way += _items(pool._getters.handed)
        pool._getters.abandon()
        pool._getters = None
    if pool.checked:
        there = np.zeros(pool.capacity, bool)
        places = np.arange(pool.capacity)
        there[in_transit(pool._owners[place_of(pool.capacity, places)])] = True
        there[
            [
                *_items(pool._queue),
                *depot.indices(pool._depot),
                *deque.indices(pool._deques),
                *pool.holders(),
                *on_their_way,
            ]
        ] = True
        on_their_way += np.flatnonzero(~there).tolist()
    _put(pool._queue, on_their_way)


def _items(queue: BoundedQueue) -> list[int]:
    """Return the items of a queue that no thread is using."""
    slots = queue._words[SLOTS:]
    full = slots >> queue._index_bits & 1 == 1
    return list((slots[full] & ((1 << queue._index_bits) - 1)).tolist())


def _put(queue: BoundedQueue, items: Iterable[int]) -> None:
    """Append items, for which there must be room, to a queue that no thread is using."""
    slots = queue._words[SLOTS:]
    tail = int(((slots >> queue._index_bits) + 1 >> 1).sum())  # the state of a slot counts the puts into it
    for position, item in enumerate(items, tail):
        lap, slot = divmod(position, queue.capacity)
        slots[slot] = 2 * lap + 1 << queue._index_bits | item


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=mend)
