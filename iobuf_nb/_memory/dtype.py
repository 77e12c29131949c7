"""Element types of buffers: the dtypes that kernels read as Python does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import errors
from numba.np.numpy_support import from_dtype


def element_type(dtype: np.dtype[Any], name: str = "dtype") -> types.Type:
    """Return the numba type of a dtype; TypeError if kernels cannot read it, or read it differently from Python.

    `name` is that of the argument.
    """
    if dtype.subdtype is not None:
        raise TypeError(f"{name} must be one whose arrays kernels can use, not {dtype}: pass its axes in shape instead")
    if dtype.hasobject:
        raise TypeError(f"{name} must be one of plain memory, not {dtype}: use an ItemPool for Python objects")
    for where, leaf in _leaves("", dtype):
        of = f", in which {where!r} is {leaf}" if where else ""
        if not leaf.isnative:
            hint = "kernels read the machine's own byte order only; pass dtype.newbyteorder('=')"
            raise TypeError(f"{name} must be one that numba knows, not {dtype}{of}: {hint}")
        if leaf == np.float16 or leaf.itemsize == 0:
            raise TypeError(f"{name} must be one whose arrays kernels can use, not {dtype}{of}")
    try:
        return from_dtype(dtype)
    except (errors.NumbaError, AttributeError):  # AttributeError: records with sub-arrays of bools, times or text
        raise TypeError(f"{name} must be one that numba knows, not {dtype}") from None


def _leaves(where: str, dtype: np.dtype[Any]) -> list[tuple[str, np.dtype[Any]]]:
    """Return the scalar dtypes inside a dtype, each with the path of its field."""
    dtype = dtype.base
    if not dtype.names:
        return [(where, dtype)]
    return [leaf for name in dtype.names for leaf in _leaves(f"{where}.{name}".lstrip("."), dtype[name])]
