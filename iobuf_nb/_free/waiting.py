"""Waiting at a queue or a pool, and wake-ups: the protocol of `_threads.parking` on the words of a queue.

Two pairs of seq_cst accesses exclude a lost wake-up, one for each direction:

- a putter puts (P2), then reads the count of getters (N1); a getter counts itself in (W1), then tries to get (G1);
- a getter gets (G2), then reads the count of putters (M1); a putter counts itself in (W1), then tries to put (P1).

Each side writes one word and then reads the other's, so at least one of them sees the other.
"""

from __future__ import annotations

from .._jit.compile import hot, kernel, out_of_line
from .._threads.clock import FOREVER_NS, now_ns
from .._threads.gil import LOOK_NS, check_signals, process_id
from .._threads.outcomes import EMPTY, FORKED
from .._threads.parking import ALL_WAITERS, SPIN_TURNS, notify_eventfd, park, spin, wake
from ..atomics import fetch_add, load, store
from .queue import (
    CLOSED_FLAG,
    GET_EVENT,
    GET_FD,
    GETTERS,
    HANDED,
    NONBLOCKING_FLAG,
    PROCESS,
    PUT_EVENT,
    PUTTERS,
    get_item,
    put_item,
    put_items,
)


@kernel
def notify(queue, event):
    """Wake one of the threads that wait for `event`."""
    out_of_line()
    # N2 releases to W2: a waiter that read the event before does not park. Mutant: "a waker does not change the event"
    fetch_add(queue._words, event, 1, "seq_cst")
    if wake(queue._words, event, 1) == 0 and event == GET_EVENT:
        notify_loops(queue)


@kernel
def notify_loops(queue):
    """Notify the event loops that have waiting coroutines."""
    fd = load(queue._words, GET_FD) - 1  # N3 acquires from A2 of `_pools.aio`
    if fd >= 0 and process_id() == load(queue._words, PROCESS):  # N4 reads a constant; a child's fd may be another file
        notify_eventfd(fd)


@hot
def put_and_wake(queue, item):
    """Append `item` and wake a getter; False if the queue is full."""
    done = put_item(queue, item)
    # N1 is ordered with W1, H1, L6, after P2. Mutants: "a put checks for getters before it puts",
    # "a put checks for getters with an acquire load", "a put does not check for getters"
    if done and load(queue._words, GETTERS, "seq_cst"):
        notify(queue, GET_EVENT)
    return done


@kernel
def put_all_and_wake(queue, items, begin, end):
    """Append items[begin:end], for which there must be room, and wake as many getters."""
    put_items(queue, items, begin, end)
    # N1 is ordered with W1, H1, L6, after P2. Mutant: "a bulk put wakes only one"
    for _ in range(min(end - begin, load(queue._words, GETTERS, "seq_cst"))):
        notify(queue, GET_EVENT)


@hot
def get_and_wake(queue):
    """Take the oldest item and wake a putter; EMPTY if there is none."""
    item = get_item(queue)
    # M1 is ordered with W1, after G2. Mutant: "a get does not check for putters"
    if item >= 0 and load(queue._words, PUTTERS, "seq_cst"):
        notify(queue, PUT_EVENT)
    return item


@hot
def offer(queue, item):
    """Append `item` unless the queue is full or closed."""
    # C2 acquires from C1. Mutant: "a put into a closed queue succeeds"
    return load(queue._words, CLOSED_FLAG) == 0 and put_and_wake(queue, item)


@kernel
def _end_of_wait(words, timeout_ns):
    """Return the time at which a wait of `timeout_ns` nanoseconds (-1: without limit) ends."""
    if load(words, NONBLOCKING_FLAG):  # W5 acquires from S1 of `_pools.pool`
        return 0
    return FOREVER_NS if timeout_ns < 0 else now_ns() + timeout_ns


@kernel
def _enter(words, waiters):
    """Count this thread in among the `waiters`, and return what their event word holds."""
    # W1 is ordered with N1, M1, K1, K2: then the caller tries once more.
    # Mutants: "a waiter counts itself in by a plain store", "a waiter counts itself in with a relaxed access",
    # "a getter counts itself in after its last try"
    fetch_add(words, waiters, 1, "seq_cst")
    # W2 acquires from N2, C3. Mutant: "a getter reads the event after its last try"
    return load(words, waiters + 1, "seq_cst")


@kernel
def _leave(words, waiters, seen, found, end):
    """Park until the event word is not what was `seen`, unless something was `found`; count this thread out."""
    if not found:
        # W6 acquires from A1 of `_pools.aio`: a buffer that was handed to a closed event loop wakes no thread.
        longest = LOOK_NS if load(words, HANDED) else FOREVER_NS
        # The event word still holds what was read before the last try, or this returns at once.
        left = end - now_ns()
        park(words, waiters + 1, seen, left if left < longest else longest)
    fetch_add(words, waiters, -1, "seq_cst")  # W4 only counts: a waker that still sees it wakes one thread too many


@kernel
def wait_to_get(source, timeout_ns):
    """Take an item from a queue, or an index from a pool, waiting until there is one.

    EMPTY when `timeout_ns` (-1: no limit) is over; CLOSED; FORKED in a forked child, which no thread would wake.
    """
    words = source._words
    end = _end_of_wait(words, timeout_ns)
    turn = 0
    while True:
        item = source._get_or_closed()
        if item != EMPTY or now_ns() >= end:
            return item
        if turn < SPIN_TURNS:
            spin(turn)
            turn += 1
            continue
        check_signals()
        if process_id() != load(words, PROCESS):  # N4 reads a constant
            return FORKED
        seen = _enter(words, GETTERS)
        item = source._get_or_closed()  # the last try: a put that has not seen this getter is seen here
        _leave(words, GETTERS, seen, item != EMPTY, end)
        if item != EMPTY:
            return item


@kernel
def wait_to_put(queue, item, timeout_ns):
    """Append `item` to a queue, waiting until there is room: 0, or what `wait_to_get` returns if it cannot."""
    words = queue._words
    end = _end_of_wait(words, timeout_ns)
    turn = 0
    while True:
        result = queue._put_or_closed(item)
        if result != EMPTY or now_ns() >= end:
            return result
        if turn < SPIN_TURNS:
            spin(turn)
            turn += 1
            continue
        check_signals()
        if process_id() != load(words, PROCESS):  # N4 reads a constant
            return FORKED
        seen = _enter(words, PUTTERS)
        result = queue._put_or_closed(item)  # the last try: a get that has not seen this putter is seen here
        _leave(words, PUTTERS, seen, result != EMPTY, end)
        if result != EMPTY:
            return result


@kernel
def close_queue(queue):
    """Close, and wake all waiting threads and event loops."""
    # C1 releases to C2. It comes before C3, so that a woken waiter finds it. Mutant: "close wakes before it closes"
    store(queue._words, CLOSED_FLAG, 1, "seq_cst")
    for event in (GET_EVENT, PUT_EVENT):
        # C3 releases to W2. Mutant: "close does not change the events"
        fetch_add(queue._words, event, 1, "seq_cst")
        wake(queue._words, event, ALL_WAITERS)
    notify_loops(queue)
