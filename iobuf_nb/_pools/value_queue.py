"""A `BoundedQueue` with a dtype: the queue of `_free.values` as an object, the same in Python and in kernels.

All dtypes have the functions of `_free.values` in common, which move values as words. What a dtype needs of its own is
here: how a value becomes words, and words a value. In kernels the words lie in the stack frame.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numpy.typing import NDArray

from .._free.queue import CLOSED_FLAG, GETTERS, LINE_PAIR, size
from .._free.values import (
    CELLS,
    CellsType,
    close_values,
    get_value,
    get_values,
    put_value,
    put_values,
    wait_to_get_value,
    wait_to_put_value,
)
from .._jit import check
from .._jit.faces import compiled_as, in_kernels, is_in_kernels, kernel_face, kernel_instruction, kernel_overload
from .._jit.handle import WORD_POINTER, HandleType
from .._memory.aligned import MAX_ITEMS, aligned_mem
from .._memory.dtype import element_type
from .._threads.clock import limit_ns
from .._threads.outcomes import CLOSED, EMPTY, FORKED, NO_WAIT_IN_A_CHILD, OK, Closed, WouldBlock
from ..atomics import load
from .bounded_queue import ENDED, LATE, BoundedQueue
from .repr import waiting

MOST_BYTES = 1024  # of a value
_WORD, _BYTES = ir.IntType(64), ir.IntType(8).as_pointer()
_NOT_BELOW_0 = "-1 may be a value of a queue with a dtype: use"


class ValueQueueType(CellsType):
    """The numba type of a `BoundedQueue` with a dtype."""

    @property
    def core(self) -> HandleType:
        """What is common to all dtypes."""
        return CELLS

    def __init__(self, dtype: types.Type, stride: int) -> None:
        self.dtype, self.stride = dtype, stride
        super().__init__(f"BoundedQueue of {dtype}")


value_queue_type = functools.cache(ValueQueueType)


# ---- a value as words ------------------------------------------------------------------------------------------------


def words_of(queue: Any, value: Any) -> Any:
    """Return a value as words; TypeError or ValueError if it is none of the queue's dtype."""
    words, values = queue._room(1)
    values[0] = queue._checked(value)
    return words


@kernel_instruction(words_of)
def _words_in_kernel(typingctx: Any, queue: Any, value: Any) -> Any:
    dtype, value = queue.dtype, types.unliteral(value)
    fits = {types.int64: types.Integer, types.float64: (types.Integer, types.Float)}.get(dtype)
    if not isinstance(value, fits) if fits else value != dtype:
        raise errors.TypingError(f"value must be of {dtype}, not {value}")

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        words = _frame(builder, queue)
        if isinstance(dtype, types.Record):
            target, source = (builder.bitcast(each, _BYTES) for each in (words, args[1]))
            cgutils.raw_memcpy(builder, target, source, _WORD(dtype.size), 1)
        else:
            builder.store(args[1], builder.bitcast(words, args[1].type.as_pointer()))
        return words

    return WORD_POINTER(queue, dtype), codegen


def room_for(queue: Any) -> Any:
    """Return words for one value."""
    return queue._room(1)[0]


@kernel_instruction(room_for)
def _room_in_kernel(typingctx: Any, queue: Any) -> Any:
    return WORD_POINTER(queue), lambda context, builder, signature, args: _frame(builder, queue)


def _frame(builder: ir.IRBuilder, queue: ValueQueueType) -> Any:
    return cgutils.alloca_once(builder, _WORD, queue.stride)


def value_in(queue: Any, words: Any) -> Any:
    """Return the value that words are; that of a record refers to them."""
    value = queue._values_in(words)[0]
    return value if queue.dtype.names else value.item()


@kernel_instruction(value_in)
def _value_in_kernel(typingctx: Any, queue: Any, words: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        if isinstance(queue.dtype, types.Record):
            return builder.bitcast(args[1], context.get_value_type(queue.dtype))
        return builder.load(builder.bitcast(args[1], context.get_value_type(queue.dtype).as_pointer()))

    return queue.dtype(queue, words), codegen


def require_returnable(queue: Any) -> None:
    """Raise, in a kernel, if that cannot return a value of the queue."""


@kernel_overload(require_returnable)
def _require_in_kernel(queue: Any) -> Any:
    if isinstance(queue.dtype, types.Record):
        raise errors.TypingError("get of a queue of records is for Python: in kernels, use get_into(out)")
    return lambda queue: None


def check_values(name: str, queue: Any, array: Any, writable: bool) -> None:
    """Raise unless `array` can hold values of the queue, to be read or, if `writable`, to be written."""
    if not (isinstance(array, np.ndarray) and array.dtype == queue.dtype and array.ndim == 1):
        raise TypeError(f"{name} must be a one-dimensional array of {queue.dtype}, not {array!r:.60}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} must be a writable array, not a read-only one")


@kernel_overload(check_values)
def _check_values_in_kernel(name: Any, queue: Any, array: Any, writable: Any) -> Any:
    name = getattr(name, "literal_value", "values")  # numba retries without literals if this refuses
    if not (isinstance(array, types.Array) and array.dtype == queue.dtype and array.ndim == 1):
        raise errors.TypingError(f"{name} must be a one-dimensional array of {queue.dtype}, not {array}")
    if getattr(writable, "literal_value", True) and not array.mutable:
        raise errors.TypingError(f"{name} must be a writable array, not a read-only one")
    return lambda name, queue, array, writable: None


# ---- many values -----------------------------------------------------------------------------------------------------


def _put_each(queue, values):
    for k in range(len(values)):
        if put_value(queue._core, words_of(queue, values[k]), 0) != OK:
            return k
    return len(values)


@compiled_as(_put_each)
def put_array(queue: Any, values: NDArray[Any]) -> int:
    """Append values from the front of an array while there is room; return how many."""
    values = values[: queue.capacity]  # copies of more would be in vain
    words, copies = queue._room(len(values))
    copies[:] = values
    return int(put_values(queue._core, words, len(values)))


def _get_each(queue, out):
    words = room_for(queue)
    for k in range(len(out)):
        if get_value(queue._core, words, 0) != OK:
            return k
        out[k] = value_in(queue, words)
    return len(out)


@compiled_as(_get_each)
def get_array(queue: Any, out: NDArray[Any]) -> int:
    """Move values to the front of an array; return how many."""
    n = min(len(out), queue.capacity)
    words, values = queue._room(n)
    n = int(get_values(queue._core, words, n))
    out[:n] = values[:n]
    return n


# ---- the object ------------------------------------------------------------------------------------------------------


@kernel_face(ValueQueueType)
class ValueQueue(BoundedQueue[Any]):
    """What `BoundedQueue` makes if it is given a `dtype`: a queue of values, which travel with their place in it.

    Parameters
    ----------
    capacity : int
        Maximum number of values; from 1 to 2**32.
    dtype : dtype
        ``np.int64``, ``np.float64``, or a structured dtype of up to 1024 bytes that kernels can use.
    limit : None
        Any value of the dtype is allowed.
    shared, name
        Not with a dtype: what a killed process was moving would be lost. A `Channel` loses nothing.

    Attributes
    ----------
    capacity : int
        As given; readable in kernels.
    dtype : dtype
        In Python.

    Raises
    ------
    TypeError, ValueError, MemoryError
        An argument is out of range; the system cannot provide the memory.

    Notes
    -----
    All methods are as in `BoundedQueue`, but for these, because -1 may be a value: `try_get_into` in place of
    `try_get`, and `get_into` in place of `get_or_closed`. In kernels a value of a record dtype is a record, such as an
    element of an array; in Python also a tuple.

    A put writes its value into a free place and then appends that, a get takes the oldest place, reads, and frees it.
    Values come in the order in which they were appended: those of one thread in the order of its puts. A put finds the
    queue full only if each place holds a value or is just being written or read. A thread that is stopped in between
    blocks nobody but keeps its place; one that dies there takes it along, and a getter its value.

    From Python a single `put` or `get` takes some microseconds, most of them in numpy: use `put_many` and `get_many`.

    Examples
    --------
    >>> import numpy as np
    >>> queue = BoundedQueue(4, dtype=np.float64)
    >>> queue.put(-0.5), queue.get()
    (None, -0.5)
    """

    _OR_SHARE = "; what processes share is a Channel"

    __slots__ = ()

    _attached = BoundedQueue._attached  # type: ignore[assignment]  # what processes share has no dtype
    _no_limit = 0
    dtype: np.dtype[Any]

    def _hold_values(self, capacity: int, limit: int | None, dtype: Any, shared: bool) -> None:
        capacity = check.integer("capacity", capacity, 1, MAX_ITEMS)
        if limit is not None:
            raise TypeError(f"limit must be None with a dtype, of which any value is allowed, not {limit!r:.60}")
        if shared:
            raise ValueError("shared and name cannot be given with a dtype: what processes share is a Channel")
        self.dtype, kernel_dtype = _value_dtype(dtype)
        self._stride = -(-self.dtype.itemsize // 8)
        self._free, self._full = BoundedQueue(capacity), BoundedQueue(capacity)
        self._free.put_many(np.arange(capacity))
        self._cells = aligned_mem(8 * capacity * self._stride, 8 * LINE_PAIR).view(np.int64)
        self._segment, self.capacity, self.limit = None, capacity, None  # type: ignore[assignment]
        self._words = self._full._words  # where those are counted that wait for values
        self._describe(value_queue_type(kernel_dtype, self._stride))

    def _room(self, n: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return words for `n` values, and these values."""
        words = np.zeros(n * self._stride, np.int64)
        return words, self._values_in(words)

    def _values_in(self, words: NDArray[np.int64]) -> NDArray[Any]:
        if self.dtype.itemsize == 8 * self._stride:
            return words.view(self.dtype)
        rows = words.view(np.uint8).reshape(-1, 8 * self._stride)[:, : self.dtype.itemsize]
        return rows.view(self.dtype)[:, 0]

    def _checked(self, value: Any) -> Any:
        """Return a value that numpy converts to the dtype, or raise."""
        if self.dtype.kind == "i":
            return check.integer("value", value, -(2**63), 2**63 - 1)
        if self.dtype.kind == "f":
            if type(value) is float:  # the common case
                return value
            number = check.seconds("value", value, "a number")  # or anything else that is one
            if math.isinf(number) and number != value:
                raise ValueError(f"value must be a number that float64 has room for, not {value!r:.60}")
            return number
        if isinstance(value, np.void) and value.dtype == self.dtype:
            return value
        try:
            if isinstance(value, tuple) and len(value) == len(self.dtype.names or ()):
                return np.array(value, self.dtype)
        except (TypeError, ValueError, OverflowError):
            pass
        raise TypeError(f"value must be a record of {self.dtype}, or a tuple for one, not {value!r:.60}")

    @in_kernels
    def try_put(self, value: Any) -> bool:
        """Append `value`; return False, without effect, if the queue is full or closed.

        Never blocks; lock-free.

        Raises
        ------
        TypeError, ValueError
            `value` is none of the dtype.
        """
        return put_value(self._core, words_of(self, value), 0) == OK

    @in_kernels
    def put(self, value: Any, block: bool = True, timeout: float | None = None) -> None:
        """Append `value`, one of the dtype, waiting for room if necessary; all else is as in `BoundedQueue.put`."""
        limit = limit_ns(block, timeout)
        words = words_of(self, value)
        status = put_value(self._core, words, 0)
        if status == EMPTY:
            status = wait_to_put_value(self._core, words, limit)
        if status != OK:
            if status == CLOSED:
                raise Closed("put into a closed queue")
            if status == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            raise WouldBlock("put found the queue full for as long as it may wait")

    def try_get(self) -> int:
        """Raise TypeError: see `try_get_into`."""
        raise TypeError(f"try_get cannot say that there is nothing: {_NOT_BELOW_0} try_get_into(out)")

    def get_or_closed(self, timeout: float | None = None) -> int:
        """Raise TypeError: see `get_into`."""
        raise TypeError(f"get_or_closed cannot say that there is nothing: {_NOT_BELOW_0} get_into(out)")

    @in_kernels
    def try_get_into(self, out: NDArray[Any], k: int = 0) -> bool:
        """Move the oldest value to ``out[k]``; return False, without effect, if the queue is empty.

        Never blocks; lock-free.

        Parameters
        ----------
        out : array of the dtype, shape (n,)
            Writable.
        k : int
            From 0 to n - 1.

        Raises
        ------
        TypeError, ValueError
            `out` is not such an array, or read-only; `k` is out of range.
        """
        check_values("out", self, out, True)
        k = check.integer("k", k, 0, len(out) - 1)
        words = room_for(self)
        if get_value(self._core, words, 0) != OK:
            return False
        out[k] = value_in(self, words)
        return True

    @in_kernels
    def get_into(self, out: NDArray[Any], k: int = 0, timeout: float | None = None) -> int:
        """Move the oldest value to ``out[k]``, waiting for one: a `get` for loops, in which no exception ends them.

        Parameters
        ----------
        out, k
            As in `try_get_into`.
        timeout : float, optional
            Longest wait in seconds; no limit by default.

        Returns
        -------
        int
            0 if there is a value; -1 if the queue is closed and empty, -2 if it stayed empty until the timeout.

        Raises
        ------
        TypeError, ValueError
            As in `try_get_into`, or `timeout` is neither None nor a number >= 0.
        RuntimeError
            The queue is empty, and this is a forked child, which nothing could wake.

        Examples
        --------
        >>> queue = BoundedQueue(4, dtype=[("index", "i8"), ("seconds", "f8")])
        >>> out = np.zeros(1, queue.dtype)
        >>> queue.put((3, 0.25))
        >>> queue.get_into(out), out["index"].tolist(), queue.get_into(out, timeout=0.0)
        (0, [3], -2)
        """
        check_values("out", self, out, True)
        k = check.integer("k", k, 0, len(out) - 1)
        limit = limit_ns(True, timeout)
        words = room_for(self)
        status = get_value(self._core, words, 0)
        if status == EMPTY:
            status = wait_to_get_value(self._core, words, limit)
        if status == OK:
            out[k] = value_in(self, words)
            return OK
        if status == FORKED:
            raise RuntimeError(NO_WAIT_IN_A_CHILD)
        return ENDED if status == CLOSED else LATE

    @in_kernels
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Remove and return the oldest value, as `BoundedQueue.get` does an item; of records in Python only.

        In Python, an int, a float, or a numpy record.
        """
        require_returnable(self)
        limit = limit_ns(block, timeout)
        words = room_for(self)
        status = get_value(self._core, words, 0)
        if status == EMPTY:
            status = wait_to_get_value(self._core, words, limit)
        if status != OK:
            if status == CLOSED:
                raise Closed("get from a queue that is closed and empty")
            if status == FORKED:
                raise RuntimeError(NO_WAIT_IN_A_CHILD)
            raise WouldBlock("get found the queue empty for as long as it may wait")
        return value_in(self, words)

    @in_kernels
    def get_many(self, out: NDArray[Any]) -> int:
        """Do as `BoundedQueue.get_many` does, with an array of the dtype."""
        check_values("out", self, out, True)
        return get_array(self, out)

    @in_kernels
    def put_many(self, values: NDArray[Any]) -> int:
        """Do as `BoundedQueue.put_many` does, with an array of the dtype."""
        check_values("values", self, values, False)
        return put_array(self, values)

    async def aget(self, timeout: float | None = None) -> Any:
        """Do as `get` does, yielding to the event loop while it waits; parameters and errors as in `get`. Python only.

        A coroutine that is cancelled has taken nothing.
        """
        limit = limit_ns(True, timeout)
        words = room_for(self)
        attempt = functools.partial(get_value, self._core, words, 0)
        if attempt() != OK:
            closed = "get from a queue that is closed and empty"
            await self._until(attempt, self._full, GETTERS, limit, closed, "empty until aget")
        return value_in(self, words)

    async def aput(self, value: Any, timeout: float | None = None) -> None:
        """Do as `put` does, yielding to the event loop while it waits; parameters and errors as in `put`. Python only.

        A coroutine that is cancelled has put nothing.
        """
        limit = limit_ns(True, timeout)
        attempt = functools.partial(put_value, self._core, words_of(self, value), 0)
        if attempt() != OK:
            await self._until(attempt, self._free, GETTERS, limit, "put into a closed queue", "full until aput")

    @in_kernels
    def was_size(self) -> int:
        """Return the number of values it held a moment ago; exact while no other thread puts or gets."""
        return size(self._full)

    @is_in_kernels(close_values)
    def close(self) -> None:
        """Refuse further puts; gets drain the queue and then raise Closed, as in `BoundedQueue.close`."""
        close_values(self._core)

    @property
    @in_kernels
    def closed(self) -> bool:
        """Whether the queue has been closed."""
        return load(self._full._words, CLOSED_FLAG) != 0  # C2 acquires from C1

    def _called(self) -> str:
        return BoundedQueue.__name__

    def _figures(self) -> dict[str, object]:
        return {"capacity": self.capacity, "dtype": self.dtype, "size": self.was_size(), "closed": self.closed}

    def _details(self) -> dict[str, object]:
        return {"waiting to get": waiting(self._words), "waiting to put": waiting(self._free._words)}


def _value_dtype(dtype: Any) -> tuple[np.dtype[Any], types.Type]:
    """Return a dtype of values, and what kernels call it."""
    allowed = f"np.int64, np.float64, or a structured one of 1 to {MOST_BYTES} bytes"
    try:
        made: np.dtype[Any] = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"dtype must be {allowed}, not {dtype!r:.60}") from None
    if made not in (np.int64, np.float64) and not (made.names and 0 < made.itemsize <= MOST_BYTES):
        raise TypeError(f"dtype must be {allowed}, not {made}")
    return made, element_type(made)


BoundedQueue._of_values = ValueQueue
