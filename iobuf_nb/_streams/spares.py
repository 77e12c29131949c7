"""Spares: a pool of a stream is kept for the next stream that needs such a one, because to make one takes time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .._pools.pool import BufferPool

_MOST_BYTES = 1 << 22  # of a pool that is kept
_spares: dict[tuple[int, int], BufferPool] = {}


@contextmanager
def own_pool(buffers: int, size: int) -> Iterator[BufferPool]:
    """Yield a pool that nobody else uses; it is closed, or kept, at the end of the block."""
    key = buffers, size
    pool = _spares.pop(key, None) or BufferPool(buffers, size)
    try:
        yield pool
    except BaseException:
        pool.close()
        raise
    if buffers * pool.stride <= _MOST_BYTES and not _spares:
        _spares[key] = pool
    else:
        pool.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_spares.clear)  # a pool serves the process that made it
