"""Owner words of a pool that several processes share: who owns a buffer, and what becomes of those of the dead.

Words
    A process that uses a pool has a *process number* (`_memory.process_slots`), which is never used again. That it is
    dead is seen by a lock, never guessed, and stays true. An owner word is the number and the thread:
    ``number << NUMBER_SHIFT | thread``.

The owner word is the truth, the free queue a hint
    - get: take an index from the queue; compare-and-swap its owner from FREE to this thread. If that fails, the entry
      was *stale*: take the next one;
    - put: store FREE, then put the index into the queue;
    - recover: compare-and-swap each owner that has a dead number to FREE, then put the index into the queue; then look
      which FREE indices are in neither queue nor depot, and put those. That may find one that a live thread is about to
      put, or has just taken: then there are two entries, and the second is stale when it is reached.

    So a buffer has two entries now and then, but never two owners; a process that dies between any two of these steps,
    recovering or not, leaves a buffer that has a dead owner or is FREE and not in the queue, and the next to recover
    finds both. No other process is stopped meanwhile.

    A put by the process that owns the buffer needs no compare-and-swap: no other process touches that word while the
    owner lives. Of two threads of one process that put a buffer at the same instant both may be taken at their word.

Bulk put
    All or none: each owner is replaced by the negative of this thread's word, which no put accepts; then all become
    FREE, or at a buffer that is refused, the owner again.

In transit
    A buffer in a channel (`_pools.channel`) belongs to nobody: its word is the negative of the channel's number.
"""

from __future__ import annotations

import threading

import numpy as np

from .._jit.compile import hot, kernel, out_of_line, tiny
from .._memory.process_slots import MOST_PROCESSES, SLOT_WORDS, is_locked
from .._threads.gil import thread_id
from .._threads.outcomes import NOT_OUT, OK, OUT_OF_RANGE
from ..atomics import compare_and_swap, load, store
from .depot import mark_chunks
from .owners import FREE, owner_at
from .queue import SLOTS
from .waiting import put_and_wake

# Words of a pool that each process has for itself. Those of a private pool lie among the words of its queue.
CLOSED = 0
# The process's part of an owner word, number << NUMBER_SHIFT; in a private pool 0, or negative: see `observation`.
IDENTITY = 3
DESCRIPTOR = 4  # of the segment
CHANNELS = 5  # how many a private pool has had
LOCAL_WORDS = 6

NUMBER_SHIFT = 42  # below it lies the thread
_THREAD_BITS = 6  # of a thread's identifier are left out: all threads have the same, on ARM64 others than 0


@tiny
def owner_word(identity):
    """Return the owner word of this thread in a pool that processes share."""
    return identity | thread_id() >> _THREAD_BITS


def thread_of(word: int) -> int:
    """Return the thread that an owner word names."""
    same = threading.get_ident() & ((1 << _THREAD_BITS) - 1)
    return (word & ((1 << NUMBER_SHIFT) - 1)) << _THREAD_BITS | same


@hot
def own_shared(pool, index, identity):
    """Record this thread as the owner of `index`; False if its entry in the queue was stale."""
    # B1 acquires from B2, B3, B4: the buffer, as its last owner left it. B1 releases to B0.
    # Mutant: "a get takes what it finds in the queue"
    return compare_and_swap(pool._owners, owner_at(pool, index), FREE, owner_word(identity))


@hot
def disown_shared(pool, index, identity):
    """Take `index`, which is in range, from its owner: OK or NOT_OUT."""
    place = owner_at(pool, index)
    owner = load(pool._owners, place)  # B0 acquires from B1, B2, B7
    if owner > FREE and (owner ^ identity) >> NUMBER_SHIFT == 0:
        store(pool._owners, place, FREE)  # B2 releases to B1. Mutant: "a put frees by a relaxed store"
        return OK
    return _disown_foreign(pool, place, owner)


@kernel
def _disown_foreign(pool, place, owner):
    """Take a buffer from what was seen to be its owner, in another process: OK, or NOT_OUT if it has another by now."""
    out_of_line()
    # B3 releases to B0, B1. Mutant: "a put takes from another process by a plain store"
    return OK if owner > FREE and compare_and_swap(pool._owners, place, owner, FREE) else NOT_OUT


@kernel
def disown_all_shared(pool, indices, n, identity):
    """Take `n` buffers from their owners: -1; or none, and where the first refused one stands."""
    marked = 0
    while marked < n and 0 <= indices[marked] < pool.capacity:
        place = owner_at(pool, indices[marked])
        owner = load(pool._owners, place)  # B0 acquires from B1, B2, B7
        # B5 releases to B0: a mark, which only this thread removes, or who recovers what it had.
        # Mutant: "a shared bulk put may name a buffer twice"
        if owner <= FREE or not compare_and_swap(pool._owners, place, owner, -owner_word(identity)):
            break
        marked += 1
    word = FREE if marked == n else owner_word(identity)
    for k in range(marked):
        store(pool._owners, owner_at(pool, indices[k]), word)  # B2 releases to B0, B1
    return -1 if marked == n else marked


@kernel
def count_free(pool):
    """Return how many buffers were free a moment ago."""
    free = 0
    for index in range(pool.capacity):
        free += load(pool._owners, owner_at(pool, index), "relaxed") == FREE
    return free


# ---- the dead --------------------------------------------------------------------------------------------------------


@kernel
def is_dead(pool, slot):
    """Return whether the process that took `slot` last is gone."""
    identity, descriptor = load(pool._local, IDENTITY, "relaxed"), load(pool._local, DESCRIPTOR, "relaxed")
    # A descriptor of another file, after somebody has closed this one, shows no lock; this process holds one.
    return not is_locked(pool._slots, slot, descriptor) and is_locked(
        pool._slots, identity >> NUMBER_SHIFT & MOST_PROCESSES, descriptor
    )


@kernel
def recover(pool):
    """Put back what dead processes had, and what is free and not in the queue; return how many buffers."""
    own = load(pool._local, IDENTITY, "relaxed") >> NUMBER_SHIFT
    found = 0
    for slot in range(1, MOST_PROCESSES + 1):
        number = load(pool._slots, slot * SLOT_WORDS)  # E1 acquires from E2, E3
        # Mutants: "recovery takes a long silence for death", "recovery trusts a number that is not locked yet"
        if number > 0 and number != own and is_dead(pool, slot):
            found += take_from(pool, number)
            # E3 releases to E1: nothing bears this number any more. Mutant: "a number is retired before its buffers"
            compare_and_swap(pool._slots, slot * SLOT_WORDS, number, -number)
    return found + put_lost(pool)


@kernel
def take_from(pool, number):
    """Put back the buffers of a dead process number; return how many."""
    found = 0
    for index in range(pool.capacity):
        place = owner_at(pool, index)
        owner = load(pool._owners, place)  # B0 acquires from B1, B2, B5, B7
        # B4 releases to B0, B1. Mutant: "recovery frees by a plain store"
        if abs(owner) >> NUMBER_SHIFT == number and compare_and_swap(pool._owners, place, owner, FREE):
            put_and_wake(pool._queue, index)
            found += 1
    return found


@kernel
def put_lost(pool):
    """Put those into the queue that are free and not in it, because a process died in between; return how many."""
    queued = np.zeros(pool.capacity, np.bool_)
    mark_items(pool._queue, queued)
    mark_chunks(pool._depot, queued)
    found = 0
    for index in range(pool.capacity):
        # Mutant: "recovery does not look for buffers that are in no queue"
        if not queued[index] and load(pool._owners, owner_at(pool, index)) == FREE:  # B0 acquires from B2, B3, B4
            # If there is no room, the queue has stale entries; this one is found again when they are gone.
            put_and_wake(pool._queue, index)
            found += 1
    return found


@kernel
def mark_items(queue, queued):
    """Note which items are in a queue; what moves meanwhile may be missed."""
    mask = (1 << queue._index_bits) - 1
    for slot in range(queue.capacity):
        word = load(queue._words, SLOTS + slot)  # G5 acquires from P2, G2
        if (word >> queue._index_bits) & 1:
            queued[word & mask] = True


# ---- channels --------------------------------------------------------------------------------------------------------


@hot
def owner_now(pool):
    """Return the owner word of this thread, in a pool that is shared or not."""
    identity = load(pool._local, IDENTITY, "relaxed")
    return owner_word(identity) if identity > 0 else thread_id()


@hot
def give_away(pool, index, transit):
    """Take a buffer from its owner into a channel: OK, OUT_OF_RANGE or NOT_OUT."""
    if index < 0 or index >= pool.capacity:
        return OUT_OF_RANGE
    place = owner_at(pool, index)
    owner = load(pool._owners, place)  # B0 acquires from B1, B2, B7
    # B6 releases to B7: what was written into the buffer. B6 is ordered with B9: a receiver that finds a closed
    # channel empty looks for what was sent before (B9), and later the sender finds it closed (C2).
    # Mutants: "a sent buffer keeps its owner", "a buffer is sent by a compare-and-swap that is not seq_cst"
    if owner > FREE and compare_and_swap(pool._owners, place, owner, transit, "seq_cst"):
        return OK
    return NOT_OUT


@hot
def is_out(pool, index):
    """Return whether an index is in range and its buffer checked out."""
    # B0 acquires from B1, B2, B7
    return 0 <= index < pool.capacity and load(pool._owners, owner_at(pool, index)) > FREE


@hot
def take_over(pool, index, transit):
    """Own a buffer that came through a channel; False if its entry there was stale."""
    # B7 acquires from B6. B7 releases to B0. Mutant: "a receiver takes what it finds in the channel"
    return compare_and_swap(pool._owners, owner_at(pool, index), transit, owner_now(pool))


@kernel
def send_lost(pool, queue, transit):
    """Put those into a channel's queue that are in transit and not in it, because a process died in between.

    A live sender or receiver may be at the same buffer; then there are two entries, and one is stale. Return how many.
    """
    queued = np.zeros(pool.capacity, np.bool_)
    mark_items(queue, queued)
    found = 0
    for index in range(pool.capacity):
        # B9 is ordered with B6. Mutants: "nobody looks for what is in transit and in no queue",
        # "what is in transit is looked for by acquire loads"
        lost = not queued[index] and load(pool._owners, owner_at(pool, index), "seq_cst") == transit
        if lost and put_and_wake(queue, index):
            found += 1
    return found
