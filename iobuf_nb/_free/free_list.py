"""The free list: which buffers of a pool are free, and which thread owns each of the others.

A pool is a queue of the free indices, an arena that holds the buffers, and a table of owners:

- get: take an index from the queue, then store the owner (`owners`);
- put: take the index from its owner, which only one of two puts of it can do, then put it back into the queue.

Magazines add work-stealing deques (`deque`), each with the free indices of one thread: a get that finds the queue empty
looks there. So an index in the queue or in a deque has a FREE owner. An owner is a thread, named by the number that
`threading.get_ident` gives; any thread may put a buffer back, because pools are for handing buffers on.
"""

from __future__ import annotations

from collections.abc import Iterable

from numba import types
from numba.extending import overload_attribute

from .._jit.compile import hot, kernel, out_of_line
from .._jit.handle import POOL, UNCHECKED, WORD_POINTER, HandleType
from .._threads.gil import thread_id
from .._threads.outcomes import EMPTY, OK, TAKEN
from ..atomics import fetch_add, load, store
from .deque import COUNT, PUSHES, base_of, fence_all, held, steal
from .handover import release, release_all, take_stale
from .owners import disown, disown_many, owner_at
from .queue import CLOSED_FLAG, GETTERS, QUEUE_TYPE, get_item, get_items


class PoolType(HandleType):
    """The numba type of a pool of indices."""

    def __init__(self, name: str, checked: bool, members: Iterable[tuple[str, types.Type]] = ()) -> None:
        self.checked = checked
        self.kind = POOL if checked else POOL + UNCHECKED
        super().__init__(
            f"{name}, checked={checked}",
            [
                ("_queue", QUEUE_TYPE),
                ("capacity", types.int64),
                ("_owners", WORD_POINTER),
                ("_bulks", WORD_POINTER),
                ("_deques", WORD_POINTER),
                *members,
            ],
        )


@overload_attribute(PoolType, "checked")  # a constant in kernels, so that the check is compiled in or out
def _checked(pool):
    return (lambda pool: True) if pool.checked else (lambda pool: False)


@hot
def own(pool, index):
    """Write down that this thread holds `index`, which nobody else has."""
    if pool.checked:
        store(pool._owners, owner_at(pool, index), thread_id())


@hot
def take(pool):
    """Take a free buffer: its index, or EMPTY if there is none or the pool is closed."""
    if load(pool._queue._words, CLOSED_FLAG):
        return EMPTY
    index = get_item(pool._queue)
    if index < 0 and load(pool._deques, COUNT):
        index = seek(pool._queue, pool._deques)
    if index >= 0:
        own(pool, index)
    return index


@hot
def give(pool, index):
    """Give a buffer back: OK, or OUT_OF_RANGE or NOT_OUT and nothing changed."""
    status = disown(pool, index, False)
    if status == OK:
        release(pool._queue, index)
    return status


@kernel
def take_many(pool, out, begin, end, seek):
    """Take free buffers into out[begin:end], as long as there are any: where the next would stand.

    Without `seek` those in magazines are left there: to take one takes some microseconds.
    """
    if load(pool._queue._words, CLOSED_FLAG):
        return begin
    done = get_items(pool._queue, out, begin, end)
    for k in range(begin, done):
        own(pool, out[k])
    while seek and done < end and load(pool._deques, COUNT):
        index = take(pool)
        if index < 0:
            break
        out[done] = index
        done += 1
    return done


@kernel
def give_many(pool, indices, n):
    """Give `n` buffers back and return -1, or give none and return where the first refused one stands."""
    refused = disown_many(pool, indices, n)
    if refused < 0:
        release_all(pool._queue, indices, 0, n)
    return refused


ITEM_POOL, ITEM_POOL_UNCHECKED = PoolType("ItemPool", True), PoolType("ItemPool", False)
LOOKS = 2  # of `seek`, before it counts itself in


@kernel
def _look(queue, words):
    """Take an index from any deque or the queue: EMPTY if there was a moment at which all were empty, or TAKEN.

    That moment is when the queue is found empty: each deque was empty a little earlier, and has had no push until a
    little later. A push that is seen in between, or an index that another thread was quicker to take, leaves it open.
    """
    sure = True
    before = 0
    for number in range(load(words, COUNT)):
        base = base_of(number)
        before += load(words, base + PUSHES)
        if held(words, base):
            index = steal(words, base)
            if index >= 0:
                return index
            sure = sure and index == EMPTY
    index = get_item(queue)
    if index >= 0:
        return index
    if not fence_all(words):  # whatever was pushed by now is seen below
        return EMPTY
    after = 0
    for number in range(load(words, COUNT)):
        after += load(words, base_of(number) + PUSHES)
    return EMPTY if sure and after == before else TAKEN


@kernel
def seek(queue, words):
    """Take an index from the queue or from any deque; EMPTY only if there was a moment at which all were empty.

    An owner that pushes all the time could keep this looking for ever. So after some looks it counts itself in among
    the getters, for whose sake owners put into the queue: each may push once more, if it has not seen that in time,
    and what is in the deques only becomes less. Then one of the next looks is the last.
    """
    out_of_line()
    for _ in range(LOOKS):
        index = _look(queue, words)
        if index != TAKEN:
            break
    if index == TAKEN:
        fetch_add(queue._words, GETTERS, 1, "seq_cst")
        while index == TAKEN:
            index = _look(queue, words)
        fetch_add(queue._words, GETTERS, -1, "seq_cst")
    return take_stale(queue) if index == EMPTY else index


@kernel
def total(words):
    """Return how many indices all deques held a moment ago."""
    found = 0
    for number in range(load(words, COUNT)):
        found += held(words, base_of(number))
    return found
