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
    2. state is the one put waits for: compare-and-swap in the item; it is a lap behind: the queue is full;
       it is ahead: this position was put already, go on after the last position which that state proves put;
    3. won: move the hint behind the position.

Get, three steps
    The mirror image: wait for ``2 * lap + 1``, swap in ``2 * (lap + 1)``; a state below it means empty.

Under contention
    Who loses the compare-and-swap, or finds the position of the hint taken, pauses for some microseconds, longer each
    time, and reads the hint again: two threads at work on one queue are seven times faster for it.

Why it is right
    Positions are put strictly in order, and taken strictly in order, each by exactly one successful compare-and-swap,
    which is where the operation takes effect. The hints only save a search: they may lag, never lead, because they
    are written after the compare-and-swap that makes them true. "Full" and "empty" follow from one word: when the
    word is read, everything before its position was put (taken), and the position itself cannot be.
    A thread that stops anywhere leaves a whole queue behind, and the others go on: the search for the true position
    jumps whole laps at a time.

Bound
    States repeat after ``2**(62 - index_bits) * capacity`` puts, 2**62 for a queue of a power of two: a thread would
    have to sleep inside one operation for exactly that many. Comparison of states is by signed difference, so wrapping
    as such is harmless.
"""

from __future__ import annotations

from numba import types

from .._jit.compile import hot, kernel, out_of_line
from .._jit.handle import QUEUE, WORD_POINTER, HandleType
from .._jit.instructions import minus, plus
from .._threads.outcomes import EMPTY, TAKEN
from ..atomics import compare_and_swap, load, pause, store

# Word indices. The cursors and the slots lie 128 bytes apart, two cache lines, because a core fetches lines in pairs.
LINE_PAIR = 16
HEAD = 0 * LINE_PAIR  # hint: no position before it can be got
TAIL = 1 * LINE_PAIR  # hint: no position before it can be put
CLOSED_FLAG = 2 * LINE_PAIR  # 0, then 1 for ever
NONBLOCKING_FLAG = CLOSED_FLAG + 1  # 1: no operation waits, whatever it was asked
PROCESS = CLOSED_FLAG + 2  # whose threads may wait; a forked child has a copy of its own and nobody to wake it
GETTERS = 3 * LINE_PAIR  # how many wait for an item
GET_EVENT = GETTERS + 1  # they park on it; it changes before any of them is woken
PUTTERS = GETTERS + 2  # the same for those who wait for room
PUT_EVENT = PUTTERS + 1
GET_FD = GETTERS + 4  # 1 + an eventfd that event loops listen to, signalled when no parked getter could be woken

# What `_handover` says of coroutines that wait for a pool's buffers.
REQUESTS = GETTERS + 5  # how many buffers they ask to be handed
TURNS = GETTERS + 6  # puts since, of which every other one hands over
HANDED = GETTERS + 7  # the address of the handed queue's descriptor block; 0: no coroutine has ever waited
HANDED_AT = GETTERS + 8  # when a buffer was handed over last
STALE = GETTERS + 9  # requests whose buffers lay in the handed queue for too long
SLOTS = 4 * LINE_PAIR
FIRST_PAUSES, MOST_PAUSES = 64, 512  # of some 40 ns: shorter ones do not end a race between two cores


class QueueType(HandleType):
    """The numba type of `BoundedQueue`."""

    kind = QUEUE

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


@hot
def _next(queue, position):
    mask = (1 << queue._index_bits) - 1
    return plus(position, 1) if (position & mask) + 1 < queue.capacity else plus(position | mask, 1)


@hot
def _lead(word, position, index_bits):
    """Return how far the state in `word` is ahead of the one that a put at `position` waits for."""
    return minus(word, position >> index_bits << index_bits << 1) >> index_bits


@hot
def _after(queue, position, lead):
    """Return the position after the last one that a state `lead` > 0 ahead proves done: laps ahead, if need be."""
    return _next(queue, plus(position, (lead - 1) >> 1 << queue._index_bits))


@hot
def _put_at(queue, position, item):
    """Try to put at a position: 0, EMPTY if the queue is full, or TAKEN; and how far the state is ahead."""
    slot = SLOTS + (position & ((1 << queue._index_bits) - 1))
    word = load(queue._words, slot, "seq_cst")
    lead = _lead(word, position, queue._index_bits)
    if lead == 0:
        if compare_and_swap(queue._words, slot, word, plus(word, (1 << queue._index_bits) + item), "seq_cst"):
            store(queue._words, TAIL, _next(queue, position))
            return 0, lead
    elif lead < 0:
        return EMPTY, lead
    return TAKEN, lead


@hot
def _get_at(queue, position):
    """Try to get at a position: the item, EMPTY, or TAKEN; and how far the state is ahead."""
    mask = (1 << queue._index_bits) - 1
    slot = SLOTS + (position & mask)
    word = load(queue._words, slot, "seq_cst")
    lead = _lead(word, position, queue._index_bits) - 1
    if lead == 0:
        item = word & mask
        if compare_and_swap(queue._words, slot, word, plus(word, (1 << queue._index_bits) - item), "seq_cst"):
            store(queue._words, HEAD, _next(queue, position))
            return item, lead
    elif lead < 0:
        return EMPTY, lead
    return TAKEN, lead


@hot
def _search(queue, hint, position, lead, behind, pauses):
    """Return where to try next, after another thread was quicker at `position`, and the state of the search.

    A thread that loses a compare-and-swap, or first finds a position taken, pauses and starts again from the hint: to
    let the winner run on its own for a while moves more items than to race it for each. A longer search goes on at
    once.
    """
    if lead == 0 or not behind:
        pause(pauses)
        return load(queue._words, hint), lead > 0, min(2 * pauses, MOST_PAUSES)
    return _after(queue, position, lead), behind, pauses


@kernel
def _put_contended(queue, item, position, lead):
    """Put `item` after another thread was quicker at `position`: 0, or EMPTY if the queue is full."""
    out_of_line()
    behind, pauses = False, FIRST_PAUSES
    while True:
        position, behind, pauses = _search(queue, TAIL, position, lead, behind, pauses)
        result, lead = _put_at(queue, position, item)
        if result != TAKEN:
            return result


@kernel
def _get_contended(queue, position, lead):
    """Get an item after another thread was quicker at `position`; EMPTY if there is none."""
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
    position = load(queue._words, TAIL)
    result, lead = _put_at(queue, position, item)
    return (_put_contended(queue, item, position, lead) if result == TAKEN else result) == 0


@hot
def get_item(queue):
    """Take the oldest item; EMPTY if there is none."""
    position = load(queue._words, HEAD)
    result, lead = _get_at(queue, position)
    return _get_contended(queue, position, lead) if result == TAKEN else result


@kernel
def put_items(queue, items, begin, end):
    """Append items[begin:end], which must be in range, as long as there is room: where the first left over stands."""
    position = load(queue._words, TAIL)
    for k in range(begin, end):
        result, lead = _put_at(queue, position, items[k])
        if result == TAKEN:
            result = _put_contended(queue, items[k], position, lead)
            position = load(queue._words, TAIL)
        else:
            position = _next(queue, position)
        if result == EMPTY:
            return k
    return end


@kernel
def get_items(queue, out, begin, end):
    """Take the oldest items into out[begin:end], as long as there are any: where the next would stand."""
    position = load(queue._words, HEAD)
    for k in range(begin, end):
        item, lead = _get_at(queue, position)
        if item == TAKEN:
            item = _get_contended(queue, position, lead)
            position = load(queue._words, HEAD)
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
    position = load(queue._words, hint)
    while True:
        slot = SLOTS + (position & ((1 << index_bits) - 1))
        lead = _lead(load(queue._words, slot), position, index_bits) - full
        if lead <= 0:
            return position
        position = _after(queue, position, lead)


@hot
def size(queue):
    """Return how many items there were: exact when nothing else runs, for the hints are searched from, not trusted."""
    index_bits = queue._index_bits
    mask = (1 << index_bits) - 1
    head = _first_open(queue, HEAD, 1)
    tail = _first_open(queue, TAIL, 0)
    slots = (tail & mask) - (head & mask)
    laps = minus(minus(tail, head), slots) >> index_bits
    return min(max(laps * queue.capacity + slots, 0), queue.capacity)


QUEUE_TYPE = QueueType()
