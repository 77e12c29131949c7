"""What hands out a pool's indices and takes them back, the pool or a magazine: get, put and lease, written once."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import errors
from numba.extending import intrinsic
from numpy.typing import NDArray

from .._free.deque import COUNT
from .._jit import check
from .._jit.check import FormattedIndexError, FormattedValueError
from .._jit.check_in_kernels import require_integer
from .._jit.compile import hot
from .._jit.faces import compiled_as, in_kernels, kernel_overload
from .._jit.handle import WORD_POINTER, Handle
from .._jit.methods import REST
from .._threads.clock import limit_ns
from .._threads.outcomes import (
    CLOSED,
    EMPTY,
    FORKED,
    NO_FENCE,
    NO_WAIT_IN_A_CHILD,
    NOT_OUT,
    OK,
    OUT_OF_RANGE,
    UNFENCED,
    Closed,
    WouldBlock,
)
from ..atomics import load
from .repr import ReprMixin

_INTEGERS = int, np.int64  # the common ones, which need no check


def as_index(index: Any) -> int:
    """Return an index as an int64; what no int64 can hold is out of range anyway."""
    number = operator.index(index) if type(index) in _INTEGERS else check.index("index", index)
    return number if -(2**63) <= number < 2**63 else -1


@kernel_overload(as_index)
def _as_index_in_kernel(index: Any) -> Any:
    require_integer("index", index)
    return lambda index: np.int64(index)


def refuse(pool: Any, index: Any, status: int) -> None:
    """Raise what a `status` that is not OK stands for; the same in Python and in kernels."""
    if status == OUT_OF_RANGE:
        raise FormattedIndexError("index must be from 0 to {}, not {}", pool.capacity - 1, index)
    raise FormattedValueError("index must be that of a buffer that is out; {} was put already, or never got", index)


compiled_as(refuse)(refuse)


def checked_index(pool: Any, index: Any) -> int:
    """Return `index` as an int of [0, capacity), or raise."""
    number = as_index(index)
    if not 0 <= number < pool.capacity:
        refuse(pool, index, OUT_OF_RANGE)
    return number


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

    return WORD_POINTER(array), codegen


@kernel_overload(elements)
def _elements_in_kernel(indices: Any) -> Any:
    if isinstance(indices, types.Array) and (indices.dtype, indices.layout) == (types.int64, "C"):
        return lambda indices: _first_element(indices)
    return lambda indices: indices


@hot
def count_or_rest(pool, count, n):
    """Return how many were taken of `n`, or REST less that if magazines may have the others."""
    return count if count == n or load(pool._deques, COUNT) == 0 else REST - count


class Allocator(Handle, ReprMixin):
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

    @in_kernels
    def try_get(self) -> int:
        """Take a free buffer and return its index, or return -1 at once if none is free or the pool is closed.

        Lock-free. The buffer belongs to the calling thread until somebody puts it back.
        """
        return self._take()

    @in_kernels
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
        Closed
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
                raise Closed("get from a closed pool or magazine")
            if index == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            if index == UNFENCED:
                raise RuntimeError(NO_FENCE)
            if index == EMPTY:
                raise WouldBlock("no buffer became free for as long as get was to wait")
        return index

    @in_kernels
    def try_put(self, index: int) -> bool:
        """Give a buffer back and return True; False, and nothing changed, if it is not out or no such buffer exists.

        Lock-free. Any thread may put. Without `checked`, only the range is looked at. A closed pool takes buffers back.
        TypeError if `index` is not an integer.
        """
        return self._give(as_index(index)) == OK

    @in_kernels
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

    @in_kernels
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

    @in_kernels
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

    @in_kernels
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
