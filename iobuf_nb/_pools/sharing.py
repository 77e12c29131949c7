"""What a pool and a queue that processes share add to those of one process: a segment, a slot in it, attaching."""

from __future__ import annotations

import contextlib
import functools
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._free import free_list
from .._free.depot import depot_bytes, lay_out, order_for
from .._free.owners import ROWS, place_of
from .._free.processes import CLOSED, DESCRIPTOR, IDENTITY, LOCAL_WORDS, NUMBER_SHIFT, take_from
from .._free.queue import LINE_PAIR, SLOTS
from .._jit import check
from .._jit.handle import Handle
from .._log import logger
from .._memory.aligned import MAX_ITEMS, round_up
from .._memory.segment import FIRST, Segment, nothing

_LINES = 8 * LINE_PAIR
_SPARE_SLOTS = (
    256  # of a free queue, for entries that are stale: at most one for each thread that was stopped in between
)


class Shareable(Handle):
    """What pools, queues and channels have in common that processes may share."""

    __slots__ = ()

    _segment: Segment | None

    @property
    def shared(self) -> bool:
        """Whether other processes can use it. Python only."""
        return self._segment is not None

    @property
    def name(self) -> str | None:
        """The name by which others can attach to it, if it has one. Python only."""
        return None if self._segment is None else self._segment.name

    def __reduce__(self) -> Any:
        return super().__reduce__() if self._segment is None else (attach, (type(self), self._segment.reference()))


def figures(segment: Segment | None) -> dict[str, object]:
    """Return what the repr of an object says of its segment."""
    return {} if segment is None else {"shared": True, "name": segment.name}


def is_shared(shared: Any, name: Any) -> bool:
    """Return whether the arguments ask for a shared object; TypeError if `shared` is no bool."""
    if not isinstance(shared, (bool, np.bool_)):
        raise TypeError(f"shared must be a bool, not {shared!r:.60}")
    return bool(shared) or name is not None


def require_shareable(checked: bool, page_size: int | None, huge_pages: bool) -> None:
    """Raise ValueError for what a shared pool cannot be."""
    if not checked:
        raise ValueError("checked must be True for a shared pool: what a dead process held is found by its owners")
    if huge_pages:
        raise ValueError("huge_pages must be False for a shared pool: its memory is a file")
    if page_size is not None:
        check.power_of_two("page_size of a shared pool", page_size, 1, mmap.PAGESIZE)


def queue_slots(capacity: int) -> int:
    """Return how many slots the free queue of a shared pool has."""
    return min(capacity + _SPARE_SLOTS, MAX_ITEMS)


def queue_bytes(slots: int) -> int:
    """Return the bytes of the words of a queue."""
    return 8 * (SLOTS + slots)


def owner_bytes(capacity: int) -> int:
    """Return the bytes of the owner words of a pool."""
    return 8 * round_up(capacity, ROWS)


def bytes_of(*sizes: int) -> int:
    """Return how many bytes the parts of a segment need, each of which may start on a page of its own."""
    return sum(round_up(size, mmap.PAGESIZE) for size in sizes) + mmap.PAGESIZE


def words(segment: Segment, size: int) -> NDArray[np.int64]:
    """Return the next part of a segment as words that share no cache line with others."""
    return segment.part(size, _LINES).view(np.int64)


def depot_words(segment: Segment, capacity: int) -> NDArray[np.int64]:
    """Return the words of a pool's depot, which is empty if the segment is new."""
    order = order_for(capacity)
    found = words(segment, depot_bytes(order))
    return found if segment.slot is None else lay_out(found, order)


def join(pool: Any) -> None:
    """Take a process slot for a pool, and get ready to look for the dead."""
    for function in free_list.own_or_next, free_list.recover_late:
        function.ready()
    segment = pool._segment
    take_from(pool._core, -1)  # compiled now: a forked child may need it where it cannot compile
    if segment.slot is None:
        segment.enter(functools.partial(take_from, pool._core))
    _set_identity(pool, segment.number)
    segment.leave_at_end(functools.partial(owns, pool._owners))


def leave_name_to_the_last(pool: Any) -> None:
    """Let the name of a pool last until no process uses it any more, not only as long as the one that gave it."""
    pool._segment.leave_name_to_the_last()
    pool._segment.leave_at_end(functools.partial(owns, pool._owners))


def join_in_child(handle: Any) -> None:
    """In a forked child, take a slot of its own for a shared pool or queue; without one, a pool is closed there."""
    segment = handle._segment
    is_pool = hasattr(handle, "_owners")
    if segment.contents["kind"] != handle._KIND:  # the queue of a pool
        return
    segment.renew(functools.partial(take_from, handle._core) if is_pool else nothing)
    if is_pool:
        _set_identity(handle, segment.number)
        if segment.slot is None:
            handle._local[CLOSED] = 1
        segment.leave_at_end(functools.partial(owns, handle._owners))


def make_pool(
    kind: str, capacity: int, shape: tuple[int, ...], dtype: np.dtype[Any], arena_bytes: int, name: str | None
) -> Segment:
    """Return a new segment for a pool."""
    descr = None
    with contextlib.suppress(ValueError):  # of fields that overlap or are out of order
        descr = np.lib.format.dtype_to_descr(dtype)
    if descr is None or np.lib.format.descr_to_dtype(descr) != dtype:
        raise TypeError(f"dtype must be one that a text can describe, in a shared pool, not {dtype}")
    contents = {"kind": kind, "capacity": capacity, "shape": shape, "dtype": descr, "aligned": dtype.isalignedstruct}
    contents["stride"] = arena_bytes // capacity  # it depends on `set_page_size`, which each process may call
    sizes = arena_bytes, queue_bytes(queue_slots(capacity)), depot_bytes(order_for(capacity)), owner_bytes(capacity)
    return Segment.make(contents, bytes_of(*sizes), name)


def dtype_of(contents: dict[str, Any]) -> np.dtype[Any]:
    """Return the dtype that `make_pool` wrote down."""
    made: Any = np.lib.format.descr_to_dtype(contents["dtype"])
    if not contents["aligned"]:
        return made
    formats, offsets = zip(*(made.fields[name][:2] for name in made.names), strict=True)
    fields: Any = {"names": made.names, "formats": formats, "offsets": offsets, "itemsize": made.itemsize}
    fields["aligned"] = True
    return np.dtype(fields)


def local_words(segment: Segment) -> NDArray[np.int64]:
    """Return the words of a shared pool that are those of this process alone."""
    made = np.zeros(LOCAL_WORDS, np.int64)
    made[DESCRIPTOR] = segment.descriptor
    return made


def _set_identity(pool: Any, number: int) -> None:
    pool._local[IDENTITY] = number << NUMBER_SHIFT


def logged(found: int) -> int:
    """Return how many buffers were recovered, and log it."""
    if found:
        logger.info("recovered %d buffers of dead processes", found)
    return found


def owns(owners: NDArray[np.int64], number: int) -> int:
    """Return how many buffers a process number has."""
    # A use that was refused has the number 0, as have words that name nobody.
    return int(np.count_nonzero(np.abs(owners) >> NUMBER_SHIFT == number)) if number else 0


def by_index(pool: Any) -> NDArray[np.int64]:
    """Return a snapshot of the owner words, by index."""
    words: NDArray[np.int64] = pool._owners[place_of(pool.capacity, np.arange(pool.capacity))]
    return words


def holders(pool: Any, number: int = 0) -> dict[int, int]:
    """Return the owner word of each buffer that is checked out, by that process number if one is given, by index."""
    names = np.abs(by_index(pool))
    numbers = names >> NUMBER_SHIFT
    return {int(index): int(names[index]) for index in np.flatnonzero(numbers == number if number else numbers)}


def attach(cls: Any, reference: Any) -> Any:
    """Return the object of a segment that another process has pickled."""
    return cls._attached(Segment.referred(reference, cls._KIND))


assert FIRST % _LINES == 0, "the words of a segment must start on cache lines of their own"
