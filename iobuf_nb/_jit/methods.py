"""The C methods of pools, queues, magazines and channels, made from the functions of a handle that kernels use.

An operation that was refused is not tried again by the Python method, only reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .c_methods import c_method, slowly
from .compile import hot, kernel, out_of_line, tiny
from .handle import HandleType, load_handle
from .instructions import load_word, two_words
from .python_api import clear_error, decref, from_int, to_int
from .python_objects import (
    FALSE,
    NONE,
    TRUE,
    another,
    constant_of,
    elements_of,
    int_object,
    known,
    length_of,
    members_of,
    only_array,
)

# Statuses that leave the call to the Python method.
UNDECIDED = -9  # nothing was done
NO_ROOM = -8  # from a give: nothing was done, and the Python method waits
REST = -10  # from a bulk take, minus the count: the Python method gets the rest without the GIL


@tiny
def always(handle):
    """Return True."""
    return True


@tiny
def nothing(handle):
    """Do nothing."""


class Operations(NamedTuple):
    """What the C methods of one kind of object call; None if the class has no such method.

    Each takes a handle; bulk operations also take a pointer to int64 and a length. All may return UNDECIDED.
    """

    handle_type: HandleType
    take: Any  #: (handle): an index or item, or EMPTY
    give: Any  #: (handle, index): 0, NO_ROOM, or the status of the refusal
    take_many: Any = None  #: (handle, out, n): the count, or REST minus the count
    #: (handle, indices, n): -1, or the position of the first that `_refuse_many` refuses; a count if there is no such.
    give_many: Any = None
    usable: Any = always  #: (handle): False if this thread may not use the object; the Python method raises why
    again: Any = nothing  #: (handle): called where a take has failed that the Python method tries again


@tiny
def index_of(given):
    """Return an int object as an index; -1 if it is negative, too large, or none."""
    index = to_int(given)
    if index < 0:
        clear_error()
        index = -1
    return index


@hot
def only_index(arguments, n, names):
    """Return the only argument if it is an int >= 0; -1 for anything else, bool included."""
    if n != 1 or names != 0:
        return -1
    given = load_word(arguments)
    return -1 if given == known(TRUE) or given == known(FALSE) else index_of(given)


@kernel
def call_with(function, self, argument, number):
    """Call a Python method with an argument and a number."""
    out_of_line()
    given = from_int(number)
    result = slowly(function, self, two_words(argument, given), 2, 0)
    decref(given)
    return result


def _get(operations: Operations, slow: int) -> Callable[..., Any]:
    handle_type, take, usable = operations.handle_type, operations.take, operations.usable
    again = operations.again

    def get(self, arguments, n, names):
        members = members_of(self)
        if n == 0 and names == 0 and members != 0:
            handle = load_handle(members, handle_type)
            if usable(handle):
                index = take(handle)
                if index >= 0:
                    return int_object(index)
                again(handle)
        return slowly(slow, self, arguments, n, names)

    return get


def _try_get(operations: Operations, slow: int) -> Callable[..., Any]:
    handle_type, take, usable = operations.handle_type, operations.take, operations.usable

    def try_get(self, nothing):
        members = members_of(self)
        if members != 0:
            handle = load_handle(members, handle_type)
            if usable(handle):
                return int_object(take(handle))
        return slowly(slow, self, 0, 0, 0)

    return try_get


def _given(operations: Operations) -> Callable[..., Any]:
    """Return a function that returns a buffer, or puts an item: 0, or a status."""
    handle_type, give, usable = operations.handle_type, operations.give, operations.usable

    def given(self, arguments, n, names):
        members = members_of(self)
        index = only_index(arguments, n, names)
        if index >= 0 and members != 0:
            handle = load_handle(members, handle_type)
            if usable(handle):
                return give(handle, index)
        return UNDECIDED

    return tiny(given)


def _put(operations: Operations, slow: int, refuse: int = 0) -> Callable[..., Any]:
    given = _given(operations)

    def put(self, arguments, n, names):
        status = given(self, arguments, n, names)
        if status == 0:
            return another(known(NONE))
        if status >= UNDECIDED:  # or NO_ROOM; refusals are far below
            return slowly(slow, self, arguments, n, names)
        return call_with(refuse, self, load_word(arguments), status)

    return put


def _try_put(operations: Operations, slow: int) -> Callable[..., Any]:
    given = _given(operations)

    def try_put(self, arguments, n, names):
        status = given(self, arguments, n, names)
        if status == UNDECIDED:
            return slowly(slow, self, arguments, n, names)
        return another(known(TRUE if status == 0 else FALSE))

    return try_put


def _bulk(operations: Operations, move: Any, slow: int, finish: Callable[..., Any]) -> Callable[..., Any]:
    """Return a bulk method: it moves indices, and finishes with what that returns."""
    handle_type, usable, finish = operations.handle_type, operations.usable, tiny(finish)

    def bulk(self, arguments, n, names):
        array, members = only_array(arguments, n, names), members_of(self)
        if array != 0 and members != 0:
            handle = load_handle(members, handle_type)
            if usable(handle):
                moved = move(handle, elements_of(array), length_of(array))
                if moved != UNDECIDED:
                    return finish(self, array, moved)
        return slowly(slow, self, arguments, n, names)

    return bulk


def _get_many(operations: Operations, slow: int, take_rest: int = 0) -> Callable[..., Any]:
    def finish(self, array, count):
        return int_object(count) if count > REST else call_with(take_rest, self, array, REST - count)

    return _bulk(operations, operations.take_many, slow, finish)


def _put_many(operations: Operations, slow: int, refuse_many: int = 0) -> Callable[..., Any]:
    def finish(self, array, refused):
        return another(known(NONE)) if refused == -1 else call_with(refuse_many, self, array, refused)

    def counted(self, array, count):
        return int_object(count)

    return _bulk(operations, operations.give_many, slow, finish if refuse_many else counted)


def replace_methods(
    classes: tuple[type, ...],
    operations: Callable[[], Operations],
    bulk: bool = False,
    names: tuple[str, str] = ("get", "put"),
    like_get: tuple[str, ...] = (),
) -> None:
    """Register the C methods of classes whose objects are handles of one core type.

    `operations` is called when the first of them is compiled; `bulk` says whether there are bulk methods; `names` are
    those of the methods that take and give; `like_get` those of others that take, and end differently.
    """
    cls: Any = classes[0]

    def register(name: str, make: Callable[..., Any], *following: str, takes_arguments: bool = True) -> None:
        numbers = [constant_of(getattr(cls, each)) for each in (name, *following) if hasattr(cls, each)]
        c_method(classes, name, lambda: make(operations(), *numbers), takes_arguments)

    get, put = names
    for name in (get, *like_get):
        register(name, _get)
    register(f"try_{get}", _try_get, takes_arguments=False)
    register(put, _put, *(["_refuse"] if bulk else []))
    register(f"try_{put}", _try_put)
    if bulk:
        register("get_many", _get_many, "_take_rest")
        register("put_many", _put_many, "_refuse_many")
