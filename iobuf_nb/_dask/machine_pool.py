"""One shared pool for all workers of a machine: whoever is first makes it, and the last removes its name."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from .._pools import sharing
from .._pools.pool import BufferPool

_LONGEST_S = 30.0
_PAUSE_S = 0.01


def join_pool(name: str, *arguments: Any, **options: Any) -> BufferPool[Any]:
    """Return the shared pool of a name; `arguments` and `options` make it, if it is not there.

    Errors are those of `BufferPool` and `BufferPool.attach`. TimeoutError if the name stays in doubt for 30 s.
    """
    give_up = time.monotonic() + _LONGEST_S
    while time.monotonic() < give_up:
        with suppress(FileNotFoundError):
            pool: Any = BufferPool.attach(name)
            if pool._segment.holds_name():
                pool.recover()  # what dead workers held
                return pool
            del pool
        with suppress(FileExistsError):  # another was first
            pool = BufferPool(*arguments, name=name, **options)
            sharing.leave_name_to_the_last(pool)
            return pool
        time.sleep(_PAUSE_S)
    raise TimeoutError(f"the shared pool {name!r} could neither be attached to nor made within {_LONGEST_S:.0f} s")
