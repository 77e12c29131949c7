"""How the buffers of a pool lie in memory, and how an index becomes an array."""

from __future__ import annotations

import functools
import math
from typing import Any

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
from .._memory.aligned import CACHE_LINE_SIZE, MAX_BUFFER_BYTES, page_size, round_up
from .._memory.borrowed import lend
from .._memory.dtype import element_type
from .._threads.outcomes import OUT_OF_RANGE
from .allocator import as_index, checked_index, refuse


class BufferPoolType(PoolType):
    """The numba type of `BufferPool`: includes the element type and the number of dimensions."""

    def __init__(self, dtype: types.Type, ndim: int, checked: bool) -> None:
        self.dtype = dtype
        members = [
            ("arena", types.int64),
            ("stride", types.int64),
            ("buffer_size", types.int64),
            ("shape", types.UniTuple(types.int64, ndim)),
            ("_memory_info", types.int64),
        ]
        super().__init__(f"BufferPool of {dtype}, {ndim}-d", checked, members)


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
    return lend(carray(_buffer_pointer(pool, index), pool.shape), pool._memory_info)


@compiled_as(_buffer_in_kernel)
def buffer(pool: Any, index: Any) -> Any:
    """Return buffer `index` as an array, without a copy; raise if the index is out of range."""
    if type(index) is int and 0 <= index < pool.capacity:  # the common case, twice as fast
        return pool._buffers[index]
    return pool._buffers[checked_index(pool, index)]


def copy_into(target: NDArray[Any], data: Any) -> None:
    """Copy `data` to the beginning of `target`: an array of its dtype, or bytes if `target` is a row of bytes."""
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


def layout_of(size: Any, shape: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype[Any], types.Type]:
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


buffer_pool_type = functools.cache(BufferPoolType)
