"""What travels: how states, kernels and arguments are pickled for another process, and what cannot be."""

from __future__ import annotations

import io
import pickle
from typing import Any

import cloudpickle
import numpy as np
from numba import typed, typeof
from numba.core.dispatcher import Dispatcher

from .._jit.compile import INTERPRETED
from . import kernels


class _Pickler(cloudpickle.CloudPickler):
    """Knows kernels, and numba's containers."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Dispatcher):
            return kernels.reduced(value, dumps)
        if not INTERPRETED and isinstance(value, typed.Dict):
            kind: Any = typeof(value)
            return _dict_of, (kind.key_type, kind.value_type, list(value.items()))
        if not INTERPRETED and isinstance(value, typed.List):
            return _list_of, (typeof(value).dtype, list(value))
        return super().reducer_override(value)


def dumps(value: Any) -> bytes:
    """Return a value pickled; kernels by name or by value, and numba's lists and dicts as their items."""
    if type(value) is np.ndarray and not value.dtype.hasobject:  # most states: a third of the time
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    with io.BytesIO() as file:
        _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
        return file.getvalue()


def require_sendable(**values: Any) -> None:
    """Raise TypeError if one of the values, which is named, cannot be pickled."""
    for name, value in values.items():
        try:
            dumps(value)
        except Exception as error:
            raise TypeError(f"{name} cannot be sent to workers: {error}") from error


def _dict_of(key_type: Any, value_type: Any, items: list[tuple[Any, Any]]) -> Any:
    made = typed.Dict.empty(key_type, value_type)
    for key, value in items:
        made[key] = value
    return made


def _list_of(item_type: Any, items: list[Any]) -> Any:
    made = typed.List.empty_list(item_type)
    for item in items:
        made.append(item)
    return made
