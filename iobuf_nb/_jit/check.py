"""Argument checks: every error names the argument, its value and what is allowed."""

from __future__ import annotations

import math
import numbers
import operator
import os
from typing import Any, SupportsIndex

import numpy as np

_BOOLS = (bool, np.bool_)
MAX_SECONDS = 2**33  # the longest time limit; its nanoseconds fit into an int64
SECONDS_OR_NONE = "None or a number of seconds >= 0"


class _Formatted:
    """An error of a built-in class, its message formatted from a template and values.

    Kernels cannot format text, so they raise these, and the message is formatted when the error reaches Python.
    """

    def __new__(cls, template: Any, *values: Any) -> Any:
        if isinstance(template, BaseException):  # CPython calls the class again on an instance of another class
            return template
        return cls.__mro__[2](template.format(*values))


class FormattedIndexError(_Formatted, IndexError):
    """Becomes an IndexError."""


class FormattedRuntimeError(_Formatted, RuntimeError):
    """Becomes a RuntimeError."""


class FormattedValueError(_Formatted, ValueError):
    """Becomes a ValueError."""


def index(name: str, value: SupportsIndex, allowed: str = "") -> int:
    """Return an integer as an int; TypeError for anything else, bool included, with `allowed` in its message."""
    try:
        if type(value) in _BOOLS:
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer{allowed}, not {value!r:.60}") from None


def integer(name: str, value: SupportsIndex, low: int, high: int) -> int:
    """Return `value` as an int in [low, high]; TypeError if it is not an integer (or a bool), else ValueError."""
    number = index(name, value, f" from {low} to {high}")
    if not low <= number <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, not {number}")
    return number


def power_of_two(name: str, value: SupportsIndex, low: int, high: int) -> int:
    """Return `value` as an int that is a power of two in [low, high]; TypeError or ValueError otherwise."""
    number = integer(name, value, low, high)
    if number & (number - 1):
        raise ValueError(f"{name} must be a power of two from {low} to {high}, not {number}")
    return number


def block(value: Any) -> bool:
    """Return the argument `block` as a bool; TypeError otherwise, as a number may be meant for `timeout`."""
    if type(value) not in _BOOLS:
        hint = f"; did you mean timeout={value!r}?" if isinstance(value, numbers.Real) else ""
        raise TypeError(f"block must be a bool, not {value!r:.60}{hint}")
    return bool(value)


def seconds(name: str, value: Any, allowed: str) -> float:
    """Return a number of seconds as a float; TypeError, with `allowed` in its message, for anything else."""
    try:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        return float(value)
    except TypeError:
        raise TypeError(f"{name} must be {allowed}, not {value!r:.60}") from None
    except OverflowError:
        return math.inf


def path(name: str, value: Any) -> str:
    """Return a path as a str; TypeError if it is not a path, ValueError if no system call accepts it."""
    try:
        text = os.fsdecode(value)
        fits = b"\0" not in os.fsencode(text)
    except TypeError:
        raise TypeError(f"{name} must be a path, not {value!r:.60}") from None
    except UnicodeError:
        fits = False
    if not fits:
        raise ValueError(f"{name} must be a path that the system can take, not {value!r:.60}")
    return text


def timeout_ns(timeout: Any, name: str = "timeout", allowed: str = SECONDS_OR_NONE) -> int:
    """Return a number of seconds as nanoseconds; -1 for None, which means no limit."""
    if timeout is None:
        return -1
    number = seconds(name, timeout, allowed)
    if not number >= 0:  # also catches NaN
        raise ValueError(f"{name} must be {allowed}, not {timeout!r}")
    return int(min(number, MAX_SECONDS) * 1e9)
