"""How the buffers of a pool lie in memory, and how an index becomes an array."""

from __future__ import annotations

import functools
import math
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import errors
from numba.extending import intrinsic
from numpy.typing import NDArray

from .._free.free_list import PoolType
from .._jit import check
from .._jit.check import FormattedValueError
from .._jit.faces import compiled_as, kernel_overload
from .._memory.aligned import CACHE_LINE_SIZE, MAX_BUFFER_BYTES, MAX_BYTES, MAX_ITEMS, page_size, round_up
from .._memory.borrowed import lend
from .._memory.dtype import element_type
from .._threads.outcomes import OUT_OF_RANGE
from .allocator import as_index, checked_index, refuse

_BYTES = bytes, bytearray
_MOST_KEPT = 65536  # arrays or views kept by a pool, so that one of many small buffers stays small

Kept = TypeVar("Kept")


# What the members of all pools of buffers begin with, and words that C methods need to find kept arrays and views:
# addresses of the dicts of both, that of the dtype, flags, whether a buffer is a row of bytes, dimensions, shape.
_BUFFERS = [("arena", types.int64), ("stride", types.int64), ("buffer_size", types.int64), ("_kept", types.int64)]
ARRAYS, VIEWS, DTYPE, FLAGS, IS_BYTES, NDIM, SHAPE = range(0, 56, 8)  # in bytes


class BufferPoolType(PoolType):
    """The numba type of `BufferPool`: includes the element type and the number of dimensions."""

    KIND = "BufferPool"

    def __init__(self, dtype: types.Type, ndim: int, checked: bool) -> None:
        self.dtype = dtype
        members = [
            *_BUFFERS,
            ("shape", types.UniTuple(types.int64, ndim)),
            ("_memory_info", types.int64),
        ]
        super().__init__(f"{self.KIND} of {dtype}, {ndim}-d", checked, members)


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
        refuse(pool._core, index, OUT_OF_RANGE)
    return lend(carray(_buffer_pointer(pool, index), pool.shape), pool._memory_info)


@compiled_as(_buffer_in_kernel)
def buffer(pool: Any, index: Any) -> Any:
    """Return buffer `index` as a new array, without a copy; raise if the index is out of range."""
    if type(index) is int and 0 <= index < pool.capacity:  # the common case, twice as fast
        return pool._buffers[index]
    return pool._buffers[checked_index(pool, index)]


@compiled_as(_buffer_in_kernel)
def kept_buffer(pool: Any, index: Any) -> Any:
    """Return buffer `index` as the array of an earlier call, unless that was changed in place."""
    number = index if type(index) is int else checked_index(pool, index)
    array = pool._arrays.get(number)
    if array is None or array.dtype is not pool.dtype or array.shape != pool.shape or not array.flags.carray:
        return keep(pool._arrays, number, buffer(pool, number))
    return array


def kept_view(pool: Any, index: Any) -> memoryview:
    """Return buffer `index` as the memoryview of an earlier call, unless that was released."""
    number = index if type(index) is int else checked_index(pool, index)
    view: memoryview | None = pool._views.get(number)
    if view is not None:
        try:
            len(view)  # ValueError if it was released
            return view
        except ValueError:
            pass
    array = buffer(pool, number)  # its own, which no user changes
    try:
        return keep(pool._views, number, memoryview(array))
    except ValueError:
        raise TypeError(
            f"view needs a dtype that a memoryview can describe, not {pool.dtype}: "
            "use value(index).view('u1'), an array of the bytes"
        ) from None


def kept_words(pool: Any) -> NDArray[np.int64]:
    """Return the words by which C methods find what a pool keeps."""
    first = pool._buffers[0]
    is_bytes = first.dtype == np.uint8 and first.ndim == 1
    words = id(pool._arrays), id(pool._views), id(first.dtype), first.flags.num, is_bytes, first.ndim, *first.shape
    return np.array(words, np.int64)


def keep(kept: dict[int, Kept], index: int, made: Kept) -> Kept:
    """Return what was made for an index, kept for later calls unless too much is kept already."""
    if len(kept) < _MOST_KEPT or index in kept:
        kept[index] = made
    return made


def copy_into(target: NDArray[Any], data: Any) -> None:
    """Copy `data` to the beginning of `target`: an array of its dtype, or bytes if `target` is a row of bytes."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        view = memoryview(data)
        data = np.frombuffer(view if view.c_contiguous else view.tobytes(), np.uint8)
    elif not isinstance(data, (np.ndarray, np.generic)):
        try:
            data = np.asarray(data, target.dtype)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"data must be bytes-like or an array of {target.dtype}, not {data!r:.60}") from None
    if data.dtype != target.dtype:
        raise TypeError(f"data must be of dtype {target.dtype}, not {data.dtype}")
    if data.ndim != target.ndim or data.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"data must have the shape of the buffer, {target.shape}, or be shorter along its first axis; "
            f"it has {data.shape}"
        )
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
            raise ValueError("data must have the shape of the buffer, or be shorter along its first axis")
        if len(data) > len(target):
            raise FormattedValueError("data must not be longer than the buffer: {} > {}", len(data), len(target))
        for k in range(len(data)):
            target[k] = data[k]

    return copy


def _write_in_kernel(pool, index, data):
    copy_into(buffer(pool, index), data)


@compiled_as(_write_in_kernel)
def write(pool: Any, index: Any, data: Any) -> None:
    """Copy `data` to the beginning of buffer `index`, as `copy_into` does."""
    if type(index) is int and (type(data) in _BYTES or (type(data) is memoryview and data.format == "B")):
        try:
            kept_view(pool, index)[: len(data)] = data  # the common case, much faster
            return
        except (TypeError, ValueError, NotImplementedError):
            pass  # what is refused below, or takes numpy
    copy_into(buffer(pool, index), data)


Layout = tuple[tuple[int, ...], np.dtype[Any], types.Type]


def layout_of(size: Any, shape: Any, dtype: Any) -> Layout:
    """Return the shape, dtype and numba element type of a buffer, from the arguments of BufferPool."""
    if (size is None) == (shape is None):
        raise TypeError("a BufferPool needs either size or shape (with dtype)")
    if shape is None:
        if dtype is not None:
            raise TypeError(f"dtype={dtype!r} needs shape=, not size={size!r}")
        return (check.integer("size", size, 1, MAX_BUFFER_BYTES),), np.dtype(np.uint8), types.uint8
    axes = shape if isinstance(shape, (tuple, list)) else (shape,)
    if not axes:
        raise ValueError("shape must have at least one axis, not ()")
    lengths = tuple(check.integer(f"shape[{axis}]", length, 1, MAX_BUFFER_BYTES) for axis, length in enumerate(axes))
    try:
        element = np.dtype(np.uint8 if dtype is None else dtype)
    except (TypeError, ValueError):
        raise TypeError(f"dtype must be a numpy dtype or convertible to one, not {dtype!r}") from None
    numba_element = element_type(element)
    check.integer("bytes of a buffer (shape, dtype)", math.prod(lengths) * element.itemsize, 1, MAX_BUFFER_BYTES)
    return lengths, element, numba_element


def stride_of(size: int) -> int:
    """Return the distance in bytes from one buffer to the next."""
    if size >= page_size():
        return round_up(size, page_size())
    return round_up(size, CACHE_LINE_SIZE) if size >= CACHE_LINE_SIZE else 1 << (size - 1).bit_length()


def sizes_of(capacity: Any, size: Any, shape: Any, dtype: Any) -> tuple[int, Layout, int]:
    """Return the capacity of a pool, the layout of a buffer and the bytes of an arena, from the same arguments."""
    capacity = check.integer("capacity", capacity, 1, MAX_ITEMS)
    layout = layout_of(size, shape, dtype)
    arena_bytes = capacity * stride_of(math.prod(layout[0]) * layout[1].itemsize)
    return capacity, layout, check.integer("capacity * stride", arena_bytes, 1, MAX_BYTES)


buffer_pool_type = functools.cache(BufferPoolType)
BUFFERS = PoolType("pool of buffers", True, _BUFFERS)
