"""Who holds each buffer of a checked pool, and how many of them change hands at once.

A buffer has one *owner word*: FREE, or the thread that holds it. A get stores the owner, because nobody else has the
index then; a put is the compare-and-swap from the owner to FREE, so that of two puts of one buffer one is refused.

A bulk put gives all of its buffers back, or none. It is decided by one compare-and-swap on a *record* of its own:

1. claim a record: it is UNDECIDED;
2. put a *mark*, which names the record, in the place of each owner; where one is not out, it is to be refused;
3. compare-and-swap the record: to COMMITTED, all are put; or, to be refused, to ABORTED;
4. write FREE, or the former owners, in the place of the marks, and let go of the record.

Others who find a mark do not wait for the bulk put: who puts that buffer, while the record is UNDECIDED, changes it to
OVERRULED with the place of the buffer, and with that has put it: the bulk put is refused for its sake, and it alone.
Another bulk put, which may yet be refused, changes the record to ABORTED, and the first one pauses and tries again.
Marks of an ABORTED record, and those of an OVERRULED one but for that place, are anybody's to put. So a bulk put that
is refused refuses nobody else, and one that is stopped anywhere stops nobody (descriptors as in Harris, Fraser & Pratt,
"A practical multi-word compare-and-swap operation", DISC 2002; there others help it on, here they overrule it).

Invariants
    A record is decided once for each claim, which has a sequence number of its own, and the marks are removed after
    that. It is let go of only when no word holds its mark. Marks of a COMMITTED record only its bulk put removes.

Bound
    The sequence numbers of a record repeat after ``2**(60 - max(bits of an index, 8))`` bulk puts: a thread would have
    to sleep inside one put for exactly that many.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from .._jit.compile import hot, kernel, out_of_line
from .._memory.aligned import aligned_mem, round_up
from .._threads.gil import thread_id
from .._threads.outcomes import NOT_OUT, OK, OUT_OF_RANGE
from ..atomics import compare_and_swap, load, pause, store

# An owner word: FREE; who holds it, a thread (> 0); its negative while io_uring has the buffer; below MARK, a mark
FREE = 0
MARK = -(2**62)

ROW_BITS = 3
ROWS = 1 << ROW_BITS  # owner words stand in so many rows, and neighbours in different ones

# The words of bulk puts: where in a record the sequence number begins; from 8 on the records, a cache line apart; then
# for each owner word who held the buffer before it was marked.
RECORD_BITS = 8
RECORDS = 1 << RECORD_BITS
_APART = 8
_SHIFT = 0
_FIRST = _APART
_FORMER = _FIRST + RECORDS * _APART

# A record: sequence number, place (of OVERRULED), and in the lowest bits what has become of it.
IDLE, UNDECIDED, COMMITTED, OVERRULED, ABORTED = range(5)
_FATE_BITS = 3
_FATE = (1 << _FATE_BITS) - 1
_MOST_TURNS = 8  # a bulk put that was aborted pauses 2**turn times before it tries again


def bulk_words(capacity: int) -> NDArray[np.int64]:
    """Return the words of the bulk puts of a pool."""
    words = aligned_mem(8 * (_FORMER + round_up(capacity, ROWS)), 128).view(np.int64)
    words[_SHIFT] = max(capacity.bit_length() + 1, RECORD_BITS) + _FATE_BITS  # a place fits below the sequence number
    return words


@hot
def place_of(capacity, index):
    """Return where a buffer's owner word stands.

    Two threads often hold neighbours, which the queue hands out one after the other: so these share no cache line.
    """
    return (index & (ROWS - 1)) * ((capacity + ROWS - 1) >> ROW_BITS) + (index >> ROW_BITS)


@hot
def owner_at(pool, index):
    """Return where in a pool's `owners` the word of a buffer stands."""
    return place_of(pool.capacity, index)


@hot
def disown(pool, index, lend):
    """Take `index` out of its owner's hands: to FREE, or to the owner's negative if `lend`. OK, or why not."""
    if index < 0 or index >= pool.capacity:
        return OUT_OF_RANGE
    if pool.checked:
        place = owner_at(pool, index)
        owner = load(pool._owners, place)
        if owner <= FREE or not compare_and_swap(pool._owners, place, owner, -owner if lend else FREE):
            return _disown_contested(pool._owners, pool._bulks, place, lend)
    return OK


@kernel
def _disown_contested(owners, bulks, place, lend):
    """Do as `disown` does with a word that did not hold a owner, or was changed by another thread meanwhile."""
    out_of_line()
    shift = load(bulks, _SHIFT)
    while True:
        owner = load(owners, place)
        if owner > MARK:
            if owner <= FREE:
                return NOT_OUT
            if compare_and_swap(owners, place, owner, -owner if lend else FREE):
                return OK
            continue
        record, undecided = _record_of(owner), _undecided(owner, shift)
        overruled = _decided(undecided, OVERRULED, place)
        if not lend and compare_and_swap(bulks, record, undecided, overruled):
            compare_and_swap(owners, place, owner, FREE)  # unless the bulk put has done that already
            return OK
        fate = _abort(bulks, record, undecided)
        if fate == overruled or fate == _decided(undecided, COMMITTED, 0):
            return NOT_OUT  # it was put
        if fate >> shift == undecided >> shift and compare_and_swap(
            owners,
            place,
            owner,
            -thread_id() if lend else FREE,  # who held it, only the bulk put knows
        ):
            return OK


@hot
def take_back(pool, index):
    """Give a buffer that was lent back into its owner's hands."""
    place = owner_at(pool, index)
    store(pool._owners, place, -load(pool._owners, place))


@hot
def _record_of(mark):
    return _FIRST + ((MARK - mark) & (RECORDS - 1)) * _APART


@hot
def _undecided(mark, shift):
    """Return what the record of a mark holds until it is decided."""
    return (MARK - mark) >> RECORD_BITS << shift | UNDECIDED


@hot
def _decided(undecided, fate, place):
    """Return what an undecided record holds once it is decided; `place` is that of the buffer which overruled it."""
    return undecided - UNDECIDED + (place << _FATE_BITS) + fate


@hot
def _abort(bulks, record, undecided):
    """Abort a bulk put unless it is decided, and return what its record then holds."""
    if compare_and_swap(bulks, record, undecided, _decided(undecided, ABORTED, 0)):
        return _decided(undecided, ABORTED, 0)
    return load(bulks, record)


@kernel
def _claim(bulks, shift):
    """Claim a record and return its mark."""
    number = (thread_id() >> 6) & (RECORDS - 1)
    while True:
        record = _FIRST + number * _APART
        word = load(bulks, record)
        sequence = ((word >> shift) + 1) & ((1 << (63 - shift)) - 1)
        if word & _FATE == IDLE and compare_and_swap(bulks, record, word, sequence << shift | UNDECIDED):
            return MARK - (sequence << RECORD_BITS | number)
        number = (number + 1) & (RECORDS - 1)


@hot
def _put_mark(owners, bulks, place, mark):
    """Put a mark in the place of a owner: OK or NOT_OUT."""
    owner = load(owners, place)
    if owner <= FREE or not compare_and_swap(owners, place, owner, mark):
        return _put_mark_contested(owners, bulks, place, mark)
    store(bulks, _FORMER + place, owner, "relaxed")
    return OK


@kernel
def _put_mark_contested(owners, bulks, place, mark):
    """Do as `_put_mark` does with a word that did not hold a owner, or was changed by another thread meanwhile."""
    out_of_line()
    shift = load(bulks, _SHIFT)
    while True:
        owner = load(owners, place)
        if owner == mark or MARK < owner <= FREE:  # the same mark: it is named twice in one bulk put
            return NOT_OUT
        former = owner
        if owner <= MARK:
            undecided = _undecided(owner, shift)
            fate = _abort(bulks, _record_of(owner), undecided)
            overruled = _decided(undecided, OVERRULED, place)
            if fate == overruled or fate == _decided(undecided, COMMITTED, 0):
                return NOT_OUT
            if fate >> shift != undecided >> shift:
                continue  # that bulk put is over, and the mark gone
            former = thread_id()  # who held it, only that bulk put knows
        if compare_and_swap(owners, place, owner, mark):
            store(bulks, _FORMER + place, former, "relaxed")
            return OK


@kernel
def disown_many(pool, indices, n):
    """Take `n` buffers out of their owners' hands: -1, or where the first refused one stands, and none is taken."""
    if not pool.checked:
        for k in range(n):
            if not 0 <= indices[k] < pool.capacity:
                return k
        return -1
    owners, bulks, shift = pool._owners, pool._bulks, load(pool._bulks, _SHIFT)
    turn = 0
    while True:
        mark = _claim(bulks, shift)
        record, undecided = _record_of(mark), _undecided(mark, shift)
        marked = 0
        while marked < n and 0 <= indices[marked] < pool.capacity:
            if _put_mark(owners, bulks, owner_at(pool, indices[marked]), mark) != OK:
                break
            marked += 1
        if marked == n and compare_and_swap(bulks, record, undecided, _decided(undecided, COMMITTED, 0)):
            for k in range(n):
                store(owners, owner_at(pool, indices[k]), FREE)
            store(bulks, record, _decided(undecided, IDLE, 0))
            return -1
        fate = _abort(bulks, record, undecided)
        refused = marked
        for k in range(marked):
            place = owner_at(pool, indices[k])
            if fate == _decided(undecided, OVERRULED, place):
                compare_and_swap(owners, place, mark, FREE)  # unless who overruled this has done that already
                refused = k
            else:
                compare_and_swap(owners, place, mark, load(bulks, _FORMER + place, "relaxed"))
        store(bulks, record, _decided(undecided, IDLE, 0))
        if refused < n:
            return refused
        pause(1 << turn)  # two bulk puts of one buffer must not abort each other for ever
        turn = min(turn + 1, _MOST_TURNS)


def holders(owners: NDArray[np.int64], bulks: NDArray[np.int64]) -> dict[int, int]:
    """Return who holds each buffer that is out, by index."""
    words = owners.copy()  # other threads go on
    names = np.where(words > MARK, np.abs(words), bulks[_FORMER:])
    by_index, names = (array.reshape(ROWS, -1).T.flatten() for array in (words, names))
    return {int(index): int(names[index]) for index in np.flatnonzero(by_index)}


def restore(owners: NDArray[np.int64], bulks: NDArray[np.int64]) -> None:
    """Give what bulk puts have marked, and what was lent, back to its owners: in a forked child."""
    marked = np.flatnonzero(owners <= MARK)
    former = bulks[_FORMER:][marked]
    former[former == FREE] = threading.get_ident()  # of what was marked a moment ago
    owners[marked] = former
    np.abs(owners, out=owners)
    bulks[_FIRST:_FORMER] &= ~_FATE
