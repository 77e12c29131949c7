"""``struct iovec`` arrays: lists of buffers, as readv(2), sendmsg(2) and io_uring take them.

An iovec is an array of `IOVEC_DTYPE` with one entry for each buffer. In Python it is an `IoVec`, which keeps the
memory that it points at alive and in place; inside a kernel it is a plain structured array, and the kernel's caller
must keep the memory alive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numba import types
from numba.core import errors
from numba.np.numpy_support import from_dtype
from numpy.typing import NDArray

from .._jit import check
from .._jit.check import FormattedIndexError, FormattedValueError
from .._jit.check_in_kernels import require_integer
from .._jit.compile import kernel
from .._jit.faces import kernel_overload
from .._jit.handle import HandleType
from .aligned import MAX_ITEMS
from .buffers import memory_of

#: ``struct iovec``: an address and a length in bytes. Signed, because numba turns int64 + uint64 into a float.
IOVEC_DTYPE = np.dtype([("base", np.intp), ("len", np.intp)])

assert IOVEC_DTYPE.itemsize == 16, "entries must have the layout of the C struct"

IOVEC_TYPE = from_dtype(IOVEC_DTYPE)
_REGISTERED_BYTES = 2**30  # the most that io_uring_register(2) accepts for one fixed buffer


class _Memory:
    """What an iovec and its views share: the objects that keep its memory alive, and whether it can be read into."""

    def __init__(self, kept: list[Any], unfit: str | None = None, changed: bool = False) -> None:
        self.kept = kept
        self.unfit = unfit  # why it cannot be read into
        self.changed = changed  # since entries were last checked for overlaps

    def add(self, *others: _Memory) -> None:
        """Keep alive what the others keep alive."""
        self.changed = True
        for other in others:
            self.unfit = self.unfit or other.unfit
            self.kept += [new for new in other.kept if not any(new is old for old in self.kept)]


# numpy functions that write into their first argument.
_IN_PLACE = {np.copyto, np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal}


class IoVec(np.ndarray):
    """An array of `IOVEC_DTYPE`, of shape (n,), that keeps the memory it points at alive and in place.

    Slices, copies and the results of numpy functions keep it too. Make one with `iovec_from_buffers` or
    `BufferPool.iovec`.

    Parameters
    ----------
    n : int
        Number of entries, from 0 to 2**32; they are zeroed.
    owners : object
        The object that keeps alive what the entries will point at.

    Raises
    ------
    TypeError, ValueError, MemoryError
        `n` is not an integer, or out of its range, or too large for the memory of the system.

    Notes
    -----
    Entries assigned from another IoVec bring along what that keeps alive. Entries of a plain array, which keeps
    nothing alive, are refused with TypeError; so are plain arrays passed to the functions of `syscalls` in Python, such
    as ``np.array(iovec)`` or an iovec that a kernel returned. Integers are written as they are: the caller must keep
    the memory at such an address alive.
    """

    _memory: _Memory

    def __new__(cls, n: int, owners: Any) -> IoVec:
        """Return `n` zeroed entries that keep `owners` alive; TypeError, ValueError or MemoryError for other `n`."""
        iovec = super().__new__(cls, check.integer("n", n, 0, MAX_ITEMS), IOVEC_DTYPE)
        iovec.fill(0)
        iovec._memory = _Memory([owners])
        return iovec

    def __array_finalize__(self, origin: Any) -> None:
        """Keep alive what the array keeps that this one is a slice or a copy of."""
        self._memory = getattr(origin, "_memory", None) or _Memory([])
        if self.flags.owndata:  # a copy changes independently
            self._memory = _Memory([*self._memory.kept], self._memory.unfit, self._memory.changed)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write entries and keep alive what they point at; TypeError for entries of a plain array."""
        kept = [_Memory([*found._memory.kept], found._memory.unfit) for found in _iovecs_in(value)]
        super().__setitem__(key, value)
        if self.flags.owndata and isinstance(key, slice) and key == slice(None):  # all entries were replaced
            self._memory.kept, self._memory.unfit = [], None
        self._memory.add(*kept)

    def __array_function__(self, function: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        """Make the result of a numpy function keep what its arguments keep; without any, it is a plain array."""
        written = kwargs.get("out", args[0] if function in _IN_PLACE else None)
        try:
            found = [*_iovecs_in((args, [*kwargs.values()]))]
        except TypeError:
            if written is not None:
                raise
            found = []
        made = super().__array_function__(function, kinds, args, kwargs)
        if isinstance(written, IoVec):
            written._memory.add(*(iovec._memory for iovec in found))
        return _keeping(made, found)

    def __reduce__(self) -> Any:
        raise TypeError("an IoVec cannot be pickled: its addresses belong to this process; send what they point at")


def _iovecs_in(given: Any) -> Iterator[IoVec]:
    """Find the iovecs in an argument; TypeError for entries of plain arrays, unless they are all empty."""
    if isinstance(given, (tuple, list)):
        for one in given:
            yield from _iovecs_in(one)
    elif isinstance(given, IoVec):
        yield given
    elif isinstance(given, np.void) and isinstance(given.base, IoVec):  # an entry by itself
        yield given.base
    elif isinstance(given, (np.ndarray, np.void)) and given.dtype == IOVEC_DTYPE and given["len"].any():
        raise keeps_nothing(given)


def keeps_nothing(iovec: Any) -> TypeError:
    """Return the error for a plain array passed as an iovec."""
    return TypeError(
        "iovec must be an IoVec, made by BufferPool.iovec or iovec_from_buffers, or buffers: a plain array of "
        f"IOVEC_DTYPE keeps no memory alive, and only kernels accept it; it is {iovec!r:.60}"
    )


def _keeping(made: Any, found: list[IoVec]) -> Any:
    """Make the iovecs in the result of a numpy function keep what the arguments keep; plain arrays without any."""
    if isinstance(made, (tuple, list)):
        return type(made)(_keeping(one, found) for one in made)
    if not isinstance(made, np.ndarray) or made.dtype != IOVEC_DTYPE:
        return made
    if not found:
        return made.view(np.ndarray)
    if not any(np.may_share_memory(made, iovec) for iovec in found):  # views have theirs
        made = made.view(IoVec)
        made._memory = _Memory([])
        made._memory.add(*(iovec._memory for iovec in found))
    return made


def iovec_from_buffers(buffers: Iterable[Any], *, writable: bool = False) -> IoVec:
    """Return an iovec over `buffers`, one entry for each, without a copy.

    Parameters
    ----------
    buffers : iterable of bytes, bytearray, memoryview, mmap or numpy arrays
        Contiguous; of any length, 0 included.
    writable : bool
        Whether the iovec will be read into: refuse read-only and overlapping memory now rather than on use.

    Returns
    -------
    IoVec
        Of shape (number of buffers,). While it exists, its bytearrays cannot be resized, nor its mmaps closed.

    Raises
    ------
    TypeError, ValueError
        A buffer is not plain memory, or not contiguous; with `writable`, also read-only or overlapping.

    Examples
    --------
    >>> iovec = iovec_from_buffers([bytearray(10), np.zeros((4, 8), "f4")])
    >>> iovec["len"].tolist()
    [10, 128]
    """
    return iovec_of("buffers", buffers, writable)


def iovec_of(name: str, buffers: Any, writable: bool) -> IoVec:
    """Return an iovec over `buffers`; errors name the argument `name`."""
    if isinstance(buffers, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name} must be a sequence of buffers, not one: {buffers!r:.60}")
    try:
        given = iter(buffers)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of buffers, not {buffers!r:.60}") from None
    arrays = [memory_of(f"{name}[{k}]", buffer, writable) for k, buffer in enumerate(given)]
    iovec = IoVec(len(arrays), arrays)
    iovec["base"] = [array.ctypes.data for array in arrays]
    iovec["len"] = [array.nbytes for array in arrays]
    read_only = [k for k, array in enumerate(arrays) if not array.flags.writeable]
    iovec._memory.unfit = f"{name}[{read_only[0]}] is read-only" if read_only else _overlap(iovec)
    iovec._memory.changed = False
    if writable:
        require_writable(iovec)
    return iovec


def require_writable(iovec: Any) -> None:
    """Raise ValueError for an iovec that cannot be read into."""
    memory = getattr(iovec, "_memory", None)
    unfit = memory and (memory.unfit or (_overlap(iovec) if memory.changed else None))
    if unfit:
        raise ValueError(f"an iovec to be read into must be over writable memory without overlaps, but {unfit}")


def _overlap(iovec: IoVec) -> str | None:
    """Return which entries overlap, or None."""
    used = np.flatnonzero(iovec["len"])
    order = used[np.argsort(iovec["base"][used], kind="stable")]
    ends = (iovec["base"] + iovec["len"])[order[:-1]]
    clash = np.flatnonzero(ends > iovec["base"][order[1:]])
    return f"entries {order[clash[0]]} and {order[clash[0] + 1]} overlap" if len(clash) else None


def iovec_over(pool: Any, indices: Any, lengths: Any) -> Any:
    """Return the iovec of `BufferPool.iovec`."""
    indices = integers_of("indices", indices)
    iovec = IoVec(len(indices), pool)
    fill_iovec(iovec, pool, indices, lengths)
    iovec._memory = _Memory([pool], _overlap(iovec))
    return iovec


@kernel_overload(iovec_over)
def _iovec_over_in_kernel(pool: Any, indices: Any, lengths: Any) -> Any:
    _require_integers(indices, lengths)

    def over(pool, indices, lengths):
        iovec = np.empty(len(indices), IOVEC_DTYPE)
        fill_iovec(iovec, pool, indices, lengths)
        return iovec

    return over


def _require_integers(indices: Any, lengths: Any) -> None:
    """Raise TypingError at compile time for what `integers_of` refuses in Python."""
    require_integers("indices", indices)
    if lengths not in (None, types.none):
        require_integers("lengths", lengths)


def require_integers(name: str, values: Any) -> None:
    """Raise TypingError at compile time unless the type is that of a one-dimensional array of integers."""
    if not (isinstance(values, types.Array) and values.ndim == 1 and isinstance(values.dtype, types.Integer)):
        raise errors.TypingError(f"{name} must be a one-dimensional array of integers in a kernel, not {values}")


def integers_of(name: str, values: Any) -> NDArray[np.int64]:
    """Return a sequence of integers as an int64 array; TypeError for anything else."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise TypeError(f"{name} must be a sequence of integers, not {values!r:.60}") from None
    empty = array.size == 0 and array.dtype == np.float64  # what numpy makes of []
    # In a mixed list, numpy converts bools to integers.
    bools = isinstance(values, (list, tuple)) and any(isinstance(value, (bool, np.bool_)) for value in values)
    if array.ndim != 1 or bools or not (array.dtype.kind in "iu" or empty):
        raise TypeError(f"{name} must be a sequence of integers, not {values!r:.60}")
    return np.ascontiguousarray(array, np.int64)


def fill_iovec(iovec: Any, pool: Any, indices: Any, lengths: Any = None) -> int:
    """Make the first entries of `iovec` point at buffers of `pool`; the same in Python and in kernels.

    Parameters
    ----------
    iovec : array of IOVEC_DTYPE, 1-D, contiguous, writable
        At least as long as `indices`; further entries stay as they are.
    pool : BufferPool
        In Python an `IoVec` keeps it alive; a plain array does not, so the pool must outlive its use.
    indices : sequence of integers
        Indices of buffers, from 0 to capacity - 1; they need not be checked out. In a kernel, a 1-D array.
    lengths : sequence of integers, optional
        Bytes of each buffer, from 0 to the pool's `buffer_size`, which is the default. In a kernel, a 1-D array.

    Returns
    -------
    int
        The total number of bytes.

    Raises
    ------
    IndexError
        An index is out of range.
    TypeError, ValueError
        An argument has the wrong type; the lengths of the arrays do not match; a length is out of range. After any
        error, `iovec` is as it was.

    Examples
    --------
    >>> from numba import njit
    >>> from iobuf_nb import BufferPool
    >>> pool = BufferPool(4, 1024)
    >>> @njit
    ... def total(pool):
    ...     iovec = np.empty(2, IOVEC_DTYPE)
    ...     return fill_iovec(iovec, pool, np.array([3, 1]))
    >>> total(pool)
    2048
    """
    check_iovec(iovec, True)
    check_pool(pool)
    lengths = None if lengths is None else integers_of("lengths", lengths)
    total = fill_entries(
        iovec, pool.capacity, pool.arena, pool.stride, pool.buffer_size, integers_of("indices", indices), lengths
    )
    if isinstance(iovec, IoVec):
        iovec._memory.add(_Memory([pool]))
    return total


@kernel
def fill_entries(iovec, capacity, arena, stride, buffer_size, indices, lengths):
    """Fill an iovec as `fill_iovec` does, compiled once for the pools of all types."""
    if len(indices) > len(iovec):
        raise FormattedValueError("iovec must have an entry for each index, {}, not {}", len(indices), len(iovec))
    if lengths is not None and len(lengths) != len(indices):
        raise FormattedValueError("lengths must have one entry per index, {}, not {}", len(indices), len(lengths))
    total = np.int64(0)
    for k in range(len(indices)):  # everything is checked before anything is written
        length = buffer_size if lengths is None else np.int64(lengths[k])
        if indices[k] < 0 or indices[k] >= capacity:
            last = capacity - 1
            raise FormattedIndexError("indices must be from 0 to capacity - 1, {}, not {}", last, indices[k])
        if length < 0 or length > buffer_size:
            raise FormattedValueError("lengths must be from 0 to buffer_size, {}, not {}", buffer_size, length)
        total += length
    for k in range(len(indices)):
        iovec[k]["base"] = arena + np.int64(indices[k]) * stride
        iovec[k]["len"] = buffer_size if lengths is None else lengths[k]
    return total


@kernel_overload(fill_iovec)
def _fill_in_kernel(iovec: Any, pool: Any, indices: Any, lengths: Any = None) -> Any:
    require_iovec(iovec, True)
    require_pool(pool)
    _require_integers(indices, lengths)
    return lambda iovec, pool, indices, lengths=None: fill_entries(
        iovec, pool.capacity, pool.arena, pool.stride, pool.buffer_size, indices, lengths
    )


def check_pool(pool: Any) -> None:
    """Raise TypeError unless the argument is a `BufferPool`."""
    if not hasattr(pool, "arena"):  # this room cannot import the class
        raise TypeError(f"pool must be a BufferPool, not {pool!r:.60}")


def require_pool(pool: Any) -> None:
    """Raise TypingError at compile time unless the type is that of a `BufferPool`."""
    if not (isinstance(pool, HandleType) and "arena" in dict(pool.members)):
        raise errors.TypingError(f"pool must be a BufferPool, not {pool}")


def check_iovec(iovec: Any, writable: bool = False) -> None:
    """Raise TypeError for what `require_iovec` refuses in kernels."""
    fits = isinstance(iovec, np.ndarray) and iovec.dtype == IOVEC_DTYPE and iovec.ndim == 1 and iovec.flags.c_contiguous
    if not fits or (writable and not iovec.flags.writeable):
        kind = "a writable" if writable else "a"
        raise TypeError(f"iovec must be {kind} contiguous one-dimensional array of IOVEC_DTYPE, not {iovec!r:.60}")


def require_iovec(iovec: types.Type, writable: bool = False) -> None:
    """Raise TypingError at compile time unless the type is that of an iovec."""
    fits = isinstance(iovec, types.Array) and iovec.dtype == IOVEC_TYPE and iovec.ndim == 1 and iovec.layout == "C"
    if not fits or (writable and not iovec.mutable):
        kind = "a writable" if writable else "a"
        raise errors.TypingError(f"iovec must be {kind} contiguous one-dimensional array of IOVEC_DTYPE, not {iovec}")


def advance_iovec(iovec: Any, n: int) -> int:
    """Drop the first `n` bytes after a short transfer; the same in Python and in kernels.

    Parameters
    ----------
    iovec : array of IOVEC_DTYPE, 1-D, contiguous, writable
        Changed in place: its entries then cover the rest.
    n : int
        Bytes, from 0 to the total of the iovec.

    Returns
    -------
    int
        The position of the first entry that is not empty, len(iovec) if all are: continue with ``iovec[first:]``.

    Raises
    ------
    TypeError, ValueError
        `iovec` is not such an array; `n` is not an integer, or out of range.

    Examples
    --------
    >>> iovec = iovec_from_buffers([bytearray(10), bytearray(10), bytearray(10)])
    >>> first = advance_iovec(iovec, 14)
    >>> first, iovec["len"].tolist()
    (1, [0, 6, 10])
    """
    check_iovec(iovec, True)
    return _advance(iovec, check.integer("n", n, 0, int(iovec["len"].sum())))


@kernel
def _advance(iovec, n):
    total = 0
    for k in range(len(iovec)):
        total += iovec[k]["len"]
    if n < 0 or n > total:
        raise FormattedValueError("n must be from 0 to the total of the iovec, {}, not {}", total, n)
    first = len(iovec)
    for k in range(len(iovec)):
        step = min(n, iovec[k]["len"])
        iovec[k]["base"] += step
        iovec[k]["len"] -= step
        n -= step
        if iovec[k]["len"] > 0 and first == len(iovec):
            first = k
    return first


@kernel_overload(advance_iovec)
def _advance_in_kernel(iovec: Any, n: Any) -> Any:
    require_iovec(iovec, True)
    require_integer("n", n, " in a kernel")
    return lambda iovec, n: _advance(iovec, n)


def iovec_addr_len(iovec: Any) -> tuple[int, int]:
    """Return the address and the number of entries of an iovec, to pass to a system call; (0, 0) if it is empty.

    The same in Python and in kernels. Keep the iovec alive until the call returns.

    Parameters
    ----------
    iovec : array of IOVEC_DTYPE, 1-D, contiguous

    Returns
    -------
    tuple of two ints

    Raises
    ------
    TypeError
        `iovec` is not such an array.

    Examples
    --------
    >>> iovec_addr_len(iovec_from_buffers([]))
    (0, 0)
    """
    check_iovec(iovec)
    return (iovec.ctypes.data, len(iovec)) if len(iovec) else (0, 0)


@kernel_overload(iovec_addr_len)
def _addr_len_in_kernel(iovec: Any) -> Any:
    require_iovec(iovec)
    return lambda iovec: (iovec.ctypes.data, len(iovec)) if len(iovec) else (0, 0)


def iovec_from_registered(pool: Any) -> IoVec:
    """Return the whole memory of a `BufferPool` as io_uring_register(2) takes it for fixed buffers.

    Parameters
    ----------
    pool : BufferPool
        Kept alive by the result.

    Returns
    -------
    IoVec
        Entries of at most 1 GiB, io_uring's limit, each a whole number of buffers: buffer i is in entry
        ``i // per_entry``, with ``per_entry = iovec["len"][0] // pool.stride``.

    Raises
    ------
    TypeError, ValueError
        `pool` is not a `BufferPool`; a single buffer is larger than 1 GiB.

    Examples
    --------
    >>> from iobuf_nb import BufferPool
    >>> iovec_from_registered(BufferPool(16, 4096))["len"].tolist()
    [65536]
    """
    check_pool(pool)
    per_entry = _REGISTERED_BYTES // pool.stride
    if per_entry == 0:
        raise ValueError(f"pool must have buffers of at most {_REGISTERED_BYTES} bytes, not {pool.stride}")
    firsts = range(0, pool.capacity, per_entry)
    iovec = IoVec(len(firsts), pool)
    iovec["base"] = [pool.arena + first * pool.stride for first in firsts]
    iovec["len"] = [min(per_entry, pool.capacity - first) * pool.stride for first in firsts]
    return iovec
