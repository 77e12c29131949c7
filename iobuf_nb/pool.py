"""Pools: buffers (or objects) handed out by index, each to one holder at a time.

A pool is a `BoundedQueue` of the free indices, an arena that holds the buffers, and a table of who holds each:

- get: take an index from the queue, then write down the holder (`_owners`);
- put: take it out of the holder's hands, which of two puts of one buffer only one can do, then put the index back.

A pool may have magazines besides (`magazine`), work-stealing deques that keep free indices for one thread each: whoever
finds the queue empty looks there. So an index in the queue or in a magazine has a FREE owner. A holder is a thread,
named by the number `threading.get_ident` gives; any thread may put a buffer back, because handing buffers on to other
threads is what pools are for.
"""

from __future__ import annotations

import functools
import math
import operator
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import errors
from numba.extending import intrinsic, overload_attribute
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _check, _deque, _owners
from ._borrowed import lend, memory_info
from ._check import FormattedIndexError, FormattedValueError
from ._dtype import element_type
from ._handle import POOL, UNCHECKED, WORDS, Handle, HandleType
from ._handover import release, release_all
from ._jit import compiled_as, hot, kernel, kernel_face, kernel_method, kernel_overload
from ._owners import NOT_OUT, OK, OUT_OF_RANGE, ROWS, bulk_words, disown, disown_many, owner_at
from ._show import Shown
from .atomics import load, store
from .iovec import IoVec, iovec_over
from .memory import CACHE_LINE_SIZE, MAX_BYTES, aligned_mem, page_size, round_up
from .ring import (
    CLOSED_FLAG,
    GET,
    LINE,
    MAX_ITEMS,
    NONBLOCKING_FLAG,
    PROCESS,
    QUEUE_TYPE,
    BoundedQueue,
    get_item,
    get_items,
    shut,
    size,
    wait,
)
from .wait import (
    CLOSED,
    EMPTY,
    FORKED,
    NO_FENCE,
    NO_WAIT_IN_A_CHILD,
    UNFENCED,
    PoolClosed,
    WouldBlock,
    limit_ns,
    thread_id,
)

if TYPE_CHECKING:
    from ._aio import Getters
    from .magazine import Magazine
    from .uring import RegisteredPool, Ring

__all__ = ["BufferPool", "ItemPool"]


class PoolType(HandleType):
    """The numba type of a pool of indices."""

    attributes: tuple[str, ...] = ("ring", "capacity", "owners", "bulks", "checks", "deques")

    def __init__(self, name: str, checked: bool, members: Iterable[tuple[str, types.Type]] = ()) -> None:
        self.checked = checked
        self.kind = POOL if checked else POOL + UNCHECKED
        super().__init__(
            f"{name}, checked={checked}",
            [
                ("ring", QUEUE_TYPE),
                ("capacity", types.int64),
                ("owners", WORDS),
                ("bulks", WORDS),
                ("checks", types.int64),
                ("deques", WORDS),
                *members,
            ],
        )


class BufferPoolType(PoolType):
    """The numba type of `BufferPool`: the element type and the number of dimensions are part of it."""

    attributes = ("arena", "stride", "buffer_size", "shape", "memory")

    def __init__(self, dtype: types.Type, ndim: int, checked: bool) -> None:
        self.dtype = dtype
        members = [
            ("arena", types.int64),
            ("stride", types.int64),
            ("buffer_size", types.int64),
            ("shape", types.UniTuple(types.int64, ndim)),
            ("memory", types.int64),
        ]
        super().__init__(f"BufferPool of {dtype}, {ndim}-d", checked, members)


@overload_attribute(PoolType, "checked")  # a constant in kernels, so that the check is compiled in or out
def _checked(pool):
    return (lambda pool: True) if pool.checked else (lambda pool: False)


@hot
def own(pool, index):
    """Write down that this thread holds `index`, which nobody else has."""
    if pool.checked:
        store(pool.owners, owner_at(pool, index), thread_id())


@hot
def take(pool):
    """Take a free buffer: its index, or EMPTY if there is none or the pool is closed."""
    if load(pool.ring.words, CLOSED_FLAG):
        return EMPTY
    index = get_item(pool.ring)
    if index < 0 and load(pool.deques, _deque.COUNT):
        index = _deque.seek(pool.ring, pool.deques)
    if index >= 0:
        own(pool, index)
    return index


@hot
def give(pool, index):
    """Give a buffer back: OK, or OUT_OF_RANGE or NOT_OUT and nothing changed."""
    status = disown(pool, index, False)
    if status == OK:
        release(pool.ring, index)
    return status


@kernel
def take_many(pool, out, begin, end, seek):
    """Take free buffers into out[begin:end], as long as there are any: where the next would stand.

    Without `seek` those in magazines are left there: to take one takes some microseconds.
    """
    if load(pool.ring.words, CLOSED_FLAG):
        return begin
    done = get_items(pool.ring, out, begin, end)
    for k in range(begin, done):
        own(pool, out[k])
    while seek and done < end and load(pool.deques, _deque.COUNT):
        index = take(pool)
        if index < 0:
            break
        out[done] = index
        done += 1
    return done


@kernel
def give_many(pool, indices, n):
    """Give `n` buffers back and return -1, or give none and return where the first refused one stands."""
    refused = disown_many(pool, indices, n)
    if refused < 0:
        release_all(pool.ring, indices, 0, n)
    return refused


_INTEGERS = int, np.int64  # the common ones, which need no check


def as_index(index: Any) -> int:
    """Return an index as an int64; what no int64 can hold is out of range anyway."""
    number = operator.index(index) if type(index) in _INTEGERS else _check.index("index", index)
    return number if -(2**63) <= number < 2**63 else -1


@kernel_overload(as_index)
def _as_index_in_kernel(index: Any) -> Any:
    if not isinstance(index, types.Integer):
        raise errors.TypingError(f"index must be an integer, not {index}")
    return lambda index: np.int64(index)


def refuse(pool: Any, index: Any, status: int) -> None:
    """Raise what a `status` that is not OK stands for; the same in Python and in kernels."""
    if status == OUT_OF_RANGE:
        raise FormattedIndexError("index must be from 0 to {}, not {}", pool.capacity - 1, index)
    raise FormattedValueError("index must be that of a buffer that is out; {} was put already, or never got", index)


compiled_as(refuse)(refuse)


@intrinsic
def _buffer_pointer(typingctx: Any, pool: Any, index: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        struct = context.make_helper(builder, pool, args[0])
        address = builder.add(struct.arena, builder.mul(args[1], struct.stride))
        return builder.inttoptr(address, context.get_value_type(signature.return_type))

    return types.CPointer(pool.dtype)(pool, types.int64), codegen


def _buffer_in_kernel(pool, index):
    index = as_index(index)
    if pool.checked and (index < 0 or index >= pool.capacity):
        refuse(pool, index, OUT_OF_RANGE)
    return lend(carray(_buffer_pointer(pool, index), pool.shape), pool.memory)


@compiled_as(_buffer_in_kernel)
def buffer(pool: Any, index: Any) -> Any:
    """Return the buffer of a checked index, without a copy."""
    if type(index) is int and 0 <= index < pool.capacity:  # the common case, in half the time
        return pool._buffers[index]
    return pool._buffers[checked_index(pool, index)]


def checked_index(pool: Any, index: Any) -> int:
    """Return `index` as an int of [0, capacity), or raise."""
    number = as_index(index)
    if not 0 <= number < pool.capacity:
        refuse(pool, index, OUT_OF_RANGE)
    return number


def copy_into(target: NDArray[Any], data: Any) -> None:
    """Copy `data` over the beginning of `target`: an array of its dtype, or bytes if it is a row of bytes."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        data = np.frombuffer(memoryview(data).tobytes(), np.uint8)
    elif not isinstance(data, (np.ndarray, np.generic)):
        try:
            data = np.asarray(data, target.dtype)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"data must be bytes-like or an array of {target.dtype}, not {data!r:.60}") from None
    if data.dtype != target.dtype:
        raise TypeError(f"data must be of dtype {target.dtype}, not {data.dtype}")
    if data.ndim != target.ndim or data.shape[1:] != target.shape[1:]:
        raise ValueError(f"data must have the shape of the buffer, {target.shape}, or be shorter; it has {data.shape}")
    if len(data) > len(target):
        raise ValueError(f"data must not be longer than the buffer: {len(data)} > {len(target)}")
    target[: len(data)] = data


@kernel_overload(copy_into)
def _copy_in_kernel(target: Any, data: Any) -> Any:
    is_bytes = isinstance(data, (types.Bytes, types.ByteArray, types.MemoryView)) and data.ndim == 1
    if not (isinstance(data, types.Array) or is_bytes) or data.dtype != target.dtype:
        raise errors.TypingError(f"data must be bytes or an array of dtype {target.dtype}, not {data}")
    if data.ndim != target.ndim:
        raise errors.TypingError(f"data must have {target.ndim} dimensions, as the buffer has, not {data.ndim}")

    def copy(target, data):
        if not is_bytes and data.shape[1:] != target.shape[1:]:
            raise ValueError("data must have the shape of the buffer, but for its first axis")
        if len(data) > len(target):
            raise FormattedValueError("data must not be longer than the buffer: {} > {}", len(data), len(target))
        for k in range(len(data)):
            target[k] = data[k]

    return copy


def check_indices(name: str, array: Any, writable: bool) -> None:
    """Refuse what cannot hold indices, be it to read or to write them."""
    if not (isinstance(array, np.ndarray) and array.dtype == np.int64 and array.ndim == 1):
        raise TypeError(f"{name} must be a one-dimensional int64 array, not {array!r:.60}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} must be a writable array, to be filled, not a read-only one")


@kernel_overload(check_indices)
def _check_indices_in_kernel(name: Any, array: Any, writable: Any) -> Any:
    name = getattr(name, "literal_value", "indices")  # numba tries again without literals, if this refuses
    if not (isinstance(array, types.Array) and array.dtype == types.int64 and array.ndim == 1):
        raise errors.TypingError(f"{name} must be a one-dimensional int64 array, not {array}")
    if getattr(writable, "literal_value", True) and not array.mutable:
        raise errors.TypingError(f"{name} must be a writable array, to be filled, not a read-only one")
    return lambda name, array, writable: None


def elements(indices: Any) -> Any:
    """Return an array of indices as functions take it that must not count references to it: in kernels, a pointer."""
    return indices


@intrinsic
def _first_element(typingctx: Any, array: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return context.make_array(array)(context, builder, args[0]).data

    return WORDS(array), codegen


@kernel_overload(elements)
def _elements_in_kernel(indices: Any) -> Any:
    if isinstance(indices, types.Array) and (indices.dtype, indices.layout) == (types.int64, "C"):
        return lambda indices: _first_element(indices)
    return lambda indices: indices


class Source(Handle, Shown):
    """What hands out the indices of a pool's buffers and takes them back: the pool itself, or a magazine over it.

    Subclasses say how one is taken and given, and waited for; `_wait` and the like are part of kernels, too.
    """

    __slots__ = ()

    capacity: int

    def _take(self) -> int:
        """Take a free buffer: its index, or EMPTY."""
        raise NotImplementedError

    def _wait(self, limit: int) -> int:
        """Take a free buffer as soon as there is one, or say as `wait` does why not."""
        raise NotImplementedError

    def _give(self, index: int) -> int:
        """Give a buffer back: OK, or why not."""
        raise NotImplementedError

    def _take_many(self, out: NDArray[np.int64]) -> int:
        """Take up to len(out) free buffers: how many."""
        raise NotImplementedError

    def _give_many(self, indices: NDArray[np.int64]) -> int:
        """Give all the buffers back and return -1, or give none and return where the first refused one stands."""
        raise NotImplementedError

    def value(self, index: int) -> Any:
        """Return what an index stands for."""
        raise NotImplementedError

    def try_get(self) -> int:
        """Take a free buffer and return its index, or return -1 at once if none is free or the pool is closed.

        Lock-free. The buffer belongs to the calling thread until somebody puts it back.
        """
        return self._take()

    def get(self, block: bool = True, timeout: float | None = None) -> int:
        """Take a free buffer and return its index, waiting for one if need be.

        Parameters
        ----------
        block : bool
            False: do not wait.
        timeout : float, optional
            The longest wait in seconds; by default there is no limit.

        Returns
        -------
        int
            From 0 to `capacity` - 1.

        Raises
        ------
        WouldBlock
            No buffer was free and there was no (more) time to wait; also where `nonblocking` is set.
        PoolClosed
            The pool is closed, or was while this waited.
        TypeError, ValueError
            `block` is no bool; `timeout` is not None or a number >= 0.

        Notes
        -----
        Any number of threads may wait. A wait releases the GIL, also in a kernel that holds it, and ends with
        KeyboardInterrupt on Ctrl-C in the main thread. Inside `prange` numba delivers no exceptions reliably, Ctrl-C
        included: use `timeout` or `try_get` there. A kernel's own ``except`` cannot catch what a signal raised.

        On Python 3.11 and 3.12 numba drops the names of keywords in a call inside ``try``. Where that changes what a
        call means, the kernel is not compiled: write ``get(True, 0.1)`` for ``get(timeout=0.1)`` there.

        In a kernel Ctrl-C ends waits and nothing else. In Python, in the main thread alone, it may come when `get` has
        returned and its index has no name yet, in `lease` too: then `holders` still tells that this thread has it.
        """
        limit = limit_ns(block, timeout)
        index = self._take()
        if index < 0:
            index = self._wait(limit)
            if index == CLOSED:
                raise PoolClosed("get from a closed pool or magazine")
            if index == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            if index == UNFENCED:
                raise RuntimeError(NO_FENCE)
            if index == EMPTY:
                raise WouldBlock("no buffer became free for as long as get was to wait")
        return index

    def try_put(self, index: int) -> bool:
        """Give a buffer back and return True; False, and nothing changed, if it is not out or no such buffer exists.

        Lock-free. Any thread may put. Without `checked`, only the range is looked at. A closed pool takes buffers back.
        TypeError if `index` is not an integer.
        """
        return self._give(as_index(index)) == OK

    def put(self, index: int) -> None:
        """Give a buffer back; never waits, for there is always room.

        Raises
        ------
        IndexError
            `index` is not from 0 to `capacity` - 1.
        ValueError
            The buffer is not out: put twice, or never got. Needs `checked`.
        TypeError
            `index` is not an integer.

        Notes
        -----
        A buffer put twice is caught unless somebody else got it in between: then it is out, and the second put takes
        it out of their hands.
        """
        status = self._give(as_index(index))
        if status != OK:
            refuse(self, index, status)

    def _refuse(self, index: int, status: int) -> None:
        """Raise why `put` was refused, from the C function that tried."""
        refuse(self, index, status)

    def get_many(self, out: NDArray[np.int64]) -> int:
        """Take as many free buffers as there are, len(out) at most, into the front of `out`; return how many.

        Parameters
        ----------
        out : int64 array, 1-D

        Notes
        -----
        Never waits: 0 means that none was free or the pool is closed. Each buffer is taken by itself.

        Raises
        ------
        TypeError, ValueError
            `out` is no such array, or a read-only one.
        """
        check_indices("out", out, True)
        return self._take_many(out)

    def _take_rest(self, out: NDArray[np.int64], done: int) -> int:
        """Go on with `get_many` where the C function stopped, without the GIL."""
        return done + self._take_many(out[done:])

    def put_many(self, indices: NDArray[np.int64]) -> None:
        """Give all these buffers back; if one of them cannot be, give none back and raise as `put` does.

        Parameters
        ----------
        indices : int64 array, 1-D
        """
        check_indices("indices", indices, False)
        refused = self._give_many(indices)
        if refused >= 0:
            self._refuse_many(indices, refused)

    def _refuse_many(self, indices: NDArray[np.int64], position: int) -> None:
        """Raise why `put_many` was refused."""
        index = indices[position]
        refuse(self, index, OUT_OF_RANGE if index < 0 or index >= self.capacity else NOT_OUT)

    @contextmanager
    def lease(self, block: bool = True, timeout: float | None = None) -> Iterator[Any]:
        """Get a buffer (an item) for the length of a ``with`` block, and put it back whatever happens there.

        Parameters and errors are those of `get`.

        Examples
        --------
        >>> pool = BufferPool(4, 4096)
        >>> with pool.lease() as buffer:
        ...     buffer[0] = 7
        >>> pool.available()
        4
        """
        index = self.get(block, timeout)
        try:
            yield self.value(index)
        finally:
            self.put(index)


class _Pool(Source):
    """What all pools share: indices that are free or held."""

    __slots__ = ("_free_deques", "_getters", "bulks", "capacity", "checked", "deques", "owners", "ring")

    checked: bool

    def _set_up(self, capacity: int, checked: bool, nonblocking: bool) -> None:
        self.capacity = capacity
        self.checked = bool(checked)
        self._getters: Getters | None = None
        # LINE slots more than indices: a get and the put after it then touch different cache lines (a third faster).
        self.ring = BoundedQueue(min(capacity + LINE, MAX_ITEMS), capacity)
        self.ring._put_first(capacity)
        self.owners = aligned_mem(8 * round_up(capacity, ROWS), 8 * LINE).view(np.int64)
        self.bulks = bulk_words(capacity)
        self.deques = aligned_mem(8 * _deque.WORDS, 8 * LINE).view(np.int64)
        self._free_deques: deque[int] = deque()  # numbers whose magazines are closed
        self.nonblocking = nonblocking

    def _members(self) -> tuple[int, ...]:
        """Return the members of the handle that all pools have."""
        arrays = (array.ctypes.data for array in (self.owners, self.bulks))
        return (*self.ring._block, self.capacity, *arrays, self.checked, self.deques.ctypes.data)

    @property
    def words(self) -> Any:
        """The words of the ring, on which those who wait for a buffer wait."""
        return self.ring.words

    def _attempt(self, item: int) -> int:
        if load(self.ring.words, CLOSED_FLAG, "seq_cst"):
            return CLOSED
        index = take(self)
        return UNFENCED if index == EMPTY and load(self.deques, _deque.UNFENCED) else index

    def _take(self) -> int:
        return take(self)

    def _wait(self, limit: int) -> int:
        return wait(self, GET, limit)

    def _give(self, index: int) -> int:
        return give(self, index)

    def _take_many(self, out: NDArray[np.int64]) -> int:
        return take_many(self, elements(out), 0, len(out), True)

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
            raise PoolClosed("get from a closed pool")
        if self.nonblocking:
            raise WouldBlock("no buffer is free, and this pool does not wait")
        if os.getpid() != load(self.ring.words, PROCESS):
            raise RuntimeError(NO_WAIT_IN_A_CHILD)
        from ._aio import getters_of  # asyncio takes long to import

        return await getters_of(self).get(self, None if limit < 0 else limit / 1e9)

    def magazine(self, size: int = 32) -> Magazine:
        """Return a magazine over this pool: a stack of at most `size` free buffers for one thread; Python only.

        See `iobuf_nb.Magazine`, also for errors.
        """
        from .magazine import Magazine

        return Magazine(self, size)

    def available(self) -> int:
        """Return how many buffers were free a moment ago; exact while nobody else gets or puts."""
        return min(size(self.ring) + _deque.total(self.deques), self.capacity)

    @property
    def closed(self) -> bool:
        """Whether the pool has been closed; readable in kernels."""
        return load(self.ring.words, CLOSED_FLAG) != 0

    @property
    def nonblocking(self) -> bool:
        """Whether `get` raises WouldBlock instead of waiting, in Python and in kernels; settable in Python."""
        return load(self.ring.words, NONBLOCKING_FLAG) != 0

    @nonblocking.setter
    def nonblocking(self, value: bool) -> None:
        store(self.ring.words, NONBLOCKING_FLAG, int(bool(value)), "seq_cst")

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
        return _owners.holders(self.owners, self.bulks)

    def close(self) -> None:
        """End all waiting and further gets with PoolClosed; closing twice is no error.

        Buffers that are still out stay valid and may be put back. In Python they are named in a ResourceWarning;
        inside a kernel `close` only closes. A checked pool that is dropped unclosed with buffers out warns likewise.
        """
        if not self.closed:
            shut(self.ring)
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
        if hasattr(self, "_block") and self.checked and not self.ring.words[CLOSED_FLAG]:
            self._warn_of_leaks("dropped", int(np.count_nonzero(self.owners)))

    def _figures(self) -> dict[str, object]:
        free = self.available()
        return {"capacity": self.capacity, "in_use": self.capacity - free, "checked": self.checked}

    def _occupancy(self) -> float:
        return 1 - self.available() / self.capacity


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

    __slots__ = ("_buffers", "_memory", "arena", "buffer_size", "dtype", "shape", "stride")

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
        capacity = _check.integer("capacity", capacity, 1, MAX_ITEMS)
        self.shape, self.dtype, element = _layout(size, shape, dtype)
        self.buffer_size = math.prod(self.shape) * self.dtype.itemsize
        self.stride = _stride(self.buffer_size)
        arena = aligned_mem(
            _check.integer("capacity * stride", capacity * self.stride, 1, MAX_BYTES),
            page_size,
            huge_pages=huge_pages,
            lock=lock,
            populate=populate,
        )
        self.arena = arena.ctypes.data
        rows = arena.reshape(capacity, self.stride)[:, : self.buffer_size]
        self._buffers = rows.view(self.dtype).reshape(capacity, *self.shape)
        self._memory, memory = memory_info(arena)
        self._set_up(capacity, checked, nonblocking)
        self._describe(
            _buffer_pool_type(element, len(self.shape), self.checked),
            *self._members(),
            self.arena,
            self.stride,
            self.buffer_size,
            *self.shape,
            memory,
        )

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
        from .uring import RegisteredPool  # an optional edge: most programs do without io_uring

        return RegisteredPool(self, ring, receive)

    def fill(self, make: Callable[[], Any]) -> None:
        """Copy what `make()` returns into every buffer, calling it for each: a pool's first contents.

        In a kernel `make` is a jitted function. ValueError if a buffer is out; PoolClosed after `close`; other errors
        are those of `set_value`, and TypeError if `make` cannot be called. Call it before other threads use the pool.
        """
        if self.closed:
            raise PoolClosed("fill of a closed pool")
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
        self._describe(kind, *self._members())

    def value(self, index: int) -> Any:
        """Return the object behind `index`; IndexError if there is none, TypeError if `index` is not an integer."""
        return self._items[checked_index(self, index)]

    def set_value(self, index: int, item: Any) -> None:
        """Put `item` in the place of the object behind `index`; errors are those of `value`."""
        self._items[checked_index(self, index)] = item


def _layout(size: Any, shape: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype[Any], types.Type]:
    """Return a buffer's shape, dtype and numba element type from BufferPool's arguments."""
    if (size is None) == (shape is None):
        raise TypeError("a BufferPool needs either size or shape (with dtype)")
    if shape is None:
        if dtype is not None:
            raise TypeError(f"dtype={dtype!r} needs shape=, not size={size!r}")
        return (_check.integer("size", size, 1, 2**40),), np.dtype(np.uint8), types.uint8
    axes = shape if isinstance(shape, (tuple, list)) else (shape,)
    if not axes:
        raise ValueError("shape must have at least one axis, not ()")
    lengths = tuple(_check.integer(f"shape[{axis}]", length, 1, 2**40) for axis, length in enumerate(axes))
    try:
        element = np.dtype(np.uint8 if dtype is None else dtype)
    except (TypeError, ValueError):
        raise TypeError(f"dtype must be something numpy takes for a dtype, not {dtype!r}") from None
    numba_element = element_type(element)
    _check.integer("bytes of a buffer (shape, dtype)", math.prod(lengths) * element.itemsize, 1, 2**40)
    return lengths, element, numba_element


def _stride(size: int) -> int:
    """Return the bytes from one buffer to the next."""
    if size >= page_size():
        return round_up(size, page_size())
    return round_up(size, CACHE_LINE_SIZE) if size >= CACHE_LINE_SIZE else 1 << (size - 1).bit_length()


_buffer_pool_type = functools.cache(BufferPoolType)
ITEM_POOL, ITEM_POOL_UNCHECKED = PoolType("ItemPool", True), PoolType("ItemPool", False)


def _close_in_kernel(pool):
    shut(pool.ring)


kernel_face(
    PoolType,
    _Pool,
    "words _attempt _take _wait _give _take_many _give_many _refuse_many try_get get try_put put get_many put_many "
    "available closed nonblocking",
)
kernel_face(BufferPoolType, BufferPool, "value set_value iovec fill")
kernel_method(PoolType, "close", _close_in_kernel)
