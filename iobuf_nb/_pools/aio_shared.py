"""Coroutines that wait for a pool, queue or channel that processes share.

A put in another process cannot signal an eventfd of this one. So a thread parks on the event word, which every put
changes, for all coroutines of the loop that wait for it; when the thread returns, they try again, first come, first
served. It takes nothing itself, so a coroutine that is cancelled loses nothing. The thread is none of the loop's
executor, which few waits would fill.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .._free.queue import GETTERS, NONBLOCKING_FLAG
from .._free.waiting import enter, leave, watch
from .._threads.gil import LOOK_NS
from .._threads.outcomes import CLOSED, EMPTY, Closed, WouldBlock
from ..atomics import load

#: For each event loop what its threads wait for, by queue and word.
_changes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, asyncio.Future[None]]]
_changes = weakref.WeakKeyDictionary()

_MOST_THREADS = 1024  # of a process: one for each pool, queue or channel that coroutines wait for


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process; a forked child has others."""
    return ThreadPoolExecutor(_MOST_THREADS, "iobuf_nb")


def _watch(words: Any, waiters: int, seen: int, future: asyncio.Future[None]) -> None:
    watch(words, waiters, seen)
    with contextlib.suppress(RuntimeError):  # the loop is closed
        future.get_loop().call_soon_threadsafe(future.set_result, None)


def _change(queue: Any, waiters: int, seen: int) -> asyncio.Future[None]:
    """Return a future that is done when the event is not what was `seen`, or LOOK_NS are over."""
    loop = asyncio.get_running_loop()
    for each in [each for each in _changes if each.is_closed()]:  # its futures would keep it for ever
        _changes.pop(each, None)
    changes = _changes.setdefault(loop, {})
    key = queue._address, waiters
    if key not in changes:
        changes[key] = loop.create_future()
        changes[key].add_done_callback(lambda _: changes.pop(key, None))
        _threads(os.getpid()).submit(_watch, queue._words, waiters, seen, changes[key])
    return changes[key]


async def until(
    attempt: Callable[[], int],
    rescue: Callable[[], int],
    queue: Any,
    waiters: int,
    limit: int,
    closed: str,
    late: str,
) -> int:
    """Return what `attempt` does once that is not EMPTY; raise Closed or WouldBlock with the sentences given.

    `limit` is the longest wait in nanoseconds; -1 for no limit.
    """
    loop = asyncio.get_running_loop()
    if load(queue._words, NONBLOCKING_FLAG):  # W5 acquires from S1 of `_pools.index_pool`
        limit = 0
    end = math.inf if limit < 0 else loop.time() + limit / 1e9
    look = loop.time() + LOOK_NS / 1e9
    while True:
        seen = enter(queue._words, waiters)
        try:
            result = attempt()
            if result == CLOSED:
                raise Closed(closed)
            if result != EMPTY:
                return result
            left = end - loop.time()
            if left <= 0:
                raise WouldBlock(late)
            await asyncio.wait([_change(queue, waiters, seen)], timeout=None if left == math.inf else left)
        finally:
            leave(queue._words, waiters, seen, True, 0)
        if loop.time() >= look:
            rescue()
            look = loop.time() + LOOK_NS / 1e9


async def get(pool: Any, limit: int) -> int:
    """Check a buffer of a shared pool out."""
    closed, late = "get from a closed pool", "aget found no free buffer for as long as it may wait"
    return await until(pool._get_or_closed, pool._rescue, pool._queue, GETTERS, limit, closed, late)
