"""Coroutines that wait for a pool, queue or channel that processes share.

A put in another process cannot signal an eventfd of this one. So one thread of the event loop's executor parks on the
event word, which every put changes, for all coroutines of the loop that wait for it; when the thread returns, they try
again, first come, first served. It takes nothing itself, so a coroutine that is cancelled loses nothing.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable
from typing import Any

from .._free.queue import GETTERS
from .._free.waiting import enter, leave
from .._threads.clock import now_ns
from .._threads.gil import LOOK_NS
from .._threads.outcomes import CLOSED, EMPTY, Closed, WouldBlock

#: For each event loop what its threads wait for, by queue and word.
_changes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, asyncio.Future[None]]]
_changes = weakref.WeakKeyDictionary()


def _watch(words: Any, waiters: int, seen: int) -> None:
    leave(words, waiters, seen, False, now_ns() + LOOK_NS)


def _change(queue: Any, waiters: int, seen: int) -> asyncio.Future[None]:
    """Return a future that is done when the event is not what was `seen`, or LOOK_NS are over."""
    loop = asyncio.get_running_loop()
    changes = _changes.setdefault(loop, {})
    key = queue._address, waiters
    if key not in changes:
        changes[key] = loop.run_in_executor(None, _watch, queue._words, waiters, seen)
        changes[key].add_done_callback(lambda _: changes.pop(key, None))
    return changes[key]


async def until(
    attempt: Callable[[], int],
    rescue: Callable[[], int],
    queue: Any,
    waiters: int,
    timeout: float | None,
    closed: str,
    late: str,
) -> int:
    """Return what `attempt` does once that is not EMPTY; raise Closed or WouldBlock with the sentences given."""
    loop = asyncio.get_running_loop()
    end = math.inf if timeout is None else loop.time() + timeout
    look = loop.time() + LOOK_NS / 1e9
    while True:
        seen = enter(queue._words, waiters)
        result = attempt()
        if result == CLOSED:
            raise Closed(closed)
        if result != EMPTY:
            return result
        left = end - loop.time()
        if left <= 0:
            raise WouldBlock(late)
        await asyncio.wait([_change(queue, waiters, seen)], timeout=None if left == math.inf else left)
        if loop.time() >= look:
            rescue()
            look = loop.time() + LOOK_NS / 1e9


async def get(pool: Any, timeout: float | None) -> int:
    """Check a buffer of a shared pool out."""
    closed, late = "get from a closed pool", "no buffer became free before aget timed out"
    return await until(pool._get_or_closed, pool._rescue, pool._queue, GETTERS, timeout, closed, late)
