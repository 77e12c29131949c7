"""Faces: the same lines of source as a Python method and as a method inside kernels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from numba.extending import overload, overload_attribute, overload_method

from .compile import INLINE
from .refusals import refusing


def _same_lines(body: Any) -> Callable[..., Any]:
    """Return an overload that answers every combination of argument types with `body`."""
    body = getattr(body, "py_func", body)

    def choose(*_args: Any, **_kwargs: Any) -> Callable[..., Any]:
        return body

    choose.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
    return refusing(choose, body.__name__)


def kernel_method(numba_type: type, name: str, body: Callable[..., Any]) -> None:
    """Give values of `numba_type` the method `name` inside kernels, compiled from the lines of `body`."""
    overload_method(numba_type, name, jit_options=INLINE)(_same_lines(body))


def kernel_face(numba_type: type, python_type: type, names: str) -> None:
    """Give values of `numba_type` the named methods and properties of `python_type`, compiled from their very lines."""
    for name in names.split():
        member = inspect.getattr_static(python_type, name)
        if isinstance(member, property):
            overload_attribute(numba_type, name, jit_options=INLINE)(_same_lines(member.fget))
        else:
            kernel_method(numba_type, name, member)


def compiled_as(body: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a plain Python function whose place is taken by `body` inside kernels."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        overload(function, jit_options=INLINE)(_same_lines(body))
        return function

    return mark


def kernel_overload(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a chooser by argument type for `function`; string constants reach it as literals."""

    def register(choose: Callable[..., Any]) -> Callable[..., Any]:
        overload(function, jit_options=INLINE, prefer_literal=True, strict=False)(refusing(choose, function.__name__))
        return choose

    return register
