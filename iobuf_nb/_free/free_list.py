"""The free list: which buffers of a pool are free, and which thread owns each of the others.

A pool is a queue of the free indices, an arena that holds the buffers, and a table of owners:

- get: take an index from the queue, then store the owner (`owners`);
- put: take the index from its owner, which only one of two puts of it can do, then put it back into the queue.

Bulk puts leave free indices in a *depot* (`depot`) beside the queue, by the chunk; magazines add work-stealing deques
(`deque`), each with the free indices of one thread. A get that finds the queue empty looks there. So an index in the
queue, in a chunk or in a deque has a FREE owner. An owner is a thread, named by the number that `threading.get_ident`
gives; any thread may put a buffer back, because pools are for handing buffers on.

A pool that processes share has the same words, and the same functions; how it treats the owners is in `processes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numba import types

from .._jit.compile import hot, kernel, out_of_line
from .._jit.faces import compiled_as, kernel_attribute
from .._jit.handle import WORD_POINTER, HandleType, find_handle, load_handle
from .._jit.late import late
from .._threads.clock import now_ns
from .._threads.gil import thread_id
from .._threads.outcomes import CLOSED, EMPTY, NOT_OUT, OK, TAKEN, UNFENCED
from ..atomics import compare_and_swap, fetch_add, load, store
from .depot import in_chunks, take_chunks, take_one
from .deque import COUNT, EMPTINESS, FENCES_FAIL, SUSPICIONS, base_of, fence_all, held, steal
from .handover import release, release_all, take_stale_late
from .observation import count_failed, count_get, count_put, count_wait
from .owners import disown, disown_many, owner_at
from .processes import CLOSED as CLOSED_WORD
from .processes import IDENTITY, count_free, disown_all_shared, disown_shared, own_shared, recover
from .queue import ELSEWHERE, GETTERS, NONBLOCKING_FLAG, QUEUE_TYPE, get_item, get_items, size
from .waiting import wait_to_get, wake_everybody


class PoolType(HandleType):
    """The numba type of a pool of indices.

    Kernels over an unchecked pool are compiled without checks. Where an object can be of either type, as in C methods,
    the type for checked pools does for both: whether to check is read from the members.
    """

    @property
    def core(self) -> HandleType:
        """What is common to all pools, whatever their buffers are."""
        return ITEM_POOL_UNCHECKED if self.constants else ITEM_POOL

    def __init__(self, name: str, checked: bool, members: Iterable[tuple[str, types.Type]] = ()) -> None:
        if not checked:
            self.constants = {"_checked": False}
        super().__init__(
            f"{name}, checked={checked}",
            [
                ("_queue", QUEUE_TYPE),
                ("capacity", types.int64),
                ("_checked", types.int64),
                ("_owners", WORD_POINTER),
                ("_bulks", WORD_POINTER),
                ("_deques", WORD_POINTER),
                ("_depot", WORD_POINTER),
                ("_local", WORD_POINTER),
                ("_slots", WORD_POINTER),
                *members,
            ],
        )


kernel_attribute(PoolType, "checked", lambda pool: pool._checked != 0)


@hot
def is_observed(pool):
    """Return whether a pool counts what happens to its buffers; see `observation`."""
    return pool.checked and load(pool._local, IDENTITY, "relaxed") < 0


@hot
def observation_of(pool):
    """Return the address of the observation of a pool that is observed."""
    return -load(pool._local, IDENTITY, "relaxed")


@hot
def own(pool, index):
    """Record this thread as the owner of `index`; False if `own_or_next` must be asked, for pools of other kinds.

    It is owned already, in a pool that processes share; or the pool is observed.
    """
    if pool.checked:
        identity = load(pool._local, IDENTITY, "relaxed")
        if identity:
            return identity > 0 and own_shared(pool, index, identity)
        # O1 releases to O2: a put by another thread finds the owner. Mutant: "an owner is not recorded"
        store(pool._owners, owner_at(pool, index), thread_id())
    return True


@hot
def take(pool):
    """Take a free buffer: its index, or EMPTY if there is none or the pool is closed."""
    if load(pool._local, CLOSED_WORD):  # C2 acquires from C1
        return EMPTY
    index = _take_free(pool)
    if index >= 0 and not own(pool, index):
        index = own_or_next(pool._address, index)
    return index


@hot
def _take_free(pool):
    """Take a free index, wherever it is; EMPTY if there was a moment at which there was none."""
    index = get_item(pool._queue)
    # J10 acquires from J9, after G1: what was elsewhere before is known to be there.
    # Mutant: "a get looks whether the depot is used before it looks into the queue"
    if index < 0 and load(pool._queue._words, ELSEWHERE, "seq_cst"):
        index = _take_elsewhere(pool._address)
    return index


@kernel
def _take_elsewhere(address):
    """Take a free index from the depot, the queue or a deque; the pool is passed as one word, which spares puts."""
    out_of_line()
    pool = pool_at(address)
    # L4 acquires from L5
    index = seek_late(address) if load(pool._deques, COUNT) else take_spare(pool._queue, pool._depot)
    if index < 0:
        take_failed(address, 1)
    return index


@kernel
def take_spare(queue, depot):
    """Take an index from the depot or the queue; EMPTY if there was a moment at which both were empty.

    That moment is when the queue is found empty: there was no chunk a little earlier, and until a little later none
    has been put.
    """
    while True:
        index, slot, word = take_one(depot)
        if index < 0:
            index = get_item(queue)
        # J11 acquires from J3. Mutant: "chunks are not looked for again once the queue is empty"
        if index >= 0 or load(depot, slot, "seq_cst") == word:
            return index


@kernel
def take_next(pool):
    """Take the next index that is not stale; EMPTY if there is none."""
    while True:
        index = _take_free(pool)
        if index < 0 or own(pool, index):
            return index


@hot
def let_go(pool, index):
    """Take a buffer from its owner, before it is released: OK, or OUT_OF_RANGE or NOT_OUT without effect."""
    identity = load(pool._local, IDENTITY, "relaxed") if pool.checked else 0
    if identity:
        if identity < 0:
            return let_go_observed(pool._address, index)
        if 0 <= index < pool.capacity:
            return disown_shared(pool, index, identity)
    return disown(pool, index, False)


@hot
def let_go_many(pool, indices, n):
    """Take `n` buffers from their owners: -1; or none, and where the first refused one stands."""
    identity = load(pool._local, IDENTITY, "relaxed") if pool.checked else 0
    refused = disown_all_shared(pool, indices, n, identity) if identity > 0 else disown_many(pool, indices, n)
    if identity < 0 and refused < 0:
        for k in range(n):
            put_observed(pool._address, indices[k])
    return refused


@hot
def give(pool, index):
    """Return a buffer to the pool: OK, or OUT_OF_RANGE or NOT_OUT without effect."""
    # First FREE, then free: once the index is in the queue, the next owner may record itself.
    # Mutant: "a buffer is free before its owner word is"
    status = let_go(pool, index)
    if status == OK:
        release(pool._queue, index)
    return status


@hot
def own_many(pool, out, begin, end):
    """Own out[begin:end], without those whose entries were stale; return the index after the last that is left."""
    if not pool.checked:
        return end
    left = begin
    for k in range(begin, end):
        index = out[k]
        if own(pool, index) or (is_observed(pool) and own_or_next(pool._address, index) == index):
            out[left] = index
            left += 1
    return left


@kernel
def take_many(pool, out, begin, end, seek):
    """Take free buffers into out[begin:end], while there are any; return the index after the last.

    Without `seek` those in magazines are left alone: stealing one takes some microseconds.
    """
    if load(pool._local, CLOSED_WORD):  # C2 acquires from C1
        return begin
    done = begin
    again = True
    while again:
        taken, slot, word = take_chunks(pool._depot, out, done, end)
        if taken < end:
            taken = get_items(pool._queue, out, taken, end)
        # J11 acquires from J3, as in `take_spare`.
        again = taken < end and load(pool._depot, slot, "seq_cst") != word
        done = own_many(pool, out, done, taken)
        again = again or done < taken
    while seek and done < end and load(pool._deques, COUNT):  # L4 acquires from L5
        index = take(pool)
        if index < 0:
            take_failed(pool._address, -1)  # a bulk get is not counted
            break
        out[done] = index
        done += 1
    return done


@kernel
def give_many(pool, indices, n):
    """Return `n` buffers to the pool and return -1, or return none and say where the first refused one stands."""
    refused = let_go_many(pool, indices, n)
    if refused < 0:
        release_all(pool._queue, pool._depot, indices, 0, n)
    return refused


ITEM_POOL, ITEM_POOL_UNCHECKED = PoolType("ItemPool", True), PoolType("ItemPool", False)
LOOKS = 2  # attempts of `seek` before it counts itself in


@kernel
def _take_any(queue, depot, words):
    """Take an index from a deque, the depot or the queue: EMPTY if each was once empty, TAKEN if others were faster.

    Depot and queue come last: what leaves a deque for them in the meantime is found there.
    """
    lost = False
    for number in range(load(words, COUNT)):  # L4 acquires from L5
        base = base_of(number)
        if held(words, base):
            index = steal(words, base)
            if index >= 0:
                return index
            lost |= index == TAKEN
    index = take_spare(queue, depot)
    return TAKEN if lost and index == EMPTY else index


@kernel
def _look(queue, depot, words):
    """Take an index from any deque, the depot or the queue: EMPTY if there was a moment without any, or TAKEN.

    That moment is when depot and queue are found empty, if no put to a magazine had returned that this has not seen:
    the deques were proven empty before, and nobody has refuted it until a little later.
    """
    index = _take_any(queue, depot, words)
    if index >= 0:
        return index
    # E2 is ordered with E1, E4, after the queue. Mutant: "the proof is read by an acquire load"
    suspicion = load(words, EMPTINESS, "seq_cst")
    if suspicion == 0:
        # E5 only counts. Mutant: "a suspicion has no number"
        suspicion = fetch_add(words, SUSPICIONS, 2) + 1
        # E3 is ordered with E1: before the fence. Mutant: "a search says that it is proven before it looks"
        if not compare_and_swap(words, EMPTINESS, 0, suspicion, "seq_cst"):
            return TAKEN
    elif suspicion & 1 == 0:
        return EMPTY
    # Owners see the suspicion, or pushes until now are seen below. Mutant: "there is no fence before the second look"
    if not fence_all(words):
        return EMPTY
    index = _take_any(queue, depot, words)
    # E4 is ordered with E1, E2: nobody has refuted it. Mutants: "a search proves what was refuted",
    # "a search that was too slow says that it is proven"
    if index == EMPTY and not compare_and_swap(words, EMPTINESS, suspicion, suspicion + 1, "seq_cst"):
        return TAKEN
    return index


@kernel
def seek(queue, depot, words):
    """Take an index from the queue, the depot or any deque; EMPTY only if there was a moment at which all were empty.

    An owner that pushes all the time could keep this searching for ever. So after some attempts it counts itself in
    among the getters, for whom owners put into the queue: each may push once more, if it has not seen that in time, and
    then the deques only become emptier. So the number of further attempts is bounded.
    """
    out_of_line()
    for _ in range(LOOKS):
        index = _look(queue, depot, words)
        if index != TAKEN:
            break
    if index == TAKEN:
        # L6 is ordered with N1, K1, K2, K3. Mutant: "a search never counts itself in"
        fetch_add(queue._words, GETTERS, 1, "seq_cst")
        while index == TAKEN:
            index = _look(queue, depot, words)
        fetch_add(queue._words, GETTERS, -1, "seq_cst")  # W4 only counts
    return take_stale_late(queue._address) if index == EMPTY else index


@compiled_as(lambda address: load_handle(address, ITEM_POOL))
def pool_at(address: int) -> Any:
    """Return the pool whose members lie at an address."""
    return find_handle(address)


@late(missing=EMPTY)
def seek_late(address):
    """Do as `seek` does, once a pool has had magazines, or coroutines that waited."""
    pool = pool_at(address)
    return seek(pool._queue, pool._depot, pool._deques)


@hot
def rescue(pool):
    """Do as `recover` does; nothing in a pool that is not shared."""
    return recover_late(pool._address) if load(pool._local, IDENTITY, "relaxed") > 0 else 0


@kernel
def available(pool):
    """Return the number of buffers that were free a moment ago."""
    if pool.checked and load(pool._local, IDENTITY, "relaxed") > 0:
        return count_free(pool)  # the queue may have stale entries
    found = size(pool._queue)
    if load(pool._queue._words, ELSEWHERE):  # J10 acquires from J9
        found += in_chunks(pool._depot) + total(pool._deques)
    return min(found, pool.capacity)


@kernel
def get_or_closed(pool):
    """Do as `take` does for one that waits, with CLOSED or UNFENCED for EMPTY where that is the reason."""
    out_of_line()  # waits try more than once
    if load(pool._local, CLOSED_WORD, "seq_cst"):  # C2 acquires from C1
        return CLOSED
    index = take(pool)
    if index == EMPTY:
        take_failed(pool._address, -1)  # not a get that has failed, yet
    # T8 acquires from T7
    return UNFENCED if index == EMPTY and load(pool._deques, FENCES_FAIL) else index


@kernel
def wait_for_buffer(pool, timeout_ns):
    """Do as `wait_to_get` does, after a get has found nothing."""
    out_of_line()
    begin = wait_begins(pool._address, timeout_ns)
    index = wait_to_get(pool, timeout_ns)
    wait_ended(pool._address, begin, index)
    return index


@kernel
def close_pool(pool):
    """Close, in this process, and wake all waiting threads and event loops."""
    # C1 releases to C2, before C3, as in `close_queue`.
    store(pool._local, CLOSED_WORD, 1, "seq_cst")
    wake_everybody(pool._queue)


@late(missing=EMPTY)
def own_or_next(address, index):
    """Own a buffer of a pool that is observed; in one that processes share, do as `take_next` does."""
    pool = pool_at(address)
    if not is_observed(pool):
        return take_next(pool)
    count_get(observation_of(pool), index)
    store(pool._owners, owner_at(pool, index), thread_id())  # O1 releases to O2
    return index


@late(missing=NOT_OUT)
def let_go_observed(address, index):
    """Do as `let_go` does, in a pool that is observed."""
    pool = pool_at(address)
    status = disown(pool, index, False)
    if status == OK:
        count_put(observation_of(pool), index)
    return status


@late(missing=0)
def take_failed(address, n):
    """Count, in a pool that is observed and open, gets that found nothing; -1 for one that will be tried again."""
    pool = pool_at(address)
    if is_observed(pool) and not load(pool._local, CLOSED_WORD, "relaxed"):
        count_failed(observation_of(pool), n)
    return 0


@late(missing=0)
def wait_begins(address, timeout_ns):
    """Return when a wait begins for a buffer of a pool that is observed; 0 if it is none, but a last look."""
    pool = pool_at(address)
    if not is_observed(pool) or load(pool._local, CLOSED_WORD, "relaxed"):
        return 0
    if timeout_ns == 0 or load(pool._queue._words, NONBLOCKING_FLAG, "relaxed"):
        return 0
    count_failed(observation_of(pool), -1)
    return now_ns()


@late(missing=0)
def wait_ended(address, begin, index):
    """Count, in a pool that is observed, a wait or a last look that has ended with an index or a status."""
    if begin:
        count_wait(observation_of(pool_at(address)), now_ns() - begin, index)
    elif index >= 0:
        take_failed(address, -1)  # the last look has found what the first had not
    return 0


@late(missing=0)
def put_observed(address, index):
    """Count the put of a buffer of a pool that is observed."""
    count_put(observation_of(pool_at(address)), index)
    return 0


OF_OBSERVED = own_or_next, let_go_observed, put_observed, take_failed, wait_begins, wait_ended


@late(missing=0)
def recover_late(address):
    """Do as `recover` does, once this process has a pool that it shares."""
    return recover(pool_at(address))


@kernel
def total(words):
    """Return how many indices all deques held a moment ago."""
    found = 0
    for number in range(load(words, COUNT)):  # L4 acquires from L5
        found += held(words, base_of(number))
    return found
