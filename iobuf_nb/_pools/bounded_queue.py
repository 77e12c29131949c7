"""`BoundedQueue`: the lock-free queue of `_free.queue` as an object, the same in Python and in kernels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .._free.queue import CLOSED_FLAG, LINE_PAIR, PROCESS, QUEUE_TYPE, SLOTS, TAIL, QueueType, size
from .._free.waiting import close_queue, get_and_wake, offer, put_and_wake, wait_to_get, wait_to_put
from .._jit import check
from .._jit.compile import hot
from .._jit.faces import in_kernels, is_in_kernels, kernel_face
from .._jit.methods import NO_ROOM, UNDECIDED, Operations, replace_methods
from .._memory.aligned import MAX_ITEMS, aligned_mem
from .._memory.segment import Segment, nothing
from .._threads.clock import limit_ns
from .._threads.outcomes import CLOSED, EMPTY, FORKED, NO_WAIT_IN_A_CHILD, OK, Closed, WouldBlock
from ..atomics import load
from . import sharing
from .repr import ReprMixin

if TYPE_CHECKING:
    from typing_extensions import Self

_SPARE_BITS = 10  # limit <= capacity << 10 leaves 2**52 puts before a state can repeat


@kernel_face(QueueType)
class BoundedQueue(sharing.Shareable, ReprMixin):
    """A lock-free bounded FIFO queue of integers, the same in Python and in kernels.

    Any number of threads may put and get concurrently. Everything but `close` and a `get` or `put` that waits is
    lock-free: a thread suspended at any point does not block the others.

    Parameters
    ----------
    capacity : int
        Maximum number of items, exactly; from 1 to 2**32.
    limit : int, optional
        Items are integers from 0 to `limit` - 1. By default `capacity`; at most 1024 * `capacity`, and at most 2**32.
    shared, name : optional
        As in `BufferPool`: a queue that other processes can use, too. What a process had put before it died is in it.

    Attributes
    ----------
    capacity, limit : int
        As given; readable in kernels.

    Raises
    ------
    TypeError, ValueError, MemoryError
        An argument is out of range; the system cannot provide the memory.

    Examples
    --------
    >>> queue = BoundedQueue(8)
    >>> queue.try_put(5), queue.try_put(3)
    (True, True)
    >>> queue.try_get(), queue.try_get(), queue.try_get()
    (5, 3, -1)

    The same object works in kernels, with the same methods:

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

    _KIND = "BoundedQueue"
    _OR_SHARE = "; or make it with shared=True, for other processes"

    __slots__ = ("_index_bits", "_segment", "_words", "capacity", "limit")

    def __init__(
        self, capacity: int, limit: int | None = None, *, shared: bool = False, name: str | None = None
    ) -> None:
        capacity = check.integer("capacity", capacity, 1, MAX_ITEMS)
        most = min(MAX_ITEMS, capacity << _SPARE_BITS)
        limit = capacity if limit is None else check.integer("limit", limit, 1, most)
        if sharing.is_shared(shared, name):
            contents = {"kind": self._KIND, "capacity": capacity, "limit": limit}
            self._share(Segment.make(contents, sharing.bytes_of(sharing.queue_bytes(capacity)), name))
            return
        words = aligned_mem(sharing.queue_bytes(capacity), 8 * LINE_PAIR).view(np.int64)
        words[PROCESS] = os.getpid()
        self._set_up(None, words, capacity, limit)

    @classmethod
    def attach(cls, name: str) -> Self:
        """Return the shared queue of a name, as another process of the same user has made it. Python only.

        Parameters and other errors are those of `BufferPool.attach`.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError, PermissionError
            As there.

        Examples
        --------
        >>> queue = BoundedQueue(4, name="numbers of the documentation")
        >>> queue.put(3)
        >>> BoundedQueue.attach("numbers of the documentation").get()
        3
        >>> queue.close()
        """
        return cls._attached(Segment.named(name, cls._KIND))

    @classmethod
    def _attached(cls, segment: Segment) -> Self:
        made = cls.__new__(cls)
        made._share(segment)
        return made

    @classmethod
    def _over(cls, segment: Segment, words: NDArray[np.int64], capacity: int, limit: int) -> Self:
        """Return the queue of a pool in a segment, over words that belong to that."""
        made = cls.__new__(cls)
        made._set_up(segment, words, capacity, limit)
        return made

    def _share(self, segment: Segment) -> None:
        capacity, limit = segment.contents["capacity"], segment.contents["limit"]
        self._set_up(segment, sharing.words(segment, sharing.queue_bytes(capacity)), capacity, limit)
        if segment.slot is None:
            segment.enter(nothing)

    def _set_up(self, segment: Segment | None, words: NDArray[np.int64], capacity: int, limit: int) -> None:
        self._segment, self._words, self.capacity, self.limit = segment, words, capacity, limit
        self._index_bits = (max(capacity, limit) - 1).bit_length()
        # Zeroed words are an empty queue: every slot has state 0, ready for the put of lap 0.
        assert words.ctypes.data % (8 * LINE_PAIR) == 0, "the cursors must start cache lines of their own"
        assert max(capacity, limit) <= 1 << self._index_bits, "slots and items must fit below the state"
        self._describe(QUEUE_TYPE)

    @in_kernels
    def _rescue(self) -> int:
        """Look for what the dead had: nothing, because items have no owners."""
        return 0

    def _put_first(self, n: int) -> None:
        """Put the items 0 to n-1 into a queue that has never been used; n < capacity."""
        self._words[SLOTS : SLOTS + n] = np.arange(n) + (1 << self._index_bits)
        self._words[TAIL] = n

    @in_kernels
    def _get_or_closed(self) -> int:
        """Take the oldest item; EMPTY if there is none, CLOSED if there is none and the queue is closed."""
        # Read the flag before the queue: items put before the close are still delivered.
        # C2 acquires from C1. Mutant: "a getter checks whether the queue is closed after it found nothing"
        closed = load(self._words, CLOSED_FLAG, "seq_cst")
        item = get_and_wake(self)
        return CLOSED if closed and item == EMPTY else item

    @in_kernels
    def _put_or_closed(self, item: int) -> int:
        """Append `item`; 0, EMPTY if the queue is full, or CLOSED."""
        if load(self._words, CLOSED_FLAG, "seq_cst"):  # C2 acquires from C1
            return CLOSED
        return 0 if put_and_wake(self, item) else EMPTY

    @in_kernels
    def try_put(self, item: int) -> bool:
        """Append `item`; return False, without effect, if the queue is full or closed.

        Never blocks; lock-free.

        Raises
        ------
        TypeError, ValueError
            `item` is not an integer from 0 to `limit` - 1.
        """
        item = check.integer("item", item, 0, self.limit - 1)
        return offer(self, item)

    @in_kernels
    def try_get(self) -> int:
        """Remove and return the oldest item, or return -1 if the queue is empty. Never blocks; lock-free."""
        return get_and_wake(self)

    @in_kernels
    def put(self, item: int, block: bool = True, timeout: float | None = None) -> None:
        """Append `item`, waiting for room if necessary.

        Parameters
        ----------
        item : int
            From 0 to `limit` - 1.
        block : bool
            If False, do not wait.
        timeout : float, optional
            Longest wait in seconds; no limit by default.

        Raises
        ------
        WouldBlock
            The queue stayed full until the timeout, or is full and `block` is False.
        Closed
            The queue is closed.
        TypeError, ValueError
            An argument has the wrong type or is out of range: `item` must be an integer, not a bool, and `block` a
            bool.
        RuntimeError
            The queue is full, and this is a forked child, which nothing could wake.

        Notes
        -----
        Waiting releases the GIL and ends with KeyboardInterrupt on Ctrl-C in the main thread; see `BufferPool.get`.
        """
        item = check.integer("item", item, 0, self.limit - 1)
        limit = limit_ns(block, timeout)
        if not offer(self, item):
            result = wait_to_put(self, item, limit)
            if result == CLOSED:
                raise Closed("put into a closed queue")
            if result == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            if result == EMPTY:
                raise WouldBlock("the queue stayed full until put timed out")

    @in_kernels
    def get(self, block: bool = True, timeout: float | None = None) -> int:
        """Remove and return the oldest item, waiting for one if necessary.

        Parameters and errors are those of `put`, with WouldBlock for a queue that stays empty. Closed is raised only
        when a closed queue is empty.
        """
        limit = limit_ns(block, timeout)
        item = get_and_wake(self)
        if item < 0:
            item = wait_to_get(self, limit)
            if item == CLOSED:
                raise Closed("get from a queue that is closed and empty")
            if item == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            if item == EMPTY:
                raise WouldBlock("the queue stayed empty until get timed out")
        return item

    @in_kernels
    def was_size(self) -> int:
        """Return the number of items it held a moment ago; exact while no other thread puts or gets."""
        return size(self)

    @is_in_kernels(close_queue)
    def close(self) -> None:
        """Refuse further puts; gets drain the queue and then raise Closed. Closing twice is not an error.

        A shared queue is closed for all processes. If this process gave it its name, that is removed; in a kernel, when
        it ends.

        A put concurrent with `close` may still land after a get has found the queue closed and empty: close it after
        its producers have finished.
        """
        close_queue(self)
        if self._segment is not None:
            self._segment.remove_name()

    @property
    @in_kernels
    def closed(self) -> bool:
        """Whether the queue has been closed."""
        return load(self._words, CLOSED_FLAG) != 0  # C2 acquires from C1

    def _figures(self) -> dict[str, object]:
        figures: dict[str, object] = {"capacity": self.capacity, "limit": self.limit}
        figures |= {"size": self.was_size(), "closed": self.closed}
        if self._segment is not None:
            figures |= {"shared": True, "name": self._segment.name}
        return figures

    def _occupancy(self) -> float:
        return self.was_size() / self.capacity


@hot
def _put_in_range(queue, item):
    if item >= queue.limit:
        return UNDECIDED
    return OK if offer(queue, item) else NO_ROOM


replace_methods((BoundedQueue,), lambda: Operations(QUEUE_TYPE, get_and_wake, _put_in_range))
