"""A bounded lock-free FIFO of small integers, for any number of putting and getting threads.

The algorithm belongs to the family of NBLFQ (Denis & Goedefroit, IPDPS 2025): every slot word carries the whole history
of its slot, so no word ever repeats and one compare-and-swap on it is the entire operation.

Words
    A *position* counts operations: ``lap << index_bits | slot``, slot in [0, capacity).
    A slot's word is ``state << index_bits | item``, and its state only grows:

    - ``2 * lap``: empty, waits for the put of this lap;
    - ``2 * lap + 1``: full, holds the item that this lap's put left.

Put, three steps
    1. start at the tail hint and read the slot's word;
    2. the state is the one this put waits for: compare-and-swap the item in; it is a lap behind: the queue is full;
       it is ahead: this position has been put, go on after the last position that the state proves put;
    3. on success, move the hint past the position.

Get, three steps
    The mirror image: wait for ``2 * lap + 1``, swap in ``2 * (lap + 1)``; a state below it means empty.

Under contention
    A thread that loses the compare-and-swap, or finds the hinted position taken, pauses for some microseconds, longer
    each time, and reads the hint again: two threads on one queue are seven times faster this way.

Why it is correct
    Positions are put strictly in order, and got strictly in order, each by exactly one successful compare-and-swap,
    which is the linearization point. The hints only shorten the search: they may lag but never lead, because they are
    written after the compare-and-swap that makes them true. "Full" and "empty" follow from one word: when it is read,
    every position before it has been put (got), and this one cannot be.
    A thread that stops anywhere leaves a valid queue, and the others make progress: the search for the true position
    jumps whole laps at a time.

Orderings
    Each acquire, release and seq_cst access in this room carries a label, names the labels it pairs with, and the
    deliberate bug of the tests that weakens or removes it. All slot accesses are seq_cst, because the waiting protocol
    (`waiting`) compares them with the counts of waiters.

Bound
    States repeat after ``2**(62 - index_bits) * capacity`` puts, 2**62 for a queue of a power of two: a thread would
    have to sleep inside one operation for exactly that many. States are compared by signed difference, so wrapping
    itself is harmless.
"""

from __future__ import annotations

from numba import types

from .._jit.compile import hot, kernel, out_of_line, tiny
from .._jit.handle import WORD_POINTER, HandleType
from .._jit.instructions import minus, plus
from .._threads.outcomes import EMPTY, TAKEN
from ..atomics import compare_and_swap, load, pause, store

# Word indices. The cursors and the slots lie 128 bytes apart, two cache lines, because a core fetches lines in pairs.
LINE_PAIR = 16
HEAD = 0 * LINE_PAIR  # hint: no position before it can be got
TAIL = 1 * LINE_PAIR  # hint: no position before it can be put
CLOSED_FLAG = 2 * LINE_PAIR  # 0, then 1 for ever
NONBLOCKING_FLAG = CLOSED_FLAG + 1  # 1: no operation waits, whatever it was asked
PROCESS = CLOSED_FLAG + 2  # the process whose threads may wait; a forked child has a copy that no thread would wake
SHARED = 0  # in PROCESS: the words are shared by processes, and the threads of all of them may wait
ELSEWHERE = CLOSED_FLAG + 6  # of a pool's queue: 1 once free indices may lie elsewhere, in a depot or deques
GETTERS = 3 * LINE_PAIR  # threads that wait for an item; if the words are SHARED, 1 if there may be any
GET_EVENT = GETTERS + 1  # they park on it; it changes before one of them is woken
PUTTERS = GETTERS + 2  # threads that wait for room; 1, too, if there may be any
PUT_EVENT = PUTTERS + 1
GET_FD = GETTERS + 4  # 1 + the eventfd that event loops listen to, signalled when no parked getter was woken

# Coroutines that wait for a pool's buffers: see `handover`.
REQUESTS = GETTERS + 5  # buffers that they ask to be handed
TURNS = GETTERS + 6  # puts since, every other one of which hands over
HANDED = GETTERS + 7  # the address of the handed queue's members; 0: no coroutine has ever waited
HANDED_AT = GETTERS + 8  # time of the last handover, in nanoseconds
STALE = GETTERS + 9  # requests whose buffers lay in the handed queue for too long
SPIN_DEBT = 10  # the word so far behind GETTERS, or PUTTERS: see `spin_shared` of `waiting`
SLOTS = 4 * LINE_PAIR
FIRST_PAUSES, MOST_PAUSES = 64, 512  # of some 40 ns: shorter ones do not end a race between two cores


class QueueType(HandleType):
    """The numba type of `BoundedQueue`."""

    def __init__(self) -> None:
        super().__init__(
            "BoundedQueue",
            [
                ("_words", WORD_POINTER),
                ("capacity", types.int64),
                ("_index_bits", types.int64),
                ("limit", types.int64),
            ],
        )


@tiny
def _next(queue, position):
    mask = (1 << queue._index_bits) - 1
    return plus(position, 1) if (position & mask) + 1 < queue.capacity else plus(position | mask, 1)


@tiny
def _lead(word, position, index_bits):
    """Return how far the state in `word` is ahead of the one that a put at `position` waits for."""
    return minus(word, position >> index_bits << index_bits << 1) >> index_bits


@tiny
def _after(queue, position, lead):
    """Return the position after the last one that a state `lead` > 0 ahead proves done, possibly laps ahead."""
    return _next(queue, plus(position, (lead - 1) >> 1 << queue._index_bits))


@hot
def _put_at(queue, position, item):
    """Try to put at a position: 0, EMPTY if the queue is full, or TAKEN; and how far the state is ahead."""
    slot = SLOTS + (position & ((1 << queue._index_bits) - 1))
    # P1 acquires from G2: a getter has done with the slot. It is a putter's last try before it parks (see `waiting`).
    # Mutant: "a put publishes with relaxed accesses"
    word = load(queue._words, slot, "seq_cst")
    lead = _lead(word, position, queue._index_bits)
    if lead == 0:
        # The slot waits for this very put, and states never repeat: success means that nothing happened here since P1.
        # P2 releases to G1, G5: the item, and writes before it. Mutant: "a put publishes with relaxed accesses"
        if compare_and_swap(queue._words, slot, word, plus(word, (1 << queue._index_bits) + item), "seq_cst"):
            store(queue._words, TAIL, _next(queue, position))  # P3 releases to P4: a hint, any older one will do
            return 0, lead
    elif lead < 0:
        # The get of the lap before has not taken place, so `capacity` items are in the queue: it is full.
        return EMPTY, lead
    # This position has been put, before P1 or since.
    return TAKEN, lead


@hot
def _get_at(queue, position):
    """Try to get at a position: the item, EMPTY, or TAKEN; and how far the state is ahead."""
    mask = (1 << queue._index_bits) - 1
    slot = SLOTS + (position & mask)
    # G1 acquires from P2: the item, and what was written before it was put. It is a getter's last try
    # before it parks (see `waiting`). Mutant: "a get takes with relaxed accesses"
    word = load(queue._words, slot, "seq_cst")
    lead = _lead(word, position, queue._index_bits) - 1
    if lead == 0:
        # The put of this lap has taken place and its get has not: success means that the item was still there.
        item = word & mask
        # G2 releases to P1, G5: the slot is free for the next lap. Mutant: "a get takes with relaxed accesses"
        if compare_and_swap(queue._words, slot, word, plus(word, (1 << queue._index_bits) - item), "seq_cst"):
            store(queue._words, HEAD, _next(queue, position))  # G3 releases to G4: a hint, any older one will do
            return item, lead
    elif lead < 0:
        # The put of this lap has not taken place, and puts go in order: the queue is empty.
        return EMPTY, lead
    # This position has been got, before G1 or since.
    return TAKEN, lead


@hot
def _search(queue, hint, position, lead, behind, pauses):
    """Return where to try next, after another thread was quicker at `position`, and the state of the search.

    A thread that loses a compare-and-swap, or first finds a position taken, pauses and starts again from the hint:
    letting the winner run alone for a while moves more items than racing it for each. A longer search goes on at once.
    """
    if lead == 0 or not behind:
        pause(pauses)
        # G4 acquires from G3; P4 acquires from P3: a hint. Mutant: "a loser waits for the winner to move the hint"
        return load(queue._words, hint), lead > 0, 2 * pauses if pauses < MOST_PAUSES else MOST_PAUSES
    return _after(queue, position, lead), behind, pauses


@kernel
def _put_contended(queue, item, position, lead):
    """Put `item` after another thread was faster at `position`: 0, or EMPTY if the queue is full."""
    out_of_line()
    behind, pauses = False, FIRST_PAUSES
    while True:
        position, behind, pauses = _search(queue, TAIL, position, lead, behind, pauses)
        result, lead = _put_at(queue, position, item)
        if result != TAKEN:
            return result


@kernel
def _get_contended(queue, position, lead):
    """Get an item after another thread was faster at `position`; EMPTY if there is none."""
    out_of_line()
    behind, pauses = False, FIRST_PAUSES
    while True:
        position, behind, pauses = _search(queue, HEAD, position, lead, behind, pauses)
        item, lead = _get_at(queue, position)
        if item != TAKEN:
            return item


@hot
def put_item(queue, item):
    """Append `item`, which must be in range; False if the queue is full."""
    position = load(queue._words, TAIL)  # P4 acquires from P3
    result, lead = _put_at(queue, position, item)
    return (_put_contended(queue, item, position, lead) if result == TAKEN else result) == 0


@hot
def get_item(queue):
    """Take the oldest item; EMPTY if there is none."""
    position = load(queue._words, HEAD)  # G4 acquires from G3
    result, lead = _get_at(queue, position)
    return _get_contended(queue, position, lead) if result == TAKEN else result


@kernel
def put_items(queue, items, begin, end):
    """Append items[begin:end], which must be in range, while there is room; return the index of the first left over."""
    position = load(queue._words, TAIL)  # P4 acquires from P3
    for k in range(begin, end):
        result, lead = _put_at(queue, position, items[k])
        if result == TAKEN:
            result = _put_contended(queue, items[k], position, lead)
            position = load(queue._words, TAIL)  # P4 acquires from P3
        else:
            position = _next(queue, position)
        if result == EMPTY:
            return k
    return end


@kernel
def get_items(queue, out, begin, end):
    """Take the oldest items into out[begin:end], while there are any; return the index after the last."""
    position = load(queue._words, HEAD)  # G4 acquires from G3
    for k in range(begin, end):
        item, lead = _get_at(queue, position)
        if item == TAKEN:
            item = _get_contended(queue, position, lead)
            position = load(queue._words, HEAD)  # G4 acquires from G3
        else:
            position = _next(queue, position)
        if item == EMPTY:
            return k
        out[k] = item
    return end


@hot
def _first_open(queue, hint, full):
    """Return the first position, from a hint on, that has not been got (`full` 1) or put (`full` 0)."""
    index_bits = queue._index_bits
    position = load(queue._words, hint)  # G4 acquires from G3; P4 acquires from P3
    while True:
        slot = SLOTS + (position & ((1 << index_bits) - 1))
        # G5 acquires from P2, G2: exact while no other thread puts or gets.
        lead = _lead(load(queue._words, slot), position, index_bits) - full
        if lead <= 0:
            return position
        position = _after(queue, position, lead)


@hot
def size(queue):
    """Return how many items there were; exact at rest, because the hints only begin the search."""
    index_bits = queue._index_bits
    mask = (1 << index_bits) - 1
    head = _first_open(queue, HEAD, 1)
    tail = _first_open(queue, TAIL, 0)
    slots = (tail & mask) - (head & mask)
    laps = minus(minus(tail, head), slots) >> index_bits
    return min(max(laps * queue.capacity + slots, 0), queue.capacity)


QUEUE_TYPE = QueueType()
