"""`BoundedQueue`: the lock-free queue of `_free.queue` as an object, the same in Python and in kernels."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, ClassVar, Generic, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._free.queue import (
    CLOSED_FLAG,
    GETTERS,
    LINE_PAIR,
    PROCESS,
    PUTTERS,
    QUEUE_TYPE,
    SLOTS,
    TAIL,
    QueueType,
    size,
)
from .._free.waiting import (
    close_queue,
    get_all_and_wake,
    get_and_wake,
    offer,
    put_all_and_wake,
    put_and_wake,
    wait_to_get,
    wait_to_put,
)
from .._jit import check
from .._jit.check import FormattedValueError
from .._jit.compile import hot, kernel
from .._jit.faces import in_kernels, is_in_kernels, kernel_face
from .._jit.methods import NO_ROOM, UNDECIDED, Operations, replace_methods
from .._memory.aligned import MAX_ITEMS, aligned_mem
from .._memory.segment import Segment, nothing
from .._threads.clock import limit_ns
from .._threads.outcomes import CLOSED, EMPTY, FORKED, NO_WAIT_IN_A_CHILD, OK, Closed, WouldBlock
from ..atomics import load
from . import sharing
from .allocator import check_indices, elements
from .drained import Drained, Item
from .repr import ReprMixin, waiting

if TYPE_CHECKING:
    from typing_extensions import Self

_SPARE_BITS = 10  # limit <= capacity << 10 leaves 2**52 puts before a state can repeat

#: What `get_or_closed` returns in place of an item.
ENDED, LATE = -1, -2


@kernel
def put_in_range(queue, items, n):
    """Append `n` items from the front while there is room: how many, or -1 - the position of one out of range."""
    for k in range(n):
        if items[k] < 0 or items[k] >= queue.limit:
            return -1 - k
    if load(queue._words, CLOSED_FLAG, "seq_cst"):  # C2 acquires from C1
        return 0
    return put_all_and_wake(queue, items, 0, n)


@kernel_face(QueueType)
class BoundedQueue(sharing.Shareable, Drained[Item], ReprMixin, Generic[Item]):
    """A lock-free bounded FIFO queue of integers, the same in Python and in kernels.

    Any number of threads may put and get concurrently. Everything but `close` and what waits is lock-free: a thread
    suspended at any point does not block the others.

    In Python ``for item in queue`` takes until the queue is closed and empty, ``async for`` does so in a coroutine, and
    ``with queue:`` closes it at the end. There are no `join` and `task_done`, because that an item was taken says
    nothing of the work on it: wait for the threads that do the work, or let them put what is done into another queue.

    Parameters
    ----------
    capacity : int
        Maximum number of items, exactly; from 1 to 2**32.
    limit : int, optional
        Items are integers from 0 to `limit` - 1. By default `capacity`; at most 1024 * `capacity`, and at most 2**32.
    dtype : dtype, optional
        What it holds instead of these integers: any ``np.int64`` or ``np.float64``, or records of up to 1024 bytes.
    shared, name : optional
        As in `BufferPool`: a queue that other processes can use, too. What a process had put before it died is in it.

    Attributes
    ----------
    capacity, limit : int
        As given; readable in kernels.
    dtype : dtype or None
        As given.

    Raises
    ------
    TypeError, ValueError, MemoryError
        An argument is out of range; the system cannot provide the memory.

    Notes
    -----
    With a `dtype`, -1 may be a value. Such a queue has `try_get_into` and `get_into` in place of `try_get` and
    `get_or_closed`; ``help(BoundedQueue(1, dtype=float))`` tells what else differs.

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

    Records, each put and got as a whole:

    >>> packets = BoundedQueue(8, dtype=[("index", "i8"), ("seconds", "f8")])
    >>> packets.put((3, 0.25))
    >>> float(packets.get()["seconds"])
    0.25
    """

    _KIND = "BoundedQueue"
    _OR_SHARE = "; or make it with shared=True, for other processes of this machine"
    _of_values: ClassVar[Any]  # the class of those with a dtype: `value_queue` sets it

    # The last ones are for a dtype.
    __slots__ = (
        *("_index_bits", "_segment", "_words", "capacity", "limit"),
        *("_cells", "_free", "_full", "_stride", "dtype"),
    )

    dtype: np.dtype[Any] | None

    if TYPE_CHECKING:  # what only those with a dtype have: see `ValueQueue`

        def get_into(self, out: NDArray[Any], k: int = 0, timeout: float | None = None) -> int: ...
        def try_get_into(self, out: NDArray[Any], k: int = 0) -> bool: ...

    if TYPE_CHECKING:  # what `get` returns, as far as the arguments tell

        @overload
        def __init__(
            self: BoundedQueue[int],
            capacity: int,
            limit: int | None = None,
            *,
            shared: bool = False,
            name: str | None = None,
        ) -> None: ...
        @overload
        def __init__(self: BoundedQueue[Any], capacity: int, *, dtype: DTypeLike) -> None: ...

    def __init__(
        self,
        capacity: int,
        limit: int | None = None,
        *,
        dtype: Any = None,
        shared: bool = False,
        name: str | None = None,
    ) -> None:
        if type(self) is self._of_values:  # called as the type of a queue: what this one is, its arguments say
            self.__class__ = BoundedQueue
        if dtype is not None:
            if type(self) is not BoundedQueue:
                raise TypeError(f"dtype must be None in a subclass of BoundedQueue, not {dtype!r:.60}")
            # One constructor, and methods in C of another class: objects of both have the same slots.
            self.__class__ = self._of_values
            self._hold_values(capacity, limit, dtype, shared or name is not None)
            return
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
        self._segment, self._words, self.capacity, self.limit, self.dtype = segment, words, capacity, limit, None
        self._index_bits = (max(capacity, limit) - 1).bit_length()
        # Zeroed words are an empty queue: every slot has state 0, ready for the put of lap 0.
        assert words.ctypes.data % (8 * LINE_PAIR) == 0, "the cursors must start cache lines of their own"
        assert max(capacity, limit) <= 1 << self._index_bits, "slots and items must fit below the state"
        self._describe(QUEUE_TYPE)

    def _hold_values(self, capacity: int, limit: int | None, dtype: Any, shared: bool) -> None:
        """Become a queue of values."""
        raise NotImplementedError

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
    def _put_or_closed(self, item: Any) -> int:
        """Append `item`; 0, EMPTY if the queue is full, or CLOSED."""
        if load(self._words, CLOSED_FLAG, "seq_cst"):  # C2 acquires from C1
            return CLOSED
        return 0 if put_and_wake(self, item) else EMPTY

    @in_kernels
    def try_put(self, item: Item) -> bool:
        """Append `item`; return False, without effect, if the queue is full or closed.

        Never blocks; lock-free.

        Raises
        ------
        TypeError, ValueError
            `item` is not an integer from 0 to `limit` - 1.
        """
        item = check.integer("item", item, 0, self.limit - 1)  # type: ignore[assignment, arg-type]
        return offer(self, item)

    @in_kernels
    def try_get(self) -> int:
        """Remove and return the oldest item, or return -1 if the queue is empty. Never blocks; lock-free."""
        return get_and_wake(self)

    @in_kernels
    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
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
        item = check.integer("item", item, 0, self.limit - 1)  # type: ignore[assignment, arg-type]
        limit = limit_ns(block, timeout)
        if not offer(self, item):
            result = wait_to_put(self, item, limit)
            if result == CLOSED:
                raise Closed("put into a closed queue")
            if result == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            if result == EMPTY:
                raise WouldBlock("put found the queue full for as long as it may wait")

    @in_kernels
    def get(self, block: bool = True, timeout: float | None = None) -> Item:
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
                raise WouldBlock("get found the queue empty for as long as it may wait")
        return item

    @in_kernels
    def get_or_closed(self, timeout: float | None = None) -> int:
        """Remove and return the oldest item, waiting for one: a `get` for loops, in which no exception ends them.

        Parameters
        ----------
        timeout : float, optional
            Longest wait in seconds; no limit by default.

        Returns
        -------
        int
            The item; or -1 if the queue is closed and empty, or -2 if it stayed empty until the timeout.

        Raises
        ------
        TypeError, ValueError
            `timeout` is neither None nor a number >= 0.
        RuntimeError
            The queue is empty, and this is a forked child, which nothing could wake.

        Examples
        --------
        >>> queue = BoundedQueue(4)
        >>> queue.put(3)
        >>> queue.get_or_closed(), queue.get_or_closed(timeout=0.0)
        (3, -2)
        >>> queue.close()
        >>> queue.get_or_closed()
        -1
        """
        limit = limit_ns(True, timeout)
        item = get_and_wake(self)
        if item < 0:
            item = wait_to_get(self, limit)
            if item == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            if item < 0:
                return ENDED if item == CLOSED else LATE
        return item

    @in_kernels
    def get_many(self, out: NDArray[Any]) -> int:
        """Remove up to len(out) of the oldest items, write them to the front of `out`, and return how many.

        Parameters
        ----------
        out : array of int64, shape (n,)
            Writable.

        Returns
        -------
        int
            From 0 to n. Never blocks; other threads may get and put in between.

        Raises
        ------
        TypeError, ValueError
            `out` is not such an array; it is read-only.
        """
        check_indices("out", out, True)
        return get_all_and_wake(self, elements(out), 0, len(out))

    @in_kernels
    def put_many(self, items: NDArray[Any]) -> int:
        """Append items from the front of `items` while there is room, and return how many.

        Parameters
        ----------
        items : array of int64, shape (n,)
            From 0 to `limit` - 1.

        Returns
        -------
        int
            From 0 to n; 0 if the queue is full or closed. Never blocks; other threads may get and put in between.

        Raises
        ------
        TypeError, ValueError
            `items` is not such an array, or one of them is out of range; nothing has been put.
        """
        check_indices("items", items, False)
        count = put_in_range(self, elements(items), len(items))
        if count < 0:
            raise FormattedValueError("items must be from 0 to {}, not {}", self.limit - 1, items[-1 - count])
        return count

    async def aget(self, timeout: float | None = None) -> Item:
        """Do as `get` does, yielding to the event loop while it waits; parameters and errors as in `get`. Python only.

        A coroutine that is cancelled has taken nothing. Whoever takes many items in a coroutine awaits one, and gets
        what else is there by `get_many`.
        """
        limit = limit_ns(True, timeout)
        item: Any = self.try_get()
        if item >= 0:
            return item
        closed = "get from a queue that is closed and empty"
        return await self._until(self._get_or_closed, self, GETTERS, limit, closed, "aget found the queue empty")

    async def aput(self, item: Item, timeout: float | None = None) -> None:
        """Do as `put` does, yielding to the event loop while it waits; parameters and errors as in `put`. Python only.

        A coroutine that is cancelled has put nothing.
        """
        item = check.integer("item", item, 0, self.limit - 1)  # type: ignore[assignment, arg-type]
        limit = limit_ns(True, timeout)
        if not self.try_put(item):
            attempt = functools.partial(self._put_or_closed, item)
            await self._until(attempt, self, PUTTERS, limit, "put into a closed queue", "aput found the queue full")

    async def _until(self, attempt: Any, queue: Any, waiters: int, limit: int, closed: str, late: str) -> Any:
        """Await what `attempt` finds, which waits as `waiters` of `queue` do."""
        from .aio_shared import until  # imported here: asyncio is slow to import

        return await until(attempt, self._rescue, queue, waiters, limit, closed, f"{late} for as long as it may wait")

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
        figures = {"capacity": self.capacity, "limit": self.limit, "size": self.was_size(), "closed": self.closed}
        return figures | sharing.figures(self._segment)

    def _occupancy(self) -> float:
        return self.was_size() / self.capacity

    def _details(self) -> dict[str, object]:
        return {"waiting to get": waiting(self._words), "waiting to put": waiting(self._words, PUTTERS)}


@hot
def _has_limit(queue):
    """Return whether this is a queue of integers: those with a dtype are BoundedQueues to Python, too."""
    return queue.limit > 0


@hot
def _put_one(queue, item):
    if item >= queue.limit:
        return UNDECIDED
    return OK if offer(queue, item) else NO_ROOM


@hot
def _get_many(queue, out, n):
    return get_all_and_wake(queue, out, 0, n)


@hot
def _put_many(queue, items, n):
    count = put_in_range(queue, items, n)
    return count if count >= 0 else UNDECIDED


replace_methods(
    (BoundedQueue,),
    lambda: Operations(QUEUE_TYPE, get_and_wake, _put_one, _get_many, _put_many, _has_limit),
    bulk=True,
    like_get=("get_or_closed",),
)
