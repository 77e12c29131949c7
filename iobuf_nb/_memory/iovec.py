"""``struct iovec`` arrays: memory in several pieces, as readv(2), sendmsg(2) and io_uring take it.

An iovec is an array of `IOVEC_DTYPE`, an entry for each piece. In Python it is an `IoVec`, which keeps the memory that
it points at alive and in its place; inside a kernel it is a plain structured array, and the kernel's caller does that.
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

#: ``struct iovec``: an address and a number of bytes. Signed, because numba turns int64 + uint64 into a float.
IOVEC_DTYPE = np.dtype([("base", np.intp), ("len", np.intp)])

assert IOVEC_DTYPE.itemsize == 16, "entries must have the layout of the C struct"

IOVEC_TYPE = from_dtype(IOVEC_DTYPE)
_REGISTERED_BYTES = 2**30  # the most that io_uring_register(2) takes for one fixed buffer


class _Owners:
    """What an iovec and all its views, which are of the same entries, know of the memory that these point at."""

    def __init__(self, kept: list[Any], unfit: str | None = None, changed: bool = False) -> None:
        self.kept = kept
        self.unfit = unfit  # why one cannot read into it
        self.changed = changed  # since it was looked whether entries overlap

    def add(self, *others: _Owners) -> None:
        """Keep what the others keep."""
        self.changed = True
        for other in others:
            self.unfit = self.unfit or other.unfit
            self.kept += [new for new in other.kept if not any(new is old for old in self.kept)]


# Of numpy's functions, those that write into their first argument.
_IN_PLACE = {np.copyto, np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal}


class IoVec(np.ndarray):
    """An array of `IOVEC_DTYPE`, of shape (n,), that keeps what it points at alive and unresizable.

    Slices and copies keep it too, and so does what numpy's functions make of several. `iovec_from_buffers` and
    `BufferPool.iovec` make them.

    Notes
    -----
    Entries that are assigned to it bring along what their own IoVec keeps; those of a plain array, which keeps nothing,
    are refused with TypeError. So are plain arrays in Python by the functions of `syscalls`: what ``np.array(iovec)``
    makes, or what a kernel returns. Integers are taken as they are: who writes an address answers for it.
    """

    _owners: _Owners

    def __new__(cls, n: int, owners: Any) -> IoVec:
        """Return `n` zeroed entries that keep `owners`; TypeError, ValueError or MemoryError for other `n`."""
        iovec = super().__new__(cls, check.integer("n", n, 0, MAX_ITEMS), IOVEC_DTYPE)
        iovec.fill(0)
        iovec._owners = _Owners([owners])
        return iovec

    def __array_finalize__(self, origin: Any) -> None:
        """Take over what the array keeps that this one is a slice or a copy of."""
        self._owners = getattr(origin, "_owners", None) or _Owners([])
        if self.flags.owndata:  # a copy goes its own way
            self._owners = _Owners([*self._owners.kept], self._owners.unfit, self._owners.changed)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write entries, and keep what they point at; TypeError for those of an array that keeps nothing."""
        kept = [_Owners([*found._owners.kept], found._owners.unfit) for found in _iovecs_in(value)]
        super().__setitem__(key, value)
        if self.flags.owndata and isinstance(key, slice) and key == slice(None):  # nothing is left of what was there
            self._owners.kept, self._owners.unfit = [], None
        self._owners.add(*kept)

    def __array_function__(self, function: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        """Let what a numpy function makes keep what all its arguments keep; without that, it is a plain array."""
        written = kwargs.get("out", args[0] if function in _IN_PLACE else None)
        try:
            found = [*_iovecs_in((args, [*kwargs.values()]))]
        except TypeError:
            if written is not None:
                raise
            found = []
        made = super().__array_function__(function, kinds, args, kwargs)
        if isinstance(written, IoVec):
            written._owners.add(*(iovec._owners for iovec in found))
        return _keeping(made, found)

    def __reduce__(self) -> Any:
        raise TypeError("an IoVec cannot be pickled: its addresses belong to this process; send what they point at")


def _iovecs_in(given: Any) -> Iterator[IoVec]:
    """Find the iovecs in something; refuse entries of which nothing is known."""
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
    """Return the error for a plain array in the place of an iovec."""
    return TypeError(
        "iovec must be an IoVec, as BufferPool.iovec and iovec_from_buffers make them, or buffers: a plain array of "
        f"IOVEC_DTYPE keeps no memory alive, and only kernels take it; it is {iovec!r:.60}"
    )


def _keeping(made: Any, found: list[IoVec]) -> Any:
    """Return what a numpy function made of these, with iovecs in it that keep what they keep; of none, plain arrays."""
    if isinstance(made, (tuple, list)):
        return type(made)(_keeping(one, found) for one in made)
    if not isinstance(made, np.ndarray) or made.dtype != IOVEC_DTYPE:
        return made
    if not found:
        return made.view(np.ndarray)
    if not any(np.may_share_memory(made, iovec) for iovec in found):  # views have theirs
        made = made.view(IoVec)
        made._owners = _Owners([])
        made._owners.add(*(iovec._owners for iovec in found))
    return made


def iovec_from_buffers(buffers: Iterable[Any], *, writable: bool = False) -> IoVec:
    """Return an iovec over `buffers`, one entry for each, without a copy.

    Parameters
    ----------
    buffers : iterable of bytes, bytearray, memoryview, mmap or numpy arrays
        Contiguous; of any length, 0 included.
    writable : bool
        The iovec is to be read into: refuse read-only and overlapping memory now rather than when it is used.

    Returns
    -------
    IoVec
        Of shape (number of buffers,). While it lives, a bytearray among them cannot be resized, nor an mmap closed.

    Raises
    ------
    TypeError, ValueError
        A buffer is no plain memory, or not contiguous; with `writable`, read-only or overlapping.

    Examples
    --------
    >>> iovec = iovec_from_buffers([bytearray(10), np.zeros((4, 8), "f4")])
    >>> iovec["len"].tolist()
    [10, 128]
    """
    return iovec_of("buffers", buffers, writable)


def iovec_of(name: str, buffers: Any, writable: bool) -> IoVec:
    """Return an iovec over `buffers`, which errors call by `name`."""
    if isinstance(buffers, (bytes, bytearray, memoryview)):
        raise TypeError(f"{name} must be a sequence of buffers, not one: {buffers!r:.60}")
    try:
        buffers = list(buffers)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of buffers, not {buffers!r:.60}") from None
    pieces = [memory_of(f"{name}[{k}]", buffer, writable) for k, buffer in enumerate(buffers)]
    iovec = IoVec(len(pieces), pieces)
    iovec["base"] = [piece.ctypes.data for piece in pieces]
    iovec["len"] = [piece.nbytes for piece in pieces]
    read_only = [k for k, piece in enumerate(pieces) if not piece.flags.writeable]
    iovec._owners.unfit = f"{name}[{read_only[0]}] is read-only" if read_only else _overlap(iovec)
    iovec._owners.changed = False
    if writable:
        require_writable(iovec)
    return iovec


def require_writable(iovec: Any) -> None:
    """Refuse an iovec that cannot be read into."""
    owners = getattr(iovec, "_owners", None)
    unfit = owners and (owners.unfit or (_overlap(iovec) if owners.changed else None))
    if unfit:
        raise ValueError(f"an iovec to be read into must be over writable memory without overlaps, but {unfit}")


def _overlap(iovec: IoVec) -> str | None:
    used = np.flatnonzero(iovec["len"])
    order = used[np.argsort(iovec["base"][used], kind="stable")]
    ends = (iovec["base"] + iovec["len"])[order[:-1]]
    clash = np.flatnonzero(ends > iovec["base"][order[1:]])
    return f"entries {order[clash[0]]} and {order[clash[0] + 1]} overlap" if len(clash) else None


def iovec_over(pool: Any, indices: Any, lengths: Any) -> Any:
    """Return the iovec of `BufferPool.iovec`."""
    indices = _integers("indices", indices)
    iovec = IoVec(len(indices), pool)
    fill_iovec(iovec, pool, indices, lengths)
    iovec._owners = _Owners([pool], _overlap(iovec))
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
    """Refuse, while a kernel is compiled, what `_integers` refuses in Python."""
    for name, values in (("indices", indices), ("lengths", lengths)):
        if name == "lengths" and values in (None, types.none):
            continue
        if not (isinstance(values, types.Array) and values.ndim == 1 and isinstance(values.dtype, types.Integer)):
            raise errors.TypingError(f"{name} must be a one-dimensional array of integers in a kernel, not {values}")


def _integers(name: str, values: Any) -> NDArray[np.int64]:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of several lengths
        raise TypeError(f"{name} must be a sequence of integers, not {values!r:.60}") from None
    empty = array.size == 0 and array.dtype == np.float64  # what numpy makes of []
    # In a list of both, numpy makes integers of bools.
    bools = isinstance(values, (list, tuple)) and any(isinstance(value, (bool, np.bool_)) for value in values)
    if array.ndim != 1 or bools or not (array.dtype.kind in "iu" or empty):
        raise TypeError(f"{name} must be a sequence of integers, not {values!r:.60}")
    return np.ascontiguousarray(array, np.int64)


def fill_iovec(iovec: Any, pool: Any, indices: Any, lengths: Any = None) -> int:
    """Make the first entries of `iovec` point at buffers of `pool`; the same in Python and in kernels.

    Parameters
    ----------
    iovec : array of IOVEC_DTYPE, 1-D
        At least as long as `indices`.
    pool : BufferPool
        Must outlive the use of `iovec`, unless that is an `IoVec`, in Python: a plain array keeps nothing alive.
    indices : integers
        In a kernel, an array, 1-D.
    lengths : integers, optional
        Bytes of each, at most the pool's `buffer_size`, which is the default.

    Returns
    -------
    int
        Bytes in all.

    Raises
    ------
    IndexError, TypeError, ValueError
        There is no such buffer; the arrays do not fit each other; a length is out of its range.

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
    total = _fill(
        iovec, pool, _integers("indices", indices), None if lengths is None else _integers("lengths", lengths)
    )
    if isinstance(iovec, IoVec):
        iovec._owners.add(_Owners([pool]))
    return total


@kernel
def _fill(iovec, pool, indices, lengths):
    if len(indices) > len(iovec):
        raise FormattedValueError("iovec must have an entry for each index, {}, not {}", len(indices), len(iovec))
    if lengths is not None and len(lengths) != len(indices):
        raise FormattedValueError("lengths must be as many as indices, {}, not {}", len(indices), len(lengths))
    total = np.int64(0)
    for k in range(len(indices)):  # nothing is written before all is found good
        length = pool.buffer_size if lengths is None else np.int64(lengths[k])
        if indices[k] < 0 or indices[k] >= pool.capacity:
            last = pool.capacity - 1
            raise FormattedIndexError("indices must be from 0 to capacity - 1, {}, not {}", last, indices[k])
        if length < 0 or length > pool.buffer_size:
            raise FormattedValueError("lengths must be from 0 to buffer_size, {}, not {}", pool.buffer_size, length)
        total += length
    for k in range(len(indices)):
        iovec[k]["base"] = pool.arena + np.int64(indices[k]) * pool.stride
        iovec[k]["len"] = pool.buffer_size if lengths is None else lengths[k]
    return total


@kernel_overload(fill_iovec)
def _fill_in_kernel(iovec: Any, pool: Any, indices: Any, lengths: Any = None) -> Any:
    require_iovec(iovec, True)
    if not (isinstance(pool, HandleType) and "arena" in dict(pool.members)):
        raise errors.TypingError(f"pool must be a BufferPool, not {pool}")
    _require_integers(indices, lengths)
    return lambda iovec, pool, indices, lengths=None: _fill(iovec, pool, indices, lengths)


def check_pool(pool: Any) -> None:
    """Refuse what is no pool of buffers."""
    if not hasattr(pool, "arena"):  # the class is not known here
        raise TypeError(f"pool must be a BufferPool, not {pool!r:.60}")


def check_iovec(iovec: Any, writable: bool = False) -> None:
    """Refuse, in Python, what `require_iovec` refuses in kernels."""
    fits = isinstance(iovec, np.ndarray) and iovec.dtype == IOVEC_DTYPE and iovec.ndim == 1 and iovec.flags.c_contiguous
    if not fits or (writable and not iovec.flags.writeable):
        kind = "a writable" if writable else "a"
        raise TypeError(f"iovec must be {kind} contiguous one-dimensional array of IOVEC_DTYPE, not {iovec!r:.60}")


def require_iovec(iovec: types.Type, writable: bool = False) -> None:
    """Refuse, while a kernel is compiled, what is no iovec."""
    fits = isinstance(iovec, types.Array) and iovec.dtype == IOVEC_TYPE and iovec.ndim == 1 and iovec.layout == "C"
    if not fits or (writable and not iovec.mutable):
        kind = "a writable" if writable else "a"
        raise errors.TypingError(f"iovec must be {kind} contiguous one-dimensional array of IOVEC_DTYPE, not {iovec}")


def advance_iovec(iovec: Any, n: int) -> int:
    """Drop the first `n` bytes after a short transfer; the same in Python and in kernels.

    Parameters
    ----------
    iovec : array of IOVEC_DTYPE, 1-D
        Changed in place: its entries then cover what is left.
    n : int
        Bytes, from 0 to the total of the iovec.

    Returns
    -------
    int
        Where the first entry with anything left stands, len(iovec) if none has: go on with ``iovec[first:]``.

    Raises
    ------
    TypeError, ValueError
        `iovec` is no such array; `n` is out of its range.

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
    """Return the address and the number of entries, for a system call of one's own; (0, 0) if there are none.

    The same in Python and in kernels. The iovec must live until the call is over. TypeError if it is no array of
    `IOVEC_DTYPE`, one-dimensional and contiguous.

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
    """Return the whole arena of a `BufferPool` as io_uring_register(2) takes it for fixed buffers.

    Returns
    -------
    IoVec
        Pieces of at most 1 GiB, io_uring's limit, each of whole buffers: buffer i lies in piece
        ``i // per_piece``, with ``per_piece = iovec["len"][0] // pool.stride``.

    Raises
    ------
    TypeError, ValueError
        `pool` is no such pool; one buffer alone is larger than 1 GiB.

    Examples
    --------
    >>> from iobuf_nb import BufferPool
    >>> iovec_from_registered(BufferPool(16, 4096))["len"].tolist()
    [65536]
    """
    check_pool(pool)
    per_piece = _REGISTERED_BYTES // pool.stride
    if per_piece == 0:
        raise ValueError(f"pool must have buffers of at most {_REGISTERED_BYTES} bytes, not {pool.stride}")
    firsts = range(0, pool.capacity, per_piece)
    iovec = IoVec(len(firsts), pool)
    iovec["base"] = [pool.arena + first * pool.stride for first in firsts]
    iovec["len"] = [min(per_piece, pool.capacity - first) * pool.stride for first in firsts]
    return iovec
