"""What all pools share: indices, each of which is free or has one owner.

`_free.free_list` holds the free indices, and `allocator` gets and puts them.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._free import owners
from .._free.depot import new_depot
from .._free.deque import DEQUE_WORDS
from .._free.free_list import (
    PoolType,
    available,
    close_pool,
    get_or_closed,
    give,
    give_many,
    rescue,
    take,
    take_many,
    wait_for_buffer,
)
from .._free.owners import bulk_words
from .._free.processes import CLOSED as CLOSED_WORD
from .._free.processes import NUMBER_SHIFT, recover, thread_of
from .._free.queue import CLOSED_FLAG, LINE_PAIR, NONBLOCKING_FLAG, PROCESS, SHARED
from .._jit.faces import in_kernels, is_in_kernels, kernel_face, kernel_method
from .._jit.handle import live
from .._memory.aligned import MAX_ITEMS, aligned_mem
from .._memory.segment import Segment
from .._threads.clock import limit_ns
from .._threads.outcomes import NO_WAIT_IN_A_CHILD, Closed, WouldBlock
from ..atomics import load, store
from . import sharing
from .allocator import Allocator
from .bounded_queue import BoundedQueue
from .leaks import leaks_of, tell
from .lease import AsyncLease, Value
from .magazine import DEFAULT_SIZE, Magazine
from .observation import Observation, PoolStats
from .repr import waiting

if TYPE_CHECKING:
    from typing_extensions import Self

    from .aio import Getters


@kernel_face(PoolType)
class _Pool(Allocator[Value]):
    """What all pools share: indices that are free or have an owner."""

    __slots__ = (
        "_bulks",
        "_checked",
        "_depot",
        "_deques",
        "_free_deques",
        "_getters",
        "_local",
        "_observation",
        "_owners",
        "_queue",
        "_segment",
        "_slots",
        "capacity",
        "checked",
    )

    checked: bool

    def _set_up(
        self,
        capacity: int,
        checked: bool,
        nonblocking: bool,
        segment: Segment | None = None,
        observation: Observation | None = None,
    ) -> None:
        self.capacity = capacity
        self.checked = bool(checked)
        self._checked = int(self.checked)
        self._getters: Getters | None = None
        self._segment = segment
        if segment is None:
            # More slots than indices: a get and the put after it then touch different cache lines (a third faster).
            self._queue = BoundedQueue(min(capacity + LINE_PAIR, MAX_ITEMS), capacity)
            self._queue._put_first(capacity)
            self._owners = aligned_mem(sharing.owner_bytes(capacity), 8 * LINE_PAIR).view(np.int64)
            self._depot = new_depot(capacity)
            self._slots = self._local = self._queue._words[CLOSED_FLAG:]  # the slots are never used
        else:
            slots = sharing.queue_slots(capacity)
            words = sharing.words(segment, sharing.queue_bytes(slots))
            self._queue = BoundedQueue._over(segment, words, slots, capacity)
            self._depot = sharing.depot_words(segment, capacity)
            if segment.slot is not None:  # new
                self._queue._put_first(capacity)
            self._owners = sharing.words(segment, sharing.owner_bytes(capacity))
            self._local, self._slots = sharing.local_words(segment), segment.table
        self._bulks = bulk_words(capacity if segment is None else 1)
        self._deques = aligned_mem(8 * DEQUE_WORDS, 8 * LINE_PAIR).view(np.int64)
        self._free_deques: deque[int] = deque()  # numbers of deques whose magazines are closed
        if nonblocking:
            self.nonblocking = True
        self._observation = observation
        if observation is not None:
            observation.attach_to(self._local, self._queue._words)

    @property
    @in_kernels
    def _words(self) -> Any:
        """The words of the free queue, which `wait_to_get` waits on."""
        return self._queue._words

    @is_in_kernels(get_or_closed)
    def _get_or_closed(self) -> int:
        return get_or_closed(self._core)

    @is_in_kernels(take)
    def _take(self) -> int:
        return take(self._core)

    @is_in_kernels(wait_for_buffer)
    def _wait(self, limit: int) -> int:
        return wait_for_buffer(self._core, limit)

    @is_in_kernels(rescue)
    def _rescue(self) -> int:
        return recover(self._core)

    @is_in_kernels(give)
    def _give(self, index: int) -> int:
        return give(self._core, index)

    @in_kernels
    def _take_many(self, out: NDArray[np.int64], n: int) -> int:
        return take_many(self._core, out, 0, n, True)

    @in_kernels
    def _give_many(self, indices: NDArray[np.int64], n: int) -> int:
        return give_many(self._core, indices, n)

    async def aget(self, timeout: float | None = None) -> int:
        """Check out a free buffer and return its index, yielding to the event loop until one is free. Python only.

        Parameters
        ----------
        timeout : float, optional
            Longest wait in seconds; no limit by default.

        Returns
        -------
        int
            From 0 to `capacity` - 1. The owner is the thread that runs the event loop.

        Raises
        ------
        WouldBlock
            No buffer became free in time, or none is free and the pool is `nonblocking`.
        Closed
            The pool is closed, or was closed during the wait.
        TypeError, ValueError
            `timeout` is neither None nor a number >= 0.
        RuntimeError
            No buffer is free, and this is a forked child of the process that made the pool.

        Notes
        -----
        First come, first served within each event loop; several loops, in several threads, may wait for one pool. A
        coroutine that is cancelled or closed keeps no buffer. Every put, also one in a kernel, wakes the loop through a
        file descriptor that it watches: there is no polling.

        Threads are faster than an event loop at taking a buffer that was put. So while coroutines wait, every other put
        hands its buffer to them: the n-th coroutine in line is served after at most 2n puts, however many threads get
        and put. A buffer that its loop has not fetched within 50 ms, because the loop is blocked or closed, can be got
        by others.

        Of a shared pool: a thread sleeps until a put in any process, or for 50 ms, and then the coroutines that wait
        in its loop try again, in their order. No put is kept for them.

        Examples
        --------
        >>> import asyncio
        >>> from iobuf_nb import BufferPool
        >>> pool = BufferPool(1, 16)
        >>> async def use():
        ...     async with pool.alease(timeout=1.0) as buffer:
        ...         buffer[0] = 1
        >>> async def both():
        ...     await asyncio.gather(use(), use())
        >>> asyncio.run(both())
        """
        limit = limit_ns(True, timeout)
        seen = self._observation
        looks = not self._getters  # no coroutine waits, so none is overtaken
        if looks:
            index = take(self._core)
            if index >= 0:
                return index
        if self.closed:
            raise Closed("get from a closed pool")
        if seen is not None and not looks:
            seen.failed(1)  # until it has waited
        if self.nonblocking:
            raise WouldBlock("no buffer is free, and the pool is nonblocking")
        if self._segment is not None:
            from . import aio_shared  # imported here: asyncio is slow to import

            return await aio_shared.get(self, limit)
        if os.getpid() != load(self._queue._words, PROCESS):  # N4 reads a constant
            raise RuntimeError(NO_WAIT_IN_A_CHILD)
        from .aio import getters_of

        waiting = getters_of(self).get(self, None if limit < 0 else limit / 1e9)
        return await (waiting if seen is None else seen.wait(waiting))

    def magazine(self, size: int = DEFAULT_SIZE) -> Magazine[Value]:
        """Return a magazine over this pool: one thread's stack of at most `size` free buffers. Python only.

        See `iobuf_nb.Magazine`, also for errors.
        """
        if self._segment is not None:
            raise ValueError("a shared pool has no magazines: get and put with the pool itself, or share no pool")
        return Magazine(self, size)

    @is_in_kernels(rescue)
    def recover(self) -> int:
        """Take the buffers of dead processes back into a shared pool, and return how many.

        Any process may call it at any time; no other is stopped. A `get` that waits does so by itself. Buffers of a
        process that lives, stopped or not, are never touched. 0 for a pool that is not shared.

        Raises
        ------
        OSError
            The descriptor of the segment has been closed in this process, so nobody can be seen to be dead. In a
            kernel, 0.
        """
        if self._segment is None:
            return 0
        self._segment.require_descriptor()
        return sharing.logged(recover(self._core))

    def holding_processes(self) -> dict[int, int]:
        """Return the process that has each checked-out buffer of a shared pool: from index to process identifier.

        A snapshot; 0 for a process that is dead. ValueError if the pool is not shared, OSError as in `recover`. Python
        only.
        """
        if self._segment is None:
            raise ValueError("holding_processes() needs a shared pool: this one belongs to one process")
        self._segment.require_descriptor()
        processes = self._segment.processes()
        return {i: processes.get(word >> NUMBER_SHIFT, 0) for i, word in sharing.holders(self).items()}

    @is_in_kernels(available)
    def available(self) -> int:
        """Return the number of buffers that were free a moment ago; exact while no other thread gets or puts.

        Buffers of a shared pool that a dead process had are counted once they are recovered.
        """
        return available(self._core)

    @property
    @in_kernels
    def closed(self) -> bool:
        """Whether the pool has been closed; readable in kernels."""
        return load(self._local, CLOSED_WORD) != 0  # C2 acquires from C1

    @property
    @in_kernels
    def nonblocking(self) -> bool:
        """Whether `get` and `aget` raise WouldBlock instead of waiting; readable in kernels, settable in Python.

        One value for all processes, if the pool is shared.
        """
        return load(self._queue._words, NONBLOCKING_FLAG) != 0  # W5 acquires from S1

    @nonblocking.setter
    def nonblocking(self, value: bool) -> None:
        store(self._queue._words, NONBLOCKING_FLAG, int(bool(value)), "seq_cst")  # S1 releases to W5

    def alease(self, timeout: float | None = None) -> AsyncLease[Value]:
        """Check out a buffer for the duration of an ``async with`` block and return it at the end, also after an error.

        Parameters are those of `aget`, and so are errors, which come where the block begins. Python only.

        Returns
        -------
        AsyncLease
            The counterpart of what `lease` returns, with `index` too.
        """
        return AsyncLease(self, timeout)

    def holders(self) -> dict[int, int]:
        """Return the owner of each checked-out buffer: a dict from index to thread identity (`threading.get_ident`).

        A snapshot, which other threads may outdate at once. The owner is the thread that got the buffer, also after it
        has passed it on to another. ValueError if the pool was made with ``checked=False``. Python only.

        Of a shared pool: the threads of all processes, of which `holding_processes` says which is whose.
        """
        if not self.checked:
            raise ValueError("holders() needs a pool made with checked=True; this one does not record owners")
        if self._segment is not None:
            return {index: thread_of(word) for index, word in sharing.holders(self).items()}
        return owners.holders(self._owners, self._bulks)

    def stats(self) -> PoolStats:
        """Return how often buffers were got and put, how often none was free, and how long that lasted. Python only.

        ValueError if the pool was made with none of `stats`, `trace` and `debug`.

        Notes
        -----
        All gets and puts are counted: in kernels, in Python and by coroutines, through magazines, streams and io_uring.
        The figures are those of a moment ago; other threads go on. Each get and put of such a pool takes some 8
        nanoseconds more, with several threads some tens; other pools pay nothing.

        Examples
        --------
        >>> from iobuf_nb import BufferPool
        >>> pool = BufferPool(4, 1024, stats=True)
        >>> with pool.lease():
        ...     pool.stats().gets, pool.stats().puts, pool.stats().most_in_use
        (1, 0, 1)
        """
        if self._observation is None:
            raise ValueError("stats() needs a pool made with stats=True; this one counts nothing")
        return self._observation.stats()

    def close(self) -> None:
        """Close the pool: waits and further gets end with Closed. Closing twice is not an error.

        Checked-out buffers stay valid and may be put back. In Python a ResourceWarning names them; in a kernel, `close`
        does not warn. A checked pool that is dropped unclosed with buffers checked out warns, too, or that is left when
        the program ends.

        A shared pool is closed for this process alone. If this process gave it its name, that is removed; in a kernel,
        when it ends.
        """
        tell(self._close())

    def _close(self) -> str:
        """Close the pool; return a sentence that names the buffers that are still checked out, if there are any."""
        if self.closed:
            return ""
        close_pool(self._core)
        if self._segment is not None:
            self._segment.remove_name()
        return leaks_of(self, "closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing() and hasattr(self, "_members"):  # else module globals may be gone
            tell(self._left("dropped"))

    def _left(self, how: str) -> str:
        """Return a sentence about the buffers that are checked out, if nobody has closed the pool and it can tell."""
        # Plain reads: a finalizer must not compile a kernel.
        return leaks_of(self, how) if self.checked and not self._local[CLOSED_WORD] else ""

    def _figures(self) -> dict[str, object]:
        figures = {"capacity": self.capacity, "in_use": self.capacity - self.available(), "checked": self.checked}
        return figures | sharing.figures(self._segment)

    def _occupancy(self) -> float:
        return 1 - self.available() / self.capacity

    def _details(self) -> dict[str, object]:
        seen = {} if self._observation is None else self.stats()._asdict()
        return {"closed": self.closed, "waiting": waiting(self._words), **seen}


kernel_method(PoolType, "close", close_pool)


@atexit.register
def _tell_of_those_left() -> None:
    """Tell of the pools that live until the program ends, whose finalizers come too late."""
    left = []
    for reference in live.valuerefs():  # daemon threads may make others meanwhile
        pool = reference()
        if isinstance(pool, _Pool) and pool._queue._words[PROCESS] in (SHARED, os.getpid()):  # no child's copy
            left.append(pool._left("open when the program ended"))
    tell("\n".join(filter(None, left)))  # once: where warnings are errors, the first would be the last
