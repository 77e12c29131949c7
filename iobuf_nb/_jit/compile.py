"""How this library is compiled: the one place that fixes numba's options.

There are two kinds of function. `hot` ones are a few instructions long and are inlined into their callers; called from
Python they return at once, so they keep the GIL. `kernel` ones may run for long or wait, so they release it.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import pkgutil
import sys
import zlib
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import config, njit, typeof, types
from numba.extending import intrinsic

from .cache import CodeCache, NoCache

#: True when numba runs kernels as plain Python (the environment variable ``NUMBA_DISABLE_JIT``).
INTERPRETED = bool(config.DISABLE_JIT)


PACKAGE = __name__.partition(".")[0]


def _fingerprint() -> str:
    """Return a checksum of all sources of this package, wherever they come from: a folder, a zip, .pyc files.

    Where they cannot be read it is random, so that no two processes share cached code.
    """
    found: list[Any] = [sys.modules[PACKAGE].__spec__]
    for spec in found:  # which grows: rooms have modules of their own
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


#: Goes into the name of every numba type here, and into every cache file. numba takes cached code for fresh as long as
#: the file of its function is unchanged: without this, kernels of a user, and functions here, would go on running what
#: was inlined into them, constants included, from another version of the other files.
FINGERPRINT = _fingerprint()
INLINE = {"forceinline": True, "error_model": "numpy"}


def _for_all_numbers(dispatcher: Any) -> None:
    """Let calls with constants share one compilation: to numba each literal integer is a type of its own."""
    find = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return find(tuple(map(_widened, args)), {name: _widened(kind) for name, kind in kws.items()})

    dispatcher.get_call_template = get_call_template


def _widened(kind: Any) -> Any:
    return types.unliteral(kind) if isinstance(kind, (types.IntegerLiteral, types.BooleanLiteral)) else kind


def _compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    def compile_(function: Callable[..., Any]) -> Any:
        compiled = njit(**options)(function)
        if not INTERPRETED:
            _for_all_numbers(compiled)
            try:
                compiled._cache = CodeCache(function, FINGERPRINT)
            except (RuntimeError, OSError) as error:
                compiled._cache = NoCache(error)
        return compiled

    return compile_


hot = _compiler(**INLINE)

# A caller's forceinline is inherited if nothing is said.
kernel = _compiler(nogil=True, error_model="numpy", forceinline=False)


@intrinsic
def _out_of_line(typingctx: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        for attribute in ("cold", "noinline"):
            builder.function.attributes.add(attribute)
        return context.get_dummy_value()

    return types.void(), codegen


#: Called in a kernel that is seldom called: leave it where it is, so that the code around its calls stays short.
out_of_line: Callable[[], None] = (lambda: None) if INTERPRETED else _out_of_line


def cfunc(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile a function for C code to call; RuntimeError or OSError where there is no place for a cache."""
    from numba.core.ccallback import CFunc  # most of what is compiled is not for C

    callback: Any = CFunc(function, (signature.args, signature.return_type), {}, {})
    callback._cache = CodeCache(function, FINGERPRINT)
    callback.compile()
    return callback


def compile_for(function: Any, *arguments: Any) -> None:
    """Compile a kernel, or load it from the cache, for arguments like these: now, not when its result is due."""
    if not INTERPRETED:
        function.compile(tuple(typeof(argument) for argument in arguments))


def c_function(name: str, result: types.Type, *arguments: types.Type, library: str | None = None) -> Any:
    """Return the C function `name` as kernels call it: linked by name, or interpreted, through ctypes.

    `library` is the path of one that llvmlite has loaded; by default the function is one of the C library's.
    """
    if not INTERPRETED:
        return types.ExternalFunction(name, result(*arguments))
    function = getattr(ctypes.CDLL(library, use_errno=True), name)
    # Pointers travel as integers here, so every C type is an integer of some width.
    function.restype = None if result == types.void else getattr(ctypes, f"c_{result}")
    function.argtypes = [getattr(ctypes, f"c_{argument}") for argument in arguments]
    return function
