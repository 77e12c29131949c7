"""`BufferPool`, and what all pools share: buffers are checked out by index, each to one owner at a time.

`_free.free_list` holds the free indices, `allocator` gets and puts them, and `layout` maps them to memory.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .._free import owners
from .._free.depot import new_depot
from .._free.deque import DEQUE_WORDS
from .._free.free_list import (
    PoolType,
    available,
    close_pool,
    get_or_closed,
    give,
    give_many,
    rescue,
    take,
    take_many,
    wait_for_buffer,
)
from .._free.owners import bulk_words
from .._free.processes import CLOSED as CLOSED_WORD
from .._free.processes import NUMBER_SHIFT, recover, thread_of
from .._free.queue import CLOSED_FLAG, LINE_PAIR, NONBLOCKING_FLAG, PROCESS
from .._jit.faces import in_kernels, is_in_kernels, kernel_face, kernel_method
from .._memory.aligned import MAX_ITEMS, aligned_mem, lock_memory
from .._memory.borrowed import memory_info
from .._memory.iovec import IoVec, iovec_over
from .._memory.segment import Segment
from .._threads.clock import limit_ns
from .._threads.outcomes import NO_WAIT_IN_A_CHILD, Closed, WouldBlock
from ..atomics import load, store
from . import sharing
from .allocator import FOR_DASK, Allocator
from .bounded_queue import BoundedQueue
from .buffer_methods import replace_buffer_methods
from .holders import map_of
from .layout import (
    BufferPoolType,
    buffer,
    buffer_pool_type,
    copy_into,
    kept_buffer,
    kept_view,
    kept_words,
    layout_of,
    sizes_of,
    stride_of,
    write,
)
from .leaks import leaks_of
from .lease import AsyncLease, Value
from .magazine import DEFAULT_SIZE, Magazine
from .observation import Observation, Options, PoolStats, filled, options
from .repr import waiting

if TYPE_CHECKING:
    from typing_extensions import Self, TypedDict, Unpack

    from ..uring import RegisteredPool, Ring
    from .aio import Getters

    class _Options(TypedDict, total=False):
        """The arguments of `BufferPool` that do not change its type."""

        checked: bool
        nonblocking: bool
        page_size: int | None
        huge_pages: bool
        lock: bool
        populate: bool
        shared: bool
        name: str | None
        stats: bool
        trace: bool
        debug: bool | str


Element = TypeVar("Element", bound=np.generic)  #: the scalar type of a dtype


@kernel_face(PoolType)
class _Pool(Allocator[Value]):
    """What all pools share: indices that are free or have an owner."""

    __slots__ = (
        "_bulks",
        "_checked",
        "_depot",
        "_deques",
        "_free_deques",
        "_getters",
        "_local",
        "_observation",
        "_owners",
        "_queue",
        "_segment",
        "_slots",
        "capacity",
        "checked",
    )

    checked: bool

    def _set_up(
        self,
        capacity: int,
        checked: bool,
        nonblocking: bool,
        segment: Segment | None = None,
        observation: Observation | None = None,
    ) -> None:
        self.capacity = capacity
        self.checked = bool(checked)
        self._checked = int(self.checked)
        self._getters: Getters | None = None
        self._segment = segment
        if segment is None:
            # More slots than indices: a get and the put after it then touch different cache lines (a third faster).
            self._queue = BoundedQueue(min(capacity + LINE_PAIR, MAX_ITEMS), capacity)
            self._queue._put_first(capacity)
            self._owners = aligned_mem(sharing.owner_bytes(capacity), 8 * LINE_PAIR).view(np.int64)
            self._depot = new_depot(capacity)
            self._slots = self._local = self._queue._words[CLOSED_FLAG:]  # the slots are never used
        else:
            slots = sharing.queue_slots(capacity)
            words = sharing.words(segment, sharing.queue_bytes(slots))
            self._queue = BoundedQueue._over(segment, words, slots, capacity)
            self._depot = sharing.depot_words(segment, capacity)
            if segment.slot is not None:  # new
                self._queue._put_first(capacity)
            self._owners = sharing.words(segment, sharing.owner_bytes(capacity))
            self._local, self._slots = sharing.local_words(segment), segment.table
        self._bulks = bulk_words(capacity if segment is None else 1)
        self._deques = aligned_mem(8 * DEQUE_WORDS, 8 * LINE_PAIR).view(np.int64)
        self._free_deques: deque[int] = deque()  # numbers of deques whose magazines are closed
        if nonblocking:
            self.nonblocking = True
        self._observation = observation
        if observation is not None:
            observation.attach_to(self._local, self._queue._words)

    @property
    @in_kernels
    def _words(self) -> Any:
        """The words of the free queue, which `wait_to_get` waits on."""
        return self._queue._words

    @is_in_kernels(get_or_closed)
    def _get_or_closed(self) -> int:
        return get_or_closed(self._core)

    @is_in_kernels(take)
    def _take(self) -> int:
        return take(self._core)

    @is_in_kernels(wait_for_buffer)
    def _wait(self, limit: int) -> int:
        return wait_for_buffer(self._core, limit)

    @is_in_kernels(rescue)
    def _rescue(self) -> int:
        return recover(self._core)

    @is_in_kernels(give)
    def _give(self, index: int) -> int:
        return give(self._core, index)

    @in_kernels
    def _take_many(self, out: NDArray[np.int64], n: int) -> int:
        return take_many(self._core, out, 0, n, True)

    @in_kernels
    def _give_many(self, indices: NDArray[np.int64], n: int) -> int:
        return give_many(self._core, indices, n)

    async def aget(self, timeout: float | None = None) -> int:
        """Check out a free buffer and return its index, yielding to the event loop until one is free. Python only.

        Parameters
        ----------
        timeout : float, optional
            Longest wait in seconds; no limit by default.

        Returns
        -------
        int
            From 0 to `capacity` - 1. The owner is the thread that runs the event loop.

        Raises
        ------
        WouldBlock
            No buffer became free in time, or none is free and the pool is `nonblocking`.
        Closed
            The pool is closed, or was closed during the wait.
        TypeError, ValueError
            `timeout` is neither None nor a number >= 0.
        RuntimeError
            No buffer is free, and this is a forked child of the process that made the pool.

        Notes
        -----
        First come, first served within each event loop; several loops, in several threads, may wait for one pool. A
        coroutine that is cancelled or closed keeps no buffer. Every put, also one in a kernel, wakes the loop through a
        file descriptor that it watches: there is no polling.

        Threads are faster than an event loop at taking a buffer that was put. So while coroutines wait, every other put
        hands its buffer to them: the n-th coroutine in line is served after at most 2n puts, however many threads get
        and put. A buffer that its loop has not fetched within 50 ms, because the loop is blocked or closed, can be got
        by others.

        Of a shared pool: a thread sleeps until a put in any process, or for 50 ms, and then the coroutines that wait
        in its loop try again, in their order. No put is kept for them.

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
        seen = self._observation
        if not self._getters:  # no coroutine waits, so none is overtaken
            index = take(self._core)
            if index >= 0:
                return index
        elif seen is not None:
            seen.failed(1)  # until it has waited
        if self.closed:
            raise Closed("get from a closed pool")
        if self.nonblocking:
            raise WouldBlock("no buffer is free, and the pool is nonblocking")
        if self._segment is not None:
            from . import aio_shared  # imported here: asyncio is slow to import

            return await aio_shared.get(self, limit)
        if os.getpid() != load(self._queue._words, PROCESS):  # N4 reads a constant
            raise RuntimeError(NO_WAIT_IN_A_CHILD)
        from .aio import getters_of

        waiting = getters_of(self).get(self, None if limit < 0 else limit / 1e9)
        return await (waiting if seen is None else seen.wait(waiting))

    def magazine(self, size: int = DEFAULT_SIZE) -> Magazine[Value]:
        """Return a magazine over this pool: one thread's stack of at most `size` free buffers. Python only.

        See `iobuf_nb.Magazine`, also for errors.
        """
        if self._segment is not None:
            raise ValueError("a shared pool has no magazines: get and put with the pool itself, or share no pool")
        return Magazine(self, size)

    @is_in_kernels(rescue)
    def recover(self) -> int:
        """Take the buffers of dead processes back into a shared pool, and return how many.

        Any process may call it at any time; no other is stopped. A `get` that waits does so by itself. Buffers of a
        process that lives, stopped or not, are never touched. 0 for a pool that is not shared.

        Raises
        ------
        OSError
            The descriptor of the segment has been closed in this process, so nobody can be seen to be dead. In a
            kernel, 0.
        """
        if self._segment is None:
            return 0
        self._segment.require_descriptor()
        return sharing.logged(recover(self._core))

    def holding_processes(self) -> dict[int, int]:
        """Return the process that has each checked-out buffer of a shared pool: from index to process identifier.

        A snapshot; 0 for a process that is dead. ValueError if the pool is not shared, OSError as in `recover`. Python
        only.
        """
        if self._segment is None:
            raise ValueError("holding_processes() needs a shared pool: this one belongs to one process")
        self._segment.require_descriptor()
        processes = self._segment.processes()
        return {i: processes.get(word >> NUMBER_SHIFT, 0) for i, word in sharing.holders(self).items()}

    @is_in_kernels(available)
    def available(self) -> int:
        """Return the number of buffers that were free a moment ago; exact while no other thread gets or puts.

        Buffers of a shared pool that a dead process had are counted once they are recovered.
        """
        return available(self._core)

    @property
    @in_kernels
    def closed(self) -> bool:
        """Whether the pool has been closed; readable in kernels."""
        return load(self._local, CLOSED_WORD) != 0  # C2 acquires from C1

    @property
    @in_kernels
    def nonblocking(self) -> bool:
        """Whether `get` and `aget` raise WouldBlock instead of waiting; readable in kernels, settable in Python.

        One value for all processes, if the pool is shared.
        """
        return load(self._queue._words, NONBLOCKING_FLAG) != 0  # W5 acquires from S1

    @nonblocking.setter
    def nonblocking(self, value: bool) -> None:
        store(self._queue._words, NONBLOCKING_FLAG, int(bool(value)), "seq_cst")  # S1 releases to W5

    def alease(self, timeout: float | None = None) -> AsyncLease[Value]:
        """Check out a buffer for the duration of an ``async with`` block and return it at the end, also after an error.

        Parameters are those of `aget`, and so are errors, which come where the block begins. Python only.

        Returns
        -------
        AsyncLease
            The counterpart of what `lease` returns, with `index` too.
        """
        return AsyncLease(self, timeout)

    def holders(self) -> dict[int, int]:
        """Return the owner of each checked-out buffer: a dict from index to thread identity (`threading.get_ident`).

        A snapshot, which other threads may outdate at once. The owner is the thread that got the buffer, also after it
        has passed it on to another. ValueError if the pool was made with ``checked=False``. Python only.

        Of a shared pool: the threads of all processes, of which `holding_processes` says which is whose.
        """
        if not self.checked:
            raise ValueError("holders() needs a pool made with checked=True; this one does not record owners")
        if self._segment is not None:
            return {index: thread_of(word) for index, word in sharing.holders(self).items()}
        return owners.holders(self._owners, self._bulks)

    def stats(self) -> PoolStats:
        """Return how often buffers were got and put, how often none was free, and how long that lasted. Python only.

        ValueError if the pool was not made with ``stats=True``.

        Notes
        -----
        All gets and puts are counted: in kernels, in Python and by coroutines, through magazines, streams and io_uring.
        The figures are those of a moment ago; other threads go on. Each get and put of such a pool takes a few
        nanoseconds more, with several threads some tens; other pools pay nothing.

        Examples
        --------
        >>> pool = BufferPool(4, 1024, stats=True)
        >>> with pool.lease():
        ...     pool.stats().gets, pool.stats().puts, pool.stats().most_in_use
        (1, 0, 1)
        """
        if self._observation is None:
            raise ValueError("stats() needs a pool made with stats=True; this one counts nothing")
        return self._observation.stats()

    def close(self) -> None:
        """Close the pool: waits and further gets end with Closed. Closing twice is not an error.

        Checked-out buffers stay valid and may be put back. In Python a ResourceWarning names them; in a kernel, `close`
        does not warn. A checked pool that is dropped unclosed with buffers checked out warns too.

        A shared pool is closed for this process alone. If this process gave it its name, that is removed; in a kernel,
        when it ends.
        """
        leaks = self._close()
        if leaks:
            warnings.warn(leaks, ResourceWarning, stacklevel=2)

    def _close(self) -> str:
        """Close the pool; return a sentence that names the buffers that are still checked out, if there are any."""
        if self.closed:
            return ""
        close_pool(self._core)
        if self._segment is not None:
            self._segment.remove_name()
        return leaks_of(self, "closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if finalizing():  # module globals may be gone
            return
        # Plain reads: no other thread can use the pool any more, and a finalizer must not compile a kernel.
        if hasattr(self, "_members") and self.checked and not self._local[CLOSED_WORD]:
            leaks = leaks_of(self, "dropped")
            if leaks:
                warnings.warn(leaks, ResourceWarning, stacklevel=2)

    def _figures(self) -> dict[str, object]:
        in_use = self.capacity - self.available()
        figures: dict[str, object] = {"capacity": self.capacity, "in_use": in_use, "checked": self.checked}
        if self._segment is not None:
            figures |= {"shared": True, "name": self._segment.name}
        return figures

    def _occupancy(self) -> float:
        return 1 - self.available() / self.capacity

    def _details(self) -> dict[str, object]:
        return {"closed": self.closed, "waiting": waiting(self._words)}

    def _map(self, colours: dict[int, str]) -> str:
        return map_of(self, colours)


@kernel_face(BufferPoolType)
class BufferPool(_Pool[NDArray[Element]], sharing.Shareable, Generic[Element]):
    """A lock-free pool of buffers in one aligned arena, the same in Python and in kernels.

    All memory is allocated, zeroed, when the pool is made. `get` checks out a free buffer and returns its index,
    `value` returns that buffer as an array without a copy, and `put` returns it to the pool. Any number of threads may
    do so concurrently.

    Parameters
    ----------
    capacity : int
        Number of buffers, exactly; from 1 to 2**32.
    size : Tier or int, optional
        Bytes of a buffer, which is then a uint8 array; from 1 to 2**40.
    shape, dtype : optional, instead of `size`
        Shape and element type of a buffer: ``BufferPool(16, shape=(64, 64), dtype="f4")``; uint8 by default. Dtypes
        that kernels cannot read, or would read differently, are refused: objects, half precision, non-native byte
        order.
    checked : bool
        Record the owner of each buffer, and refuse a put of a buffer that is not checked out. False omits both, also
        from kernels.
    nonblocking : bool
        Initial value of the property.
    page_size : int, optional
        Alignment of the arena in bytes, a power of two; `iobuf_nb.page_size()` by default.
    huge_pages, lock, populate : bool
        As in `aligned_mem`.
    stats, trace : bool
        Count gets, puts and waits, see `stats`; and note where each get stands, see `places`.
    debug : bool or "any thread"
        Look for mistakes, at the cost of time. Put buffers are filled with the byte 0xDB, and what is written to them
        after that is an error at the next get, or in `check`. `value` and its like of a buffer that this thread has not
        checked out is an error; "any thread" allows it if another has, for threads that hand buffers on.
    shared : bool
        Put the pool into memory that other processes can use, too: children that are forked have it; pickled, it can be
        sent to others by `multiprocessing` and `concurrent.futures`. Linux only. See Notes.
    name : str, optional
        Make a shared pool under this name, with which processes of the same user `attach` to it.

    Attributes
    ----------
    capacity : int
        Number of buffers; readable in kernels.
    buffer_size, stride : int
        Bytes of a buffer, and bytes from one buffer to the next; readable in kernels. Buffers of a page or more are
        page-aligned, those of a cache line or more are aligned to cache lines, smaller ones to a power of two.
    arena : int
        Address of buffer 0; readable in kernels.
    shape : tuple of int
        Shape of a buffer; readable in kernels.
    dtype : numpy.dtype
        Element type of a buffer.
    checked : bool
        As given; readable in kernels.

    Raises
    ------
    TypeError, ValueError, MemoryError, OSError
        An argument has the wrong type or is out of range; the system cannot provide the memory; see `aligned_mem`.
    FileExistsError
        Living processes use a shared pool or queue of that `name`.

    Notes
    -----
    A shared pool is the same in all processes: its buffers, its methods, in kernels too. When a process dies, however
    it dies, its buffers come back: whoever waits for one finds them within 100 ms, and `recover` at once. A buffer that
    goes from one process to another goes through a `Channel`; otherwise it is lost to its receiver when its sender
    dies. At most 255 processes use a pool at once. A shared pool must be checked, has no magazines and cannot be
    registered with an io_uring. Two puts of one buffer by two threads at the same instant may both be accepted.

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

    _KIND = "BufferPool"
    _OR_SHARE = "; or make it with shared=True, for other processes of this machine" + FOR_DASK

    __slots__ = (
        *("_arrays", "_buffers", "_kept", "_kept_words", "_memory", "_memory_info", "_views"),
        *("arena", "buffer_size", "dtype", "shape", "stride"),
    )

    dtype: np.dtype[Element]
    _type = staticmethod(buffer_pool_type)
    _observed: ClassVar[Any]  # the class of those with trace or debug: `observed` sets it

    if TYPE_CHECKING:  # the scalar type of `value`, as far as the arguments tell

        @overload
        def __init__(self: BufferPool[np.uint8], capacity: int, size: int, **options: Unpack[_Options]) -> None: ...
        @overload
        def __init__(
            self: BufferPool[np.uint8], capacity: int, *, shape: int | tuple[int, ...], **options: Unpack[_Options]
        ) -> None: ...
        @overload
        def __init__(
            self,
            capacity: int,
            *,
            shape: int | tuple[int, ...],
            dtype: type[Element] | np.dtype[Element],
            **options: Unpack[_Options],
        ) -> None: ...
        @overload
        def __init__(
            self: BufferPool[Any],
            capacity: int,
            *,
            shape: int | tuple[int, ...],
            dtype: DTypeLike,
            **options: Unpack[_Options],
        ) -> None: ...

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
        shared: bool = False,
        name: str | None = None,
        stats: bool = False,
        trace: bool = False,
        debug: bool | str = False,
    ) -> None:
        capacity, layout, arena_bytes = sizes_of(capacity, size, shape, dtype)
        observed = options(stats, trace, debug, bool(checked), sharing.is_shared(shared, name))
        if observed is not None and observed.traces:
            if type(self) is not BufferPool:
                raise TypeError(
                    f"trace and debug must be False in a subclass of BufferPool, not {trace!r} and {debug!r}"
                )
            self.__class__ = self._observed  # one constructor, and Python methods in place of those in C
        if sharing.is_shared(shared, name):
            sharing.require_shareable(checked, page_size, huge_pages)
            segment = sharing.make_pool(self._KIND, capacity, layout[0], layout[1], arena_bytes, name)
            arena = self._share(segment, nonblocking)
            if lock:
                lock_memory(arena)
            if populate:
                arena[:: mmap.PAGESIZE] = 0
            return
        arena = aligned_mem(arena_bytes, page_size, huge_pages=huge_pages, lock=lock, populate=populate)
        self._build(arena, layout, capacity, checked, nonblocking, observed=observed)

    @classmethod
    def attach(cls: type[BufferPool[Any]], name: str) -> BufferPool[Any]:
        """Return the shared pool of a name, as another process of the same user has made it. Python only.

        Parameters
        ----------
        name : str
            As given to `BufferPool`.

        Raises
        ------
        FileNotFoundError
            There is no such pool: its creator has not made it yet, or has closed it.
        PermissionError
            It belongs to another user.
        TypeError, ValueError
            `name` is no name; what has that name is no pool, is damaged, or was made by another version.
        OSError
            It is used by 255 processes already.

        Examples
        --------
        >>> pool = BufferPool(4, 1024, name="frames of the documentation")
        >>> again = BufferPool.attach("frames of the documentation")
        >>> index = again.get()
        >>> pool.available()
        3
        >>> again.put(index)
        >>> pool.close()
        """
        return cls._attached(Segment.named(name, cls._KIND))

    @classmethod
    def _attached(cls, segment: Segment) -> Self:
        made = cls.__new__(cls)
        made._share(segment, False)
        return made

    def _share(self, segment: Segment, nonblocking: bool) -> NDArray[np.uint8]:
        """Become the pool that a segment holds; return its arena."""
        capacity = segment.contents["capacity"]
        layout = layout_of(None, segment.contents["shape"], sharing.dtype_of(segment.contents))
        arena = segment.part(capacity * stride_of(math.prod(layout[0]) * layout[1].itemsize), mmap.PAGESIZE)
        self._build(arena, layout, capacity, True, nonblocking, segment)
        sharing.join(self)
        return arena

    def _build(
        self,
        arena: NDArray[np.uint8],
        layout: Any,
        capacity: int,
        checked: bool,
        nonblocking: bool,
        segment: Segment | None = None,
        observed: Options | None = None,
    ) -> None:
        self.shape, self.dtype, element = layout
        self.buffer_size = math.prod(self.shape) * self.dtype.itemsize
        self.stride = stride_of(self.buffer_size)
        self.arena = arena.ctypes.data
        rows = arena.reshape(capacity, self.stride)[:, : self.buffer_size]
        self._buffers = rows.view(self.dtype).reshape(capacity, *self.shape)
        self._arrays: dict[int, NDArray[Element]] = {}  # of `value`; like the views, they keep the memory, not the pool
        self._views: dict[int, memoryview] = {}
        self._kept_words = kept_words(self)
        self._kept = self._kept_words.ctypes.data
        self._memory, self._memory_info = memory_info(arena)
        observation = observed and Observation(observed, capacity, self.arena, self.stride, self.buffer_size)
        self._set_up(capacity, checked, nonblocking, segment, observation)
        self._describe(self._type(element, len(self.shape), self.checked))

    @in_kernels
    def value(self, index: int) -> NDArray[Element]:
        """Return buffer `index` as an array, without a copy.

        Returns
        -------
        array of the pool's shape and dtype
            It keeps the memory alive; in a kernel, only once it may outlive the call: when it is returned, yielded, or
            stored in a typed container.

        Raises
        ------
        IndexError
            `index` is not from 0 to `capacity` - 1. Not checked in kernels if the pool is unchecked.
        TypeError
            `index` is not an integer; a bool is not.

        Notes
        -----
        Ownership is not checked: use the buffer only between your `get` and its `put`.

        In Python, calls for the same index may return the same array object. If its shape, dtype or flags are changed
        in place, all who have it see that, but no later call does. The pool keeps up to 65,536 arrays, some 200 bytes
        each.
        """
        return kept_buffer(self, index)

    def view(self, index: int) -> memoryview:
        """Return buffer `index` as a writable memoryview, without a copy: for files, sockets and bytes. Python only.

        Returns
        -------
        memoryview
            Of the pool's shape and dtype. It keeps the memory alive. Python cannot index it if the dtype is complex,
            text or a record; it can still be given to whatever takes buffers.

        Raises
        ------
        IndexError
            `index` is not from 0 to `capacity` - 1.
        TypeError
            `index` is not an integer; a bool is not. Or a memoryview cannot describe the dtype, as for datetime64,
            timedelta64 and records whose fields overlap.

        Notes
        -----
        Ownership is not checked, as in `value`. Calls for the same index return the same memoryview until it is
        released; if you release it, do so before the put. The pool keeps up to 65,536 memoryviews, some 600 bytes
        each.

        Examples
        --------
        >>> import io
        >>> pool = BufferPool(4, 1024)
        >>> index = pool.get()
        >>> n = io.BytesIO(b"hello").readinto(pool.view(index))
        >>> bytes(pool.view(index)[:n])
        b'hello'
        >>> pool.put(index)
        """
        return kept_view(self, index)

    @in_kernels
    def set_value(self, index: int, data: ArrayLike | bytes) -> None:
        """Copy `data` to the beginning of buffer `index`; the rest of the buffer keeps its contents.

        Parameters
        ----------
        index : int
        data : array, or bytes-like if buffers are rows of bytes
            Of the pool's dtype and shape, or shorter along the first axis. Python also takes lists.

        Raises
        ------
        IndexError, TypeError
            As in `value`.
        TypeError, ValueError
            `data` has another dtype or shape, or is longer than the buffer.
        """
        write(self, index, data)

    @in_kernels
    def iovec(self, indices: ArrayLike, lengths: ArrayLike | None = None) -> IoVec:
        """Return an iovec over these buffers, for readv(2) and related calls, without a copy.

        Parameters
        ----------
        indices : array_like of int, shape (n,)
            In a kernel, an int64 array.
        lengths : array_like of int, shape (n,), optional
            Bytes of each buffer to use; `buffer_size` by default. In a kernel, an int64 array.

        Returns
        -------
        array of IOVEC_DTYPE, shape (n,)
            An `IoVec`, which keeps the pool alive. In a kernel, a plain array, which keeps nothing alive: if a kernel
            returns it, the functions of `syscalls` refuse it in Python.

        Raises
        ------
        IndexError
            An index is not from 0 to `capacity` - 1.
        TypeError, ValueError
            `indices` or `lengths` are not integers; a length is negative or larger than the buffer; their numbers
            differ.

        Examples
        --------
        >>> pool = BufferPool(4, 1024)
        >>> pool.iovec([3, 0], [1024, 10])["len"].tolist()
        [1024, 10]
        """
        return iovec_over(self, indices, lengths)

    def register(self, ring: Ring, receive: int = 0) -> RegisteredPool:
        """Register the arena with an io_uring, so that it reads and writes buffers by index. Python only.

        Needs the extra ``uring``. See `iobuf_nb.uring.RegisteredPool`, also for errors.
        """
        if not hasattr(ring, "_register"):  # not isinstance: that would import io_uring for programs without it
            raise TypeError(f"ring must be an iobuf_nb.uring.Ring, not {ring!r:.60}")
        if self._segment is not None:
            raise ValueError("a shared pool cannot be registered: Linux might use a buffer after its process has died")
        return ring._register(self, receive)

    @in_kernels
    def fill(self, make: Callable[[], Any]) -> None:
        """Initialize the pool: call `make()` for each buffer and copy what it returns into it.

        Call it before other threads use the pool.

        Parameters
        ----------
        make : callable
            Takes no arguments; its results are copied as `set_value` does. In a kernel, a jitted function.

        Raises
        ------
        ValueError
            A buffer is checked out.
        Closed
            The pool is closed.
        TypeError, ValueError
            `make` is not callable, or its result is refused as in `set_value`.
        """
        if self.closed:
            raise Closed("fill of a closed pool")
        if self.available() != self.capacity:
            raise ValueError("fill needs every buffer to be free")
        for index in range(self.capacity):
            copy_into(buffer(self, index), make())
        filled(self)

    def places(self) -> dict[int, str]:
        """Return where each checked-out buffer was got: a dict from index to file and line. Python only.

        A snapshot, as in `holders`. The place is that of the call in your code, also in a kernel or of a magazine; that
        of a `get` by io_uring is not known. ValueError if the pool was not made with ``trace=True``. A leak is
        told with its place when the pool is closed or dropped.

        Examples
        --------
        >>> pool = BufferPool(4, 1024, trace=True)
        >>> index = pool.get()
        >>> [place.rpartition(":")[0] for place in pool.places().values()]
        ['<doctest iobuf_nb._pools.pool.BufferPool.places[1]>']
        >>> pool.put(index)
        """
        if self._observation is None or not self._observation._traces:
            raise ValueError("places() needs a pool made with trace=True; this one does not note them")
        return {index: self._observation.place(index) for index in self.holders()}

    def check(self) -> None:
        """Look whether a free buffer has been written to after its put. Python only.

        For a moment at which no other thread gets or puts; `close` does it, too, and warns.

        Raises
        ------
        RuntimeError
            The first such buffer, which is told once.
        ValueError
            The pool was not made with ``debug=True``.

        Examples
        --------
        >>> pool = BufferPool(4, 1024, debug=True)
        >>> with pool.lease() as buffer:
        ...     buffer[:] = 1
        >>> pool.check()
        >>> buffer[7] = 2
        >>> pool.check()
        Traceback (most recent call last):
            ...
        RuntimeError: buffer 0 was written to after it was put: its byte 7 has changed while it was free; ...
        """
        raise ValueError("check() needs a pool made with debug=True; this one does not see such writes")

    def _figures(self) -> dict[str, object]:
        return {**super()._figures(), "shape": self.shape, "dtype": self.dtype}


kernel_method(PoolType, "close", close_pool)


replace_buffer_methods(BufferPool)
