"""Handing over: how a put gives a buffer to a coroutine, past the threads that would be quicker to take it.

Threads that wait are woken in the moment of the put; a coroutine's event loop hears of it and comes round some
microseconds later, when a thread has long taken the buffer. So of the puts that come while coroutines wait, every other
one puts its buffer into a queue of its own, the *handed* queue, from which only event loops take: the n-th coroutine in
line is served by the 2n-th put at the latest.

Three steps
    1. A coroutine asks: it counts itself in among the pool's GETTERS and adds one to REQUESTS, then looks by itself.
    2. A put that finds REQUESTS above 0 takes one away, puts its index into the handed queue and lets the loops hear.
    3. The loop takes from the handed queue, or else from the pool; then its coroutine takes its request back.

Invariant
    Coroutines that wait = REQUESTS + indices in the handed queue + puts on their way there + STALE.
    REQUESTS below 0 are debts: buffers that were handed over, or are about to be, to a coroutine that has left. Who
    makes a debt, and who hands over, looks for it afterwards (`settle`): each writes one word and then reads the
    other's, and all four accesses are seq_cst, so that one of the two finds the buffer and puts it back.

Loops that do not come round
    A loop may be blocked, or have been closed with coroutines waiting. What has lain in the handed queue for STALE_NS
    is anybody's again: whoever finds nothing else takes it. Its request is put aside, in STALE, until some loop comes
    round and finds coroutines still waiting.
"""

from __future__ import annotations

from typing import Any

from .._jit.compile import hot, kernel, out_of_line
from .._jit.faces import compiled_as
from .._jit.handle import find_handle, load_handle
from .._threads.clock import now_ns
from .._threads.gil import LOOK_NS
from .._threads.outcomes import EMPTY
from ..atomics import compare_and_swap, fetch_add, load, store, swap
from .queue import GETTERS, HANDED, HANDED_AT, QUEUE_TYPE, REQUESTS, STALE, TURNS, get_item, put_item, size
from .waiting import let_loops_hear, put_all_and_wake, put_and_wake

STALE_NS = LOOK_NS


@compiled_as(lambda descriptor: load_handle(descriptor, QUEUE_TYPE))
def _queue_at(descriptor: int) -> Any:
    """Return the queue whose descriptor block lies at an address."""
    return find_handle(descriptor)


@hot
def release(queue, index):
    """Give a free index to whoever is to have it: a coroutine that waits, or the queue, and whom it wakes there."""
    if load(queue._words, REQUESTS, "relaxed") != 0:
        _release_beside_coroutines(queue._address, index)
    else:
        put_and_wake(queue, index)


@kernel
def _release_beside_coroutines(descriptor, index):
    """Do as `release` does; one word stands for the queue, because each that is kept for this call slows all puts."""
    out_of_line()
    queue = _queue_at(descriptor)
    if not hand_over(queue, index):
        put_and_wake(queue, index)


@kernel
def release_all(queue, indices, begin, end):
    """Give the free indices[begin:end] to whoever is to have them."""
    while begin < end and load(queue._words, REQUESTS) > 0:
        release(queue, indices[begin])
        begin += 1
    if begin < end:
        put_all_and_wake(queue, indices, begin, end)


@kernel
def hand_over(queue, index):
    """Give a free index to the coroutines, if it is their turn: whether it was given."""
    words = queue._words
    if fetch_add(words, TURNS, 1) & 1 == 0:
        return False
    requests = load(words, REQUESTS)
    while requests > 0 and not compare_and_swap(words, REQUESTS, requests, requests - 1):
        requests = load(words, REQUESTS)
    if requests <= 0:
        return False
    store(words, HANDED_AT, now_ns())
    put_item(_queue_at(load(queue._words, HANDED)), index)
    let_loops_hear(queue)
    settle(queue)
    return True


@kernel
def settle(queue):
    """Put back what was handed over to coroutines that have left."""
    while load(queue._words, REQUESTS, "seq_cst") < 0:
        index = get_item(_queue_at(load(queue._words, HANDED)))
        if index < 0:
            return  # it is on its way, and whoever hands it over looks for the debt afterwards
        fetch_add(queue._words, REQUESTS, 1, "seq_cst")
        put_and_wake(queue, index)


@kernel
def ask(queue):
    """Count a coroutine in."""
    fetch_add(queue._words, GETTERS, 1, "seq_cst")
    fetch_add(queue._words, REQUESTS, 1, "seq_cst")


@kernel
def take_request_back(queue):
    """Count a coroutine out that was not handed anything: it left, or found a buffer by itself."""
    fetch_add(queue._words, REQUESTS, -1, "seq_cst")
    fetch_add(queue._words, GETTERS, -1, "seq_cst")
    settle(queue)


@kernel
def take_handed(queue):
    """Take an index that was handed over, and count its coroutine out; or EMPTY."""
    index = get_item(_queue_at(load(queue._words, HANDED)))
    if index >= 0:
        fetch_add(queue._words, GETTERS, -1, "seq_cst")
    return index


@kernel
def ask_again(queue):
    """Ask anew for what was taken as stale: the loop has come round, and coroutines wait."""
    stale = swap(queue._words, STALE, 0)
    if stale > 0:
        fetch_add(queue._words, REQUESTS, stale, "seq_cst")


@kernel
def take_stale(queue):
    """Take an index that has waited too long for an event loop; or EMPTY."""
    if load(queue._words, HANDED) == 0:
        return EMPTY
    handed = _queue_at(load(queue._words, HANDED))
    if size(handed) == 0 or now_ns() - load(queue._words, HANDED_AT) < STALE_NS:
        return EMPTY
    index = get_item(handed)
    if index >= 0:
        fetch_add(queue._words, STALE, 1)
    return index
