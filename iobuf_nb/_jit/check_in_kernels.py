"""The kernel side of `check`: the same checks of arguments inside kernels, and of their types while one is compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import errors

from . import check
from .faces import kernel_overload


def require_integer(name: str, value: Any, where: str = "") -> None:
    """Refuse, while a kernel is compiled, what is no integer, bool included; `where` goes into the error."""
    if not isinstance(value, types.Integer):
        raise errors.TypingError(f"{name} must be an integer{where}, not {value}")


@kernel_overload(check.integer)
def _integer_in_kernel(name: Any, value: Any, low: Any, high: Any) -> Any:
    name = getattr(name, "literal_value", "argument")  # numba tries again without literals, if this refuses
    require_integer(name, value)
    message = f"{name} must be an integer from {{}} to {{}}, not {{}}"

    def checked(name, value, low, high):
        number = np.int64(value)
        if number < low or number > high:
            raise check.FormattedValueError(message, low, high, number)
        return number

    return checked
