"""Get, put and lease, written once for what hands out a pool's indices: the pool itself, or a magazine over it."""

from __future__ import annotations

import operator
from typing import Any, Generic

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
from .lease import Lease, Value
from .repr import ReprMixin

#: What ends the error where a pool, or what is over one, is pickled.
FOR_DASK = "; a task on a Dask cluster takes the pool of its worker: iobuf_nb.dask.PoolPlugin and worker_pool"

NOT_CHECKED_OUT = "index must be that of a buffer that is checked out; {} was put already or never got"

_INTEGERS = int, np.int64  # the common types, which need no check


def as_index(index: Any) -> int:
    """Return an index as an int64; -1 for an integer too large for one, which is out of range anyway."""
    number = operator.index(index) if type(index) in _INTEGERS else check.index("index", index)
    return number if -(2**63) <= number < 2**63 else -1


@kernel_overload(as_index)
def _as_index_in_kernel(index: Any) -> Any:
    require_integer("index", index)
    return lambda index: np.int64(index)


def refuse(pool: Any, index: Any, status: int) -> None:
    """Raise the error that a `status` other than OK stands for, the same in Python and in kernels."""
    if status == OUT_OF_RANGE:
        raise FormattedIndexError("index must be from 0 to {}, not {}", pool.capacity - 1, index)
    raise FormattedValueError(NOT_CHECKED_OUT, index)


compiled_as(refuse)(refuse)


def checked_index(pool: Any, index: Any) -> int:
    """Return `index` as an int from 0 to `capacity` - 1, or raise."""
    number = as_index(index)
    if not 0 <= number < pool.capacity:
        refuse(pool, index, OUT_OF_RANGE)
    return number


def check_indices(name: str, array: Any, writable: bool) -> None:
    """Raise unless `array` can hold indices, to be read or, if `writable`, to be written."""
    if not (isinstance(array, np.ndarray) and array.dtype == np.int64 and array.ndim == 1):
        raise TypeError(f"{name} must be a one-dimensional int64 array, not {array!r:.60}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} must be a writable array, not a read-only one")


@kernel_overload(check_indices)
def _check_indices_in_kernel(name: Any, array: Any, writable: Any) -> Any:
    name = getattr(name, "literal_value", "indices")  # numba retries without literals if this refuses
    if not (isinstance(array, types.Array) and array.dtype == types.int64 and array.ndim == 1):
        raise errors.TypingError(f"{name} must be a one-dimensional int64 array, not {array}")
    if getattr(writable, "literal_value", True) and not array.mutable:
        raise errors.TypingError(f"{name} must be a writable array, not a read-only one")
    return lambda name, array, writable: None


def elements(indices: Any) -> Any:
    """Return an array of indices for functions that must not count references to it: in kernels, a pointer."""
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
    """Return how many of `n` were taken, or REST minus that if magazines may hold more."""
    return count if count == n or load(pool._deques, COUNT) == 0 else REST - count


class Allocator(Handle, ReprMixin, Generic[Value]):
    """The interface shared by pools and magazines: hand out the indices of a pool's buffers and take them back.

    Subclasses define how to take, give and wait for one index; `_wait` and its siblings run in kernels too.
    """

    __slots__ = ()

    _OR_SHARE = FOR_DASK

    capacity: int

    def _take(self) -> int:
        """Take a free buffer; return its index, or EMPTY."""
        raise NotImplementedError

    def _wait(self, limit: int) -> int:
        """Wait for a free buffer; return its index, or a status as `wait_to_get` does."""
        raise NotImplementedError

    def _give(self, index: int) -> int:
        """Return a buffer; OK, or the status of a refusal."""
        raise NotImplementedError

    def _take_many(self, out: NDArray[np.int64], n: int) -> int:
        """Take up to len(out) free buffers; return how many."""
        raise NotImplementedError

    def _give_many(self, indices: NDArray[np.int64], n: int) -> int:
        """Return all buffers and -1, or return none of them and the position of the first refused one."""
        raise NotImplementedError

    def value(self, index: int) -> Value:
        """Return what an index stands for."""
        raise NotImplementedError

    @in_kernels
    def try_get(self) -> int:
        """Check out a free buffer and return its index, or -1 if none is free or the pool is closed.

        Never blocks; lock-free. The calling thread owns the buffer until any thread returns it with `put`.
        """
        return self._take()

    @in_kernels
    def get(self, block: bool = True, timeout: float | None = None) -> int:
        """Check out a free buffer and return its index, waiting for one if necessary.

        Parameters
        ----------
        block : bool
            If False, do not wait.
        timeout : float, optional
            Longest wait in seconds; no limit by default.

        Returns
        -------
        int
            From 0 to `capacity` - 1.

        Raises
        ------
        WouldBlock
            No buffer became free in time, or none is free and `block` is False or the pool is `nonblocking`.
        Closed
            The pool is closed, or was closed during the wait.
        TypeError, ValueError
            `block` is not a bool; `timeout` is neither None nor a number >= 0.
        RuntimeError
            No buffer is free, and this is a forked child, which nothing could wake; or membarrier(2) has begun to fail.

        Notes
        -----
        Any number of threads may wait. Waiting releases the GIL, even in a kernel that holds it, and ends
        with KeyboardInterrupt on Ctrl-C in the main thread. Inside `prange`, numba does not deliver exceptions
        reliably, KeyboardInterrupt included: use `timeout` or `try_get` there. An ``except`` in a kernel cannot catch
        what a signal handler raised.

        On Python 3.11 and 3.12 numba drops the names of keyword arguments in calls inside ``try``. A kernel in which
        that would change the meaning of a call is not compiled: there, write ``get(True, 0.1)`` for
        ``get(timeout=0.1)``.

        In a kernel, Ctrl-C interrupts waits only. In Python, in the main thread, it may arrive after `get` has returned
        but before its index is assigned: `holders` then still reports this thread as the owner. A `lease` over a pool
        of buffers is safe from that, unless it had to wait.
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
                raise WouldBlock("get found no free buffer for as long as it may wait")
        return index

    @in_kernels
    def try_put(self, index: int) -> bool:
        """Return a buffer to the pool; return whether it was accepted.

        Returns False, without effect, if the index is out of range or not checked out. Never blocks; lock-free. Any
        thread may return any buffer, also to a closed pool. A pool made with ``checked=False`` checks the range only.
        TypeError if `index` is not an integer.
        """
        return self._give(as_index(index)) == OK

    @in_kernels
    def put(self, index: int) -> None:
        """Return a buffer to the pool. Never blocks: there is always room.

        Parameters
        ----------
        index : int
            A buffer that is checked out, by this thread or another.

        Raises
        ------
        IndexError
            `index` is not from 0 to `capacity` - 1.
        ValueError
            The buffer is not checked out: put already, or never got. Checked pools only.
        TypeError
            `index` is not an integer.

        Notes
        -----
        A double put is detected unless another thread has got the buffer in between: then it is checked out
        again, and the second put takes it away from its new owner.
        """
        status = self._give(as_index(index))
        if status != OK:
            refuse(self, index, status)

    def _refuse(self, index: int, status: int) -> None:
        """Raise the error of a refused `put`, on behalf of the C method."""
        refuse(self, index, status)

    @in_kernels
    def get_many(self, out: NDArray[np.int64]) -> int:
        """Check out up to len(out) free buffers, write their indices to the front of `out`, and return how many.

        Parameters
        ----------
        out : array of int64, shape (n,)
            Writable.

        Returns
        -------
        int
            From 0 to n; 0 if no buffer is free or the pool is closed.

        Raises
        ------
        TypeError, ValueError
            `out` is not such an array; it is read-only.

        Notes
        -----
        Never blocks. Each buffer is taken on its own: other threads may get and put in between.
        """
        check_indices("out", out, True)
        return self._take_many(elements(out), len(out))

    def _take_rest(self, out: NDArray[np.int64], done: int) -> int:
        """Continue `get_many` where the C method stopped, without the GIL."""
        return done + self._take_many(out[done:], len(out) - done)

    @in_kernels
    def put_many(self, indices: NDArray[np.int64]) -> None:
        """Return all these buffers to the pool, or none of them if one is refused.

        Parameters
        ----------
        indices : array of int64, shape (n,)

        Raises
        ------
        IndexError, ValueError
            As in `put`, for the first refused index; no buffer has been returned.
        TypeError
            `indices` is not such an array.

        Notes
        -----
        Never blocks. A pool made with ``checked=False`` checks the range only.
        """
        check_indices("indices", indices, False)
        first = elements(indices)
        refused = self._give_many(first, len(indices))
        if refused >= 0:
            self._refuse_many(first, refused)

    @in_kernels
    def _refuse_many(self, indices: NDArray[np.int64], position: int) -> None:
        """Raise the error of a refused `put_many`."""
        index = indices[position]
        refuse(self, index, OUT_OF_RANGE if index < 0 or index >= self.capacity else NOT_OUT)

    def lease(self, block: bool = True, timeout: float | None = None) -> Lease[Value]:
        """Check out a buffer for the duration of a ``with`` block and return it at the end, also after an error.

        Parameters are those of `get`, and so are errors, which come where the block begins. Python only.

        Returns
        -------
        Lease
            A context manager whose ``with`` yields what `value` returns. Inside the block its attribute `index` is the
            index of the buffer; after it, the lease can be used again. RuntimeError if it is entered twice at once.

        Examples
        --------
        >>> from iobuf_nb import BufferPool
        >>> pool = BufferPool(4, 4096)
        >>> with pool.lease() as buffer:
        ...     buffer[0] = 7
        >>> pool.available()
        4

        >>> with (lease := pool.lease(timeout=1.0)) as buffer:
        ...     bool((buffer == pool.value(lease.index)).all())
        True
        """
        return Lease(self, block, timeout)
