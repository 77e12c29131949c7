"""`ItemPool`: a pool whose indices stand for Python objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from .._free.free_list import ITEM_POOL, ITEM_POOL_UNCHECKED, give, give_many, take, take_failed, take_many
from .._jit.compile import hot
from .._jit.methods import Operations, replace_methods
from .allocator import checked_index, count_or_rest
from .index_pool import _Pool
from .observation import Observation, options
from .pool import BufferPool

Item = TypeVar("Item")


class ItemPool(_Pool[Item]):
    """A lock-free pool of Python objects: `get` and `put` move indices, `value` returns the object behind an index.

    Kernels may get and put indices, but cannot access the objects.

    Parameters
    ----------
    items : iterable of objects
        At least one.
    checked, nonblocking, stats : bool
        As in `BufferPool`.

    Attributes
    ----------
    capacity : int
        Number of items; readable in kernels.
    checked : bool
        As given; readable in kernels.

    Raises
    ------
    TypeError, ValueError
        `items` is not an iterable, or is empty.

    Examples
    --------
    >>> pool = ItemPool(["first", "second"])
    >>> index = pool.get()
    >>> pool.value(index)
    'first'
    >>> pool.put(index)
    """

    __slots__ = ("_items",)

    def __init__(
        self, items: Iterable[Item], *, checked: bool = True, nonblocking: bool = False, stats: bool = False
    ) -> None:
        try:
            given = iter(items)
        except TypeError:
            raise TypeError(f"items must be an iterable of objects, not {items!r:.60}") from None
        self._items = [*given]
        if not self._items:
            raise ValueError("items must hold at least one object, not 0")
        observed = options(stats, False, False, bool(checked), False)
        observation = observed and Observation(observed, len(self._items))
        self._set_up(len(self._items), checked, nonblocking, observation=observation)
        kind = ITEM_POOL if self.checked else ITEM_POOL_UNCHECKED
        self._describe(kind)

    def value(self, index: int) -> Item:
        """Return the object behind `index`. IndexError if it is out of range, TypeError if it is not an integer."""
        return self._items[checked_index(self, index)]

    def set_value(self, index: int, item: Item) -> None:
        """Replace the object behind `index` with `item`; errors are those of `value`."""
        self._items[checked_index(self, index)] = item


@hot
def _take_from_queue(pool, out, n):
    """Take up to `n` buffers from the free queue; return how many, or REST minus that if there may be more."""
    return count_or_rest(pool, take_many(pool, out, 0, n, False), n)


@hot
def _look_again(pool):
    take_failed(pool._address, -1)


replace_methods(
    (BufferPool, ItemPool),
    lambda: Operations(ITEM_POOL, take, give, _take_from_queue, give_many, again=_look_again),
    bulk=True,
)
