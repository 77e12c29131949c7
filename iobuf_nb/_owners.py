"""Who holds each buffer of a checked pool, and how many of them change hands at once.

A buffer has one *owner word*: FREE, or the thread that holds it. A get stores the holder, because nobody else has the
index then; a put is the compare-and-swap from the holder to FREE, so that of two puts of one buffer one is refused.

A bulk put gives all of its buffers back, or none. It is decided by one compare-and-swap on a *record* of its own:

1. claim a record: it is UNDECIDED;
2. put a *mark*, which names the record, in the place of each holder; where one is not out, take all back: refused;
3. compare-and-swap the record to COMMITTED: all are put; if somebody was quicker with OVERRULED, take back and retry;
4. write FREE in the place of each mark, and let go of the record.

Whoever else puts a marked buffer overrules the record and takes the buffer, unless the record is COMMITTED, which means
that it was put. So a bulk put that is refused in the end has refused nobody, and one that is stopped anywhere stops
nobody (as Harris, Fraser & Pratt, "A practical multi-word compare-and-swap operation", DISC 2002, but it is overruled
where they help it on).

Invariants
    A mark is never written twice: its record's sequence number grows with each claim. A record is let go of only when
    no word holds its mark. Marks of a COMMITTED record are changed by its bulk put alone.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from ._jit import hot, kernel, out_of_line
from .atomics import compare_and_swap, load, pause, store
from .memory import round_up
from .wait import thread_id

# An owner word: FREE; who holds it, a thread (> 0); its negative while io_uring has the buffer; below MARK, a mark
FREE = 0
MARK = -(2**62)

# What became of giving a buffer back.
OK = 0
OUT_OF_RANGE = 1
NOT_OUT = 2

ROW_BITS = 3
ROWS = 1 << ROW_BITS  # owner words stand in so many rows, and neighbours in different ones

# The words of bulk puts: the records, a cache line apart, then for each owner word who held the buffer before the mark.
RECORD_BITS = 8
RECORDS = 1 << RECORD_BITS
_APART = 8
_FORMER = RECORDS * _APART

# A record: sequence << 2 | what became of it.
IDLE, UNDECIDED, COMMITTED, OVERRULED = range(4)

_MOST_TURNS = 8  # a bulk put that was overruled pauses 2**turn times before it tries again


def bulk_words(capacity: int) -> int:
    """Return how many words the bulk puts of a pool take."""
    return _FORMER + round_up(capacity, ROWS)


@hot
def owner_at(capacity, index):
    """Return where a buffer's owner word stands.

    Two threads often hold neighbours, which the queue hands out one after the other: so these share no cache line.
    """
    return (index & (ROWS - 1)) * ((capacity + ROWS - 1) >> ROW_BITS) + (index >> ROW_BITS)


@hot
def own(pool, index):
    """Write down that this thread holds `index`, which nobody else has."""
    if pool.checked:
        store(pool.owners, owner_at(pool.capacity, index), thread_id())


@hot
def disown(pool, index, lend):
    """Take `index` out of its holder's hands: to FREE, or to the holder's negative if `lend`. OK, or why not."""
    if index < 0 or index >= pool.capacity:
        return OUT_OF_RANGE
    if pool.checked:
        place = owner_at(pool.capacity, index)
        holder = load(pool.owners, place)
        if holder <= FREE or not compare_and_swap(pool.owners, place, holder, -holder if lend else FREE):
            return _disown_contested(pool.owners, pool.bulks, place, lend)
    return OK


@kernel
def _disown_contested(owners, bulks, place, lend):
    """Do as `disown` does with a word that did not hold a holder, or was changed by another thread meanwhile."""
    out_of_line()
    while True:
        holder = load(owners, place)
        if holder > FREE:
            if compare_and_swap(owners, place, holder, -holder if lend else FREE):
                return OK
        elif holder > MARK:
            return NOT_OUT
        elif _overrule(bulks, holder):
            # Who held it, only that bulk put knows: the lender takes its place.
            if compare_and_swap(owners, place, holder, -thread_id() if lend else FREE):
                return OK
        elif load(owners, place) == holder:
            return NOT_OUT  # the bulk put is decided: it has put it


@hot
def take_back(pool, index):
    """Give a buffer that was lent back into its holder's hands."""
    place = owner_at(pool.capacity, index)
    store(pool.owners, place, -load(pool.owners, place))


@hot
def _record_of(mark):
    return ((MARK - mark) & (RECORDS - 1)) * _APART


@hot
def _sequence_of(mark):
    return (MARK - mark) >> RECORD_BITS << 2


@kernel
def _overrule(bulks, mark):
    """Decide against the bulk put of a mark, unless it is decided: whether its marks are anybody's."""
    record, sequence = _record_of(mark), _sequence_of(mark)
    return compare_and_swap(bulks, record, sequence | UNDECIDED, sequence | OVERRULED) or (
        load(bulks, record) == sequence | OVERRULED
    )


@kernel
def _claim(bulks):
    """Claim a record and return its mark."""
    record = (thread_id() >> 6) & (RECORDS - 1)
    while True:
        word = load(bulks, record * _APART)
        if word & 3 == IDLE and compare_and_swap(bulks, record * _APART, word, word + 4 + UNDECIDED):
            return MARK - (((word >> 2) + 1) << RECORD_BITS | record)
        record = (record + 1) & (RECORDS - 1)


@hot
def _put_mark(owners, bulks, place, mark):
    """Put a mark in the place of a holder: OK or NOT_OUT."""
    holder = load(owners, place)
    if holder <= FREE or not compare_and_swap(owners, place, holder, mark):
        return _put_mark_contested(owners, bulks, place, mark)
    store(bulks, _FORMER + place, holder, "relaxed")
    return OK


@kernel
def _put_mark_contested(owners, bulks, place, mark):
    """Do as `_put_mark` does with a word that did not hold a holder, or was changed by another thread meanwhile."""
    out_of_line()
    while True:
        holder = load(owners, place)
        if holder == mark or MARK < holder <= FREE:  # the same mark: it is named twice in one bulk put
            return NOT_OUT
        if holder > FREE or _overrule(bulks, holder):
            if compare_and_swap(owners, place, holder, mark):
                # Who held what another bulk put had marked, only that one knows: this thread takes the place.
                store(bulks, _FORMER + place, holder if holder > FREE else thread_id(), "relaxed")
                return OK
        elif load(owners, place) == holder:
            return NOT_OUT


@kernel
def disown_many(pool, indices, n):
    """Take `n` buffers out of their holders' hands: -1, or where the first refused one stands, and none is taken."""
    if not pool.checked:
        for k in range(n):
            if not 0 <= indices[k] < pool.capacity:
                return k
        return -1
    turn = 0
    while True:
        mark = _claim(pool.bulks)
        record, sequence = _record_of(mark), _sequence_of(mark)
        marked = 0
        while marked < n and 0 <= indices[marked] < pool.capacity:
            if _put_mark(pool.owners, pool.bulks, owner_at(pool.capacity, indices[marked]), mark) != OK:
                break
            marked += 1
        decided = marked == n and compare_and_swap(pool.bulks, record, sequence | UNDECIDED, sequence | COMMITTED)
        for k in range(marked):
            place = owner_at(pool.capacity, indices[k])
            if decided:
                store(pool.owners, place, FREE)
            else:
                compare_and_swap(pool.owners, place, mark, load(pool.bulks, _FORMER + place, "relaxed"))
        store(pool.bulks, record, sequence | IDLE)
        if decided:
            return -1
        if marked < n:
            return marked
        pause(1 << turn)  # two bulk puts of one buffer must not overrule each other for ever
        turn = min(turn + 1, _MOST_TURNS)


def holders(owners: NDArray[np.int64], bulks: NDArray[np.int64]) -> dict[int, int]:
    """Return who holds each buffer that is out, by index."""
    words = owners.copy()  # other threads go on
    names = np.where(words > MARK, np.abs(words), bulks[_FORMER:])
    by_index, names = (array.reshape(ROWS, -1).T.flatten() for array in (words, names))
    return {int(index): int(names[index]) for index in np.flatnonzero(by_index)}


def settle_bulks(owners: NDArray[np.int64], bulks: NDArray[np.int64]) -> None:
    """Decide the bulk puts of threads that have vanished, in a forked child, and take back what was lent."""
    marked = owners <= MARK
    numbers = MARK - owners[marked]
    put = bulks[(numbers & (RECORDS - 1)) * _APART] == (numbers >> RECORD_BITS << 2 | COMMITTED)
    former = bulks[_FORMER:][marked]
    former[former == FREE] = threading.get_ident()  # of whoever was marked a moment ago
    owners[marked] = np.where(put, FREE, former)
    np.abs(owners, out=owners)
    bulks[:_FORMER] &= ~3
