"""States: each worker of a stream has its own, all of one numba type and modifiable in place."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import typed, typeof, types
from numba.core import errors

from .._jit.compile import INTERPRETED

# Types that are passed to kernels by value; all others by reference.
_COPIED = (
    types.Hashable,
    types.Dummy,
    types.NPDatetime,
    types.NPTimedelta,
    types.CharSeq,
    types.UnicodeCharSeq,
    types.EnumMember,
    types.SliceType,
)


def make_states(state: Any, count: int) -> list[Any]:
    """Return a state for each of `count` workers: copies of `state`, or the results of calling it."""
    if not callable(state):
        _require_changeable(state)
        return [_copied(state, {}) for _ in range(count)]
    states = [state() for _ in range(count)]
    kinds = [_require_changeable(each) for each in states]
    for kind in kinds:
        if kind != kinds[0]:
            raise TypeError(
                f"state must make the same type for each worker, not {kinds[0]} for one and {kind} for another"
            )
    return states


def type_of(state: Any) -> Any:
    """Return the type of a state as kernels see it."""
    try:
        return typeof(state)
    except (TypeError, ValueError, errors.NumbaError):
        if INTERPRETED:  # a kernel then takes anything
            return type(state)
        raise TypeError(f"state must be something that numba kernels accept, not {state!r:.60}") from None


def _require_changeable(state: Any) -> Any:
    """Return the type of a state that kernels can change; refuse another."""
    kind = type_of(state)
    if state is not None and not _can_change(state, kind):
        raise TypeError(
            f"state must be something that a kernel can change in place, such as np.zeros(1), not a {kind}, "
            f"{state!r:.60}: the changes of a kernel would be lost"
        )
    return kind


def _can_change(value: Any, kind: Any) -> bool:
    """Whether changes that a kernel makes to a value of a numba type are visible after the call, at least in part."""
    if isinstance(kind, types.BaseTuple):
        return any(map(_can_change, value, kind.types))
    if isinstance(kind, types.Buffer):
        return kind.mutable
    if isinstance(value, np.void):
        return value.flags.writeable
    return not isinstance(kind, _COPIED)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """Return a deep copy, also of numba's containers, which `copy.deepcopy` does not support."""
    if id(value) in memo:
        return memo[id(value)]
    if type(value) is np.ndarray:
        return value.copy(order="K")
    if isinstance(value, tuple):
        items = [_copied(item, memo) for item in value]
        return value._make(items) if hasattr(value, "_make") else tuple(items)
    try:
        if isinstance(value, (typed.List, typed.Dict)) and not INTERPRETED:
            return _copied_container(value, memo)
        return copy.deepcopy(value, memo)
    except Exception as error:
        raise TypeError(
            f"state must be something that can be copied, not {value!r:.60}, which cannot ({error}): "
            "pass a callable that makes one for each worker, such as state=lambda: ..."
        ) from error


def _copied_container(value: Any, memo: dict[int, Any]) -> Any:
    result = memo[id(value)] = value.copy()
    memo.setdefault(id(memo), []).append(value)  # as deepcopy does: keep it alive, so that its id is not reused
    kind = typeof(value)
    keys, inside = (range(len(value)), kind.dtype) if isinstance(value, typed.List) else (value, kind.value_type)
    if not isinstance(inside, _COPIED):
        for key in keys:
            result[key] = _copied(value[key], memo)
    return result


def check_combine(combine: Any) -> None:
    """Refuse what cannot merge two states, as far as can be known before there are any."""
    if combine is None or isinstance(combine, np.ufunc):
        return
    if not callable(combine):
        raise TypeError(f"combine must be a function of two states, such as np.add, not {combine!r:.60}")
    try:
        signature = inspect.signature(combine)
    except (TypeError, ValueError):  # some functions written in C have no signature
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise TypeError(f"combine must be a function of two states, which {combine!r:.60} is not: {error}") from None


def combined(states: list[Any], combine: Callable[[Any, Any], Any]) -> Any:
    """Merge the states of all workers; a state that several share counts once."""
    distinct = list({id(state): state for state in states}.values())
    result = distinct[0]
    for other in distinct[1:]:
        result = combine(result, other)
    return result
