"""Coroutines that wait for a pool's buffers, without blocking their loop and without polling.

The pool counts them among its waiting getters, so a put, from Python or from a kernel, notices them as it notices
parked threads; if it finds no thread to wake, it writes to an eventfd (a pipe where there is none) that the loop hears.
No helper thread stands in between: it would hold buffers on behalf of coroutines that may be cancelled meanwhile.
All of this runs in the loop's own thread.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import Any

from .atomics import fetch_add, store
from .ring import GET_FD, GETTERS, BoundedQueue
from .wait import PoolClosed, WouldBlock


def _close(ends: set[int]) -> None:
    for end in ends:
        os.close(end)


class Getters:
    """The coroutines of one event loop that wait for a buffer of one pool, first come first served."""

    def __init__(self, ring: BoundedQueue) -> None:
        self._words = ring.words
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[asyncio.Future[int], None] = {}  # in order, and quick to leave from anywhere
        if hasattr(os, "eventfd"):
            self._listen = signal = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._listen, signal = os.pipe()
            os.set_blocking(self._listen, False)
            os.set_blocking(signal, False)
        weakref.finalize(ring, _close, {self._listen, signal})
        store(self._words, GET_FD, signal + 1, "seq_cst")

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def get(self, pool: Any, timeout: float | None) -> int:
        """Return the index of a buffer as soon as it is this coroutine's turn; if cancelled, take nothing along."""
        loop = asyncio.get_running_loop()
        future = self._enter(pool, loop)
        alarm = None if timeout is None else loop.call_later(timeout, _expire, future)
        try:
            self._serve(pool)  # a put that came too early to notice this waiter is noticed here
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                pool.put(future.result())  # served and cancelled in one turn of the loop
            raise
        finally:
            if alarm is not None:
                alarm.cancel()
            self._leave(loop, future)

    def _enter(self, pool: Any, loop: asyncio.AbstractEventLoop) -> asyncio.Future[int]:
        if self._waiting and loop is not self._loop:
            raise RuntimeError("coroutines of another event loop are waiting for this pool; one loop at a time may")
        if not self._waiting:
            self._loop = loop
            loop.add_reader(self._listen, self._hear, pool)
        future = loop.create_future()
        self._waiting[future] = None
        fetch_add(self._words, GETTERS, 1, "seq_cst")
        return future

    def _leave(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[int]) -> None:
        fetch_add(self._words, GETTERS, -1, "seq_cst")
        self._waiting.pop(future, None)
        if not self._waiting:
            loop.remove_reader(self._listen)

    def _hear(self, pool: Any) -> None:
        os.read(self._listen, 4096)
        self._serve(pool)

    def _serve(self, pool: Any) -> None:
        """Hand free buffers to those who wait, in their order."""
        while self._waiting:
            future = next(iter(self._waiting))
            if not future.done():
                index = pool.try_get()
                if index >= 0:
                    future.set_result(index)
                elif pool.closed:
                    future.set_exception(PoolClosed("get from a closed pool"))
                else:
                    return
            del self._waiting[future]


def _expire(future: asyncio.Future[int]) -> None:
    if not future.done():
        future.set_exception(WouldBlock("no buffer became free for as long as aget was to wait"))
