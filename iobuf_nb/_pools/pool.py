"""Pools: buffers (or objects) handed out by index, each to one owner at a time.

The free indices are `_free.free_list`; what gets and puts them is `allocator`; where the buffers lie is `layout`.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .._free import owners
from .._free.deque import DEQUE_WORDS, FENCES_FAIL
from .._free.free_list import ITEM_POOL, ITEM_POOL_UNCHECKED, PoolType, give, give_many, take, take_many, total
from .._free.owners import ROWS, bulk_words
from .._free.queue import CLOSED_FLAG, LINE_PAIR, NONBLOCKING_FLAG, PROCESS, size
from .._free.waiting import close_queue, wait_to_get
from .._jit import check
from .._jit.compile import hot
from .._jit.faces import in_kernels, kernel_face, kernel_method
from .._jit.methods import Operations
from .._memory.aligned import MAX_BYTES, MAX_ITEMS, aligned_mem, round_up
from .._memory.borrowed import memory_info
from .._memory.iovec import IoVec, iovec_over
from .._threads.clock import limit_ns
from .._threads.outcomes import CLOSED, EMPTY, NO_WAIT_IN_A_CHILD, UNFENCED, Closed, WouldBlock
from ..atomics import load, store
from .allocator import Allocator, checked_index, count_or_rest, elements
from .bounded_queue import METHODS, BoundedQueue
from .layout import BufferPoolType, buffer, buffer_pool_type, copy_into, layout_of, stride_of
from .magazine import Magazine

if TYPE_CHECKING:
    from ..uring import RegisteredPool, Ring
    from .aio import Getters


@kernel_face(PoolType)
class _Pool(Allocator):
    """What all pools share: indices that are free or held."""

    __slots__ = ("_bulks", "_deques", "_free_deques", "_getters", "_owners", "_queue", "capacity", "checked")

    checked: bool

    def _set_up(self, capacity: int, checked: bool, nonblocking: bool) -> None:
        self.capacity = capacity
        self.checked = bool(checked)
        self._getters: Getters | None = None
        # Some slots more than indices: a get and the put after it then touch different cache lines (a third faster).
        self._queue = BoundedQueue(min(capacity + LINE_PAIR, MAX_ITEMS), capacity)
        self._queue._put_first(capacity)
        self._owners = aligned_mem(8 * round_up(capacity, ROWS), 8 * LINE_PAIR).view(np.int64)
        self._bulks = bulk_words(capacity)
        self._deques = aligned_mem(8 * DEQUE_WORDS, 8 * LINE_PAIR).view(np.int64)
        self._free_deques: deque[int] = deque()  # numbers whose magazines are closed
        self.nonblocking = nonblocking

    @property
    @in_kernels
    def _words(self) -> Any:
        """The words of the ring, on which those who wait for a buffer wait."""
        return self._queue._words

    @in_kernels
    def _get_or_closed(self) -> int:
        if load(self._queue._words, CLOSED_FLAG, "seq_cst"):  # C2 acquires from C1
            return CLOSED
        index = take(self)
        # T8 acquires from T7
        return UNFENCED if index == EMPTY and load(self._deques, FENCES_FAIL) else index

    @in_kernels
    def _take(self) -> int:
        return take(self)

    @in_kernels
    def _wait(self, limit: int) -> int:
        return wait_to_get(self, limit)

    @in_kernels
    def _give(self, index: int) -> int:
        return give(self, index)

    @in_kernels
    def _take_many(self, out: NDArray[np.int64]) -> int:
        return take_many(self, elements(out), 0, len(out), True)

    @in_kernels
    def _give_many(self, indices: NDArray[np.int64]) -> int:
        return give_many(self, elements(indices), len(indices))

    async def aget(self, timeout: float | None = None) -> int:
        """Take a free buffer and return its index, letting the event loop run on while there is none.

        Parameters and errors are those of `get`, and so is what the index means; Python only.

        Raises
        ------
        RuntimeError
            This is a forked child of the pool's process.

        Notes
        -----
        First come, first served, in each event loop; several loops, in several threads, may wait for one pool. A
        coroutine that is cancelled or closed takes no buffer along. Any put, also one in a kernel, ends the wait
        through a file descriptor that the loop listens to: nothing polls.

        Threads are quicker than a loop to take what was put. So of the puts that come while coroutines wait, every
        other one hands its buffer over to them: the n-th in line has its turn after 2n puts at the latest, however many
        threads get and put. What a loop has not fetched after 50 ms, because it is blocked or was closed, others take.

        Examples
        --------
        >>> import asyncio
        >>> pool = BufferPool(1, 16)
        >>> async def use():
        ...     async with pool.alease(timeout=1.0) as buffer:
        ...         buffer[0] = 1
        >>> async def both():
        ...     await asyncio.gather(use(), use())
        >>> asyncio.run(both())
        """
        limit = limit_ns(True, timeout)
        if not self._getters:  # nobody to push in before
            index = take(self)
            if index >= 0:
                return index
        if self.closed:
            raise Closed("get from a closed pool")
        if self.nonblocking:
            raise WouldBlock("no buffer is free, and this pool does not wait")
        if os.getpid() != load(self._queue._words, PROCESS):  # N4 reads a constant
            raise RuntimeError(NO_WAIT_IN_A_CHILD)
        from .aio import getters_of  # asyncio takes long to import

        return await getters_of(self).get(self, None if limit < 0 else limit / 1e9)

    def magazine(self, size: int = 32) -> Magazine:
        """Return a magazine over this pool: a stack of at most `size` free buffers for one thread; Python only.

        See `iobuf_nb.Magazine`, also for errors.
        """
        return Magazine(self, size)

    @in_kernels
    def available(self) -> int:
        """Return how many buffers were free a moment ago; exact while nobody else gets or puts."""
        return min(size(self._queue) + total(self._deques), self.capacity)

    @property
    @in_kernels
    def closed(self) -> bool:
        """Whether the pool has been closed; readable in kernels."""
        return load(self._queue._words, CLOSED_FLAG) != 0  # C2 acquires from C1

    @property
    @in_kernels
    def nonblocking(self) -> bool:
        """Whether `get` raises WouldBlock instead of waiting, in Python and in kernels; settable in Python."""
        return load(self._queue._words, NONBLOCKING_FLAG) != 0  # W5 acquires from S1

    @nonblocking.setter
    def nonblocking(self, value: bool) -> None:
        store(self._queue._words, NONBLOCKING_FLAG, int(bool(value)), "seq_cst")  # S1 releases to W5

    @asynccontextmanager
    async def alease(self, timeout: float | None = None) -> AsyncIterator[Any]:
        """Get a buffer as `aget` does for the length of an ``async with`` block, and put it back whatever happens."""
        index = await self.aget(timeout)
        try:
            yield self.value(index)
        finally:
            self.put(index)

    def holders(self) -> dict[int, int]:
        """Return the thread identity (`threading.get_ident`) that holds each buffer that is out, by index.

        A snapshot that other threads may outdate at once. A buffer handed on to another thread counts as held by the
        one that got it. ValueError if the pool was made with ``checked=False``.
        """
        if not self.checked:
            raise ValueError("holders() needs a pool made with checked=True; this one does not write them down")
        return owners.holders(self._owners, self._bulks)

    def close(self) -> None:
        """End all waiting and further gets with Closed; closing twice is no error.

        Buffers that are still out stay valid and may be put back. In Python they are named in a ResourceWarning;
        inside a kernel `close` only closes. A checked pool that is dropped unclosed with buffers out warns likewise.
        """
        if not self.closed:
            close_queue(self._queue)
            self._warn_of_leaks("closed", self.capacity - self.available())

    def _warn_of_leaks(self, how: str, out: int) -> None:
        if out == 0:
            return
        message = f"{type(self).__name__} of {self.capacity} was {how} with {out} of its buffers still out"
        if self.checked:
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            held = [f"{i} by {names.get(who, f'thread {who}')}" for i, who in list(self.holders().items())[:8]]
            message += ": " + ", ".join(held) + (", ..." if out > len(held) else "")
        warnings.warn(message, ResourceWarning, stacklevel=3)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if finalizing():  # the names below may be gone
            return
        # Plain reads: nobody else can use the pool any more, and the collector is no place to compile a kernel.
        if hasattr(self, "_members") and self.checked and not self._queue._words[CLOSED_FLAG]:
            self._warn_of_leaks("dropped", int(np.count_nonzero(self._owners)))

    def _figures(self) -> dict[str, object]:
        free = self.available()
        return {"capacity": self.capacity, "in_use": self.capacity - free, "checked": self.checked}

    def _occupancy(self) -> float:
        return 1 - self.available() / self.capacity


@kernel_face(BufferPoolType)
class BufferPool(_Pool):
    """A lock-free pool of page-aligned buffers, the same in Python and in kernels.

    All memory is allocated, zeroed, when the pool is made. `get` hands out the index of a free buffer, `value` turns it
    into an array without a copy, `put` takes it back. Any number of threads may do so at once.

    Parameters
    ----------
    capacity : int
        How many buffers, exactly; from 1 to 2**32.
    size : Tier or int, optional
        Bytes of a buffer, which is then a uint8 array; from 1 to 2**40.
    shape, dtype : optional, instead of `size`
        Shape and element type of a buffer: ``BufferPool(16, shape=(64, 64), dtype="f4")``. What kernels cannot read, or
        would read in another way, is refused: objects, halves, another byte order than the machine's.
    checked : bool
        Write down who holds each buffer, and refuse to take back what is not out. False takes that out of kernels.
    nonblocking : bool
        See the property.
    page_size : int, optional
        Alignment of the arena in bytes, a power of two; by default `iobuf_nb.page_size()`.
    huge_pages, lock, populate : bool
        As in `aligned_mem`.

    Attributes
    ----------
    capacity, buffer_size, stride : int
        Buffers, bytes of one, and bytes from one to the next; readable in kernels. Buffers of a page or more start on
        pages, those of a cache line or more on cache lines, smaller ones at powers of two.
    arena : int
        The address of buffer 0; readable in kernels.
    shape : tuple of int
        Of one buffer; readable in kernels.
    dtype : numpy.dtype
        Of one buffer.
    checked : bool

    Raises
    ------
    TypeError, ValueError, MemoryError, OSError
        An argument is out of its range, or the system cannot give the memory; see `aligned_mem`.

    Examples
    --------
    >>> from iobuf_nb import BufferPool, Tier
    >>> pool = BufferPool(1024, Tier.SMALL)
    >>> index = pool.get()
    >>> buffer = pool.value(index)
    >>> buffer[:5] = list(b"hello")
    >>> pool.put(index)

    >>> from numba import njit
    >>> @njit(nogil=True)
    ... def work(pool):
    ...     index = pool.get()
    ...     buffer = pool.value(index)
    ...     buffer[:] = 1
    ...     total = buffer.sum()
    ...     pool.put(index)
    ...     return total
    >>> int(work(pool))
    1024
    """

    __slots__ = ("_buffers", "_memory", "_memory_info", "arena", "buffer_size", "dtype", "shape", "stride")

    def __init__(
        self,
        capacity: int,
        size: int | None = None,
        *,
        shape: int | tuple[int, ...] | None = None,
        dtype: DTypeLike | None = None,
        checked: bool = True,
        nonblocking: bool = False,
        page_size: int | None = None,
        huge_pages: bool = False,
        lock: bool = False,
        populate: bool = False,
    ) -> None:
        capacity = check.integer("capacity", capacity, 1, MAX_ITEMS)
        self.shape, self.dtype, element = layout_of(size, shape, dtype)
        self.buffer_size = math.prod(self.shape) * self.dtype.itemsize
        self.stride = stride_of(self.buffer_size)
        arena = aligned_mem(
            check.integer("capacity * stride", capacity * self.stride, 1, MAX_BYTES),
            page_size,
            huge_pages=huge_pages,
            lock=lock,
            populate=populate,
        )
        self.arena = arena.ctypes.data
        rows = arena.reshape(capacity, self.stride)[:, : self.buffer_size]
        self._buffers = rows.view(self.dtype).reshape(capacity, *self.shape)
        self._memory, self._memory_info = memory_info(arena)
        self._set_up(capacity, checked, nonblocking)
        self._describe(buffer_pool_type(element, len(self.shape), self.checked))

    @in_kernels
    def value(self, index: int) -> NDArray[Any]:
        """Return buffer `index` as an array, without a copy.

        Returns
        -------
        array of the pool's shape and dtype
            It keeps the memory alive. In a kernel it does so as soon as it may outlive the call: returned, yielded, or
            kept in a typed container.

        Raises
        ------
        IndexError
            `index` is not from 0 to `capacity` - 1; not checked in kernels if the pool is not.
        TypeError
            `index` is not an integer; a bool is none.

        Notes
        -----
        Whose buffer it is, is not looked at: use it between your `get` and the `put`.
        """
        return buffer(self, index)

    @in_kernels
    def set_value(self, index: int, data: ArrayLike | bytes) -> None:
        """Copy `data` over the beginning of buffer `index`; what it does not reach stays.

        Parameters
        ----------
        index : int
        data : array, or bytes-like if the buffers are rows of bytes
            Of the pool's dtype and shape, or shorter along the first axis; Python also takes lists.

        Raises
        ------
        IndexError, TypeError, ValueError
            No such buffer, as in `value`; data of another kind; longer than the buffer.
        """
        copy_into(buffer(self, index), data)

    @in_kernels
    def iovec(self, indices: ArrayLike, lengths: ArrayLike | None = None) -> IoVec:
        """Return an iovec over these buffers, for readv(2) and its kin, without a copy.

        Parameters
        ----------
        indices : integers
            In a kernel, an int64 array.
        lengths : integers, optional
            Bytes of each; by default `buffer_size`. In a kernel, an int64 array.

        Returns
        -------
        array of IOVEC_DTYPE, of shape (len(indices),)
            An `IoVec` that keeps the pool alive; in a kernel a plain array, which keeps nothing: when it is returned,
            the functions of `syscalls` refuse it in Python.

        Raises
        ------
        IndexError, TypeError, ValueError
            No such buffer; a length that is negative or beyond the buffer; not as many lengths as indices.

        Examples
        --------
        >>> pool = BufferPool(4, 1024)
        >>> pool.iovec([3, 0], [1024, 10])["len"].tolist()
        [1024, 10]
        """
        return iovec_over(self, indices, lengths)

    def register(self, ring: Ring, receive: int = 0) -> RegisteredPool:
        """Register the arena with io_uring, so that its buffers are read and written by index; Python only.

        Needs the extra ``uring``; see `iobuf_nb.uring.RegisteredPool`, also for errors.
        """
        if not hasattr(ring, "_register"):  # the class is not known here: most programs do without io_uring
            raise TypeError(f"ring must be an iobuf_nb.uring.Ring, not {ring!r:.60}")
        return ring._register(self, receive)

    @in_kernels
    def fill(self, make: Callable[[], Any]) -> None:
        """Copy what `make()` returns into every buffer, calling it for each: a pool's first contents.

        In a kernel `make` is a jitted function. ValueError if a buffer is out; Closed after `close`; other errors
        are those of `set_value`, and TypeError if `make` cannot be called. Call it before other threads use the pool.
        """
        if self.closed:
            raise Closed("fill of a closed pool")
        if self.available() != self.capacity:
            raise ValueError("fill needs every buffer to be in the pool")
        for index in range(self.capacity):
            copy_into(buffer(self, index), make())

    def _figures(self) -> dict[str, object]:
        return {**super()._figures(), "shape": self.shape, "dtype": self.dtype}


class ItemPool(_Pool):
    """A lock-free pool of Python objects: `get` and `put` move indices, `value` returns the object behind one.

    Kernels may get and put its indices, but not see the objects.

    Parameters
    ----------
    items : iterable of objects
        At least one.
    checked, nonblocking : bool
        As in `BufferPool`.

    Raises
    ------
    TypeError, ValueError
        `items` is no iterable, or holds nothing.

    Examples
    --------
    >>> pool = ItemPool(["first", "second"])
    >>> index = pool.get()
    >>> pool.value(index)
    'first'
    >>> pool.put(index)
    """

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[Any], *, checked: bool = True, nonblocking: bool = False) -> None:
        try:
            self._items = [*iter(items)]
        except TypeError:
            raise TypeError(f"items must be an iterable of objects, not {items!r:.60}") from None
        if not self._items:
            raise ValueError("items must hold at least one object, not none")
        self._set_up(len(self._items), checked, nonblocking)
        kind = ITEM_POOL if self.checked else ITEM_POOL_UNCHECKED
        self._describe(kind)

    def value(self, index: int) -> Any:
        """Return the object behind `index`; IndexError if there is none, TypeError if `index` is not an integer."""
        return self._items[checked_index(self, index)]

    def set_value(self, index: int, item: Any) -> None:
        """Put `item` in the place of the object behind `index`; errors are those of `value`."""
        self._items[checked_index(self, index)] = item


def _close_in_kernel(pool):
    close_queue(pool._queue)


kernel_method(PoolType, "close", _close_in_kernel)


@hot
def _take_from_queue(pool, out, n):
    """Take up to `n` buffers from the free queue: how many, or REST less that if there may be others."""
    return count_or_rest(pool, take_many(pool, out, 0, n, False), n)


for _cls in (BufferPool, ItemPool):  # to these, both are pools of indices
    METHODS.add(
        _cls,
        lambda: [
            Operations(kind, take, give, _take_from_queue, give_many) for kind in (ITEM_POOL, ITEM_POOL_UNCHECKED)
        ],
    )
