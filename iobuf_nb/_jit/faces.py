"""Faces: one body of source serves as a Python method and as the same method inside kernels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from numba.extending import overload, overload_attribute, overload_method

from .compile import INLINE
from .refusals import refusing

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class")

_marked: set[Callable[..., Any]] = set()  # functions decorated with `in_kernels`
_with_face: set[type] = set()


def _same_lines(body: Any) -> Callable[..., Any]:
    """Return an overload that uses `body` for every combination of argument types."""
    body = getattr(body, "py_func", body)

    def choose(*_args: Any, **_kwargs: Any) -> Callable[..., Any]:
        return body

    choose.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]
    return refusing(choose, body.__name__)


def kernel_method(numba_type: type, name: str, body: Callable[..., Any]) -> None:
    """Give values of `numba_type` the method `name` inside kernels, compiled from `body`."""
    overload_method(numba_type, name, jit_options=INLINE)(_same_lines(body))


def in_kernels(function: Function) -> Function:
    """Mark a method, or the getter of a property, as available in kernels too; see `kernel_face`."""
    _marked.add(function)
    return function


def _body_of(member: Any) -> Any:
    return member.fget if isinstance(member, property) else member


def kernel_face(numba_type: type) -> Callable[[type[Class]], type[Class]]:
    """Give values of `numba_type` the methods that a class and its bases mark with `in_kernels`.

    Bases that have a face of their own are skipped: numba's overloads are inherited with the type.
    """

    def give(python_type: type[Class]) -> type[Class]:
        for base in python_type.__mro__:
            for name, member in () if base in _with_face else [*vars(base).items()]:
                if not (inspect.isfunction(_body_of(member)) and _body_of(member) in _marked):
                    continue
                body = _body_of(inspect.getattr_static(python_type, name))
                if isinstance(member, property):
                    overload_attribute(numba_type, name, jit_options=INLINE)(_same_lines(body))
                else:
                    kernel_method(numba_type, name, body)
        _with_face.add(python_type)
        return python_type

    return give


def compiled_as(body: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a plain Python function that is replaced by `body` inside kernels."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        overload(function, jit_options=INLINE)(_same_lines(body))
        return function

    return mark


def kernel_overload(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an overload of `function` that chooses by argument types; string constants reach it as literals."""

    def register(choose: Callable[..., Any]) -> Callable[..., Any]:
        overload(function, jit_options=INLINE, prefer_literal=True, strict=False)(refusing(choose, function.__name__))
        return choose

    return register
