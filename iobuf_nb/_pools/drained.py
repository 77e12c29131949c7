"""What queues and channels have in common for those who take: iteration until the end, and ``with``, which closes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Generic

from .._threads.outcomes import Closed

if TYPE_CHECKING:
    from typing_extensions import Self, TypeVar

    Item = TypeVar("Item", default=int)
else:
    from typing import TypeVar

    Item = TypeVar("Item")


class Drained(Generic[Item]):
    """Gives an object with `close`, and two methods that take, iteration and a ``with`` block."""

    __slots__ = ()

    _TAKE, _ATAKE = "get", "aget"  # the names of those that take, waiting

    def close(self) -> None:
        """Refuse further items."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Item]:
        """Take, waiting, until it is closed and empty."""
        take = getattr(self, self._TAKE)
        with contextlib.suppress(Closed):
            while True:
                yield take()

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Do as iteration does, yielding to the event loop."""
        take = getattr(self, self._ATAKE)
        with contextlib.suppress(Closed):
            while True:
                yield await take()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
