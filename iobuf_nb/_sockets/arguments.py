"""Arguments: how each is checked, when Python calls and when a kernel is compiled; and functions made of both faces."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import types
from numba.core import errors
from numba.np.numpy_support import from_dtype

from .._jit import check
from .._jit.check_in_kernels import require_integer
from .._jit.faces import kernel_overload
from .._memory.buffers import memory_of
from .._memory.iovec import check_pool, integers_of, require_integers, require_iovec, require_pool
from ..syscalls import IOV_MAX, as_descriptor, as_iovec


class Argument(NamedTuple):
    """What is allowed for a parameter; both functions take its name first."""

    from_python: Callable[[str, Any], Any]  # returns what the body gets; TypeError or ValueError
    in_kernel: Callable[[str, Any], None]  # of the numba type; TypingError


Function = TypeVar("Function", bound=Callable[..., int])


def in_both_faces(**arguments: Argument) -> Callable[[Function], Function]:
    """Turn a body into a function for Python and for kernels; Python raises -errno as an OSError."""

    def declare(body: Function) -> Function:
        signature = inspect.signature(body)

        @functools.wraps(body)
        def from_python(*positional: Any, **named: Any) -> int:
            bound = signature.bind(*positional, **named)
            n = body(**{name: arguments[name].from_python(name, value) for name, value in bound.arguments.items()})
            if n < 0:
                raise OSError(-n, os.strerror(-n))
            return n.item() if isinstance(n, np.generic) else n  # with the JIT off

        def choose(*positional: Any, **named: Any) -> Any:
            for name, kind in signature.bind(*positional, **named).arguments.items():
                arguments[name].in_kernel(name, kind)
            return body

        choose.__signature__ = signature  # type: ignore[attr-defined]
        kernel_overload(from_python)(choose)
        return from_python  # type: ignore[return-value]

    return declare


def integer(low: int, high: int) -> Argument:
    """Allow an integer in [low, high]; in kernels any, of which Linux gets as many bits as its argument has."""
    return Argument(
        lambda name, value: check.integer(name, value, low, high),
        lambda name, kind: require_integer(name, kind, " in a kernel"),
    )


FD = Argument(lambda name, value: as_descriptor(value, False), integer(0, 0).in_kernel)
INT = integer(-(2**31), 2**31 - 1)
NUMBER = integer(0, 2**31 - 1)


def buffer(into: bool) -> Argument:
    """Allow contiguous memory, writable if it is received into."""

    def type_in_kernel(name: str, kind: Any) -> None:
        if not (isinstance(kind, types.Array) and kind.layout == "C"):
            raise errors.TypingError(f"{name} must be a contiguous array in a kernel, not {kind}")
        if into and not kind.mutable:
            raise errors.TypingError(f"{name} must be a writable array, to be read into, not {kind}")

    return Argument(lambda name, value: memory_of(name, value, into), type_in_kernel)


def iovec(into: bool) -> Argument:
    """Allow an iovec of at most 1024 entries, or in Python a sequence of buffers."""

    def from_python(name: str, value: Any) -> Any:
        entries = as_iovec(value, into)
        if len(entries) > IOV_MAX:
            raise ValueError(f"{name} must have at most {IOV_MAX} entries, not {len(entries)}")
        return entries

    return Argument(from_python, lambda name, kind: require_iovec(kind))


def _pool(name: str, value: Any) -> Any:
    check_pool(value)
    return value


POOL = Argument(_pool, lambda name, kind: require_pool(kind))
INDICES = Argument(integers_of, require_integers)


def _distinct(name: str, values: Any) -> Any:
    indices = integers_of(name, values)
    if len(np.unique(indices)) < len(indices):
        raise ValueError(f"{name} must differ, as each buffer takes one message, not {values!r:.60}")
    return indices


DISTINCT = Argument(_distinct, require_integers)


def one(dtype: np.dtype[Any], title: str, also: Callable[[str, Any], Any] | None = None) -> Argument:
    """Allow one entry of an array of a dtype, writable; or to read, and in Python what `also` makes one of."""
    expected = from_dtype(dtype)

    def from_python(name: str, value: Any) -> Any:
        if isinstance(value, np.void) and value.dtype == dtype and (also or value.flags.writeable):
            return value
        if also and not isinstance(value, np.generic):
            return also(name, value)
        kind = "an entry" if also else "an entry of a writable array"
        raise TypeError(f"{name} must be {kind} of {title}, not {value!r:.60}")

    def type_in_kernel(name: str, kind: Any) -> None:
        if kind != expected:
            raise errors.TypingError(f"{name} must be an entry of an array of {title}, not {kind}")

    return Argument(from_python, type_in_kernel)


def many(dtype: np.dtype[Any], title: str) -> Argument:
    """Allow an array of a dtype: one-dimensional, contiguous, writable."""
    expected = from_dtype(dtype)
    sentence = f"must be a writable contiguous one-dimensional array of {title}, not"

    def from_python(name: str, value: Any) -> Any:
        fits = isinstance(value, np.ndarray) and value.dtype == dtype and value.ndim == 1
        if not fits or not (value.flags.c_contiguous and value.flags.writeable):
            raise TypeError(f"{name} {sentence} {value!r:.60}")
        return value

    def type_in_kernel(name: str, kind: Any) -> None:
        fits = isinstance(kind, types.Array) and kind.dtype == expected and kind.ndim == 1
        if not fits or kind.layout != "C" or not kind.mutable:
            raise errors.TypingError(f"{name} {sentence} {kind}")

    return Argument(from_python, type_in_kernel)


#: None or a number, checked by what turns it into nanoseconds, in both faces.
SECONDS = Argument(lambda name, value: value, lambda name, kind: None)
