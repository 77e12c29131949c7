"""Which buffers of a pool are still checked out when it is closed or dropped, for whoever must be told."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from .._free.processes import thread_of
from .._jit.places import frame_outside
from .._log import logger
from . import sharing
from .holders import thread_names

_MOST_NAMED = 8


def tell(sentence: str, category: type[Warning] = ResourceWarning) -> None:
    """Log a sentence and warn of it, as from the line that led into this package; an empty one says nothing."""
    if sentence:
        logger.warning(sentence)
        frame = frame_outside() or sys._getframe()
        module, registry = frame.f_globals.get("__name__"), frame.f_globals.setdefault("__warningregistry__", {})
        warnings.warn_explicit(sentence, category, frame.f_code.co_filename, frame.f_lineno or 0, module, registry)


def count_out(pool: Any) -> int:
    """Return how many buffers are checked out, by this process if the pool is shared."""
    if pool._segment is not None:
        return sharing.owns(pool._owners, pool._segment.number)
    return len(pool.holders()) if pool.checked else pool.capacity - pool.available()


def leaks_of(pool: Any, how: str) -> str:
    """Return a sentence about the buffers that are checked out, and by which threads; "" if none are."""
    out = count_out(pool)
    if out == 0:
        return ""
    message = f"{type(pool).__name__} of {pool.capacity} was {how} with {out} of its buffers still checked out"
    if pool.checked:
        names = thread_names()
        holders = pool.holders()
        if pool._segment is not None:
            mine = sharing.holders(pool, pool._segment.number)
            holders = {index: thread_of(word) for index, word in mine.items()}
        traced = pool._observation if pool._observation and pool._observation._traces else None
        held = [
            f"{i} by {names.get(owner, f'thread {owner}')}" + (f", got at {traced.place(i)}" if traced else "")
            for i, owner in list(holders.items())[:_MOST_NAMED]
        ]
        message += ": " + ", ".join(held) + (", ..." if out > len(held) else "")
    return message
