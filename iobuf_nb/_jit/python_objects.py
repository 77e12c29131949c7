"""Python objects inside C functions: their addresses, found in a table, and what is read of their layout.

CPython's objects are used through its public functions (`python_api`). What is read of them directly is their type, the
slots of objects, numpy's arrays, and whether a memoryview was released; `unexpected_layout` compares that with what it
should be.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from .compile import hot, tiny
from .handle import Handle
from .instructions import load_word, to_pointer
from .python_api import from_int, incref

_HEADER = object.__basicsize__  # bytes; the type comes last in it
# Offsets, in bytes, in an array.
_DATA, _DIMENSIONS, _SHAPE, _DTYPE, _FLAGS = (_HEADER + offset for offset in (0, 8, 16, 40, 48))
_VIEW_FLAGS = _HEADER + 24  # in a memoryview, behind its size, buffer and hash
_PLAIN = 0x0501  # flags of an array: C-contiguous, aligned and writable
_INTS = 2**14  # preallocated small ints; Python's own end at 256
_MOST_AT_ONCE = 4096  # for longer arrays it pays to release the GIL

# The table of constants that C functions read: addresses of Python objects, and offsets in objects. Their numbers are
# compiled into cached code, so modules must always be imported, and make their constants, in the same order.
_table = (ctypes.c_int64 * 128)()
_constants: list[Callable[[], int]] = []
_numbers: dict[int, tuple[int, Any]] = {}  # of objects by their addresses; it keeps them alive

binding.add_symbol("iobuf_nb_constants", ctypes.addressof(_table))


def constant(compute: Callable[[], int]) -> int:
    """Return the number of a new constant, which is computed when the first object is made."""
    _constants.append(compute)
    return len(_constants) - 1


def constant_of(value: Any) -> int:
    """Return the number of the constant that is the address of an object, such as a Python function."""
    if id(value) not in _numbers:
        _numbers[id(value)] = constant(lambda: id(value)), value
    return _numbers[id(value)][0]


def slot_offset(cls: Any, name: str) -> int:
    """Return the offset in bytes of a slot in the objects of a class."""
    probe, mark = cls.__new__(cls), object()
    setattr(probe, name, mark)
    words = list((ctypes.c_int64 * (cls.__basicsize__ // 8)).from_address(id(probe)))
    delattr(probe, name)
    return 8 * words.index(id(mark))


_ints: list[Any] = []  # the preallocated ints, and an array of their addresses


def _make_ints() -> int:
    numbers = list(range(_INTS))
    _ints[:] = numbers, np.array([id(number) for number in numbers], np.int64)
    return int(_ints[1].ctypes.data)


NONE, FALSE, TRUE = map(constant_of, (None, False, True))
INT, BYTES, BYTEARRAY, ARRAY = map(constant_of, (int, bytes, bytearray, np.ndarray))
INT64 = constant_of(np.dtype(np.int64))
INTS = constant(_make_ints)
SLOT = constant(lambda: slot_offset(Handle, "_members"))

# ---- what C functions are made of ------------------------------------------------------------------------------------

_WORD = ir.IntType(64)


def load_constant(builder: ir.IRBuilder, number: Any) -> Any:
    """Write the load of a constant by its number."""
    table = builder.module.globals.get("iobuf_nb_constants")
    if table is None:
        table = ir.GlobalVariable(builder.module, ir.ArrayType(_WORD, len(_table)), "iobuf_nb_constants")
    return builder.load(builder.gep(table, [_WORD(0), number]))


@intrinsic
def known(typingctx: Any, number: Any) -> Any:
    """Return a constant by its number."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return load_constant(builder, *args)

    return types.int64(types.int64), codegen


@tiny
def type_of(given):
    """Return the type of an object."""
    return load_word(given + _HEADER - 8)


@tiny
def elements_at(array):
    """Return the address of the first element of an array."""
    return load_word(array + _DATA)


@tiny
def members_of(self):
    """Return the address of an object's members; 0 if it is not initialised."""
    members = load_word(self + known(SLOT))
    return elements_at(members) if members != 0 else 0


@hot
def int_object(number):
    """Return a new reference to an int; small ones are preallocated."""
    if number < 0 or number >= _INTS:
        return from_int(number)
    return another(load_word(known(INTS) + 8 * number))


@tiny
def another(given):
    """Return a new reference to an object."""
    incref(given)
    return given


@tiny
def elements_of(array):
    """Return a pointer to the elements of an int64 array."""
    return to_pointer(elements_at(array))


@tiny
def length_of(array):
    """Return the length of a one-dimensional array."""
    return load_word(load_word(array + _SHAPE))


@hot
def only_array(arguments, n, names):
    """Return the address of the only argument if it is a short, plain int64 array; 0 otherwise."""
    if n != 1 or names != 0:
        return 0
    array = load_word(arguments)
    if type_of(array) != known(ARRAY) or load_word(array + _DTYPE) != known(INT64):
        return 0
    # The number of dimensions and the flags are C ints, half a word.
    if load_word(array + _DIMENSIONS) & 0xFFFFFFFF != 1 or load_word(array + _FLAGS) & _PLAIN != _PLAIN:
        return 0
    return array if length_of(array) <= _MOST_AT_ONCE else 0


@hot
def is_plain(array, address, dtype, flags, ndim, shape):
    """Return whether an array has this address, dtype, flags and shape; `dtype` and `shape` are addresses, too."""
    if elements_at(array) != address or load_word(array + _DTYPE) != dtype:
        return False
    if load_word(array + _DIMENSIONS) & 0xFFFFFFFF != ndim or load_word(array + _FLAGS) & 0xFFFFFFFF != flags:
        return False
    lengths = load_word(array + _SHAPE)
    for axis in range(ndim):  # noqa: SIM110, kernels know no all()
        if load_word(lengths + 8 * axis) != load_word(shape + 8 * axis):
            return False
    return True


@tiny
def is_released(view):
    """Return whether a memoryview was released."""
    return load_word(view + _VIEW_FLAGS) & 1 != 0


# ---- before they are used --------------------------------------------------------------------------------------------


def fill_table() -> None:
    """Compute the constants."""
    for number, compute in enumerate(_constants):
        _table[number] = compute()


def unexpected_layout() -> bool:
    """Return whether this Python or numpy lays out its objects differently."""
    array, view = np.zeros(3, np.int64), memoryview(b"")
    word, half = ctypes.c_int64.from_address, ctypes.c_int.from_address
    expected = {_HEADER - 8: id(np.ndarray), _DATA: array.ctypes.data, _DTYPE: id(array.dtype)}
    found = {place: word(id(array) + place).value for place in expected}
    shape = word(word(id(array) + _SHAPE).value).value
    halves = [half(id(array) + place).value for place in (_DIMENSIONS, _FLAGS)]
    released = [half(id(view) + _VIEW_FLAGS).value & 1]
    view.release()
    released.append(half(id(view) + _VIEW_FLAGS).value & 1)
    return found != expected or shape != 3 or halves != [1, array.flags.num] or released != [0, 1]
