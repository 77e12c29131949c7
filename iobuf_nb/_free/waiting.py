"""Waiting at a queue or a pool, and waking those who wait: the protocol is that of `_threads.parking`."""

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
    """Wake one of those who wait for `event`."""
    out_of_line()
    fetch_add(queue._words, event, 1, "seq_cst")
    if wake(queue._words, event, 1) == 0 and event == GET_EVENT:
        let_loops_hear(queue)


@kernel
def let_loops_hear(queue):
    """Let the event loops whose coroutines wait have a look."""
    fd = load(queue._words, GET_FD) - 1
    if fd >= 0 and process_id() == load(queue._words, PROCESS):  # in a forked child the number may be another file's
        notify_eventfd(fd)


@hot
def put_and_wake(queue, item):
    """Append `item` and wake a getter; False if the queue is full."""
    done = put_item(queue, item)
    if done and load(queue._words, GETTERS, "seq_cst"):
        notify(queue, GET_EVENT)
    return done


@kernel
def put_all_and_wake(queue, items, begin, end):
    """Append items[begin:end], for which there must be room, and wake as many getters."""
    put_items(queue, items, begin, end)
    for _ in range(min(end - begin, load(queue._words, GETTERS, "seq_cst"))):
        notify(queue, GET_EVENT)


@hot
def get_and_wake(queue):
    """Take the oldest item and wake a putter; EMPTY if there is none."""
    item = get_item(queue)
    if item >= 0 and load(queue._words, PUTTERS, "seq_cst"):
        notify(queue, PUT_EVENT)
    return item


@hot
def offer(queue, item):
    """Append `item` unless the queue is full or closed."""
    return load(queue._words, CLOSED_FLAG) == 0 and put_and_wake(queue, item)


@kernel
def _end_of_wait(words, timeout_ns):
    """Return the time at which a wait of `timeout_ns` nanoseconds (-1: without limit) ends."""
    if load(words, NONBLOCKING_FLAG):
        return 0
    return FOREVER_NS if timeout_ns < 0 else now_ns() + timeout_ns


@kernel
def _enter(words, waiters):
    """Count this thread in among the `waiters`, and return what their event word holds."""
    fetch_add(words, waiters, 1, "seq_cst")
    return load(words, waiters + 1, "seq_cst")


@kernel
def _leave(words, waiters, seen, found, end):
    """Park until the event word is not what was `seen`, unless something was `found`; count this thread out."""
    if not found:
        longest = LOOK_NS if load(words, HANDED) else FOREVER_NS  # what a closed event loop was handed wakes nobody
        park(words, waiters + 1, seen, min(longest, end - now_ns()))
    fetch_add(words, waiters, -1, "seq_cst")


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
        if process_id() != load(words, PROCESS):
            return FORKED
        seen = _enter(words, GETTERS)
        item = source._get_or_closed()
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
        if process_id() != load(words, PROCESS):
            return FORKED
        seen = _enter(words, PUTTERS)
        result = queue._put_or_closed(item)
        _leave(words, PUTTERS, seen, result != EMPTY, end)
        if result != EMPTY:
            return result


@kernel
def close_queue(queue):
    """Close, and wake all that wait."""
    store(queue._words, CLOSED_FLAG, 1, "seq_cst")
    for event in (GET_EVENT, PUT_EVENT):
        fetch_add(queue._words, event, 1, "seq_cst")
        wake(queue._words, event, ALL_WAITERS)
    let_loops_hear(queue)
