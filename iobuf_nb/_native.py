"""Methods at the speed of C, made of the very functions that kernels use.

A call from Python through numba's dispatcher takes more than half a microsecond, twenty times what the operation takes.
So when the first pool or queue is made, its short methods are replaced by method descriptors over C functions that
numba compiles. Each does what is common: an int is given, a buffer or room is there. Everything else, keywords, waiting
and errors among it, it leaves to the Python method whose place it took, by calling that: the two never differ.

They hold the GIL, because they return at once; what waits is the Python method, which lets go of it.

An object's descriptor block is found through the slot `_descriptor`, by its offset in the object. Where that, or
anything else, is not as in CPython 3.10 to 3.13, `WHY_NOT` says so, and all methods stay as they are.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
import threading
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

from ._handle import Handle, before_first, load_handle
from ._jit import INTERPRETED, c_function, hot, kernel
from .pool import ITEM_POOL, ITEM_POOL_UNCHECKED, OK, BufferPool, ItemPool, give, take
from .ring import QUEUE_TYPE, BoundedQueue, get_and_wake, offer

#: Why methods are not replaced here; None if they are.
WHY_NOT: str | None = None

# In Python 3.10 the former is inlined by the compiler, and not there for others to call.
_VECTORCALL = "PyObject_Vectorcall" if sys.version_info >= (3, 11) else "_PyFunction_Vectorcall"
_FUNCTIONS = f"PyLong_AsSsize_t PyLong_FromSsize_t Py_IncRef PyErr_Clear PyTuple_Size PyDescr_NewMethod {_VECTORCALL}"

_word = types.int64
_to_int = c_function("PyLong_AsSsize_t", _word, _word)
_from_int = c_function("PyLong_FromSsize_t", _word, _word)
_increase = c_function("Py_IncRef", types.void, _word)
_clear_error = c_function("PyErr_Clear", types.void)
_tuple_size = c_function("PyTuple_Size", _word, _word)
_vectorcall = c_function(_VECTORCALL, _word, _word, _word, _word, _word)

_TYPE = 8  # where in an object the address of its type lies

# The addresses of Python objects that the functions below need, by number.
NONE, FALSE, TRUE, INT = range(4)
GET, PUT, TRY_GET, TRY_PUT, QUEUE_GET, QUEUE_PUT, QUEUE_TRY_GET, QUEUE_TRY_PUT = range(4, 12)
SLOT = 12  # not an address: where in an object the slot lies
_objects = (ctypes.c_int64 * 13)(id(None), id(False), id(True), id(int))
binding.add_symbol("iobuf_nb_objects", ctypes.addressof(_objects))


@intrinsic
def _object(typingctx: Any, number: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        table = cgutils.add_global_variable(builder.module, ir.ArrayType(ir.IntType(64), 13), "iobuf_nb_objects")
        return builder.load(builder.gep(table, [ir.Constant(ir.IntType(64), 0), args[0]]))

    return types.int64(types.int64), codegen


@intrinsic
def _load_word(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), codegen


# Points at an object. Its name holds the checksum of the sources, so that cached code made of others is left alone.
_OWNER = types.CPointer(ITEM_POOL)


@intrinsic
def _address(typingctx: Any, owner: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(owner), codegen


@hot
def _block_of(self):
    """Return the address of an object's descriptor block, 0 if it has none yet."""
    descriptor = _load_word(self + _object(SLOT))
    return _to_int(descriptor) if descriptor != 0 else 0


@hot
def _existing(number):
    """Return another reference to None, False or True."""
    found = _object(number)
    _increase(found)
    return found


@kernel
def _slowly(number, self, arguments, n, names):
    """Call the Python method with `n` arguments, whose addresses lie at `arguments`, and names for the last of them."""
    count = n + (_tuple_size(names) if names != 0 else 0)
    everything = np.empty(1 + count, np.int64)
    everything[0] = self
    for k in range(count):
        everything[1 + k] = _load_word(arguments + 8 * k)
    return _vectorcall(_object(number), everything.ctypes.data, 1 + n, names)


@hot
def _take(block):
    pool = load_handle(block, ITEM_POOL)
    return take(pool) if pool.checks else take(load_handle(block, ITEM_POOL_UNCHECKED))


@hot
def _give(block, index):
    pool = load_handle(block, ITEM_POOL)
    return give(pool, index) if pool.checks else give(load_handle(block, ITEM_POOL_UNCHECKED), index)


@hot
def _offer(block, item):
    """Offer an item that is in range: 1 or 0; or return -1."""
    queue = load_handle(block, QUEUE_TYPE)
    return np.int64(offer(queue, item)) if 0 <= item < queue.items else -1


@hot
def _only_index(arguments, n, names):
    """Return the int that is the only argument, if it is not negative; for anything else, a bool too, -1."""
    if n != 1 or names != 0 or _load_word(_load_word(arguments) + _TYPE) != _object(INT):
        return -1
    index = _to_int(_load_word(arguments))
    if index < 0:
        _clear_error()
        return -1
    return index


def _pool_try_get(owner, nothing):
    self = _address(owner)
    block = _block_of(self)
    return _from_int(_take(block)) if block != 0 else _slowly(TRY_GET, self, 0, 0, 0)


def _pool_get(owner, arguments, n, names):
    self = _address(owner)
    block = _block_of(self)
    if block != 0 and n == 0 and names == 0:
        index = _take(block)
        if index >= 0:
            return _from_int(index)
    return _slowly(GET, self, arguments, n, names)


def _pool_put(owner, arguments, n, names):
    self = _address(owner)
    block = _block_of(self)
    index = _only_index(arguments, n, names)
    if block != 0 and index >= 0 and _give(block, index) == OK:
        return _existing(NONE)
    return _slowly(PUT, self, arguments, n, names)


def _pool_try_put(owner, arguments, n, names):
    self = _address(owner)
    block = _block_of(self)
    index = _only_index(arguments, n, names)
    if block != 0 and index >= 0:
        return _existing(TRUE if _give(block, index) == OK else FALSE)
    return _slowly(TRY_PUT, self, arguments, n, names)


def _queue_try_get(owner, nothing):
    self = _address(owner)
    block = _block_of(self)
    if block == 0:
        return _slowly(QUEUE_TRY_GET, self, 0, 0, 0)
    return _from_int(get_and_wake(load_handle(block, QUEUE_TYPE)))


def _queue_get(owner, arguments, n, names):
    self = _address(owner)
    block = _block_of(self)
    if block != 0 and n == 0 and names == 0:
        item = get_and_wake(load_handle(block, QUEUE_TYPE))
        if item >= 0:
            return _from_int(item)
    return _slowly(QUEUE_GET, self, arguments, n, names)


def _queue_put(owner, arguments, n, names):
    self = _address(owner)
    block = _block_of(self)
    if block != 0 and _offer(block, _only_index(arguments, n, names)) == 1:
        return _existing(NONE)
    return _slowly(QUEUE_PUT, self, arguments, n, names)


def _queue_try_put(owner, arguments, n, names):
    self = _address(owner)
    block = _block_of(self)
    done = _offer(block, _only_index(arguments, n, names)) if block != 0 else -1
    if done < 0:
        return _slowly(QUEUE_TRY_PUT, self, arguments, n, names)
    return _existing(TRUE if done == 1 else FALSE)


_FASTCALL_KEYWORDS, _NO_ARGUMENTS = 0x82, 4

# The classes that objects are of, not one that they inherit from: Python calls methods of those in a quicker way.
_POOLS, _QUEUES = (BufferPool, ItemPool), (BoundedQueue,)
_METHODS = (
    (_POOLS, "try_get", TRY_GET, _NO_ARGUMENTS, _pool_try_get),
    (_POOLS, "get", GET, _FASTCALL_KEYWORDS, _pool_get),
    (_POOLS, "put", PUT, _FASTCALL_KEYWORDS, _pool_put),
    (_POOLS, "try_put", TRY_PUT, _FASTCALL_KEYWORDS, _pool_try_put),
    (_QUEUES, "try_get", QUEUE_TRY_GET, _NO_ARGUMENTS, _queue_try_get),
    (_QUEUES, "get", QUEUE_GET, _FASTCALL_KEYWORDS, _queue_get),
    (_QUEUES, "put", QUEUE_PUT, _FASTCALL_KEYWORDS, _queue_put),
    (_QUEUES, "try_put", QUEUE_TRY_PUT, _FASTCALL_KEYWORDS, _queue_try_put),
)


class _MethodDef(ctypes.Structure):
    """CPython's ``PyMethodDef``."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


_kept: list[Any] = []  # what the descriptors point at
_lock = threading.Lock()


def _slot_offset() -> int:
    """Return where in a handle the slot `_descriptor` lies."""
    probe = Handle.__new__(Handle)
    probe._descriptor = 2**61 + 12345
    words = (ctypes.c_int64 * (Handle.__basicsize__ // 8)).from_address(id(probe))
    return 8 * list(words).index(id(probe._descriptor))


def install() -> None:
    """Replace the methods, once; compiles, or loads from the cache."""
    global WHY_NOT
    with _lock:
        if _kept or WHY_NOT:
            return
        WHY_NOT = _obstacle()
        if WHY_NOT:
            return
        _objects[SLOT] = _slot_offset()
        replacements = []
        for classes, name, number, flags, function in _METHODS:
            slow = getattr(classes[0], name)
            _objects[number] = id(slow)
            others = 3 if flags == _FASTCALL_KEYWORDS else 1
            try:
                compiled = cfunc(_word(_OWNER, *[_word] * others), cache=True)(function)
            except RuntimeError as error:  # to compile them anew in each process would take longer than it saves
                WHY_NOT = str(error)
                return
            doc = f"{name}{_plain(slow)}\n--\n\n{slow.__doc__}"
            definition = _MethodDef(name.encode(), compiled.address, flags, doc.encode())
            _kept.extend((slow, compiled, definition))
            replacements += [(cls, name, definition) for cls in classes]
        make = ctypes.pythonapi.PyDescr_NewMethod
        make.restype, make.argtypes = ctypes.py_object, [ctypes.py_object, ctypes.c_void_p]
        for cls, name, definition in replacements:
            setattr(cls, name, make(cls, ctypes.addressof(definition)))


def _obstacle() -> str | None:
    """Return what stands in the way here."""
    if INTERPRETED:
        return "the JIT is off (NUMBA_DISABLE_JIT)"
    if sys.implementation.name != "cpython" or not (3, 10) <= sys.version_info < (3, 14):
        return f"this is {sys.implementation.name} {sys.version.split()[0]}, not CPython 3.10 to 3.13"
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "this Python runs without the GIL"
    missing = [name for name in _FUNCTIONS.split() if not hasattr(ctypes.pythonapi, name)]
    if missing:  # code that is linked without them takes the process with it
        return f"this Python does not export {', '.join(missing)}"
    if ctypes.c_int64.from_address(id(1) + _TYPE).value != id(int):
        return "this Python lays out its objects in another way"
    return None


def _plain(function: Any) -> str:
    """Return a signature as C functions write it into their documentation."""
    parameters = inspect.signature(function).parameters.values()
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return "($" + ", ".join(map(str, plain)) + ")"


before_first.append(install)
