"""How this library is compiled: the one place that sets numba's options.

There are three kinds of function. A `hot` function is a few instructions long and is inlined into its callers; called
from Python it returns at once, so it keeps the GIL. A `tiny` one is a line or two, and part of its callers before they
are typed. A `kernel` may run for long or wait, so it releases the GIL. Each is compiled once for all kernels that
call it, and once more, with a wrapper, if Python calls it.
"""

from __future__ import annotations

import ctypes
import functools
import marshal
import os
import pkgutil
import sys
import zlib
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import config, njit, typeof, types
from numba.core.registry import CPUDispatcher
from numba.extending import intrinsic

from . import notice
from .cache import CodeCache

#: True when numba runs kernels as plain Python (the environment variable ``NUMBA_DISABLE_JIT``).
INTERPRETED = bool(config.DISABLE_JIT)


PACKAGE = __name__.partition(".")[0]


def _fingerprint() -> str:
    """Return a checksum of all sources of this package, whether they are in a folder, a zip or .pyc files.

    If they cannot be read it is random, so that no two processes share cached code.
    """
    found: list[Any] = [sys.modules[PACKAGE].__spec__]
    for spec in found:  # the list grows as sub-packages are found
        if spec.submodule_search_locations is not None:
            modules = pkgutil.iter_modules(spec.submodule_search_locations, f"{spec.name}.")
            for module in sorted(modules, key=lambda module: module.name):
                found.append(module.module_finder.find_spec(module.name))  # type: ignore[call-arg]
    checksum = 0
    try:
        for spec in found:
            loader: Any = spec.loader
            try:
                data = loader.get_data(loader.get_filename(spec.name))
            except (AttributeError, OSError):  # frozen
                data = marshal.dumps(loader.get_code(spec.name))
            checksum = zlib.crc32(data, checksum)
    except (AttributeError, ImportError, ValueError):
        found = []
    return f"{checksum:08x}" if len(found) > 1 else os.urandom(4).hex()


#: Part of the name of every numba type here, and of every cache file. To numba, cached code is fresh as long as the
#: file of its function is unchanged. Without the fingerprint, users' kernels and functions here would keep running the
#: code and constants that were inlined into them from an older version of other files.
FINGERPRINT = _fingerprint()


class _Sources:
    """Stands for these sources among the constants of all that is compiled here.

    numba saves a user's kernel together with the constants of what it calls, so also a kernel without any type of ours,
    which has no fingerprint in its signature, is not loaded by other sources than it was compiled with.
    """

    def __reduce__(self) -> Any:
        return same_sources, (FINGERPRINT,)


_SOURCES = _Sources()


def same_sources(fingerprint: str) -> _Sources:
    """Return what stands for these sources, or raise OSError, after which numba compiles and saves the kernel anew.

    Users' caches name this function: it keeps its name, place and meaning in all versions.
    """
    if fingerprint != FINGERPRINT:
        raise OSError(f"compiled with other sources of {PACKAGE}")
    return _SOURCES


def plain(kind: Any) -> Any:
    """Return the type of any number of a kind, so that calls share compilations: to numba each literal is a type."""
    return types.unliteral(kind) if isinstance(kind, (types.IntegerLiteral, types.BooleanLiteral)) else kind


def _core(kind: Any) -> Any:
    """Return the least that handles of a kind have in common with others; see `handle`."""
    return getattr(kind, "core", plain(kind))


class _Dispatcher(CPUDispatcher):
    """A function as Python calls it. Kernels call `for_kernels`, which is compiled without the wrapper for Python."""

    options: dict[str, Any]

    @property
    def _numba_type_(self) -> Any:
        return types.Dispatcher(self.for_kernels)

    @functools.cached_property
    def for_kernels(self) -> Any:
        """The same function as kernels call it."""
        return for_kernels(self.py_func, self.options, _core)


def for_kernels(function: Callable[..., Any], options: dict[str, Any], widened: Callable[[Any], Any] = plain) -> Any:
    """Compile a function that only kernels call; `widened` returns the types that it sees of its arguments."""
    options = {**options, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    dispatcher: Any = njit(**options)(function)
    find = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return find(tuple(map(widened, args)), {name: widened(kind) for name, kind in kws.items()})

    def add_overload(compiled: Any) -> None:
        dispatcher.overloads[tuple(compiled.signature.args)] = compiled  # and not where calls from Python look first
        constants = compiled.environment.consts
        if not any(constant is _SOURCES for constant in constants):
            constants.append(_SOURCES)

    dispatcher.get_call_template, dispatcher.add_overload = get_call_template, add_overload
    dispatcher._compile_for_args = _refuse_python
    dispatcher._cache = CodeCache(function, FINGERPRINT, options)
    return dispatcher


def _refuse_python(*_: Any, **__: Any) -> Any:
    raise TypeError("only kernels can call this function: it has no wrapper for Python")


def _compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    def compile_(function: Callable[..., Any]) -> Any:
        compiled = njit(**options)(function)
        if not INTERPRETED:
            compiled.__class__, compiled.options = _Dispatcher, options
            compiled._cache = CodeCache(function, FINGERPRINT, options)
        return compiled

    return compile_


#: What is set here a caller does not pass on to its callees: all callers share one compilation.
_OPTIONS = {"error_model": "numpy", "fastmath": False, "_nrt": True}
INLINE = {**_OPTIONS, "forceinline": True}
hot = _compiler(**INLINE)
kernel = _compiler(**_OPTIONS, nogil=True, forceinline=False)
#: A line or two, which become part of each caller before it is typed: a compilation of their own would cost more.
tiny = _compiler(**INLINE, inline="always")


@intrinsic
def _out_of_line(typingctx: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for attribute in ("cold", "noinline"):
            builder.function.attributes.add(attribute)
        return context.get_dummy_value()

    return types.void(), codegen


#: Called inside a kernel: mark it cold and never inline it, so that the hot code around its calls stays short.
out_of_line: Callable[[], None] = (lambda: None) if INTERPRETED else _out_of_line


def cfunc(signature: Any, function: Callable[..., Any], required: bool = True) -> Any:
    """Compile a function for C code to call; OSError if it cannot be cached, and that is `required`."""
    from numba.core.ccallback import CFunc  # imported only where C functions are compiled

    callback: Any = CFunc(function, (signature.args, signature.return_type), {}, INLINE)
    callback._cache = CodeCache(function, FINGERPRINT, INLINE, required)
    with notice.compiling(function.__name__):
        callback.compile()
    return callback


def compile_for(function: Any, *arguments: Any) -> None:
    """Compile a kernel, or load it from the cache, for arguments like these, before its first call."""
    if not INTERPRETED:
        kinds = tuple(typeof(argument) for argument in arguments)
        if kinds not in function.overloads:  # numba looks only under its lock, which Ctrl-C may leave locked
            function.compile(kinds)


def compilations(function: Any) -> list[Any]:
    """Return what a function of numba's has been compiled to, the oldest first; nothing for any other.

    An OrderedDict looks its values up by their keys, and says KeyError for what is raised while it hashes them, such as
    KeyboardInterrupt; a dict does not.
    """
    return [*dict.values(getattr(function, "overloads", {}))]


def c_function(name: str, result: types.Type, *arguments: types.Type, library: str | None = None) -> Any:
    """Return the C function `name` as kernels call it: linked by name, or through ctypes with the JIT off.

    `library` is the path of a library that llvmlite has loaded; the default is the C library.
    """
    if not INTERPRETED:
        return types.ExternalFunction(name, result(*arguments))
    function = getattr(ctypes.CDLL(library, use_errno=True), name)
    # Pointers travel as integers here, so every C type is an integer of some width.
    function.restype = None if result == types.void else getattr(ctypes, f"c_{result}")
    function.argtypes = [getattr(ctypes, f"c_{argument}") for argument in arguments]
    return function
