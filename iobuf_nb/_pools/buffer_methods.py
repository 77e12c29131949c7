"""The C methods of buffers: `value`, `view` and `set_value` of pools, and leases over pools."""

from __future__ import annotations

import functools
from typing import Any

from .._free.free_list import give, take, take_failed
from .._jit.c_methods import c_method, slowly
from .._jit.compile import tiny
from .._jit.handle import load_handle
from .._jit.instructions import load_word, store_word
from .._jit.methods import call_with, index_of
from .._jit.python_api import (
    allocate,
    bytearray_data,
    bytearray_size,
    bytes_data,
    bytes_size,
    decref,
    dict_get,
    to_int,
)
from .._jit.python_objects import (
    BYTEARRAY,
    BYTES,
    INT,
    NONE,
    TRUE,
    another,
    constant,
    constant_of,
    int_object,
    is_plain,
    is_released,
    known,
    members_of,
    slot_offset,
    type_of,
)
from .._threads.libc import memcpy
from .._threads.outcomes import OK
from .layout import ARRAYS, BUFFERS, DTYPE, FLAGS, IS_BYTES, NDIM, SHAPE, VIEWS
from .lease import Lease

_MOST_COPIED = 1 << 16  # for more bytes it pays to release the GIL

_LEASE = constant_of(Lease)
_OWNER, _INDEX, _BLOCK, _TIMEOUT = (
    constant(functools.partial(slot_offset, Lease, name)) for name in ("_owner", "_index", "_block", "_timeout")
)


@tiny
def _kept_array(pool, given):
    """Return a new reference to the array that a pool keeps for an index, an int object; 0 if there is none."""
    kept = pool._kept
    array = dict_get(load_word(kept + ARRAYS), given)
    if array == 0:
        return 0
    address = pool.arena + to_int(given) * pool.stride
    dtype, flags, ndim = load_word(kept + DTYPE), load_word(kept + FLAGS), load_word(kept + NDIM)
    # A user may have changed the array in place.
    return another(array) if is_plain(array, address, dtype, flags, ndim, kept + SHAPE) else 0


@tiny
def _kept_view(pool, given):
    """Return a new reference to the memoryview that a pool keeps for an index, an int object; 0 if there is none."""
    view = dict_get(load_word(pool._kept + VIEWS), given)
    return another(view) if view != 0 and not is_released(view) else 0


def _look_up(kept: Any, slow: int) -> Any:
    def look_up(self, arguments, n, names):
        if n == 1 and names == 0:
            given, members = load_word(arguments), members_of(self)
            if type_of(given) == known(INT) and members != 0:
                found = kept(load_handle(members, BUFFERS), given)
                if found != 0:
                    return found
        return slowly(slow, self, arguments, n, names)

    return look_up


@tiny
def _copied(pool, given, data):
    """Copy an object of bytes to the buffer of an index, an int object; return whether that was done."""
    if type_of(given) != known(INT) or load_word(pool._kept + IS_BYTES) == 0:
        return False
    if type_of(data) == known(BYTES):
        size, source = bytes_size(data), bytes_data(data)
    elif type_of(data) == known(BYTEARRAY):
        size, source = bytearray_size(data), bytearray_data(data)
    else:
        return False
    index = index_of(given)
    if index < 0 or index >= pool.capacity or size > pool.buffer_size or size > _MOST_COPIED:
        return False
    memcpy(pool.arena + index * pool.stride, source, size)
    return True


def _set_value(slow: int) -> Any:
    def set_value(self, arguments, n, names):
        members = members_of(self)
        if n == 2 and names == 0 and members != 0:
            pool, given, data = load_handle(members, BUFFERS), load_word(arguments), load_word(arguments + 8)
            if _copied(pool, given, data):
                return another(known(NONE))
        return slowly(slow, self, arguments, n, names)

    return set_value


# ---- leases ----------------------------------------------------------------------------------------------------------


def _lease(slow: int) -> Any:
    def lease(self, arguments, n, names):
        if n != 0 or names != 0:
            return slowly(slow, self, arguments, n, names)
        made = allocate(known(_LEASE), 0)
        if made != 0:
            store_word(made + known(_OWNER), another(self))
            store_word(made + known(_BLOCK), another(known(TRUE)))
            store_word(made + known(_TIMEOUT), another(known(NONE)))
            store_word(made + known(_INDEX), another(known(NONE)))
        return made

    return lease


def _enter(slow: int, value: int, pool_class: int) -> Any:
    def enter(self, nothing):
        owner = load_word(self + known(_OWNER))
        unused = load_word(self + known(_INDEX)) == known(NONE)
        waits = load_word(self + known(_BLOCK)) == known(TRUE) and load_word(self + known(_TIMEOUT)) == known(NONE)
        members = members_of(owner) if unused and waits and type_of(owner) == known(pool_class) else 0
        if members != 0:
            pool = load_handle(members, BUFFERS)
            index = take(pool)
            if index >= 0:
                # Python has had no chance to handle a signal since the buffer was taken.
                given = int_object(index)
                store_word(self + known(_INDEX), given)
                decref(known(NONE))
                array = _kept_array(pool, given)
                if array == 0:
                    array = slowly(value, self, 0, 0, 0)
                    if array == 0:  # such as for Ctrl-C, which may come before the first line
                        store_word(self + known(_INDEX), another(known(NONE)))
                        decref(given)
                        give(pool, index)
                return array
            take_failed(pool._address, -1)
        return slowly(slow, self, 0, 0, 0)

    return enter


def _exit(slow: int, refuse: int, pool_class: int) -> Any:
    def leave(self, arguments, n, names):
        owner, given = load_word(self + known(_OWNER)), load_word(self + known(_INDEX))
        if given != 0 and type_of(given) == known(INT) and type_of(owner) == known(pool_class):
            index = to_int(given)
            if index >= 0:
                status = give(load_handle(members_of(owner), BUFFERS), index)
                store_word(self + known(_INDEX), another(known(NONE)))
                result = another(known(NONE)) if status == OK else call_with(refuse, owner, given, status)
                decref(given)
                return result
        return slowly(slow, self, arguments, n, names)

    return leave


def replace_buffer_methods(pool_class: Any) -> None:
    """Register the C methods of pools of buffers, and of leases of them; subclasses may have methods of their own."""
    pool = constant_of(pool_class)
    makers: dict[str, Any] = {
        "value": functools.partial(_look_up, _kept_array),
        "view": functools.partial(_look_up, _kept_view),
        "set_value": _set_value,
        "lease": _lease,
    }
    for name, make in makers.items():
        c_method((pool_class,), name, functools.partial(make, constant_of(getattr(pool_class, name))))
    enter = functools.partial(_enter, constant_of(Lease.__enter__), constant_of(Lease._value), pool)
    leave = functools.partial(_exit, constant_of(Lease.__exit__), constant_of(pool_class._refuse), pool)
    c_method((Lease,), "__enter__", enter, takes_arguments=False, first=pool_class)
    c_method((Lease,), "__exit__", leave, first=pool_class)
