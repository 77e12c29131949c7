"""Kernels on their way to other processes: by name where they can be imported there, else by value.

A kernel that travels by value is pickled as its Python function with numba's options, and compiled once per process.
What is compiled is kept in the cache of this package, under a digest of all that the kernel is made of: its code, the
functions it calls and the globals it uses; so the next process that gets the same kernel loads it.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib
import pickle
import sys
import threading
from collections.abc import Iterator, Sequence
from enum import EnumMeta
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle
import numpy as np
from numba import njit
from numba.core.dispatcher import Dispatcher

from .._jit.cache import CodeCache
from .._jit.compile import FINGERPRINT, INTERPRETED, PACKAGE, compilations

_CAN_COMPILE = "_can_compile"  # numba's own flag: False if the decorator was given signatures
_KEPT = 64  # kernels that a process remembers
_SAME = {PACKAGE, "numba", "numpy", *sys.stdlib_module_names}  # have the same version everywhere
_CONSTANTS = bool, int, float, complex, str, bytes, np.generic, np.dtype
_ANOTHER = (
    "have other code or constants than there: install the same version on the workers, and restart them "
    "(client.restart) if they imported it before it was changed"
)

_lock = threading.RLock()  # a kernel may close over another


def require_kernel(kernel: Any) -> None:
    """Raise TypeError for what is no kernel."""
    if not (isinstance(kernel, Dispatcher) or (INTERPRETED and callable(kernel))):
        raise TypeError(f"kernel must be a function compiled by numba.njit, not {kernel!r:.60}")


def reduced(kernel: Dispatcher, dumps: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return what `pickle` is to make of a kernel: a function and its arguments; `dumps` pickles its parts."""
    name, code = _name_of(kernel), digest(kernel, values=False)
    if name is not None:
        return named, (*name, code)
    options = {key: value for key, value in kernel.targetoptions.items() if key != "nopython"}
    signatures = None if getattr(kernel, _CAN_COMPILE) else [each.signature for each in compilations(kernel)]
    blob = dumps((kernel.py_func, signatures, kernel.locals, options, code))
    return _compiled_here, (_Value(digest(kernel, values=True), blob),)


def _name_of(kernel: Dispatcher) -> tuple[str, str] | None:
    """Return the module and the name by which a kernel can be imported, or None."""
    module, name = kernel.py_func.__module__, kernel.py_func.__qualname__
    by_value = any(f"{module}.".startswith(f"{each}.") for each in cloudpickle.list_registry_pickle_by_value())
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
        raise ImportError(f"kernel {module}:{name} is not the one of the client, or uses modules that {_ANOTHER}")
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
    function, signatures, types_of_locals, options, wanted = pickle.loads(blob)
    kernel: Any = njit(locals=types_of_locals, **options)(function)
    if digest(kernel, values=False) != wanted:
        raise ImportError(f"kernel {function.__qualname__} uses modules that {_ANOTHER}")
    kernel._cache = CodeCache(function, FINGERPRINT, options | {"digest": identity})
    for signature in signatures or ():
        kernel.compile(signature)
    if signatures:
        kernel.disable_compile()
    return kernel


# ---- what a kernel is made of ----------------------------------------------------------------------------------------


def digest(kernel: Dispatcher, values: bool) -> str:
    """Return a digest of a kernel, the same in every process of the same version of Python.

    Its code and options count, and the functions, modules, classes and constants that it uses; with `values`, any other
    globals, too.
    """
    found = hashlib.sha256()
    for part in _parts(kernel, values, (), set()):
        found.update(repr(part).encode())
    return found.hexdigest()


def _parts(value: Any, values: bool, attributes: Sequence[str], seen: set[Any]) -> Iterator[Any]:
    """Yield what a function, or a value that it uses, consists of; of a module, what has the names `attributes`."""
    if isinstance(value, Dispatcher):
        yield [sorted((k, _plain(each)) for k, each in some.items()) for some in (value.targetoptions, value.locals)]
        value = value.py_func
    if isinstance(value, (FunctionType, ModuleType, type)):
        module = getattr(value, "__module__", None) or value.__name__
        yield module, getattr(value, "__qualname__", "")
        known = (id(value), *attributes)
        if known not in seen and module.partition(".")[0] not in _SAME:
            seen.add(known)
            yield from _parts_inside(value, values, attributes, seen)
    elif isinstance(value, tuple):
        yield len(value)
        for each in value:
            yield from _parts(each, values, attributes, seen)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield value.dtype, value.shape, value.tobytes()
    elif value is None or isinstance(value, _CONSTANTS):
        yield type(value), value
    elif values:
        yield cloudpickle.dumps(value)


def _parts_inside(value: Any, values: bool, attributes: Sequence[str], seen: set[Any]) -> Iterator[Any]:
    """Yield what a function, a module or a class consists of."""
    if isinstance(value, FunctionType):
        names: set[str] = set()
        used: set[str] = set()
        yield from _code(value.__code__, names, used)
        attributes = sorted(names)
        inside = [cell.cell_contents for cell in value.__closure__ or ()]
        inside += [value.__globals__[name] for name in sorted(used) if name in value.__globals__]
        inside += [value.__defaults__]
    elif isinstance(value, ModuleType):
        inside = [vars(value)[name] for name in attributes if name in vars(value)]
    elif isinstance(value, EnumMeta):
        inside = [(each.name, each.value) for each in value]  # type: ignore[var-annotated]
    else:
        inside = [(name, each) for name, each in sorted(vars(value).items()) if name[0] != "_"]
        values = False
    for each in inside:
        yield from _parts(each, values, attributes, seen)


def _code(code: CodeType, names: set[str], used: set[str]) -> Iterator[Any]:
    """Yield what code does, wherever it stands; collect the names in it, and those of the globals that it uses."""
    names.update(code.co_names)
    used.update(each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL")
    yield code.co_code, code.co_names, code.co_varnames
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant, names, used)
        else:
            yield _plain(constant)


def _plain(value: Any) -> str:
    """Return text that is the same in every process, whatever the order of a set is, and the address of a function."""
    if isinstance(value, (set, frozenset)):
        return str(sorted(map(_plain, value)))
    return getattr(value, "__qualname__", None) or repr(value)
