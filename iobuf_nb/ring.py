"""A bounded lock-free FIFO of small integers, for any number of putting and getting threads.

The algorithm belongs to the family of NBLFQ (Denis & Goedefroit, IPDPS 2025): every slot word carries the whole history
of its slot, so no word ever repeats and one compare-and-swap on it is the entire operation.

Words
    A *position* counts operations: ``lap << order | slot``, slot in [0, capacity), order the bits of an item.
    A slot's word is ``state << order | item``, and its state only grows:

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
    States repeat after ``2**(62 - order) * capacity`` puts, 2**62 for a queue of a power of two: a thread would have to
    sleep inside one operation for exactly that many. Comparison of states is by signed difference, so wrapping as such
    is harmless.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numba import types
from numba.core import errors

from . import _check
from ._check import FormattedValueError
from ._handle import QUEUE, WORDS, Handle, HandleType
from ._jit import hot, kernel, kernel_face, kernel_overload, out_of_line
from ._show import Shown
from .atomics import compare_and_swap, fetch_add, load, minus, pause, plus, store
from .memory import aligned_mem
from .wait import (
    CLOSED,
    EMPTY,
    EVERYBODY,
    FOREVER_NS,
    FORKED,
    LOOK_NS,
    NO_WAIT_IN_A_CHILD,
    SPIN_TURNS,
    PoolClosed,
    WouldBlock,
    check_signals,
    limit_ns,
    now_ns,
    park,
    process_id,
    signal_fd,
    spin,
    wake,
)

__all__ = ["BoundedQueue"]

# Word indices. The cursors and the slots lie 128 bytes apart, two cache lines, because a core fetches lines in pairs.
LINE = 16
HEAD = 0 * LINE  # hint: no position before it can be got
TAIL = 1 * LINE  # hint: no position before it can be put
CLOSED_FLAG = 2 * LINE  # 0, then 1 for ever
NONBLOCKING_FLAG = CLOSED_FLAG + 1  # 1: no operation waits, whatever it was asked
PROCESS = CLOSED_FLAG + 2  # whose threads may wait; a forked child has a copy of its own and nobody to wake it
GETTERS = 3 * LINE  # how many wait for an item
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
SLOTS = 4 * LINE

GET = -1  # in the place of an item: get one instead of putting it

TAKEN = -4  # beside EMPTY, CLOSED and FORKED: another thread was quicker
FIRST_PAUSES, MOST_PAUSES = 64, 512  # of some 40 ns: shorter ones do not end a race between two cores

MAX_ITEMS = 2**32
_SPARE_BITS = 10  # items <= capacity << 10 leaves 2**52 puts before a state repeats


class QueueType(HandleType):
    """The numba type of `BoundedQueue`."""

    kind = QUEUE
    attributes = ("words", "capacity", "order", "items")

    def __init__(self) -> None:
        super().__init__(
            "BoundedQueue",
            [("words", WORDS), ("capacity", types.int64), ("order", types.int64), ("items", types.int64)],
        )


@hot
def _next(queue, position):
    mask = (1 << queue.order) - 1
    return plus(position, 1) if (position & mask) + 1 < queue.capacity else plus(position | mask, 1)


@hot
def _lead(word, position, order):
    """Return how far the state in `word` is ahead of the one that a put at `position` waits for."""
    return minus(word, position >> order << order << 1) >> order


@hot
def _after(queue, position, lead):
    """Return the position after the last one that a state `lead` > 0 ahead proves done: laps ahead, if need be."""
    return _next(queue, plus(position, (lead - 1) >> 1 << queue.order))


@hot
def _put_at(queue, position, item):
    """Try to put at a position: 0, EMPTY if the queue is full, or TAKEN; and how far the state is ahead."""
    slot = SLOTS + (position & ((1 << queue.order) - 1))
    word = load(queue.words, slot, "seq_cst")
    lead = _lead(word, position, queue.order)
    if lead == 0:
        if compare_and_swap(queue.words, slot, word, plus(word, (1 << queue.order) + item), "seq_cst"):
            store(queue.words, TAIL, _next(queue, position))
            return 0, lead
    elif lead < 0:
        return EMPTY, lead
    return TAKEN, lead


@hot
def _get_at(queue, position):
    """Try to get at a position: the item, EMPTY, or TAKEN; and how far the state is ahead."""
    mask = (1 << queue.order) - 1
    slot = SLOTS + (position & mask)
    word = load(queue.words, slot, "seq_cst")
    lead = _lead(word, position, queue.order) - 1
    if lead == 0:
        item = word & mask
        if compare_and_swap(queue.words, slot, word, plus(word, (1 << queue.order) - item), "seq_cst"):
            store(queue.words, HEAD, _next(queue, position))
            return item, lead
    elif lead < 0:
        return EMPTY, lead
    return TAKEN, lead


@kernel
def _contend(queue, item, position, lead):
    """Put `item`, or get one if it is GET, after another thread was quicker at `position`: 0 or the item, or EMPTY.

    Whoever loses a compare-and-swap, or first finds a position taken, pauses and starts again from the hint: to let the
    winner run on its own for a while moves more items than to race it for each. A longer search goes on at once.
    """
    out_of_line()
    pauses = FIRST_PAUSES
    behind = False
    while True:
        if lead == 0 or not behind:
            behind = lead > 0
            pause(pauses)
            pauses = min(2 * pauses, MOST_PAUSES)
            position = load(queue.words, HEAD if item == GET else TAIL)
        else:
            position = _after(queue, position, lead)
        result, lead = _get_at(queue, position) if item == GET else _put_at(queue, position, item)
        if result != TAKEN:
            return result


@hot
def put_item(queue, item):
    """Append `item`, which must be in range; False if the queue is full."""
    position = load(queue.words, TAIL)
    result, lead = _put_at(queue, position, item)
    return (_contend(queue, item, position, lead) if result == TAKEN else result) == 0


@hot
def get_item(queue):
    """Take the oldest item; EMPTY if there is none."""
    position = load(queue.words, HEAD)
    result, lead = _get_at(queue, position)
    return _contend(queue, GET, position, lead) if result == TAKEN else result


@kernel
def put_items(queue, items, begin, end):
    """Append items[begin:end], which must be in range, as long as there is room: where the first left over stands."""
    position = load(queue.words, TAIL)
    for k in range(begin, end):
        result, lead = _put_at(queue, position, items[k])
        if result == TAKEN:
            result = _contend(queue, items[k], position, lead)
            position = load(queue.words, TAIL)
        else:
            position = _next(queue, position)
        if result == EMPTY:
            return k
    return end


@kernel
def get_items(queue, out, begin, end):
    """Take the oldest items into out[begin:end], as long as there are any: where the next would stand."""
    position = load(queue.words, HEAD)
    for k in range(begin, end):
        item, lead = _get_at(queue, position)
        if item == TAKEN:
            item = _contend(queue, GET, position, lead)
            position = load(queue.words, HEAD)
        else:
            position = _next(queue, position)
        if item == EMPTY:
            return k
        out[k] = item
    return end


@kernel
def notify(queue, event):
    """Wake one of those who wait for `event`."""
    out_of_line()
    fetch_add(queue.words, event, 1, "seq_cst")
    if wake(queue.words, event, 1) == 0 and event == GET_EVENT:
        let_loops_hear(queue)


@kernel
def let_loops_hear(queue):
    """Let the event loops whose coroutines wait have a look."""
    fd = load(queue.words, GET_FD) - 1
    if fd >= 0 and process_id() == load(queue.words, PROCESS):  # in a forked child the number may be another file's
        signal_fd(fd)


@hot
def put_and_wake(queue, item):
    """Append `item` and wake a getter; False if the queue is full."""
    done = put_item(queue, item)
    if done and load(queue.words, GETTERS, "seq_cst"):
        notify(queue, GET_EVENT)
    return done


@kernel
def put_all_and_wake(queue, items, begin, end):
    """Append items[begin:end], for which there must be room, and wake as many getters."""
    put_items(queue, items, begin, end)
    for _ in range(min(end - begin, load(queue.words, GETTERS, "seq_cst"))):
        notify(queue, GET_EVENT)


@hot
def get_and_wake(queue):
    """Take the oldest item and wake a putter; EMPTY if there is none."""
    item = get_item(queue)
    if item >= 0 and load(queue.words, PUTTERS, "seq_cst"):
        notify(queue, PUT_EVENT)
    return item


@hot
def offer(queue, item):
    """Append `item` unless the queue is full or closed."""
    return load(queue.words, CLOSED_FLAG) == 0 and put_and_wake(queue, item)


@kernel
def wait(source, item, timeout_ns):
    """Put `item` into a queue, or get one from a queue or pool if it is GET, when that can be done: 0 or the item.

    EMPTY when `timeout_ns` (-1: none) is over; CLOSED; FORKED in a forked child, which nobody would wake.
    """
    words = source.words
    waiters = GETTERS if item == GET else PUTTERS
    event = waiters + 1
    if load(words, NONBLOCKING_FLAG):
        timeout_ns = 0
    end = FOREVER_NS if timeout_ns < 0 else now_ns() + timeout_ns
    turn = 0
    while True:
        result = source._attempt(item)
        if result != EMPTY or now_ns() >= end:
            return result
        if turn < SPIN_TURNS:
            spin(turn)
            turn += 1
            continue
        check_signals()
        if process_id() != load(words, PROCESS):
            return FORKED
        longest = LOOK_NS if load(words, HANDED) else FOREVER_NS  # what a closed event loop was handed wakes nobody
        fetch_add(words, waiters, 1, "seq_cst")
        seen = load(words, event, "seq_cst")
        result = source._attempt(item)
        if result == EMPTY:
            park(words, event, seen, min(longest, end - now_ns()))
        fetch_add(words, waiters, -1, "seq_cst")
        if result != EMPTY:
            return result


@kernel
def shut(queue):
    """Close, and wake everybody."""
    store(queue.words, CLOSED_FLAG, 1, "seq_cst")
    for event in (GET_EVENT, PUT_EVENT):
        fetch_add(queue.words, event, 1, "seq_cst")
        wake(queue.words, event, EVERYBODY)
    let_loops_hear(queue)


@hot
def _first_open(queue, hint, full):
    """Return the first position, from a hint on, that has not been got (`full` 1) or put (`full` 0)."""
    order = queue.order
    position = load(queue.words, hint)
    while True:
        slot = SLOTS + (position & ((1 << order) - 1))
        lead = _lead(load(queue.words, slot), position, order) - full
        if lead <= 0:
            return position
        position = _after(queue, position, lead)


@hot
def size(queue):
    """Return how many items there were: exact when nothing else runs, for the hints are searched from, not trusted."""
    order = queue.order
    mask = (1 << order) - 1
    head = _first_open(queue, HEAD, 1)
    tail = _first_open(queue, TAIL, 0)
    slots = (tail & mask) - (head & mask)
    laps = minus(minus(tail, head), slots) >> order
    return min(max(laps * queue.capacity + slots, 0), queue.capacity)


def as_item(queue: Any, item: Any) -> int:
    """Return an item as an int64, or refuse it: the words have no room for others."""
    return _check.integer("item", item, 0, queue.items - 1)


@kernel_overload(as_item)
def _as_item_in_kernel(queue: Any, item: Any) -> Any:
    if not isinstance(item, types.Integer):
        raise errors.TypingError(f"item must be an integer, not {item}")

    def checked(queue, item):
        number = np.int64(item)
        if number < 0 or number >= queue.items:
            raise FormattedValueError("item must be from 0 to {}, not {}", queue.items - 1, number)
        return number

    return checked


class BoundedQueue(Handle, Shown):
    """A lock-free bounded FIFO of integers, the same in Python and in kernels.

    Any number of threads may put and get at once. Every method but `close` and `get`/`put` with waiting is lock-free;
    a thread that is stopped anywhere stops nobody else.

    Parameters
    ----------
    capacity : int
        The most items it holds, exactly; from 1 to 2**32.
    items : int, optional
        Items are integers from 0 to `items` - 1; by default `capacity`, at most 1024 times it and 2**32.

    Attributes
    ----------
    capacity, items : int
        As given; readable in kernels too.

    Raises
    ------
    TypeError, ValueError, MemoryError
        An argument is out of its range, or the system cannot give the memory.

    Examples
    --------
    >>> queue = BoundedQueue(8)
    >>> queue.try_put(5), queue.try_put(3)
    (True, True)
    >>> queue.try_get(), queue.try_get(), queue.try_get()
    (5, 3, -1)

    Inside a kernel it is the same object with the same methods:

    >>> from numba import njit
    >>> @njit(nogil=True)
    ... def drain(queue):
    ...     total = 0
    ...     item = queue.try_get()
    ...     while item >= 0:
    ...         total += item
    ...         item = queue.try_get()
    ...     return total
    >>> queue.put(2), queue.put(4), drain(queue)
    (None, None, 6)
    """

    __slots__ = ("capacity", "items", "order", "words")

    def __init__(self, capacity: int, items: int | None = None) -> None:
        self.capacity = _check.integer("capacity", capacity, 1, MAX_ITEMS)
        most = min(MAX_ITEMS, self.capacity << _SPARE_BITS)
        self.items = self.capacity if items is None else _check.integer("items", items, 1, most)
        self.order = (max(self.capacity, self.items) - 1).bit_length()
        # A fresh zeroed mapping is an empty queue: every state is 0, waiting for the put of lap 0.
        self.words = aligned_mem(8 * (SLOTS + self.capacity), 8 * LINE).view(np.int64)
        assert self.words.ctypes.data % (8 * LINE) == 0, "the cursors must start cache lines of their own"
        assert max(self.capacity, self.items) <= 1 << self.order, "slots and items must fit below the state"
        self.words[PROCESS] = os.getpid()
        self._describe(QUEUE_TYPE, self.words.ctypes.data, self.capacity, self.order, self.items)

    def _put_first(self, n: int) -> None:
        """Put the items 0 to n-1 at once into a queue that nobody has used yet; n < capacity."""
        self.words[SLOTS : SLOTS + n] = np.arange(n) + (1 << self.order)
        self.words[TAIL] = n

    def _attempt(self, item: int) -> int:
        """Put `item`, or get one if it is GET: 0 or the item, EMPTY if that cannot be done now, CLOSED if never."""
        # Read first: what was put before the queue was closed is still taken.
        closed = load(self.words, CLOSED_FLAG, "seq_cst")
        if item == GET:
            got = get_and_wake(self)
            return CLOSED if closed and got == EMPTY else got
        if closed:
            return CLOSED
        return 0 if put_and_wake(self, item) else EMPTY

    def try_put(self, item: int) -> bool:
        """Append `item` and return True, or return False at once if the queue is full or closed.

        Raises
        ------
        TypeError, ValueError
            `item` is not an integer from 0 to `items` - 1.
        """
        item = as_item(self, item)
        return offer(self, item)

    def try_get(self) -> int:
        """Take the oldest item, or return -1 at once if there is none."""
        return get_and_wake(self)

    def put(self, item: int, block: bool = True, timeout: float | None = None) -> None:
        """Append `item`, waiting for room if need be.

        Parameters
        ----------
        item : int
            From 0 to `items` - 1.
        block : bool
            False: do not wait.
        timeout : float, optional
            The longest wait in seconds; by default there is no limit.

        Raises
        ------
        WouldBlock
            There was no room and no (more) time to wait.
        PoolClosed
            The queue is closed.
        TypeError, ValueError
            An argument is out of its range, or of another kind: `item` must be no bool, and `block` one.
        """
        item = as_item(self, item)
        limit = limit_ns(block, timeout)
        if not offer(self, item):
            result = wait(self, item, limit)
            if result == CLOSED:
                raise PoolClosed("put into a closed queue")
            if result == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            if result == EMPTY:
                raise WouldBlock("the queue stayed full for as long as put was to wait")

    def get(self, block: bool = True, timeout: float | None = None) -> int:
        """Take the oldest item, waiting for one if need be.

        Parameters, WouldBlock and errors are those of `put`. PoolClosed comes only once a closed queue is empty.
        """
        limit = limit_ns(block, timeout)
        item = get_and_wake(self)
        if item < 0:
            item = wait(self, GET, limit)
            if item == CLOSED:
                raise PoolClosed("get from a queue that is closed and empty")
            if item == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            if item == EMPTY:
                raise WouldBlock("the queue stayed empty for as long as get was to wait")
        return item

    def was_size(self) -> int:
        """Return how many items it held a moment ago; exact while nobody else puts or gets."""
        return size(self)

    def close(self) -> None:
        """Refuse further puts; gets take what is left and then end with PoolClosed. Closing twice is no error.

        A put that runs at the same time may still land after a get has found the queue closed and empty: close when
        those who put have ended.
        """
        shut(self)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return load(self.words, CLOSED_FLAG) != 0

    def _figures(self) -> dict[str, object]:
        return {"capacity": self.capacity, "items": self.items, "size": self.was_size(), "closed": self.closed}

    def _occupancy(self) -> float:
        return self.was_size() / self.capacity


QUEUE_TYPE = QueueType()
kernel_face(QueueType, BoundedQueue, "_attempt try_put try_get put get was_size close closed")
