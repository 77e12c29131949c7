"""Words out of bytes: loads from any address, and the few instructions on words that the rest of the room is made of.

numba compiles ``b[i : i + 8].view(np.uint64)[0]`` to a new array and its check; these are one load. In kernels nothing
is checked. In Python every load is; with the JIT off, where kernels are Python too, zeros follow the last byte.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numpy.typing import NDArray

from .._jit import check
from .._jit.compile import INTERPRETED, hot
from .._jit.faces import kernel_instruction
from .._jit.instructions import wrap
from .._memory.borrowed import BorrowedArray

BLOCK = 32  #: bytes that `matches` compares at once

_WORD, _BYTE = ir.IntType(64), ir.IntType(8)


def as_array(b: Any) -> NDArray[np.uint8]:
    """Return bytes-like `b` as an array to read from, without a copy; TypeError or ValueError for anything else."""
    if isinstance(b, np.ndarray):
        if b.dtype != np.uint8:
            raise TypeError(f"b must be a one-dimensional contiguous uint8 array, not one of dtype {b.dtype}")
        if b.ndim != 1 or not b.flags.c_contiguous:
            raise ValueError(
                f"b must be a one-dimensional contiguous uint8 array, not of shape {b.shape} and strides {b.strides}"
            )
    try:
        array = np.frombuffer(b, np.uint8) if len(b) else np.empty(0, np.uint8)
        array.flags.writeable = False  # one type, for which functions are compiled
        return array
    except (TypeError, ValueError, BufferError):
        raise TypeError(f"b must be a uint8 array or bytes-like, not {b!r:.60}") from None


def in_range(b: Any, start: Any, end: Any) -> tuple[NDArray[np.uint8], int, int]:
    """Return the arguments of a function on ``b[start:end]``; ValueError unless 0 <= start <= end <= len(b)."""
    array = as_array(b)
    end = check.integer("end", end, 0, len(array))
    return array, check.integer("start", start, 0, end), end


def _load(name: str, code: str, b: Any, i: Any) -> Any:
    array, size = as_array(b), struct.calcsize(code)
    last = len(array) - size
    i = check.index(f"i of text.{name}", i)
    if INTERPRETED and last < i <= len(array):
        return struct.unpack(code, array[i:].tobytes().ljust(size, b"\0"))[0]
    if not 0 <= i <= last:
        raise IndexError(f"i of text.{name} must leave {size} bytes, from 0 to {last}, not {i}")
    return struct.unpack(code, array[i : i + size].tobytes())[0]


def load_u64(b: Any, i: int) -> int:
    r"""Load the eight bytes from ``b[i]`` on, little-endian, as a uint64.

    Parameters
    ----------
    b : uint8 array, 1-D, C-contiguous; from Python any bytes-like object
    i : int
        Offset in bytes, at any alignment. Kernels do not check it: eight bytes from there on must be readable, as up to
        64 bytes past a piece of `stream` are.

    Returns
    -------
    int
        A uint64 in kernels, where numba makes a float64 of an operation with an int64: use `load_i64`, or
        ``np.uint64(...)`` for the other operand.

    Raises
    ------
    IndexError, TypeError, ValueError
        From Python, for invalid arguments.

    Examples
    --------
    >>> hex(load_u64(b"..\x01\x02\x03\x04\x05\x06\x07\x08", 2))
    '0x807060504030201'
    """
    return int(_load("load_u64", "<Q", b, i))


def load_u32(b: Any, i: int) -> int:
    r"""Load the four bytes from ``b[i]`` on, little-endian, as a uint32; see `load_u64`.

    Examples
    --------
    >>> load_u32(b"\x01\x01\x00\x00", 0)
    257
    """
    return int(_load("load_u32", "<I", b, i))


def load_u16(b: Any, i: int) -> int:
    r"""Load the two bytes from ``b[i]`` on, little-endian, as a uint16; see `load_u64`.

    Examples
    --------
    >>> load_u16(b"\x01\x01", 0)
    257
    """
    return int(_load("load_u16", "<H", b, i))


def load_i64(b: Any, i: int) -> int:
    r"""Load the eight bytes from ``b[i]`` on, little-endian, as an int64; see `load_u64`.

    Examples
    --------
    >>> load_i64(b"\xff" * 8, 0)
    -1
    """
    return int(_load("load_i64", "<q", b, i))


def load_f64(b: Any, i: int) -> float:
    """Load the eight bytes from ``b[i]`` on, little-endian, as a float64; see `load_u64`.

    Examples
    --------
    >>> load_f64(np.array([0.5]).tobytes(), 0)
    0.5
    """
    return float(_load("load_f64", "<d", b, i))


def lent(b: Any) -> Any:
    """Return bytes as a kernel's borrowed array, of one type, to functions that read them: see `_memory.borrowed`."""
    return b


def lending(body: Any) -> Any:
    """Return a function that lends its first argument, an array of bytes, to `body`."""

    @hot
    def lend_it(b, *arguments):
        return body(lent(b), *arguments)

    return lend_it


def load_byte(b: Any, i: int) -> int:
    """Return ``b[i]`` as an int64, for i >= 0: no check, and no turn of a negative index."""
    return int(b[i])


def matches(b: Any, i: int, byte: int) -> int:
    """Return which of the BLOCK bytes from ``b[i]`` on are `byte`: bit k says so of ``b[i + k]``."""
    return int.from_bytes(np.packbits(b[i : i + BLOCK] == byte, bitorder="little").tobytes(), "little")


def left(word: int, bits: int) -> int:
    """Shift a word to the left, by 0 to 63 bits."""
    return wrap(int(word) << int(bits))


def right(word: int, bits: int) -> int:
    """Shift a word to the right, by 0 to 63 bits, zeros coming in."""
    return wrap((int(word) & (2**64 - 1)) >> int(bits))


def lowest(word: int) -> int:
    """Return the number of the lowest bit that is set in a word that is not 0."""
    return (word & -word).bit_length() - 1


def highest(word: int) -> int:
    """Return the number of the highest bit that is set in a word that is not 0."""
    return (word & (2**64 - 1)).bit_length() - 1


def ones(word: int) -> int:
    """Return how many bits of a word are set."""
    return (word & (2**64 - 1)).bit_count()


# ---- in kernels ------------------------------------------------------------------------------------------------------


def require_bytes(b: Any) -> None:
    """Raise TypingError when a kernel is compiled whose `b` is not an array of bytes."""
    if not (isinstance(b, types.Buffer) and (b.dtype, b.ndim, b.layout) == (types.uint8, 1, "C")):
        raise errors.TypingError(f"b must be a one-dimensional contiguous uint8 array, not {b}")


@kernel_instruction(lent)
def _lent(typingctx: Any, b: Any) -> Any:
    require_bytes(b)
    return BorrowedArray(types.uint8, 1, "C")(b), lambda context, builder, signature, args: args[0]


def _pointer(context: Any, builder: ir.IRBuilder, signature: Any, args: Any, kind: ir.Type) -> Any:
    array, i = args[:2]
    data = context.make_array(signature.args[0])(context, builder, array).data
    return builder.bitcast(builder.gep(data, [i]), kind.as_pointer())


def _define_load(function: Any, result: types.Type, size: int) -> None:
    @kernel_instruction(function)
    def typed(typingctx: Any, b: Any, i: Any) -> Any:
        require_bytes(b)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            kind = ir.DoubleType() if result == types.float64 else ir.IntType(size)
            value = builder.load(_pointer(context, builder, signature, args, kind), align=1)
            return builder.zext(value, _WORD) if function is load_byte else value

        return result(b, types.int64), codegen


for _function, _result, _size in (
    (load_u64, types.uint64, 64),
    (load_u32, types.uint32, 32),
    (load_u16, types.uint16, 16),
    (load_i64, types.int64, 64),
    (load_f64, types.float64, 64),
    (load_byte, types.int64, 8),
):
    _define_load(_function, _result, _size)


@kernel_instruction(matches)
def _matches(typingctx: Any, b: Any, i: Any, byte: Any) -> Any:
    require_bytes(b)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(_BYTE, BLOCK)
        found = builder.load(_pointer(context, builder, signature, args, vector), align=1)
        one = builder.insert_element(vector(ir.Undefined), args[2], ir.IntType(32)(0))
        every = builder.shuffle_vector(one, vector(ir.Undefined), ir.VectorType(ir.IntType(32), BLOCK)([0] * BLOCK))
        hits = builder.bitcast(builder.icmp_unsigned("==", found, every), ir.IntType(BLOCK))
        return builder.zext(hits, _WORD)

    return types.int64(b, types.int64, types.uint8), codegen


def _define_word(function: Any, write: Any, operands: int) -> None:
    def typed(typingctx: Any, word: Any) -> Any:
        return types.int64(types.int64), lambda context, builder, signature, args: write(builder, *args)

    def typed_with_bits(typingctx: Any, word: Any, bits: Any) -> Any:
        return types.int64(types.int64, types.int64), lambda context, builder, signature, args: write(builder, *args)

    kernel_instruction(function)(typed if operands == 1 else typed_with_bits)


def _count(name: str) -> Any:
    """Return a writer of one of LLVM's instructions that count bits; the result for 0 is undefined."""

    def write(builder: ir.IRBuilder, word: Any) -> Any:
        flag = [] if name == "ctpop" else [ir.IntType(1)(1)]
        kind = ir.FunctionType(_WORD, [_WORD, *[each.type for each in flag]])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.i64"), [word, *flag])

    return write


_leading_zeros = _count("ctlz")
_define_word(left, lambda builder, word, bits: builder.shl(word, bits), 2)
_define_word(right, lambda builder, word, bits: builder.lshr(word, bits), 2)
_define_word(lowest, _count("cttz"), 1)
_define_word(highest, lambda builder, word: builder.sub(_WORD(63), _leading_zeros(builder, word)), 1)
_define_word(ones, _count("ctpop"), 1)
