"""Argument checks: each refusal names the argument, the value it had and what is allowed."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex


def integer(name: str, value: SupportsIndex, low: int, high: int) -> int:
    """Return `value` as an int of [low, high]; TypeError for what is no integer (bool included), else ValueError."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer from {low} to {high}, not {value!r}")
    number = operator.index(value)
    if not low <= number <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, not {number}")
    return number


def power_of_two(name: str, value: SupportsIndex, low: int, high: int) -> int:
    """Return `value` as an int that is a power of two of [low, high]."""
    number = integer(name, value, low, high)
    if number & (number - 1):
        raise ValueError(f"{name} must be a power of two from {low} to {high}, not {number}")
    return number


def timeout_ns(timeout: Any) -> int:
    """Return a timeout of None (for ever) or seconds >= 0 as nanoseconds, for ever being -1."""
    if timeout is None:
        return -1
    if isinstance(timeout, bool) or not hasattr(timeout, "__float__"):
        raise TypeError(f"timeout must be None or a number of seconds >= 0, not {timeout!r}")
    seconds = float(timeout)
    if not seconds >= 0:  # also catches NaN
        raise ValueError(f"timeout must be None or a number of seconds >= 0, not {timeout!r}")
    return int(min(seconds, 2.0**33) * 1e9)
