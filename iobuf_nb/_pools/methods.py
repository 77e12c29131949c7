"""Methods at the speed of C, made of the very functions that kernels use.

A call from Python through numba's dispatcher takes more than half a microsecond, twenty times what the operation takes.
So when the first pool or queue is made, the short methods of pools, magazines and queues are replaced by method
descriptors over C functions that numba compiles. Each does what is common: an int or an int64 array is given, a buffer
or room is there. Everything else, keywords, waiting and errors among it, it leaves to the Python method whose place it
took, by calling that: the two never differ.

What was refused is not tried again there, only told.

They hold the GIL, because they return at once; what waits is the Python method, which lets go of it.

An object's members are found through the slot `_members`, by its offset in the object; they tell what kind of object
it is. Where that, or anything else, is not as in CPython 3.10 to 3.13, `WHY_NOT` says so, and all methods
stay as they are.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import carray, types
from numba.extending import intrinsic

from .._free.deque import COUNT, OWNER
from .._free.free_list import ITEM_POOL, ITEM_POOL_UNCHECKED, give, give_many, take, take_many
from .._free.owners import OK
from .._free.queue import QUEUE_TYPE
from .._free.waiting import get_and_wake, offer
from .._jit.compile import INTERPRETED, c_function, cfunc, hot, kernel, out_of_line
from .._jit.faces import kernel_overload
from .._jit.handle import MAGAZINE, OTHER, POOL, QUEUE, UNCHECKED, Handle, before_first, load_handle
from .._threads.fences import register_heavy_fence
from .._threads.gil import fork_safe_lock, thread_id
from ..atomics import load
from .bounded_queue import BoundedQueue
from .magazine import Magazine, MagazineType, give_many_to, give_to, magazine_type, take_from, take_many_from
from .pool import BufferPool, ItemPool

#: Why methods are not replaced here; None if they are.
WHY_NOT: str | None = None

# In Python 3.10 the former is inlined by the compiler, and not there for others to call.
_VECTORCALL = "PyObject_Vectorcall" if sys.version_info >= (3, 11) else "_PyFunction_Vectorcall"
_FUNCTIONS = f"PyLong_AsSsize_t PyLong_FromSsize_t PyErr_Clear Py_DecRef PyTuple_Size PyDescr_NewMethod {_VECTORCALL}"
_word = types.int64
_to_int = c_function("PyLong_AsSsize_t", _word, _word)
_from_int = c_function("PyLong_FromSsize_t", _word, _word)
_clear_error = c_function("PyErr_Clear", types.void)
_release = c_function("Py_DecRef", types.void, _word)
_tuple_size = c_function("PyTuple_Size", _word, _word)
_vectorcall = c_function(_VECTORCALL, _word, _word, _word, _word, _word)
UNDECIDED = -9  # beside EMPTY and OK
NO_ROOM = -8  # beside OK: a put waits, in Python
REST = -10  # and below: some were taken, and Python looks for the rest without the GIL

# Where, in bytes, things lie in an object (an int), in an array, and in a descriptor block.
_REFERENCES, _TYPE, _LENGTH, _DIGIT = 0, 8, 16, 24
_DATA, _DIMENSIONS, _SHAPE, _DTYPE, _FLAGS = 16, 24, 32, 56, 64
_KIND = 8
_PLAIN = 0x0501  # of an array's flags: C-contiguous, aligned and writable

# Ints below 2**30 have one digit; since Python 3.12 their length shares its word with the sign.
_ONE_DIGIT = 8 if sys.version_info >= (3, 12) else 1
_IMMORTAL = 2**32 - 1 if sys.version_info >= (3, 12) else -1
_INTS = 2**14  # small ints that are made once, where Python's own end at 256
_MOST_AT_ONCE = 4096  # longer arrays are worth letting go of the GIL

# What the functions below need to know, by number: addresses of Python objects, and where the slot lies in a handle.
NONE, FALSE, TRUE, INT, ARRAY, INT64, INTS, SLOT = range(8)
SLOW = 8  # and from here on the Python methods, by kind of object and number of method
GET, TRY_GET, PUT, TRY_PUT, GET_MANY, PUT_MANY, REFUSE, REFUSE_MANY, TAKE_REST = range(9)
METHODS = 9
_known = (ctypes.c_int64 * (SLOW + METHODS * (MAGAZINE + UNCHECKED + 1)))()

binding.add_symbol("iobuf_nb_known", ctypes.addressof(_known))


@intrinsic
def _known_at(typingctx: Any, number: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        table = builder.module.globals.get("iobuf_nb_known")
        if table is None:
            table = ir.GlobalVariable(builder.module, ir.ArrayType(ir.IntType(64), len(_known)), "iobuf_nb_known")
        return builder.load(builder.gep(table, [ir.Constant(ir.IntType(64), 0), args[0]]))

    return types.int64(types.int64), codegen


@intrinsic
def _load_word(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), codegen


@intrinsic
def _to_pointer(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), codegen


# The numba types of magazines, once it is known which fences they use here.
_MAGAZINE: Any = None
_MAGAZINE_UNCHECKED: Any = None


@intrinsic
def _address(typingctx: Any, owner: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(owner), codegen


@hot
def _block_of(self):
    """Return the address of an object's descriptor block, 0 if it has none yet."""
    block = _load_word(self + _known_at(SLOT))
    return _load_word(block + _DATA) if block != 0 else 0


@hot
def _another(found):
    """Return an object with one reference more, as Py_INCREF counts them."""
    references = carray(_to_pointer(found + _REFERENCES), (1,))
    if references[0] & 0xFFFFFFFF != _IMMORTAL:
        references[0] += 1
    return found


@hot
def _int_object(number):
    """Return an int, which need not be made if it is small."""
    if number < 0 or number >= _INTS:
        return _from_int(number)
    return _another(_load_word(_known_at(INTS) + 8 * number))


@kernel
def _slowly(method, self, arguments, n, names):
    """Call the Python method with `n` arguments, whose addresses lie at `arguments`, and names for the last of them."""
    out_of_line()
    block = _block_of(self)
    kind = _load_word(block + _KIND) if block != 0 else POOL  # any will complain of what was never made
    count = n + (_tuple_size(names) if names != 0 else 0)
    everything = np.empty(1 + count, np.int64)
    everything[0] = self
    for k in range(count):
        everything[1 + k] = _load_word(arguments + 8 * k)
    return _vectorcall(_known_at(SLOW + METHODS * kind + method), everything.ctypes.data, 1 + n, names)


@kernel
def _call(method, self, arguments, number):
    """Call a method of Python's with the only argument and a number."""
    out_of_line()
    both = np.empty(2, np.int64)
    both[0], both[1] = _load_word(arguments), _from_int(number)
    result = _slowly(method, self, both.ctypes.data, 2, 0)
    _release(both[1])
    return result


@kernel
def _not_put(self, arguments, n, names, status):
    """Have Python do the put, or raise why it was refused."""
    out_of_line()
    return _slowly(PUT, self, arguments, n, names) if status < OK else _call(REFUSE, self, arguments, status)


@hot
def _elements(array):
    return _to_pointer(_load_word(array + _DATA))


@hot
def _length(array):
    return _load_word(_load_word(array + _SHAPE))


@hot
def _kind(block):
    return _load_word(block + _KIND) if block != 0 else OTHER


@hot
def _is_ours(block, kind):
    """Say whether an object is a checked magazine that this thread uses; who may not use it is told so by Python."""
    if kind != MAGAZINE:
        return False
    magazine = load_handle(block, _MAGAZINE)
    return load(magazine.pool._deques, magazine._base + OWNER) == thread_id()


def _operation(of_pools: Callable[..., Any], of_magazines: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is the one or the other in a kernel, by the type of its first argument.

    So the code for magazines is not compiled before there are any.
    """

    def operation(*_: Any) -> Any: ...

    def choose(owner: Any, *_: Any) -> Any:
        return of_magazines if isinstance(owner.dtype, MagazineType) else of_pools

    choose.__signature__ = inspect.signature(of_pools)  # type: ignore[attr-defined]
    kernel_overload(operation)(choose)
    return operation


def _take_from_pool(owner, block):
    kind = _kind(block)
    if kind == POOL:
        return take(load_handle(block, ITEM_POOL))
    if kind == POOL + UNCHECKED:
        return take(load_handle(block, ITEM_POOL_UNCHECKED))
    return get_and_wake(load_handle(block, QUEUE_TYPE)) if kind == QUEUE else UNDECIDED


def _take_from_magazine(owner, block):
    kind = _kind(block)
    if _is_ours(block, kind):
        return take_from(load_handle(block, _MAGAZINE))
    return take_from(load_handle(block, _MAGAZINE_UNCHECKED)) if kind == MAGAZINE + UNCHECKED else UNDECIDED


#: Take an index or item, or EMPTY; UNDECIDED leaves it to Python.
_take = _operation(_take_from_pool, _take_from_magazine)


def _give_to_pool(owner, block, index):
    kind = _kind(block) if index >= 0 else OTHER
    if kind == POOL:
        return give(load_handle(block, ITEM_POOL), index)
    if kind == POOL + UNCHECKED:
        return give(load_handle(block, ITEM_POOL_UNCHECKED), index)
    if kind == QUEUE:
        queue = load_handle(block, QUEUE_TYPE)
        if index < queue.limit:
            return OK if offer(queue, index) else NO_ROOM
    return UNDECIDED


def _give_to_magazine(owner, block, index):
    kind = _kind(block) if index >= 0 else OTHER
    if _is_ours(block, kind):
        return give_to(load_handle(block, _MAGAZINE), index)
    if kind == MAGAZINE + UNCHECKED:
        return give_to(load_handle(block, _MAGAZINE_UNCHECKED), index)
    return UNDECIDED


#: Give an index or put an item: OK, or why not; NO_ROOM and UNDECIDED leave it to Python.
_give = _operation(_give_to_pool, _give_to_magazine)


@hot
def _or_rest(pool, count, length):
    """Return a count, or REST less it if there may be more in magazines."""
    return count if count == length or load(pool._deques, COUNT) == 0 else REST - count


def _take_many_from_pool(owner, block, array):
    kind = _kind(block)
    if kind == POOL:
        pool = load_handle(block, ITEM_POOL)
        return _or_rest(pool, take_many(pool, _elements(array), 0, _length(array), False), _length(array))
    if kind == POOL + UNCHECKED:
        pool = load_handle(block, ITEM_POOL_UNCHECKED)
        return _or_rest(pool, take_many(pool, _elements(array), 0, _length(array), False), _length(array))
    return UNDECIDED


def _take_many_from_magazine(owner, block, array):
    kind = _kind(block)
    if _is_ours(block, kind):
        magazine = load_handle(block, _MAGAZINE)
        count = take_many_from(magazine, _elements(array), _length(array), False)
        return _or_rest(magazine.pool, count, _length(array))
    if kind == MAGAZINE + UNCHECKED:
        magazine = load_handle(block, _MAGAZINE_UNCHECKED)
        count = take_many_from(magazine, _elements(array), _length(array), False)
        return _or_rest(magazine.pool, count, _length(array))
    return UNDECIDED


#: Take as many as an array has room for: how many; REST less that, and UNDECIDED, leave it to Python.
_take_many = _operation(_take_many_from_pool, _take_many_from_magazine)


def _give_many_to_pool(owner, block, array):
    kind = _kind(block)
    if kind == POOL:
        return give_many(load_handle(block, ITEM_POOL), _elements(array), _length(array))
    if kind == POOL + UNCHECKED:
        return give_many(load_handle(block, ITEM_POOL_UNCHECKED), _elements(array), _length(array))
    return UNDECIDED


def _give_many_to_magazine(owner, block, array):
    kind = _kind(block)
    if _is_ours(block, kind):
        return give_many_to(load_handle(block, _MAGAZINE), _elements(array), _length(array))
    if kind == MAGAZINE + UNCHECKED:
        return give_many_to(load_handle(block, _MAGAZINE_UNCHECKED), _elements(array), _length(array))
    return UNDECIDED


#: Give all in an array back: -1, or where the first refused one stands; UNDECIDED leaves it to Python.
_give_many = _operation(_give_many_to_pool, _give_many_to_magazine)


@hot
def _only_index(arguments, n, names):
    """Return the int that is the only argument, if it is not negative; for anything else, a bool too, -1."""
    if n != 1 or names != 0:
        return -1
    given = _load_word(arguments)
    if _load_word(given + _TYPE) != _known_at(INT):
        return -1
    if _load_word(given + _LENGTH) == _ONE_DIGIT:
        return _load_word(given + _DIGIT) & 0xFFFFFFFF
    index = _to_int(given)
    if index < 0:
        _clear_error()
        return -1
    return index


@hot
def _only_array(arguments, n, names):
    """Return the address of the array that is the only argument, if it is one of few int64 that can be filled; or 0."""
    if n != 1 or names != 0:
        return 0
    array = _load_word(arguments)
    if _load_word(array + _TYPE) != _known_at(ARRAY) or _load_word(array + _DTYPE) != _known_at(INT64):
        return 0
    # The number of dimensions and the flags are C ints, half a word.
    if _load_word(array + _DIMENSIONS) & 0xFFFFFFFF != 1 or _load_word(array + _FLAGS) & _PLAIN != _PLAIN:
        return 0
    return array if _length(array) <= _MOST_AT_ONCE else 0


def _try_get(owner, nothing):
    self = _address(owner)
    index = _take(owner, _block_of(self))
    return _int_object(index) if index != UNDECIDED else _slowly(TRY_GET, self, 0, 0, 0)


def _get(owner, arguments, n, names):
    self = _address(owner)
    if n == 0 and names == 0:
        index = _take(owner, _block_of(self))
        if index >= 0:
            return _int_object(index)
    return _slowly(GET, self, arguments, n, names)


def _put(owner, arguments, n, names):
    self = _address(owner)
    status = _give(owner, _block_of(self), _only_index(arguments, n, names))
    return _another(_known_at(NONE)) if status == OK else _not_put(self, arguments, n, names, status)


def _try_put(owner, arguments, n, names):
    self = _address(owner)
    status = _give(owner, _block_of(self), _only_index(arguments, n, names))
    if status == UNDECIDED:
        return _slowly(TRY_PUT, self, arguments, n, names)
    return _another(_known_at(TRUE if status == OK else FALSE))


def _get_many(owner, arguments, n, names):
    self = _address(owner)
    array = _only_array(arguments, n, names)
    count = _take_many(owner, _block_of(self), array) if array != 0 else UNDECIDED
    if count <= REST:
        return _call(TAKE_REST, self, arguments, REST - count)
    return _int_object(count) if count != UNDECIDED else _slowly(GET_MANY, self, arguments, n, names)


def _put_many(owner, arguments, n, names):
    self = _address(owner)
    array = _only_array(arguments, n, names)
    refused = _give_many(owner, _block_of(self), array) if array != 0 else UNDECIDED
    if refused == -1:
        return _another(_known_at(NONE))
    if refused == UNDECIDED:
        return _slowly(PUT_MANY, self, arguments, n, names)
    return _call(REFUSE_MANY, self, arguments, refused)


_FASTCALL_KEYWORDS, _NO_ARGUMENTS = 0x82, 4

# Methods in Python alone, for what comes after: why a put was refused, and the rest of a bulk get.
_FOLLOWING = {REFUSE: "_refuse", REFUSE_MANY: "_refuse_many", TAKE_REST: "_take_rest"}

# In the order of their numbers; queues have no bulk calls.
_METHODS: tuple[tuple[str, Callable[..., int], int], ...] = (
    ("get", _get, _FASTCALL_KEYWORDS),
    ("try_get", _try_get, _NO_ARGUMENTS),
    ("put", _put, _FASTCALL_KEYWORDS),
    ("try_put", _try_put, _FASTCALL_KEYWORDS),
    ("get_many", _get_many, _FASTCALL_KEYWORDS),
    ("put_many", _put_many, _FASTCALL_KEYWORDS),
)

# The classes that objects are of, not one that they inherit from: Python calls methods of those in a quicker way.
_OF_POOLS: tuple[type, ...] = (BufferPool, ItemPool, BoundedQueue)
_OF_MAGAZINES: tuple[type, ...] = (Magazine,)

_KINDS = {
    BoundedQueue: (QUEUE,),
    BufferPool: (POOL, POOL + UNCHECKED),
    ItemPool: (POOL, POOL + UNCHECKED),
    Magazine: (MAGAZINE, MAGAZINE + UNCHECKED),
}


class _MethodDef(ctypes.Structure):
    """CPython's ``PyMethodDef``."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


class Replacement(NamedTuple):
    """A method that was replaced, and what its replacement points at."""

    cls: type
    name: str
    slow: Callable[..., Any]
    compiled: Any
    definition: _MethodDef


REPLACED: list[Replacement] = []
_lock = fork_safe_lock()
_ints: list[Any] = []  # the small ints, and an array of their addresses


def _slot_offset() -> int:
    """Return where in a handle the slot `_members` lies."""
    probe = Handle.__new__(Handle)
    probe._members = object()  # type: ignore[assignment]
    words = (ctypes.c_int64 * (Handle.__basicsize__ // 8)).from_address(id(probe))
    return 8 * list(words).index(id(probe._members))


def prepare() -> None:
    """Find out what the functions need to know, or what stands in their way."""
    global WHY_NOT, _MAGAZINE, _MAGAZINE_UNCHECKED
    WHY_NOT = _obstacle()
    if WHY_NOT is None:
        asymmetric = register_heavy_fence()
        _MAGAZINE, _MAGAZINE_UNCHECKED = (magazine_type(pool, asymmetric) for pool in (ITEM_POOL, ITEM_POOL_UNCHECKED))
        ints = list(range(_INTS))
        addresses = np.array([id(number) for number in ints], np.int64)
        objects = {NONE: None, FALSE: False, TRUE: True, INT: int, ARRAY: np.ndarray, INT64: np.dtype(np.int64)}
        for number, known in objects.items():
            _known[number] = id(known)
        _known[INTS], _known[SLOT] = addresses.ctypes.data, _slot_offset()
        _ints.extend([ints, addresses])  # the last: Ctrl-C may come at any line, and all is done again then


def install(classes: tuple[type, ...]) -> None:
    """Replace the methods of some classes, once; compiles, or loads from the cache."""
    global WHY_NOT
    with _lock:
        if not _ints and WHY_NOT is None:
            prepare()
        if WHY_NOT:
            return
        if not any(replacement.cls is classes[0] for replacement in REPLACED):
            try:
                REPLACED.extend(_compile(classes))
            except (RuntimeError, OSError) as error:  # to compile anew in each process would take longer than it saves
                WHY_NOT = str(error)
                return
        make = ctypes.pythonapi.PyDescr_NewMethod
        make.restype, make.argtypes = ctypes.py_object, [ctypes.py_object, ctypes.c_void_p]
        for cls, name, slow, _, definition in REPLACED:
            if getattr(cls, name) is slow:
                setattr(cls, name, make(cls, ctypes.addressof(definition)))


def _compile(classes: tuple[type, ...]) -> list[Replacement]:
    """Compile what is to replace the methods of some classes; RuntimeError or OSError where there is no cache."""
    # Points at an object. The name of its type says of which sources, and for which kind of fence, the code is:
    # cached code of others is left alone.
    owner = types.CPointer(_MAGAZINE if Magazine in classes else types.Tuple((ITEM_POOL, _MAGAZINE)))
    found = []
    for number, (name, function, flags) in enumerate(_METHODS):
        others = 3 if flags == _FASTCALL_KEYWORDS else 1
        compiled = cfunc(_word(owner, *[_word] * others), function)
        for cls in classes:
            slow = getattr(cls, name, None)
            if slow is not None:
                for kind in _KINDS[cls]:
                    _known[SLOW + METHODS * kind + number] = id(slow)
                doc = f"{name}{_plain(slow)}\n--\n\n{slow.__doc__}"
                definition = _MethodDef(name.encode(), compiled.address, flags, doc.encode())
                found.append(Replacement(cls, name, slow, compiled, definition))
    for cls in classes:
        for number, name in _FOLLOWING.items():
            for kind in _KINDS[cls] if hasattr(cls, name) else ():
                _known[SLOW + METHODS * kind + number] = id(getattr(cls, name))
    return found


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
    array, number = np.zeros(3, np.int64), 2**29 + 12345
    word, half = ctypes.c_int64.from_address, ctypes.c_int.from_address
    expected = {_TYPE: id(np.ndarray), _DATA: array.ctypes.data, _DTYPE: id(array.dtype)}
    found = {place: word(id(array) + place).value for place in expected}
    shape = word(word(id(array) + _SHAPE).value).value
    halves = [half(id(array) + place).value for place in (_DIMENSIONS, _FLAGS)]
    digits = word(id(number) + _LENGTH).value, half(id(number) + _DIGIT).value
    if found != expected or shape != 3 or halves != [1, array.flags.num] or digits != (_ONE_DIGIT, number):
        return "this Python, or this numpy, lays out its objects in another way"
    return None


def _plain(function: Any) -> str:
    """Return a signature as C functions write it into their documentation."""
    parameters = inspect.signature(function).parameters.values()
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return "($" + ", ".join(map(str, plain)) + ")"


before_first[BoundedQueue] = functools.partial(install, _OF_POOLS)
before_first[Magazine] = functools.partial(install, _OF_MAGAZINES)
