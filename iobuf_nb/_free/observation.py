"""Observation: what happens to the buffers of one pool, counted where it happens, and what is found wrong with them.

A pool that is not observed pays nothing. One that is has a negative identity, minus the address of its `Observation`,
in the word in which pools that processes share have a positive one: the test for those is there anyway, in each get and
put. What follows is late functions, which other programs never compile. So all ways to a buffer are seen: in Python and
in kernels, one by one and in bulk, through magazines, streams and io_uring.

Order of events
    - get: taken from the queue, counted, looked at; then the owner is stored;
    - put: taken from the owner, filled with POISON, counted; then released to the queue.

    So both happen while no other thread can have the buffer, and no get is counted before the put that it follows: the
    difference of both counts is never above the capacity.

Writes after a put
    If the observation `poisons`, a buffer that is put is filled with POISON. What is something else at the next get has
    been written by somebody who had it no more; the place of the first such byte is kept until somebody reports it.

Counts order nothing but each other. The words of a buffer go from owner to owner with it.
"""

from __future__ import annotations

from typing import Any

from numba import types

from .._jit.compile import kernel
from .._jit.faces import compiled_as
from .._jit.handle import WORD_POINTER, HandleType, find_handle, load_handle
from .._jit.late import late
from .._threads.gil import thread_id
from .._threads.libc import memchr, memcmp, memset
from .._threads.outcomes import EMPTY
from ..atomics import compare_and_swap, fetch_add, load, store
from .queue import LINE_PAIR

# Counts, on cache lines of their own where threads change them all the time.
GETS = 0 * LINE_PAIR
PUTS = 1 * LINE_PAIR
MOST_OUT = 2 * LINE_PAIR  # the most that were checked out at once
FAILED = MOST_OUT + 1  # gets that ended without a buffer
WAITS = MOST_OUT + 2
LONGEST_WAIT = MOST_OUT + 3  # in nanoseconds
BUFFERS = 3 * LINE_PAIR  # from here on the words of each buffer, if it is traced

# The words of a buffer.
PLACE = 0  # where the get stands, a file and a line as `_jit.places` has them; 0: not known
FORMER_PLACE = 1  # the same of the get before, once the buffer is put
PUTTER = 2  # the thread that has filled it with poison, negative while it is out again; 0: there is none in it
SPOILED = 3  # 1 + the position of a byte that was written after the put; 0: there is none
OF_BUFFER = 4

POISON = 0xDB


class ObservationType(HandleType):
    """The numba type of an `Observation`."""

    def __init__(self) -> None:
        members = ["_traces", "_poisons", "_strict", "_arena", "_stride", "_buffer_size"]
        super().__init__("Observation", [("_words", WORD_POINTER), *((name, types.int64) for name in members)])


OBSERVATION = ObservationType()


@compiled_as(lambda address: load_handle(address, OBSERVATION))
def observation_at(address: int) -> Any:
    """Return the observation whose members lie at an address."""
    return find_handle(address)


def word_of(index: int, which: int) -> int:
    """Return where a word of a buffer lies among those of an observation."""
    return BUFFERS + index * OF_BUFFER + which


compiled_as(word_of)(word_of)


@kernel
def raise_to(words, i, value):
    """Raise a word to a value, unless it is as high."""
    known = load(words, i, "relaxed")
    while value > known and not compare_and_swap(words, i, known, value, "relaxed"):
        known = load(words, i, "relaxed")


@kernel
def count_get(address, index):
    """Count a get, and look whether the buffer is as its put has left it."""
    seen = observation_at(address)
    # Q1 acquires from Q1; Q1 releases to Q1: all puts that gets so far have followed are subtracted.
    gets = fetch_add(seen._words, GETS, 1) + 1
    raise_to(seen._words, MOST_OUT, gets - load(seen._words, PUTS, "relaxed"))
    putter = load(seen._words, word_of(index, PUTTER), "relaxed") if seen._poisons else 0
    if putter > 0:
        store(seen._words, word_of(index, PUTTER), -putter, "relaxed")
        at = first_change(seen._arena + index * seen._stride, seen._buffer_size)
        if at >= 0:
            store(seen._words, word_of(index, SPOILED), at + 1, "relaxed")


@kernel
def first_change(address, size):
    """Return the position of the first byte that is not POISON; -1 if there is none."""
    if memchr(address, POISON, 1) and memcmp(address, address + 1, size - 1) == 0:
        return -1  # all bytes are like the one before them
    for at in range(size):
        if not memchr(address + at, POISON, 1):
            return at
    return -1  # it has changed back


@kernel
def count_put(address, index):
    """Count a put, and fill the buffer with poison."""
    seen = observation_at(address)
    if seen._traces:
        untold = load(seen._words, word_of(index, SPOILED), "relaxed")  # then its putter and their place are kept
        if not untold:
            place = load(seen._words, word_of(index, PLACE), "relaxed")
            store(seen._words, word_of(index, FORMER_PLACE), place, "relaxed")
        store(seen._words, word_of(index, PLACE), 0, "relaxed")
        if seen._poisons:
            memset(seen._arena + index * seen._stride, POISON, seen._buffer_size)
            putter = -load(seen._words, word_of(index, PUTTER), "relaxed") if untold else thread_id()
            store(seen._words, word_of(index, PUTTER), putter, "relaxed")
    fetch_add(seen._words, PUTS, 1, "relaxed")


@kernel
def count_failed(address, n):
    """Count gets that found nothing; `n` is -1 for one that will be tried again."""
    fetch_add(observation_at(address)._words, FAILED, n, "relaxed")


@kernel
def count_wait(address, nanoseconds, index):
    """Count a wait that has ended, with the index of a buffer or a status."""
    words = observation_at(address)._words
    fetch_add(words, WAITS, 1, "relaxed")
    raise_to(words, LONGEST_WAIT, nanoseconds)
    if index == EMPTY:
        fetch_add(words, FAILED, 1, "relaxed")


@late(missing=0)
def forget_poison(address, capacity):
    """Forget what was put into the buffers: they are written on purpose while they are free."""
    seen = observation_at(address)
    if seen._poisons:
        for index in range(capacity):
            store(seen._words, word_of(index, PUTTER), 0, "relaxed")
    return 0
