"""Handover: how a put gives a buffer to a waiting coroutine, although threads would be faster to take it.

Waiting threads are woken at the moment of the put; a coroutine's event loop is notified and runs some microseconds
later, when a thread has long taken the buffer. So of the puts that come while coroutines wait, every other one puts its
buffer into a separate queue, the *handed queue*, from which only event loops take: the n-th coroutine in line is served
by the 2n-th put at the latest.

Three steps
    1. A coroutine asks: it counts itself in among the pool's GETTERS, adds one to REQUESTS, then tries once itself.
    2. A put that finds REQUESTS above 0 takes one away, puts its index into the handed queue and notifies the loops.
    3. The loop takes from the handed queue, or else from the pool; then its coroutine withdraws its request.

Invariant
    Waiting coroutines = REQUESTS + indices in the handed queue + puts on their way there + STALE.
    REQUESTS below 0 are debts: buffers that were handed over, or are about to be, to a coroutine that has left. The
    coroutine that makes a debt, and the put that hands over, check for debts afterwards (`settle`): each writes one
    word and then reads the other's, and all four accesses are seq_cst (H3 and P2, H4 and G1), so at least one of them
    finds the buffer and returns it.

Loops that do not run
    A loop may be blocked, or have been closed with coroutines waiting. What has been in the handed queue for STALE_NS
    is free again: a get that finds nothing else takes it. Its request is set aside, in STALE, until some loop runs and
    finds coroutines still waiting.
"""

from __future__ import annotations

from typing import Any

from .._jit.compile import hot, kernel, out_of_line
from .._jit.faces import compiled_as
from .._jit.handle import find_handle, load_handle
from .._jit.late import late
from .._threads.clock import now_ns
from .._threads.gil import LOOK_NS
from .._threads.outcomes import EMPTY
from ..atomics import compare_and_swap, fetch_add, load, store, swap
from .depot import LEAST, put_chunks
from .queue import (
    ELSEWHERE,
    GET_EVENT,
    GETTERS,
    HANDED,
    HANDED_AT,
    QUEUE_TYPE,
    REQUESTS,
    STALE,
    TURNS,
    get_item,
    put_item,
    put_items,
    size,
)
from .waiting import notify_loops, notify_many, put_and_wake

STALE_NS = LOOK_NS


@compiled_as(lambda address: load_handle(address, QUEUE_TYPE))
def queue_at(address: int) -> Any:
    """Return the queue whose members lie at an address."""
    return find_handle(address)


@hot
def release(queue, index):
    """Hand a free index to a waiting coroutine, or put it into the queue and wake a getter."""
    # Relaxed: a coroutine that asks at this moment counts itself in first (H1) and then finds the index in the queue.
    if load(queue._words, REQUESTS, "relaxed") != 0:
        _release_beside_coroutines(queue._address, index)
    else:
        put_and_wake(queue, index)


@kernel
def _release_beside_coroutines(address, index):
    """Do as `release` does; the queue is passed as one word, because each word kept for this call slows all puts."""
    out_of_line()
    if not hand_over_late(address, index):
        put_and_wake(queue_at(address), index)


@late(missing=0)
def hand_over_late(address, index):
    """Do as `hand_over` does, once coroutines have waited in this process."""
    return int(hand_over(queue_at(address), index))


@late(missing=EMPTY)
def take_stale_late(address):
    """Do as `take_stale` does, once coroutines have waited in this process."""
    return take_stale(queue_at(address))


@kernel
def release_all(queue, depot, indices, begin, end):
    """Hand the free indices[begin:end] to waiting coroutines, or put them into depot and queue and wake getters."""
    while begin < end and load(queue._words, REQUESTS) > 0:  # H5 acquires from H2
        release(queue, indices[begin])
        begin += 1
    if begin < end:
        left = begin
        if end - begin >= LEAST:
            # J10 acquires from J9: also what another thread has said comes before this N1.
            if load(queue._words, ELSEWHERE, "seq_cst") == 0:
                # J9 releases to J10, before any J3. Mutant: "a depot is not known to be used"
                store(queue._words, ELSEWHERE, 1, "seq_cst")
            left = put_chunks(depot, indices, begin, end)
        if left < end:
            put_items(queue, indices, left, end)
        # N1 is ordered with W1, Z2, H1, L6, after P2, J3. Mutant: "a bulk put does not check for getters"
        if load(queue._words, GETTERS, "seq_cst"):
            notify_many(queue, GET_EVENT, end - begin)


@kernel
def hand_over(queue, index):
    """Hand a free index to the coroutines if it is their turn; return whether it was handed over."""
    words = queue._words
    if fetch_add(words, TURNS, 1) & 1 == 0:  # H6 only counts
        return False
    requests = load(words, REQUESTS)  # H5 acquires from H2
    # H2 releases to H5: one request, one buffer. Mutant: "what was handed over is still asked for"
    while requests > 0 and not compare_and_swap(words, REQUESTS, requests, requests - 1):
        requests = load(words, REQUESTS)  # H5 acquires from H2
    if requests <= 0:
        return False
    store(words, HANDED_AT, now_ns())  # H7 releases to H8, before the index
    put_item(queue_at(load(queue._words, HANDED)), index)  # H9 acquires from A1 of `_pools.aio`
    # After the put, or a loop could find nothing and sleep on. Mutants: "event loops are notified before the handover",
    # "event loops are not notified of a handover"
    notify_loops(queue)
    # H4 follows P2 of the handed queue. Mutant: "a handover does not check for debts"
    settle(queue)
    return True


@kernel
def settle(queue):
    """Put back buffers that were handed over to coroutines that have left."""
    # H4 is ordered with H3.
    while load(queue._words, REQUESTS, "seq_cst") < 0:
        index = get_item(queue_at(load(queue._words, HANDED)))  # H9 acquires from A1 of `_pools.aio`
        if index < 0:
            return  # it is on its way: the put that hands it over finds the debt afterwards
        # H2 releases to H5. Mutant: "a debt is paid and not written off"
        fetch_add(queue._words, REQUESTS, 1, "seq_cst")
        put_and_wake(queue, index)


@kernel
def ask(queue):
    """Count a coroutine in; it then tries once itself."""
    # H1 is ordered with N1, K1, K2, K3. Mutant: "a coroutine is not among the getters"
    fetch_add(queue._words, GETTERS, 1, "seq_cst")
    fetch_add(queue._words, REQUESTS, 1, "seq_cst")  # H2 releases to H5


@kernel
def take_request_back(queue):
    """Count a coroutine out that was handed nothing: it left, or found a buffer itself."""
    # H3 is ordered with H4. Mutant: "a coroutine that leaves keeps its request"
    fetch_add(queue._words, REQUESTS, -1, "seq_cst")
    fetch_add(queue._words, GETTERS, -1, "seq_cst")  # W4 only counts
    # Mutant: "a coroutine that leaves does not check for debts"
    settle(queue)


@kernel
def take_handed(queue):
    """Take an index that was handed over, and count its coroutine out; or EMPTY."""
    index = get_item(queue_at(load(queue._words, HANDED)))  # H9 acquires from A1 of `_pools.aio`
    if index >= 0:
        fetch_add(queue._words, GETTERS, -1, "seq_cst")  # W4 only counts
    return index


@kernel
def ask_again(queue):
    """Ask again for buffers that were taken as stale: the loop runs, and coroutines wait."""
    stale = swap(queue._words, STALE, 0)  # H10 acquires from H11
    if stale > 0:
        # H2 releases to H5. Mutant: "a request that was stale is forgotten"
        fetch_add(queue._words, REQUESTS, stale, "seq_cst")


@kernel
def take_stale(queue):
    """Take an index that has waited too long for an event loop; or EMPTY."""
    address = load(queue._words, HANDED)  # H9 acquires from A1 of `_pools.aio`
    if address == 0:
        return EMPTY
    handed = queue_at(address)
    # H8 acquires from H7: a time that is too old only makes the buffer free a little early.
    if size(handed) == 0 or now_ns() - load(queue._words, HANDED_AT) < STALE_NS:
        return EMPTY
    index = get_item(handed)
    if index >= 0:
        fetch_add(queue._words, STALE, 1)  # H11 releases to H10
    return index
