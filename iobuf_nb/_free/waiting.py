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
    GET,
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
    fetch_add(queue.words, event, 1, "seq_cst")
    if wake(queue.words, event, 1) == 0 and event == GET_EVENT:
        let_loops_hear(queue)


@kernel
def let_loops_hear(queue):
    """Let the event loops whose coroutines wait have a look."""
    fd = load(queue.words, GET_FD) - 1
    if fd >= 0 and process_id() == load(queue.words, PROCESS):  # in a forked child the number may be another file's
        notify_eventfd(fd)


@hot
def put_and_wake(queue, item):
    """Append `item` and wake a getter; False if the queue is full."""
    done = put_item(queue, item)
    if done and load(queue.words, GETTERS, "seq_cst"):
        notify(queue, GET_EVENT)
    return done


@kernel
def put_all_and_wake(queue, items, begin, end):
    """Append items[begin:end], for which there must be room, and wake as many getters."""
    put_items(queue, items, begin, end)
    for _ in range(min(end - begin, load(queue.words, GETTERS, "seq_cst"))):
        notify(queue, GET_EVENT)


@hot
def get_and_wake(queue):
    """Take the oldest item and wake a putter; EMPTY if there is none."""
    item = get_item(queue)
    if item >= 0 and load(queue.words, PUTTERS, "seq_cst"):
        notify(queue, PUT_EVENT)
    return item


@hot
def offer(queue, item):
    """Append `item` unless the queue is full or closed."""
    return load(queue.words, CLOSED_FLAG) == 0 and put_and_wake(queue, item)


@kernel
def wait(source, item, timeout_ns):
    """Put `item` into a queue, or get one from a queue or pool if it is GET, when that can be done: 0 or the item.

    EMPTY when `timeout_ns` (-1: none) is over; CLOSED; FORKED in a forked child, which nobody would wake.
    """
    words = source.words
    waiters = GETTERS if item == GET else PUTTERS
    event = waiters + 1
    if load(words, NONBLOCKING_FLAG):
        timeout_ns = 0
    end = FOREVER_NS if timeout_ns < 0 else now_ns() + timeout_ns
    turn = 0
    while True:
        result = source._attempt(item)
        if result != EMPTY or now_ns() >= end:
            return result
        if turn < SPIN_TURNS:
            spin(turn)
            turn += 1
            continue
        check_signals()
        if process_id() != load(words, PROCESS):
            return FORKED
        longest = LOOK_NS if load(words, HANDED) else FOREVER_NS  # what a closed event loop was handed wakes nobody
        fetch_add(words, waiters, 1, "seq_cst")
        seen = load(words, event, "seq_cst")
        result = source._attempt(item)
        if result == EMPTY:
            park(words, event, seen, min(longest, end - now_ns()))
        fetch_add(words, waiters, -1, "seq_cst")
        if result != EMPTY:
            return result


@kernel
def close_queue(queue):
    """Close, and wake everybody."""
    store(queue.words, CLOSED_FLAG, 1, "seq_cst")
    for event in (GET_EVENT, PUT_EVENT):
        fetch_add(queue.words, event, 1, "seq_cst")
        wake(queue.words, event, ALL_WAITERS)
    let_loops_hear(queue)
