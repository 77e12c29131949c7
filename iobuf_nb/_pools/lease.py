"""Leases: a buffer that is checked out for the duration of a ``with`` block."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")  #: what an index stands for: an array, or an item

_WAITING = -1  # in place of an index: entered, but not served yet


class _Lease(Generic[Value]):
    """What both kinds of lease share."""

    __slots__ = ("_index", "_owner", "_timeout")

    _owner: Any  #: the pool or magazine
    _index: int | None  #: None outside the block

    @property
    def index(self) -> int:
        """Index of the buffer. RuntimeError outside the ``with`` block."""
        if self._index is None or self._index == _WAITING:
            raise RuntimeError("a lease has an index only inside its with block")
        return self._index

    def __repr__(self) -> str:
        state = {None: "idle", _WAITING: "waiting"}.get(self._index, f"index={self._index}")
        return f"{type(self).__name__}({state})"

    def _refuse(self) -> None:
        """Raise the error of a lease that is entered twice at once."""
        raise RuntimeError("this lease is in use already: leave its with block first, or ask for another lease")

    def _leave(self, *_: object) -> None:
        """Return the buffer, if there is one."""
        index, self._index = self._index, None
        if index is not None and index != _WAITING:
            self._owner.put(index)


class Lease(_Lease[Value]):
    """A buffer of a pool for the duration of a ``with`` block: what `lease` of pools and magazines returns.

    It can be entered again after its block, then with another buffer, but not inside it: RuntimeError. Each lease is
    for one thread at a time.

    Attributes
    ----------
    index : int
        Index of the buffer. RuntimeError outside the block.
    """

    __slots__ = ("_block",)

    def __init__(self, owner: Any, block: bool, timeout: float | None) -> None:
        self._owner, self._block, self._timeout, self._index = owner, block, timeout, None

    def __enter__(self) -> Value:
        if self._index is not None:
            self._refuse()
        self._index = _WAITING
        try:
            self._index = self._owner.get(self._block, self._timeout)
            return self._value()
        except BaseException:
            self._leave()
            raise

    def _value(self) -> Value:
        """Return what the index stands for."""
        value: Value = self._owner.value(self._index)
        return value

    __exit__ = _Lease._leave  # directly: Ctrl-C may interrupt the start of every call

    if sys.version_info >= (3, 14):  # there Ctrl-C may come between __enter__ and the block, which then has no end

        def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
            # At the end of the program a put could not be compiled any more, and nobody gets the buffer.
            if getattr(self, "_index", None) is not None and not finalizing():
                self._leave()


class AsyncLease(_Lease[Value]):
    """A buffer of a pool for the duration of an ``async with`` block: what `alease` of pools returns.

    As with `Lease`, RuntimeError if it is entered again before its block has ended.

    Attributes
    ----------
    index : int
        Index of the buffer. RuntimeError outside the block.
    """

    __slots__ = ()

    def __init__(self, owner: Any, timeout: float | None) -> None:
        self._owner, self._timeout, self._index = owner, timeout, None

    async def __aenter__(self) -> Value:
        if self._index is not None:
            self._refuse()
        self._index = _WAITING
        try:
            self._index = await self._owner.aget(self._timeout)
            return self._owner.value(self._index)
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()
