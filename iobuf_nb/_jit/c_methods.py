"""C methods: method descriptors over functions that numba compiles, in place of Python methods.

A call from Python through numba's dispatcher takes more than half a microsecond, twenty times what a get takes. So when
the first object of a class is made, its short methods are replaced by method descriptors, which CPython calls directly.
Each points at a trampoline at first: it calls back to Python, where the C function is compiled, or loaded from the
cache, and its address takes the trampoline's place in the definition (``PyMethodDef``). Descriptors and bound methods
read the address there, so those that were made before are as fast as later ones.

A C function handles the common case and leaves everything else (keywords, waiting, errors) to the Python method that it
replaces, so the two never differ. It holds the GIL, because it returns at once; only Python methods wait, without it.

Where C methods cannot be used, `WHY_NOT` contains the reason, and the Python methods stay.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from .compile import INTERPRETED, cfunc, tiny
from .handle import before_first
from .locks import fork_safe_lock, forks_wait_for
from .python_api import NEEDED, VECTORCALL
from .python_objects import constant_of, fill_table, known, load_constant, unexpected_layout

#: Why methods cannot be replaced in this Python; None if they can.
WHY_NOT: str | None = None

_WORD = ir.IntType(64)

_call_python = types.ExternalFunction("iobuf_nb_call_python", types.int64(*[types.int64] * 5))


@tiny
def slowly(function, self, arguments, n, names):
    """Call a Python function, by its number, with an object and the arguments of a vectorcall."""
    return _call_python(known(function), self, arguments, n, names)


# ---- trampolines -----------------------------------------------------------------------------------------------------


def _write_call_python(module: ir.Module) -> ir.Function:
    """Write the function that calls `function` with `self` before the other arguments of a vectorcall."""
    function = ir.Function(module, ir.FunctionType(_WORD, [_WORD] * 5), "iobuf_nb_call_python")
    callee, self, arguments, n, names = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    tuple_size, vectorcall = (
        ir.Function(module, ir.FunctionType(_WORD, [_WORD] * count), name)
        for name, count in (("PyTuple_Size", 1), (VECTORCALL, 4))
    )
    count = builder.alloca(_WORD)
    builder.store(n, count)
    with builder.if_then(builder.icmp_signed("!=", names, _WORD(0))):
        builder.store(builder.add(n, builder.call(tuple_size, [names])), count)
    words = builder.alloca(_WORD, builder.add(builder.load(count), _WORD(1)))
    builder.store(self, words)
    rest = builder.gep(words, [_WORD(1)])
    cgutils.raw_memcpy(builder, rest, builder.inttoptr(arguments, _WORD.as_pointer()), builder.load(count), 8)
    args = callee, builder.ptrtoint(words, _WORD), builder.add(n, _WORD(1)), names
    builder.ret(builder.call(vectorcall, args))
    return function


def _trampolines(methods: list[CMethod]) -> None:
    """Give each method the address of a trampoline: a C function that calls the Python function of its number."""
    library: Any = cpu_target.target_context.codegen().create_library("iobuf_nb_trampolines")
    module = library.create_ir_module("iobuf_nb_trampolines")
    call_python = _write_call_python(module)
    for method in methods:
        words = 1 + method.others
        function = ir.Function(module, ir.FunctionType(_WORD, [_WORD] * words), f"iobuf_nb_trampoline_{method.number}")
        builder = ir.IRBuilder(function.append_basic_block())
        arguments = function.args if method.others == 3 else [function.args[0], *[_WORD(0)] * 3]
        builder.ret(builder.call(call_python, [load_constant(builder, _WORD(method.number)), *arguments]))
    library.add_ir_module(module)
    library.finalize()
    binding.add_symbol("iobuf_nb_call_python", library.get_pointer_to_function("iobuf_nb_call_python"))
    for method in methods:
        method.trampoline = library.get_pointer_to_function(f"iobuf_nb_trampoline_{method.number}")
    _libraries.append(library)


_libraries: list[Any] = []  # they must outlive their functions

# ---- methods ---------------------------------------------------------------------------------------------------------

_FASTCALL_KEYWORDS, _NO_ARGUMENTS = 0x82, 4


class _MethodDef(ctypes.Structure):
    """CPython's ``PyMethodDef``."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


class CMethod:
    """One method of some classes, of which all inherit or define the same Python function.

    `make` returns the source of the C function that takes its place. It is called with the addresses of the object and
    of the arguments, their number, and the tuple of the names of the last ones, or 0; or with the object and nothing.
    """

    def __init__(
        self,
        classes: tuple[type, ...],
        name: str,
        make: Callable[[], Callable[..., Any]],
        takes_arguments: bool = True,
        first: type | None = None,
    ) -> None:
        self.classes = classes
        self.first = first
        self.name = name
        self.make = make
        self.slow: Callable[..., Any] = getattr(classes[0], name)
        self.others = 3 if takes_arguments else 1
        # A plain function, which is all that C functions can call on Python 3.10.
        self.number = constant_of(lambda instance, *args, **named: self._at_first_call(instance, *args, **named))
        self.trampoline = 0
        self.compiled: Any = None
        self._descriptors: dict[type, Callable[..., Any]] = {}
        flags = _FASTCALL_KEYWORDS if self.others == 3 else _NO_ARGUMENTS
        doc = f"{name}{_plain(self.slow)}\n--\n\n{self.slow.__doc__ or ''}"
        self._definition = _MethodDef(name.encode(), 0, flags, doc.encode())

    def replace(self, cls: type) -> None:
        """Replace the method of a class by a descriptor, unless it has been replaced by something else."""
        if getattr(cls, self.name) is self.slow:
            self._definition.function = self._definition.function or self.trampoline
            make = ctypes.pythonapi.PyDescr_NewMethod
            make.restype, make.argtypes = ctypes.py_object, [ctypes.py_object, ctypes.c_void_p]
            self._descriptors[cls] = make(cls, ctypes.addressof(self._definition))
            setattr(cls, self.name, self._descriptors[cls])

    def restore(self) -> None:
        """Put the Python method back; what was bound before calls it through the trampoline."""
        for cls, descriptor in self._descriptors.items():
            if vars(cls).get(self.name) is descriptor:
                setattr(cls, self.name, self.slow)

    def _at_first_call(self, instance: Any, *args: Any, **named: Any) -> Any:
        """Compile the C function, or load it from the cache, and call it in the trampoline's stead."""
        global WHY_NOT
        with global_compiler_lock, _lock:  # in the order in which a finalizer takes them while numba compiles
            if self._definition.function == self.trampoline and WHY_NOT is None:
                try:
                    self.compiled = cfunc(types.int64(*[types.int64] * (1 + self.others)), self.make())
                    self._definition.function = self.compiled.address  # last: Ctrl-C may have come at any line above
                except (RuntimeError, OSError) as error:
                    # Without a cache, compiling in every process costs more than it saves.
                    WHY_NOT = str(error)
                    for method in METHODS:
                        method.restore()
        if self._definition.function == self.trampoline:
            return self.slow(instance, *args, **named)
        cls = next(cls for cls in type(instance).__mro__ if cls in self._descriptors)
        return self._descriptors[cls](instance, *args, **named)


METHODS: list[CMethod] = []
_lock = fork_safe_lock()
forks_wait_for(global_compiler_lock)  # registered after `_lock`, so a fork takes it before


def c_method(classes: tuple[type, ...], *args: Any, **named: Any) -> None:
    """Register a `CMethod`, to take the place of the Python method when the first object of one of `classes` is made.

    Those are the classes of the objects themselves, not base classes: Python finds a class's own methods faster. If
    they are not handles, `first` is the handle at whose first object their methods are replaced.
    """
    assert not _libraries, "C methods must be registered before the first object is made"
    METHODS.append(CMethod(classes, *args, **named))
    for cls in (METHODS[-1].first,) if METHODS[-1].first else classes:
        before_first[cls] = functools.partial(_install, cls)


def _install(cls: type) -> None:
    """Replace the methods of a class, or set `WHY_NOT`."""
    global WHY_NOT
    with global_compiler_lock, _lock:
        if not _libraries and WHY_NOT is None:
            WHY_NOT = _obstacle()
            if WHY_NOT is None:
                fill_table()
                _trampolines(METHODS)  # last: after Ctrl-C at any line above, all of it runs again
        for method in METHODS if WHY_NOT is None else []:
            for each in method.classes:
                if cls in (each, method.first):
                    method.replace(each)


def _obstacle() -> str | None:
    """Return why methods cannot be replaced in this Python, or None."""
    if INTERPRETED:
        return "the JIT is off (NUMBA_DISABLE_JIT)"
    if sys.implementation.name != "cpython" or sys.version_info < (3, 10):
        return f"this is {sys.implementation.name} {sys.version.split()[0]}, not CPython 3.10 or newer"
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "this Python runs without the GIL"
    missing = [name for name in NEEDED if not hasattr(ctypes.pythonapi, name)]
    if missing:  # linking code without them aborts the process
        return f"this Python does not export {', '.join(missing)}"
    if unexpected_layout():
        return "this Python or numpy lays out its objects differently"
    return None


def _plain(function: Any) -> str:
    """Return a signature in the form of the docstrings of C functions."""
    parameters = inspect.signature(function).parameters.values()
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return "($" + ", ".join(map(str, plain)) + ")"
