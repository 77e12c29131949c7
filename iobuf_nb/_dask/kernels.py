"""Kernels on their way to other processes: by name where they can be imported there, else by value.

A kernel that travels by value is pickled as its Python function with numba's options, and compiled once per process.
What is compiled is kept in the cache of this package, under a digest of all that the kernel is made of: its code, the
functions it calls and the globals it uses; so the next process that gets the same kernel loads it.
"""

from __future__ import annotations

import builtins
import functools
import hashlib
import importlib
import pickle
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle
from numba import njit
from numba.core.dispatcher import Dispatcher

from .._jit.cache import CodeCache
from .._jit.compile import INTERPRETED

_CAN_COMPILE = "_can_compile"  # numba's own flag: False if the decorator was given signatures
_KEPT = 64  # kernels that a process remembers

_lock = threading.RLock()  # a kernel may close over another


def require_kernel(kernel: Any) -> None:
    """Raise TypeError for what is no kernel."""
    if not (isinstance(kernel, Dispatcher) or (INTERPRETED and callable(kernel))):
        raise TypeError(f"kernel must be a function compiled by numba.njit, not {kernel!r:.60}")


def reduced(kernel: Dispatcher, dumps: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what `pickle` is to make of a kernel: a function and its arguments; `dumps` pickles its parts."""
    name = _name_of(kernel)
    if name is not None:
        return named, (*name, digest(kernel, values=False))
    options = {key: value for key, value in kernel.targetoptions.items() if key != "nopython"}
    signatures = None if getattr(kernel, _CAN_COMPILE) else list(kernel.nopython_signatures)
    blob = dumps((kernel.py_func, signatures, kernel.locals, options))
    return _compiled_here, (_Value(digest(kernel, values=True), blob),)


def _name_of(kernel: Dispatcher) -> tuple[str, str] | None:
    """Return the module and the name by which a kernel can be imported, or None."""
    module, name = kernel.py_func.__module__, kernel.py_func.__qualname__
    by_value = module in cloudpickle.list_registry_pickle_by_value()
    if module == "__main__" or by_value or _found(sys.modules.get(module), name) is not kernel:
        return None
    return module, name


def _found(module: Any, name: str) -> Any:
    return functools.reduce(lambda value, part: getattr(value, part, None), name.split("."), module)


@functools.lru_cache(_KEPT)
def named(module: str, name: str, wanted: str) -> Any:
    """Import a kernel; ImportError if it is not there, or if its code is not `wanted`."""
    try:
        kernel = _found(importlib.import_module(module), name)
    except ImportError as error:
        raise ImportError(
            f"kernel {module}:{name} cannot be imported: {error}; install its module where the workers run, upload it "
            "(client.upload_file), or send it by value (cloudpickle.register_pickle_by_value)"
        ) from error
    if not isinstance(kernel, Dispatcher) or digest(kernel, values=False) != wanted:
        raise ImportError(
            f"kernel {module}:{name} is not the one of the client, which has other code: install the same version on "
            "the workers, and restart them (client.restart) if they imported it before it was changed"
        )
    return kernel


class _Value(tuple):
    """A kernel by value: its digest, by which it is known, and what it is made from."""

    __slots__ = ()

    def __new__(cls, *parts: Any) -> Any:
        return super().__new__(cls, parts)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Value) and self[0] == other[0]

    def __hash__(self) -> int:
        return hash(self[0])


def _compiled_here(value: _Value) -> Any:
    with _lock:
        return _made(value)


@functools.lru_cache(_KEPT)
def _made(value: _Value) -> Any:
    """Return a kernel that has come by value, the same one each time, with a cache that lasts."""
    identity, blob = value
    function, signatures, types_of_locals, options = pickle.loads(blob)
    kernel: Any = njit(locals=types_of_locals, **options)(function)
    kernel._cache = CodeCache(function, identity, options)
    for signature in signatures or ():
        kernel.compile(signature)
    if signatures:
        kernel.disable_compile()
    return kernel


# ---- what a kernel is made of ----------------------------------------------------------------------------------------


def digest(kernel: Dispatcher, values: bool) -> str:
    """Return a digest of a kernel's code and options, the same in every process of the same version of Python.

    With `values`, the globals that it uses count, too.
    """
    found = hashlib.sha256()
    for part in _parts(kernel, values, set()):
        found.update(repr(part).encode())
    return found.hexdigest()


def _parts(value: Any, values: bool, seen: set[int]) -> Iterator[Any]:
    """Yield what a function, or a value that it uses, consists of."""
    if isinstance(value, Dispatcher):
        yield sorted((name, _plain(option)) for name, option in value.targetoptions.items())
        value = value.py_func
    if isinstance(value, FunctionType):
        if id(value) in seen:
            return
        seen.add(id(value))
        names: set[str] = set()
        yield from _code(value.__code__, names)
        used = [cell.cell_contents for cell in value.__closure__ or ()]
        used += [value.__globals__[name] for name in sorted(names) if name in value.__globals__]
        for each in [*used, value.__defaults__]:
            yield from _parts(each, values, seen)
    elif isinstance(value, (ModuleType, type)):
        yield value.__name__
    elif values:
        yield cloudpickle.dumps(value)


def _code(code: CodeType, names: set[str]) -> Iterator[Any]:
    """Yield what code does, wherever it stands; collect the names that it uses."""
    names.update(each for each in code.co_names if not hasattr(builtins, each))
    yield code.co_code, code.co_names, code.co_varnames
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant, names)
        else:
            yield _plain(constant)


def _plain(value: Any) -> str:
    """Return text that is the same in every process, whatever the order of a set is, and the address of a function."""
    if isinstance(value, (set, frozenset)):
        return str(sorted(map(_plain, value)))
    return getattr(value, "__qualname__", None) or repr(value)
