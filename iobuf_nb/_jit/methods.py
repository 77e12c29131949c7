"""C methods: the short methods of pools, queues and magazines, compiled from the same functions that kernels use.

A call from Python through numba's dispatcher takes more than half a microsecond, twenty times what the operation takes.
So when the first object of a class is made, its short methods are replaced by method descriptors over C functions that
numba compiles. Each handles the common case: the argument is an int or an int64 array, and there is a buffer or room.
Everything else (keywords, waiting, errors) is passed to the Python method that it replaced, so the two never differ.
An operation that was refused is not tried again there, only reported.

C methods hold the GIL, because they return at once; only the Python methods wait, and release it.

A class registers itself in a `Group` with the `Operations` of each kind of object that it makes: functions of a handle.
The members of an object are found through the slot `_members`, at a fixed offset in the object; they contain its kind.
Where that, or anything else, differs from CPython 3.10 to 3.13, `WHY_NOT` contains the reason, and the Python methods
stay.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import carray, types
from numba.extending import intrinsic, register_jitable

from .compile import INLINE, INTERPRETED, cfunc, hot, kernel, out_of_line
from .faces import kernel_overload
from .handle import MAGAZINE, OTHER, POOL, UNCHECKED, Handle, HandleType, before_first, load_handle
from .locks import fork_safe_lock
from .python_api import NEEDED, clear_error, from_int, release, to_int, tuple_size, vectorcall

#: Why methods cannot be replaced in this Python; None if they can.
WHY_NOT: str | None = None

# Statuses that leave the call to the Python method.
UNDECIDED = -9  # nothing was done
NO_ROOM = -8  # from a give: nothing was done, and the Python method waits
REST = -10  # from a bulk take, minus the count: the Python method gets the rest without the GIL


@hot
def always(handle):
    """Return True."""
    return True


class Operations(NamedTuple):
    """What the C methods of one kind of object call; None if the class has no such method.

    Each takes a handle; bulk operations also take a pointer to int64 and a length. All may return UNDECIDED.
    """

    handle_type: HandleType
    take: Any  #: (handle): an index or item, or EMPTY
    give: Any  #: (handle, index): 0, NO_ROOM, or the status of the refusal
    take_many: Any = None  #: (handle, out, n): the count, or REST minus the count
    give_many: Any = None  #: (handle, indices, n): -1, or the position of the first index that is refused
    usable: Any = always  #: (handle): False if this thread may not use the object; the Python method raises why


_operations: dict[HandleType, Operations] = {}

# Offsets, in bytes, in an object (an int), in an array, and in the members of a handle.
_REFERENCES, _TYPE, _LENGTH, _DIGIT = 0, 8, 16, 24
_DATA, _DIMENSIONS, _SHAPE, _DTYPE, _FLAGS = 16, 24, 32, 56, 64
_KIND = 8
NO_KIND = -1
_PLAIN = 0x0501  # flags of an array: C-contiguous, aligned and writable

# Ints below 2**30 have one digit; since Python 3.12 the length shares its word with the sign.
_ONE_DIGIT = 8 if sys.version_info >= (3, 12) else 1
_IMMORTAL = 2**32 - 1 if sys.version_info >= (3, 12) else -1
_INTS = 2**14  # preallocated small ints; Python's own end at 256
_MOST_AT_ONCE = 4096  # for longer arrays it pays to release the GIL

# Entries of the table that the functions below read: addresses of Python objects, and the offset of `_members`.
NONE, FALSE, TRUE, INT, ARRAY, INT64, INTS, SLOT = range(8)
SLOW = 8  # from here on: the Python methods, by kind of object and number of method
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


@intrinsic
def _address(typingctx: Any, instance: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(instance), codegen


@hot
def _members_of(self):
    """Return the address of an object's members; 0 if it is not initialised."""
    members = _load_word(self + _known_at(SLOT))
    return _load_word(members + _DATA) if members != 0 else 0


@hot
def _another(found):
    """Return a new reference to an object, as Py_NewRef does."""
    references = carray(_to_pointer(found + _REFERENCES), (1,))
    if references[0] & 0xFFFFFFFF != _IMMORTAL:
        references[0] += 1
    return found


@hot
def _int_object(number):
    """Return a new reference to an int; small ones are preallocated."""
    if number < 0 or number >= _INTS:
        return from_int(number)
    return _another(_load_word(_known_at(INTS) + 8 * number))


@kernel
def _slowly(method, self, arguments, n, names):
    """Call the Python method with the arguments of a vectorcall: `n` by position, then one for each of `names`."""
    out_of_line()
    members = _members_of(self)
    kind = _load_word(members + _KIND) if members != 0 else POOL  # any method raises for an uninitialised object
    count = n + (tuple_size(names) if names != 0 else 0)
    everything = np.empty(1 + count, np.int64)
    everything[0] = self
    for k in range(count):
        everything[1 + k] = _load_word(arguments + 8 * k)
    return vectorcall(_known_at(SLOW + METHODS * kind + method), everything.ctypes.data, 1 + n, names)


@kernel
def _call_with(method, self, arguments, number):
    """Call a Python method with the only argument and a number."""
    out_of_line()
    both = np.empty(2, np.int64)
    both[0], both[1] = _load_word(arguments), from_int(number)
    result = _slowly(method, self, both.ctypes.data, 2, 0)
    release(both[1])
    return result


@kernel
def _not_put(self, arguments, n, names, status):
    """Leave the put to the Python method, or have it raise the reason for the refusal."""
    out_of_line()
    if status in (UNDECIDED, NO_ROOM):
        return _slowly(PUT, self, arguments, n, names)
    return _call_with(REFUSE, self, arguments, status)


@hot
def _elements(array):
    return _to_pointer(_load_word(array + _DATA))


@hot
def _length(array):
    return _load_word(_load_word(array + _SHAPE))


@hot
def _kind(members):
    return _load_word(members + _KIND) if members != 0 else OTHER


def _among_two(name: str, first: Operations, second: Operations) -> Callable[..., Any]:
    """Return the operation `name` for objects of two kinds."""
    one, two = first.handle_type, second.handle_type
    kind_one, kind_two = one.kind, two.kind
    do_one, do_two, may_one, may_two = getattr(first, name), getattr(second, name), first.usable, second.usable

    def dispatch(instance, members, *arguments):
        kind = _kind(members)
        if kind == kind_one and may_one(load_handle(members, one)):
            return do_one(load_handle(members, one), *arguments)
        if kind == kind_two and may_two(load_handle(members, two)):
            return do_two(load_handle(members, two), *arguments)
        return UNDECIDED

    return dispatch


def _or_others(name: str, operations: Operations, others: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operation `name` for objects of one more kind, which any thread may use."""
    handle_type, kind_one, do = operations.handle_type, operations.handle_type.kind, getattr(operations, name)
    others = register_jitable(**INLINE)(others)

    def dispatch(instance, members, *arguments):
        if _kind(members) == kind_one:
            return do(load_handle(members, handle_type), *arguments)
        return others(instance, members, *arguments)

    return dispatch


def _dispatched(name: str) -> Callable[..., Any]:
    """Return the operation `name` as a function of (instance, members, arguments), for each kind of instance."""

    def operation(*_: Any) -> Any: ...

    def choose(instance: Any, members: Any, *arguments: Any) -> Any:
        kinds = [_operations[handle_type] for handle_type in instance.dtype.types]
        found = [each for each in kinds if getattr(each, name)]
        dispatch = _among_two(name, *found[-2:])
        for operations in found[:-2]:
            dispatch = _or_others(name, operations, dispatch)
        return dispatch

    kernel_overload(operation)(choose)
    return operation


_take, _give, _take_many, _give_many = map(_dispatched, ("take", "give", "take_many", "give_many"))


@hot
def _only_index(arguments, n, names):
    """Return the only argument if it is an int >= 0; -1 for anything else, bool included."""
    if n != 1 or names != 0:
        return -1
    given = _load_word(arguments)
    if _load_word(given + _TYPE) != _known_at(INT):
        return -1
    if _load_word(given + _LENGTH) == _ONE_DIGIT:
        return _load_word(given + _DIGIT) & 0xFFFFFFFF
    index = to_int(given)
    if index < 0:
        clear_error()
        return -1
    return index


@hot
def _only_array(arguments, n, names):
    """Return the address of the only argument if it is a short, plain int64 array; 0 otherwise."""
    if n != 1 or names != 0:
        return 0
    array = _load_word(arguments)
    if _load_word(array + _TYPE) != _known_at(ARRAY) or _load_word(array + _DTYPE) != _known_at(INT64):
        return 0
    # The number of dimensions and the flags are C ints, half a word.
    if _load_word(array + _DIMENSIONS) & 0xFFFFFFFF != 1 or _load_word(array + _FLAGS) & _PLAIN != _PLAIN:
        return 0
    return array if _length(array) <= _MOST_AT_ONCE else 0


def _try_get(instance, nothing):
    self = _address(instance)
    index = _take(instance, _members_of(self))
    return _int_object(index) if index != UNDECIDED else _slowly(TRY_GET, self, 0, 0, 0)


def _get(instance, arguments, n, names):
    self = _address(instance)
    if n == 0 and names == 0:
        index = _take(instance, _members_of(self))
        if index >= 0:
            return _int_object(index)
    return _slowly(GET, self, arguments, n, names)


def _put(instance, arguments, n, names):
    self = _address(instance)
    index = _only_index(arguments, n, names)
    status = _give(instance, _members_of(self), index) if index >= 0 else UNDECIDED
    return _another(_known_at(NONE)) if status == 0 else _not_put(self, arguments, n, names, status)


def _try_put(instance, arguments, n, names):
    self = _address(instance)
    index = _only_index(arguments, n, names)
    status = _give(instance, _members_of(self), index) if index >= 0 else UNDECIDED
    if status == UNDECIDED:
        return _slowly(TRY_PUT, self, arguments, n, names)
    return _another(_known_at(TRUE if status == 0 else FALSE))


def _get_many(instance, arguments, n, names):
    self = _address(instance)
    array = _only_array(arguments, n, names)
    count = _take_many(instance, _members_of(self), _elements(array), _length(array)) if array != 0 else UNDECIDED
    if count <= REST:
        return _call_with(TAKE_REST, self, arguments, REST - count)
    return _int_object(count) if count != UNDECIDED else _slowly(GET_MANY, self, arguments, n, names)


def _put_many(instance, arguments, n, names):
    self = _address(instance)
    array = _only_array(arguments, n, names)
    refused = _give_many(instance, _members_of(self), _elements(array), _length(array)) if array != 0 else UNDECIDED
    if refused == -1:
        return _another(_known_at(NONE))
    if refused == UNDECIDED:
        return _slowly(PUT_MANY, self, arguments, n, names)
    return _call_with(REFUSE_MANY, self, arguments, refused)


_FASTCALL_KEYWORDS, _NO_ARGUMENTS = 0x82, 4

# Python methods that finish a call: raise why a put was refused, get the rest of a bulk get.
_FOLLOWING = {REFUSE: "_refuse", REFUSE_MANY: "_refuse_many", TAKE_REST: "_take_rest"}

# In the order of their numbers; queues have no bulk methods.
_METHODS: tuple[tuple[str, Callable[..., int], int], ...] = (
    ("get", _get, _FASTCALL_KEYWORDS),
    ("try_get", _try_get, _NO_ARGUMENTS),
    ("put", _put, _FASTCALL_KEYWORDS),
    ("try_put", _try_put, _FASTCALL_KEYWORDS),
    ("get_many", _get_many, _FASTCALL_KEYWORDS),
    ("put_many", _put_many, _FASTCALL_KEYWORDS),
)


class _MethodDef(ctypes.Structure):
    """CPython's ``PyMethodDef``."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


class Replacement(NamedTuple):
    """A method that was replaced, and the C function and definition that its replacement points at."""

    cls: type
    name: str
    slow: Callable[..., Any]
    compiled: Any
    definition: _MethodDef


REPLACED: list[Replacement] = []
_lock = fork_safe_lock()
_ints: list[Any] = []  # the preallocated ints, and an array of their addresses


class Group:
    """Classes whose C methods are compiled together, when the first object of any of them is made."""

    def __init__(self) -> None:
        self._classes: dict[type, Callable[[], list[Operations]]] = {}
        self._replaced: list[Replacement] = []

    def add(self, cls: type, operations: Callable[[], list[Operations]]) -> None:
        """Register a class itself, not a base class: Python finds a class's own methods faster.

        `operations` returns the operations of each kind of its objects; it is called when the methods are compiled.
        """
        self._classes[cls] = operations
        before_first[cls] = self.install

    def install(self) -> None:
        """Replace the methods, once: compile them, or load them from the cache."""
        global WHY_NOT
        with _lock:
            if not _ints and WHY_NOT is None:
                prepare()
            if WHY_NOT:
                return
            if not self._replaced:
                try:
                    self._replaced = self._compile()
                except (RuntimeError, OSError) as error:
                    # Without a cache, compiling in every process costs more than it saves.
                    WHY_NOT = str(error)
                    return
                REPLACED.extend(self._replaced)
            make = ctypes.pythonapi.PyDescr_NewMethod
            make.restype, make.argtypes = ctypes.py_object, [ctypes.py_object, ctypes.c_void_p]
            for cls, name, slow, _, definition in self._replaced:
                if getattr(cls, name) is slow:
                    setattr(cls, name, make(cls, ctypes.addressof(definition)))

    def _compile(self) -> list[Replacement]:
        """Compile the replacements of the methods; RuntimeError or OSError if there is no cache."""
        kinds = {cls: operations() for cls, operations in self._classes.items()}
        for each in (each for of_class in kinds.values() for each in of_class):
            _operations[each.handle_type] = each
        # A pointer to an object. Its type names all kinds of object, so cached code of other sources does not match.
        # The class added last comes first: pools, whose methods are called more often than those of queues.
        handle_types = dict.fromkeys(each.handle_type for of_class in reversed(kinds.values()) for each in of_class)
        instance = types.CPointer(types.Tuple(list(handle_types)))
        found = []
        for number, (name, function, flags) in enumerate(_METHODS):
            others = 3 if flags == _FASTCALL_KEYWORDS else 1
            compiled = cfunc(types.int64(instance, *[types.int64] * others), function)
            for cls, of_class in kinds.items():
                slow = getattr(cls, name, None)
                if slow is not None:
                    _remember(of_class, number, slow)
                    doc = f"{name}{_plain(slow)}\n--\n\n{slow.__doc__}"
                    definition = _MethodDef(name.encode(), compiled.address, flags, doc.encode())
                    found.append(Replacement(cls, name, slow, compiled, definition))
        for cls, of_class in kinds.items():
            for number, name in _FOLLOWING.items():
                if hasattr(cls, name):
                    _remember(of_class, number, getattr(cls, name))
        return found


def _remember(of_class: list[Operations], number: int, method: Any) -> None:
    """Enter a Python method in the table of the C functions, for each kind of object of a class."""
    for operations in of_class:
        _known[SLOW + METHODS * operations.handle_type.kind + number] = id(method)


def _slot_offset() -> int:
    """Return the offset in bytes of the slot `_members` in a handle."""
    probe = Handle.__new__(Handle)
    probe._members = object()  # type: ignore[assignment]
    words = (ctypes.c_int64 * (Handle.__basicsize__ // 8)).from_address(id(probe))
    return 8 * list(words).index(id(probe._members))


def prepare() -> None:
    """Fill the table of the C functions, or set `WHY_NOT`."""
    global WHY_NOT
    WHY_NOT = _obstacle()
    if WHY_NOT is None:
        ints = list(range(_INTS))
        addresses = np.array([id(number) for number in ints], np.int64)
        objects = {NONE: None, FALSE: False, TRUE: True, INT: int, ARRAY: np.ndarray, INT64: np.dtype(np.int64)}
        for number, known in objects.items():
            _known[number] = id(known)
        _known[INTS], _known[SLOT] = addresses.ctypes.data, _slot_offset()
        _ints.extend([ints, addresses])  # last: after Ctrl-C at any line above, all of it runs again


def _obstacle() -> str | None:
    """Return why methods cannot be replaced in this Python, or None."""
    if INTERPRETED:
        return "the JIT is off (NUMBA_DISABLE_JIT)"
    if sys.implementation.name != "cpython" or not (3, 10) <= sys.version_info < (3, 14):
        return f"this is {sys.implementation.name} {sys.version.split()[0]}, not CPython 3.10 to 3.13"
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "this Python runs without the GIL"
    missing = [name for name in NEEDED if not hasattr(ctypes.pythonapi, name)]
    if missing:  # linking code without them aborts the process
        return f"this Python does not export {', '.join(missing)}"
    array, number = np.zeros(3, np.int64), 2**29 + 12345
    word, half = ctypes.c_int64.from_address, ctypes.c_int.from_address
    expected = {_TYPE: id(np.ndarray), _DATA: array.ctypes.data, _DTYPE: id(array.dtype)}
    found = {place: word(id(array) + place).value for place in expected}
    shape = word(word(id(array) + _SHAPE).value).value
    halves = [half(id(array) + place).value for place in (_DIMENSIONS, _FLAGS)]
    digits = word(id(number) + _LENGTH).value, half(id(number) + _DIGIT).value
    if found != expected or shape != 3 or halves != [1, array.flags.num] or digits != (_ONE_DIGIT, number):
        return "this Python or numpy lays out its objects differently"
    return None


def _plain(function: Any) -> str:
    """Return a signature in the form of the docstrings of C functions."""
    parameters = inspect.signature(function).parameters.values()
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return "($" + ", ".join(map(str, plain)) + ")"
