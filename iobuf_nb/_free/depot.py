"""The depot: free indices in chunks, of which one compare-and-swap moves up to CHUNK; beside the queue, for bulk calls.

It is a second queue (`queue`), in which an item is a *chunk*: a place for CHUNK indices, and how many of them it holds.

Words
    A slot's word is ``state << SHIFT | chunk << COUNT_BITS | count``. The state grows as in the queue: odd while the
    chunk holds indices, even while it holds none. A *position* counts puts, and gets: ``lap << order | slot``. There
    are as many chunks as slots and seats. A *seat* holds one chunk that is in no slot, for the threads that hash to it:
    its word is 1 + the chunk, or 0 while a thread has it.

Put, four steps
    1. swap the seat's chunk out, and write up to CHUNK indices into it;
    2. start at the tail hint, and find the first slot whose state waits for a put, as in the queue;
    3. compare-and-swap the chunk and the count in, with the next state: this is the put;
    4. move the hint; the chunk that was in the slot holds nothing, and takes the place in the seat.

Get, three steps
    1. find the first slot that has a chunk, and copy the last `n` of its indices, or all;
    2. compare-and-swap the count down, or if nothing is left, the next state in: this is the get;
    3. move the hint, if nothing is left.

Why it is correct
    No word of a slot ever repeats: the state grows, and within one state the count falls. So a compare-and-swap that
    succeeds proves that the chunk had not left the slot, and its indices had not changed, since the word was read: a
    copy that was torn is dropped. A chunk is in one slot, in one seat, or with one thread. Its indices are written only
    by the thread that has it. A thread that stops anywhere leaves a valid depot and stops no other.

EMPTY is exact
    Puts go in strict order of positions. So while the word of the first slot without a chunk is the same, nothing has
    been put. Who finds no chunk, then the queue empty, and then that word the same, knows that at the moment of the
    second look all were empty (`free_list.take_spare`).

Bound
    A thread that dies between steps 1 and 4 of a put takes a chunk with it, and no index but those it was putting. If
    all seats have lost theirs, bulk puts use the queue. States repeat after ``2**(56 - order)`` laps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._jit.compile import hot, kernel, out_of_line, tiny
from .._jit.instructions import minus, plus
from .._memory.aligned import aligned_mem
from .._threads.copies import load_many, store_many
from .._threads.gil import thread_id
from .._threads.outcomes import EMPTY
from ..atomics import compare_and_swap, fence, load, pause, store, swap
from .queue import FIRST_PAUSES, LINE_PAIR

CHUNK = 32
LEAST = 4  # indices that are worth a chunk
COUNT_BITS = 6
LEAST_ORDER, MOST_ORDER = 6, 12  # of the number of slots, 2**order
_SLOTS_FOR = 16  # one slot for so many buffers: half full chunks fit, too
SEATS = 64

# Word indices. The slots are followed by the seats, a cache line each, and the chunks.
HEAD = 0 * LINE_PAIR  # hint: no chunk before this position is left
TAIL = 1 * LINE_PAIR  # hint: no position before it can be put
ORDER = 2 * LINE_PAIR
SLOTS = 3 * LINE_PAIR
SEAT_WORDS = 8


def order_for(capacity: int) -> int:
    """Return the order of a depot for so many buffers."""
    return min(max((capacity // _SLOTS_FOR).bit_length(), LEAST_ORDER), MOST_ORDER)


def depot_bytes(order: int) -> int:
    """Return the bytes of the words of a depot."""
    slots = 1 << order
    seats = min(slots, SEATS)
    return 8 * (SLOTS + slots + seats * SEAT_WORDS + (slots + seats) * CHUNK)


def new_depot(capacity: int) -> NDArray[np.int64]:
    """Return the words of an empty depot."""
    order = order_for(capacity)
    return lay_out(aligned_mem(depot_bytes(order), 8 * LINE_PAIR).view(np.int64), order)


def lay_out(words: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """Make zeroed words an empty depot."""
    words[ORDER] = order
    slots, seats, _ = _parts(words)
    slots[:] = np.arange(len(slots)) << COUNT_BITS
    seats[:] = 1 + len(slots) + np.arange(len(seats))
    return words


def _parts(words: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Return the slots, the seats and the chunks of a depot. Compiles nothing, as a forked child must not."""
    slots = 1 << int(words[ORDER])
    number = min(slots, SEATS)
    seats = SLOTS + slots
    chunks = seats + number * SEAT_WORDS
    end = chunks + (slots + number) * CHUNK
    return words[SLOTS:seats], words[seats:chunks:SEAT_WORDS], words[chunks:end].reshape(-1, CHUNK)


@tiny
def seat_at(order, number):
    """Return where the word of a seat is."""
    return SLOTS + (1 << order) + number * SEAT_WORDS


@tiny
def chunk_of(order, word):
    """Return the number of the chunk that a slot's word names."""
    return word >> COUNT_BITS & ((2 << order) - 1)


@tiny
def chunk_at(order, word):
    """Return where the indices begin of the chunk that a slot's word names."""
    slots = 1 << order
    return SLOTS + slots + min(slots, SEATS) * SEAT_WORDS + chunk_of(order, word) * CHUNK


@tiny
def count_of(word):
    """Return how many indices are in the chunk of a slot's word."""
    return word & ((1 << COUNT_BITS) - 1)


@tiny
def _shift(order):
    """Return the bit at which the state begins: below it are a chunk, of less than 2 * 2**order, and a count."""
    return COUNT_BITS + order + 1


@tiny
def _lead(word, position, order):
    """Return how far the state in `word` is ahead of the one that a put at `position` waits for."""
    return minus(word, position >> order << (_shift(order) + 1)) >> _shift(order)


@tiny
def _after(position, lead, order):
    """Return the position after the last one that a state `lead` > 0 ahead proves done, possibly laps ahead."""
    return plus(position, 1 + ((lead - 1) >> 1 << order))


@hot
def _find(words, order, hint, full):
    """Return the first position that has not been put (`full` 0) or got (`full` 1), its slot, its word and its lead.

    The lead is 0, or if there is no room, or no chunk, negative.
    """
    position = load(words, hint)  # J5 acquires from J6: a hint
    while True:
        slot = SLOTS + (position & ((1 << order) - 1))
        # J1 acquires from J3: the indices. J2 acquires from J4: who emptied the chunk has read them. It is a getter's
        # last look before it parks. Mutant: "a slot is read by a relaxed load"
        word = load(words, slot, "seq_cst")
        lead = _lead(word, position, order) - full
        if lead <= 0:
            return position, slot, word, lead
        position = _after(position, lead, order)


@hot
def _without(word, count, order):
    """Return the word after a get of `count` of its indices: if it was all, that of the next state."""
    shift = _shift(order)
    left = word - count
    return plus(word >> shift << shift, 1 << shift) | (left & ((1 << shift) - 1)) if count_of(left) == 0 else left


@hot
def _take(words, slot, position, word, count, order):
    """Take the last `count` of a chunk's indices; False if another thread was there first."""
    # J4 releases to J2: the indices have been read. Mutant: "a get of a chunk is a plain store"
    if not compare_and_swap(words, slot, word, _without(word, count, order), "seq_cst"):
        pause(FIRST_PAUSES)
        return False
    if count == count_of(word):
        store(words, HEAD, plus(position, 1))  # J6 releases to J5
    return True


@hot
def take_chunks(words, out, begin, end):
    """Take indices into out[begin:end] while there are chunks.

    Return the index after the last; and if that is not `end`, a slot and its word: nothing is put before that changes.
    """
    order = load(words, ORDER)  # J0 reads a constant
    while True:
        position, slot, word, lead = _find(words, order, HEAD, 1)
        if lead < 0:
            return begin, slot, word
        held = count_of(word)
        count = min(end - begin, held)
        # Relaxed, before the compare-and-swap: the chunk may be another's afterwards.
        # Mutant: "a chunk is read after it was taken"
        load_many(words, chunk_at(order, word) + held - count, out, begin, count)
        if _take(words, slot, position, word, count, order):
            begin += count
            if begin == end:
                return begin, slot, word


@kernel
def take_one(words):
    """Take an index from a chunk, or EMPTY; with that, a slot and its word, as `take_chunks` does."""
    out_of_line()
    order = load(words, ORDER)  # J0 reads a constant
    while True:
        position, slot, word, lead = _find(words, order, HEAD, 1)
        if lead < 0:
            return EMPTY, slot, word
        index = load(words, chunk_at(order, word) + count_of(word) - 1, "relaxed")
        if _take(words, slot, position, word, 1, order):
            return index, slot, word


@hot
def _put_chunk(words, order, indices, begin, count):
    """Put indices[begin:begin + count] by one compare-and-swap; False if no chunk or no slot is free."""
    seat = seat_at(order, (thread_id() + (thread_id() >> 12)) & (min(1 << order, SEATS) - 1))
    # J7 acquires from J8: its indices have been read. Mutant: "a seat is taken by a plain load"
    chunk = swap(words, seat, 0) - 1
    if chunk < 0:
        return False
    done = False
    store_many(words, chunk_at(order, chunk << COUNT_BITS), indices, begin, count)
    while True:
        position, slot, word, lead = _find(words, order, TAIL, 0)
        if lead < 0:
            break
        shift = _shift(order)
        full = plus(word >> shift << shift, 1 << shift) | chunk << COUNT_BITS | count
        # J3 releases to J1, J11, J12: the indices, written before. Mutants: "a chunk is put before it is written",
        # "a chunk is put by a relaxed compare-and-swap", "a put of a chunk is a plain store"
        if compare_and_swap(words, slot, word, full, "seq_cst"):
            store(words, TAIL, plus(position, 1))  # J6 releases to J5
            chunk, done = chunk_of(order, word), True
            break
        pause(FIRST_PAUSES)
    # J8 releases to J7: only now, the chunk is this thread's. Mutants: "a chunk is given up before it is put",
    # "the chunk that was put stays in the seat"
    store(words, seat, 1 + chunk)
    return done


@hot
def put_chunks(words, indices, begin, end):
    """Put indices[begin:end], in chunks of LEAST to CHUNK, while there is room; return the index of the first left."""
    order = load(words, ORDER)  # J0 reads a constant
    while end - begin >= LEAST:
        count = min(end - begin, CHUNK)
        if not _put_chunk(words, order, indices, begin, count):
            break
        begin += count
    return begin


@kernel
def in_chunks(words):
    """Return how many indices there were a moment ago; exact at rest."""
    found = 0
    order = load(words, ORDER)  # J0 reads a constant
    for slot in range(SLOTS, SLOTS + (1 << order)):
        found += count_of(load(words, slot))  # J1 acquires from J3
    return found


@kernel
def mark_chunks(words, marked):
    """Note which indices are in chunks; what moves meanwhile may be missed."""
    order = load(words, ORDER)  # J0 reads a constant
    out = np.empty(CHUNK, np.int64)
    for slot in range(SLOTS, SLOTS + (1 << order)):
        while True:
            word = load(words, slot)  # J1 acquires from J3
            load_many(words, chunk_at(order, word), out, 0, count_of(word))
            # J12 acquires from J3: nothing was written into the chunk while it was read.
            fence("acquire")
            if load(words, slot, "relaxed") == word:
                break
        for k in range(count_of(word)):
            marked[out[k]] = True


def mend(words: NDArray[np.int64]) -> None:
    """In a forked child, give the chunks that the parent's other threads had to seats that have none."""
    slots, seats, chunks = _parts(words)
    held = {*_chunks_of(slots).tolist(), *(seats - 1).tolist()}
    lost = [chunk for chunk in range(len(chunks)) if chunk not in held]
    seats[np.flatnonzero(seats == 0)] = 1 + np.array(lost, np.int64)


def _chunks_of(slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each slot's chunk."""
    return slots >> COUNT_BITS & (2 * len(slots) - 1)


def indices(words: NDArray[np.int64]) -> list[int]:
    """Return the indices in all chunks, at rest."""
    slots, _, chunks = _parts(words)
    counts = slots & ((1 << COUNT_BITS) - 1)
    found: list[int] = []
    for chunk, count in zip(_chunks_of(slots), counts, strict=True):
        found += chunks[chunk, :count].tolist()
    return found
