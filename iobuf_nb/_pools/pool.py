"""`BufferPool`: indices that stand for buffers, each with one owner at a time.

`index_pool` gets and puts them, and `layout` maps them to memory.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .._jit.faces import in_kernels, kernel_face
from .._memory.aligned import aligned_mem, lock_memory
from .._memory.borrowed import memory_info
from .._memory.iovec import IoVec, iovec_over
from .._memory.segment import Segment
from .._threads.outcomes import Closed
from . import sharing
from .allocator import FOR_DASK
from .buffer_methods import replace_buffer_methods
from .index_pool import _Pool
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
    write,
)
from .observation import Observation, Options, filled, options

if TYPE_CHECKING:
    from typing_extensions import Self, TypedDict, Unpack

    from ..uring import RegisteredPool, Ring

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
        Count gets, puts and waits, see `stats`; with `trace`, also note where each get stands, see `places`.
    debug : bool or "any thread"
        Do all that, and look for mistakes, at the cost of time. Put buffers are filled with the byte 0xDB, and what is
        written to them after that is an error at the next get, or in `check`. `value` and its like of a buffer that
        this thread has not checked out is an error; "any thread" allows it if another has, for threads that hand
        buffers on.
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
    shape: tuple[int, ...]
    buffer_size: int
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
        if type(self) is self._observed:  # called as the type of a pool: what this one is, its arguments say
            self.__class__ = BufferPool
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
        arena = segment.part(capacity * segment.contents["stride"], mmap.PAGESIZE)
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
        self.stride = arena.nbytes // capacity
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
        filled(self)
        for index in range(self.capacity):
            copy_into(buffer(self, index), make())

    def places(self) -> dict[int, str]:
        """Return where each checked-out buffer was got: a dict from index to file and line. Python only.

        A snapshot, as in `holders`. The place is that of the call in your code, also in a kernel or of a magazine; that
        of a `get` by io_uring is not known. ValueError if the pool was made with neither `trace` nor `debug`. A leak is
        told with its place when the pool is closed or dropped, or the program ends.

        Examples
        --------
        >>> pool = BufferPool(4, 1024, trace=True)
        >>> index = pool.get()
        >>> list(pool.places()) == [index]
        True
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


replace_buffer_methods(BufferPool)
