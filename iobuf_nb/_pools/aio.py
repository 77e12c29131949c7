"""Coroutines that wait for buffers of a pool, without blocking their event loop and without polling.

Each event loop has its own `LoopWaiters`, served in the loop's own thread, so no thread hands a buffer to a loop that
may be closed before it runs again. `_free.handover` describes which puts go to coroutines and how waiting coroutines
are counted; this module is how loops hear of puts. A put writes to one eventfd, and every loop with waiting coroutines
watches it through an edge-triggered epoll instance of its own: each write reaches all loops, and none can consume it.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import weakref
from typing import Any

from .._free.deque import COUNT
from .._free.free_list import seek_late, take
from .._free.handover import ask, ask_again, hand_over_late, take_handed, take_request_back, take_stale_late
from .._free.owners import place_of
from .._free.queue import GET_FD, HANDED
from .._jit.locks import fork_safe_lock
from .._threads.outcomes import Closed, WouldBlock
from ..atomics import load, store
from .bounded_queue import BoundedQueue
from .magazine import reserve

_NO_EPOLL_S = 0.005  # polling interval where the system has no epoll
_making = fork_safe_lock()


def getters_of(pool: Any) -> Getters:
    """Return the waiting coroutines of a pool; made when the first coroutine waits."""
    with _making:
        if pool._getters is None:
            pool._getters = Getters(pool)
        return pool._getters


class Getters:
    """The coroutines that wait for buffers of one pool, by event loop."""

    def __init__(self, pool: Any) -> None:
        self._waiting: dict[asyncio.AbstractEventLoop, LoopWaiters] = {}  # those with coroutines waiting
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopWaiters] = weakref.WeakKeyDictionary()
        self._listen = -1
        self.handed = BoundedQueue(pool.capacity)
        for function in seek_late, take_stale_late, hand_over_late:
            function.ready()
        # L4 acquires from L5: gets look for stale buffers only where they look into deques.
        if load(pool._deques, COUNT) == 0:
            pool._free_deques.append(reserve(pool))
        store(pool._words, HANDED, self.handed._address, "seq_cst")  # A1 releases to H9, W6
        if hasattr(os, "eventfd") and hasattr(select, "epoll"):
            self._listen = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._closing = weakref.finalize(pool._queue, os.close, self._listen)
            store(pool._words, GET_FD, self._listen + 1, "seq_cst")  # A2 releases to N3

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def get(self, pool: Any, timeout: float | None) -> int:
        """Return the index of a buffer when it is this coroutine's turn; a coroutine that ends earlier keeps none."""
        loop = asyncio.get_running_loop()
        self._forget_closed()
        line = self._by_loop.get(loop) or self._by_loop.setdefault(loop, LoopWaiters(pool, self._listen))
        future = loop.create_future()
        alarm = None if timeout is None else loop.call_later(timeout, _expire, future)
        try:
            if not line.waiting:
                line.listen(loop)
                self._waiting[loop] = line
            line.enter(future)
            line.serve()  # a put just before `enter` did not see this coroutine
            return await future
        except BaseException:  # cancelled, or closed without being resumed
            if future.done() and not future.cancelled() and future.exception() is None:
                pool.put(future.result())
            raise
        finally:
            if alarm is not None:
                alarm.cancel()
            line.leave(future)
            if not line.waiting and self._waiting.pop(loop, None) is not None:
                line.stop_listening(loop)

    def _forget_closed(self) -> None:
        """Drop the waiters of closed loops, whose coroutines will never be resumed."""
        for loop, line in list(self._waiting.items()):
            if loop.is_closed() and self._waiting.pop(loop, None) is not None:
                for future in list(line.waiting):
                    line.leave(future)

    def abandon(self) -> None:
        """In a forked child, close the descriptors inherited from the parent, before their numbers are reused."""
        for line in self._by_loop.values():
            line.close()
        if self._listen >= 0 and self._closing.detach():
            os.close(self._listen)


class LoopWaiters:
    """The waiting coroutines of one event loop, first come, first served; runs in the loop's thread only."""

    def __init__(self, pool: Any, descriptor: int) -> None:
        self.waiting: dict[asyncio.Future[int], None] = {}  # an ordered set
        self._pool = weakref.proxy(pool)
        self._queue = pool._queue
        self._tick: asyncio.TimerHandle | None = None
        self._epoll: Any = None
        if descriptor >= 0:
            self._epoll = select.epoll()
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start watching for puts."""
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._on_event)
        else:
            self._look(loop)

    def stop_listening(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop watching for puts."""
        if self._tick is not None:
            self._tick.cancel()
        elif not loop.is_closed():
            loop.remove_reader(self._epoll.fileno())

    def close(self) -> None:
        """Close the epoll descriptor."""
        if self._epoll is not None:
            self._epoll.close()

    def _on_event(self) -> None:
        self._epoll.poll(0)
        self.serve()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tick = loop.call_later(_NO_EPOLL_S, self._look, loop)
        self.serve()

    def enter(self, future: asyncio.Future[int]) -> None:
        """Add a coroutine to those waiting."""
        self.waiting[future] = None
        ask(self._queue)

    def leave(self, future: asyncio.Future[int]) -> None:
        """Remove a coroutine from those waiting, unless it has been served."""
        if future in self.waiting:
            del self.waiting[future]
            take_request_back(self._queue)

    def serve(self) -> None:
        """Hand free buffers to the waiting coroutines, in order."""
        while self.waiting:
            future = next(iter(self.waiting))
            if future.done():  # timed out or cancelled, but its coroutine has not run since
                self.leave(future)
            elif self._pool.closed:
                self.leave(future)
                future.set_exception(Closed("get from a closed pool"))
            elif (index := self._take()) >= 0:
                future.set_result(index)
            else:
                ask_again(self._queue)
                return

    def _take(self) -> int:
        """Take a buffer for the first waiting coroutine and remove that one; return its index, or EMPTY."""
        pool = self._pool
        index = take_handed(self._queue)
        if index >= 0:
            del self.waiting[next(iter(self.waiting))]
            if pool._observation is not None:
                pool._observation.got(index)
            if pool.checked:
                store(pool._owners, place_of(pool.capacity, index), threading.get_ident())  # O1 releases to O2
            return index
        index = take(pool._core)  # not `try_get`: what a debug pool raises is for the coroutine
        if index >= 0:
            self.leave(next(iter(self.waiting)))
        elif pool._observation is not None:
            pool._observation.failed(-1)  # this is a look of those that wait, not a get
        return index


def _expire(future: asyncio.Future[int]) -> None:
    if not future.done():
        future.set_exception(WouldBlock("aget found no free buffer for as long as it may wait"))
