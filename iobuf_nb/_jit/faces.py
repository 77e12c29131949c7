"""Faces: the same lines of source as a Python method and as a method inside kernels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from numba.extending import overload, overload_attribute, overload_method

from .compile import INLINE
from .refusals import refusing

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class")

_marked: set[Callable[..., Any]] = set()  # what `in_kernels` stands above
_with_face: set[type] = set()


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


def in_kernels(function: Function) -> Function:
    """Mark a method, or the getter of a property, that kernels have too: see `kernel_face`."""
    _marked.add(function)
    return function


def kernel_face(numba_type: type) -> Callable[[type[Class]], type[Class]]:
    """Give values of `numba_type` what a class, or a base of it, marks by `in_kernels`, compiled from its lines.

    What a base class with a face of its own has marked comes with that.
    """

    def give(python_type: type[Class]) -> type[Class]:
        for base in python_type.__mro__:
            for name, member in () if base in _with_face else [*vars(base).items()]:
                is_property = isinstance(member, property)
                function = member.fget if is_property else member
                if inspect.isfunction(function) and function in _marked:
                    register = overload_attribute if is_property else overload_method
                    chosen = inspect.getattr_static(python_type, name)
                    body = _same_lines(chosen.fget if is_property else chosen)
                    register(numba_type, name, jit_options=INLINE)(body)
        _with_face.add(python_type)
        return python_type

    return give


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
