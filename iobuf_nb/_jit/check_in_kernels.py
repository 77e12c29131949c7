"""The kernel side of `check`: values are checked when a kernel runs, types when it is compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import errors

from . import check
from .faces import kernel_overload


def require_integer(name: str, value: Any, where: str = "") -> None:
    """Raise TypingError at compile time if a value is not an integer, or is a bool; the message contains `where`."""
    if not isinstance(value, types.Integer):
        raise errors.TypingError(f"{name} must be an integer{where}, not {value}")


@kernel_overload(check.integer)
def _integer_in_kernel(name: Any, value: Any, low: Any, high: Any) -> Any:
    name = getattr(name, "literal_value", "argument")  # after an error, numba tries again without literals
    require_integer(name, value)
    message = f"{name} must be an integer from {{}} to {{}}, not {{}}"

    def checked(name, value, low, high):
        number = np.int64(value)
        if number < low or number > high:
            raise check.FormattedValueError(message, low, high, number)
        return number

    return checked
