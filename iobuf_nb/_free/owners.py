"""Owner words: which thread has each buffer of a checked pool checked out, and bulk puts that change many at once.

A buffer has one *owner word*: FREE, or the owner. A get stores the owner, because no other thread has the index then; a
put is the compare-and-swap from the owner to FREE, so of two puts of one buffer one is refused.

A bulk put returns all of its buffers or none. It is decided by one compare-and-swap on a *record*:

1. claim a record: it is UNDECIDED;
2. replace each owner by a *mark*, which names the record; at a buffer that is not checked out, give up;
3. compare-and-swap the record: to COMMITTED, and all are put; or to ABORTED, to be refused;
4. replace the marks by FREE, or by the former owners, and release the record.

Other threads that find a mark do not wait for the bulk put. A put of that buffer, while the record is UNDECIDED,
changes it to OVERRULED with the place of the buffer, and thereby has put it; the bulk put is refused for its sake
alone. Another bulk put, which may yet be refused, changes the record to ABORTED, and the first one pauses and tries
again. Buffers with the mark of an ABORTED record, or of an OVERRULED one except at its place, can be put by any thread.
So a bulk put that is refused causes no other refusal, and one that stops anywhere stops no other thread (descriptors as
in Harris, Fraser & Pratt, "A practical multi-word compare-and-swap operation", DISC 2002; there others help, here they
overrule).

Invariants
    A record is decided once for each claim, which has its own sequence number, and marks are removed after that. It is
    released only when no word holds its mark. Marks of a COMMITTED record are removed by its bulk put alone.

Orderings
    O1 (`free_list.own`) releases to O2; O3, a successful put, is followed by a release of the index to the queue, whose
    P2 and G1 carry it to the next O1. Marks and records follow the same pattern: R1 claims, R2 marks, R3 decides, R4
    unmarks, R5 releases the record. Every one of them is a compare-and-swap or a release store, and every read of them
    an acquire load.

Bound
    The sequence numbers of a record repeat after ``2**(60 - max(index_bits, 8))`` bulk puts: a thread would have to
    sleep inside one put for exactly that many.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from .._jit.compile import hot, kernel, out_of_line, tiny
from .._jit.instructions import minus
from .._memory.aligned import aligned_mem, round_up
from .._threads.gil import thread_id
from .._threads.outcomes import NOT_OUT, OK, OUT_OF_RANGE
from ..atomics import compare_and_swap, load, pause, store

# An owner word: FREE; the owner, a thread (> 0); its negative while io_uring has the buffer; below MARK, a mark; the
# negative of a channel's number (`processes`), which is smaller than any thread.
FREE = 0
MARK = -(2**62)
MOST_CHANNELS = 2**20  # of one pool

ROW_BITS = 3
ROWS = 1 << ROW_BITS  # owner words are stored in this many rows, neighbours in different ones

# The words of bulk puts: the bit of a record at which the sequence number begins; from 8 on the records, a cache line
# apart; then for each owner word the owner before it was marked.
RECORD_BITS = 8
RECORDS = 1 << RECORD_BITS
_APART = 8
_SHIFT = 0
_FIRST = _APART
_FORMER = _FIRST + RECORDS * _APART

# A record: sequence number, place (of OVERRULED), and in the lowest bits its fate.
IDLE, UNDECIDED, COMMITTED, OVERRULED, ABORTED = range(5)
_FATE_BITS = 3
_FATE = (1 << _FATE_BITS) - 1
_MOST_TURNS = 8  # a bulk put that was aborted pauses 2**turn times before it tries again


def bulk_words(capacity: int) -> NDArray[np.int64]:
    """Return the words of the bulk puts of a pool."""
    words = aligned_mem(8 * (_FORMER + round_up(capacity, ROWS)), 128).view(np.int64)
    words[_SHIFT] = max(capacity.bit_length() + 1, RECORD_BITS) + _FATE_BITS  # a place fits below the sequence number
    return words


@tiny
def place_of(capacity, index):
    """Return the position of a buffer's owner word.

    Two threads often own neighbours, which the queue hands out one after the other: so these share no cache line.
    """
    return (index & (ROWS - 1)) * ((capacity + ROWS - 1) >> ROW_BITS) + (index >> ROW_BITS)


@tiny
def owner_at(pool, index):
    """Return the position of a buffer's word among a pool's owner words."""
    return place_of(pool.capacity, index)


@hot
def disown(pool, index, lend):
    """Take `index` from its owner: to FREE, or to the owner's negative if `lend`. OK, OUT_OF_RANGE or NOT_OUT."""
    if index < 0 or index >= pool.capacity:
        return OUT_OF_RANGE
    if pool.checked:
        place = owner_at(pool, index)
        # O2 acquires from O1, O3, O4, R2, R4. Mutant: "the owner of a buffer is not checked"
        owner = load(pool._owners, place)
        # O3 releases to O2: of two puts one finds the owner. Mutant: "an owner word is freed by a plain store"
        if owner <= FREE or not compare_and_swap(pool._owners, place, owner, -owner if lend else FREE):
            return _disown_contested(pool._owners, pool._bulks, place, lend)
    return OK


@kernel
def _disown_contested(owners, bulks, place, lend):
    """Do as `disown` does with a word that held no owner, or was changed by another thread meanwhile."""
    out_of_line()
    shift = load(bulks, _SHIFT)  # R0 reads a constant
    while True:
        owner = load(owners, place)  # O2 acquires from O1, O3, O4, R2, R4
        if owner > MARK:
            if owner <= FREE:
                return NOT_OUT
            if compare_and_swap(owners, place, owner, -owner if lend else FREE):  # O3 releases to O2
                return OK
            continue
        # A bulk put has marked the buffer. Mutant: "a put is refused while a bulk put is undecided"
        record, undecided = _record_of(owner), _undecided(owner, shift)
        overruled = _decided(undecided, OVERRULED, place)
        # R3 releases to R6: this decides the record. Mutant: "a put takes a marked buffer and leaves the record"
        if not lend and compare_and_swap(bulks, record, undecided, overruled):
            compare_and_swap(owners, place, owner, FREE)  # R4 releases to O2; the bulk put may have done it
            return OK
        fate = _abort(bulks, record, undecided)
        # The record is decided for good: the buffer has been put. Mutant: "a put takes what a bulk put has put"
        if fate == overruled or fate == _decided(undecided, COMMITTED, 0):
            return NOT_OUT
        # R4 releases to O2: the bulk put was refused, so the mark stands for an owner.
        if fate >> shift == undecided >> shift and compare_and_swap(
            owners,
            place,
            owner,
            -thread_id() if lend else FREE,  # only the bulk put knows the former owner
        ):
            return OK


@hot
def take_back(pool, index):
    """Return a buffer that was lent to its owner."""
    place = owner_at(pool, index)
    # O4 releases to O2: while it is lent, no other thread changes the word.
    store(pool._owners, place, -load(pool._owners, place))


@tiny
def _record_of(mark):
    return _FIRST + ((MARK - mark) & (RECORDS - 1)) * _APART


@tiny
def _undecided(mark, shift):
    """Return the value of the record of a mark until it is decided."""
    return (MARK - mark) >> RECORD_BITS << shift | UNDECIDED


@tiny
def _decided(undecided, fate, place):
    """Return the value of an undecided record once it is decided; `place` is that of the buffer that overruled it."""
    return undecided - UNDECIDED + (place << _FATE_BITS) + fate


@hot
def _abort(bulks, record, undecided):
    """Abort a bulk put unless it is decided; return the value of its record."""
    # R3 releases to R6. Mutant: "a refused bulk put removes its marks before it is decided"
    if compare_and_swap(bulks, record, undecided, _decided(undecided, ABORTED, 0)):
        return _decided(undecided, ABORTED, 0)
    return load(bulks, record)  # R6 acquires from R1, R3, R5


@kernel
def _claim(bulks, shift):
    """Claim a record and return its mark."""
    number = (thread_id() >> 6) & (RECORDS - 1)
    while True:
        record = _FIRST + number * _APART
        word = load(bulks, record)  # R6 acquires from R1, R3, R5
        sequence = ((word >> shift) + 1) & ((1 << (63 - shift)) - 1)
        # R1 releases to R6: an idle record, with the next sequence number.
        if word & _FATE == IDLE and compare_and_swap(bulks, record, word, sequence << shift | UNDECIDED):
            return MARK - (sequence << RECORD_BITS | number)
        number = (number + 1) & (RECORDS - 1)


@hot
def _put_mark(owners, bulks, place, mark):
    """Replace an owner by a mark: OK or NOT_OUT."""
    owner = load(owners, place)  # O2 acquires from O1, O3, O4, R2, R4
    # R2 releases to O2: a thread that finds the mark finds its record, too.
    if owner <= FREE or not compare_and_swap(owners, place, owner, mark):
        return _put_mark_contested(owners, bulks, place, mark)
    store(bulks, _FORMER + place, owner, "relaxed")
    return OK


@kernel
def _put_mark_contested(owners, bulks, place, mark):
    """Do as `_put_mark` does with a word that held no owner, or was changed by another thread meanwhile."""
    out_of_line()
    shift = load(bulks, _SHIFT)  # R0 reads a constant
    while True:
        owner = load(owners, place)  # O2 acquires from O1, O3, O4, R2, R4
        # Its own mark: the buffer is named twice. Mutant: "a bulk put may name a buffer twice"
        if owner == mark or MARK < owner <= FREE:
            return NOT_OUT
        former = owner
        if owner <= MARK:
            undecided = _undecided(owner, shift)
            fate = _abort(bulks, _record_of(owner), undecided)
            overruled = _decided(undecided, OVERRULED, place)
            if fate == overruled or fate == _decided(undecided, COMMITTED, 0):
                return NOT_OUT
            if fate >> shift != undecided >> shift:
                continue  # that bulk put has ended, and the mark is gone
            # The other bulk put was aborted. Mutant: "a bulk put takes the marks of another one"
            former = thread_id()  # only that bulk put knows the former owner
        if compare_and_swap(owners, place, owner, mark):  # R2 releases to O2
            store(bulks, _FORMER + place, former, "relaxed")
            return OK


@hot
def count_in_range(pool, indices, n):
    """Return how many of the `n` indices stand before the first that is out of range."""
    signs = 0
    for k in range(n):  # without a branch, and so by vectors: is either number negative?
        signs |= indices[k] | minus(pool.capacity - 1, int(indices[k]))
    if signs < 0:
        for k in range(n):
            if not 0 <= indices[k] < pool.capacity:
                return k
    return n


@hot
def disown_many(pool, indices, n):
    """Take `n` buffers from their owners: -1; or none, and where the first refused one stands."""
    in_range = count_in_range(pool, indices, n)
    if pool.checked:
        return _disown_all(pool, indices, n, in_range)
    return in_range if in_range < n else -1


@kernel
def _disown_all(pool, indices, n, in_range):
    """Take `n` buffers from their owners, of which the first `in_range` are in range; return as `disown_many` does."""
    owners, bulks, shift = pool._owners, pool._bulks, load(pool._bulks, _SHIFT)  # R0 reads a constant
    turn = 0
    while True:
        mark = _claim(bulks, shift)
        record, undecided = _record_of(mark), _undecided(mark, shift)
        marked = 0
        while marked < in_range:
            if _put_mark(owners, bulks, owner_at(pool, indices[marked]), mark) != OK:
                break
            marked += 1
        # R3 releases to R6: the linearization point. Mutants: "a bulk put is not decided before it frees",
        # "a bulk put commits by a plain store"
        if marked == n and compare_and_swap(bulks, record, undecided, _decided(undecided, COMMITTED, 0)):
            for k in range(n):
                store(owners, owner_at(pool, indices[k]), FREE)  # R4 releases to O2
            store(bulks, record, _decided(undecided, IDLE, 0))  # R5 releases to R6: no word holds the mark any more
            return -1
        fate = _abort(bulks, record, undecided)
        refused = marked
        for k in range(marked):
            place = owner_at(pool, indices[k])
            if fate == _decided(undecided, OVERRULED, place):
                # R4 releases to O2; the put that overruled this may have done it.
                compare_and_swap(owners, place, mark, FREE)
                refused = k
            else:
                # R4 releases to O2, unless another thread has put the buffer.
                # Mutant: "an overruled bulk put restores all owners"
                compare_and_swap(owners, place, mark, load(bulks, _FORMER + place, "relaxed"))
        store(bulks, record, _decided(undecided, IDLE, 0))  # R5 releases to R6
        if refused < n:
            return refused
        pause(1 << turn)  # or two bulk puts of one buffer could abort each other for ever
        turn = min(turn + 1, _MOST_TURNS)


def by_index(owners: NDArray[np.int64], bulks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a snapshot of the owner words, by index, and the owner that each names."""
    words = owners.copy()  # other threads go on
    names = np.where(words > MARK, np.abs(words), bulks[_FORMER:])
    words, names = (array.reshape(ROWS, -1).T.flatten() for array in (words, names))
    return words, names


def holders(owners: NDArray[np.int64], bulks: NDArray[np.int64]) -> dict[int, int]:
    """Return the owner of each buffer that is checked out, by index."""
    words, names = by_index(owners, bulks)
    return {int(index): int(names[index]) for index in np.flatnonzero((words != FREE) & ~in_transit(words))}


def in_transit(owners: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which owner words are those of channels."""
    return (owners < FREE) & (owners > -MOST_CHANNELS)


def restore(owners: NDArray[np.int64], bulks: NDArray[np.int64]) -> None:
    """In a forked child, return buffers that bulk puts have marked, and those that were lent, to their owners."""
    marked = np.flatnonzero(owners <= MARK)
    former = bulks[_FORMER:][marked]
    former[former == FREE] = threading.get_ident()  # of what was marked a moment ago
    owners[marked] = former
    np.abs(owners, out=owners, where=~in_transit(owners))
    bulks[_FIRST:_FORMER] &= ~_FATE
