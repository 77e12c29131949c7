"""Bounded lock-free pools of aligned buffers, the same in Python, in notebooks and inside numba kernels.

Notes
-----
Pools and queues belong to the process that made them and end with it; they cannot be pickled, unless they are made with
``shared=True``. Make one in each process, or share one.

A forked child has a copy of what its parent had. Free buffers can be got and put there, but nothing can be waited for.
Buffers that other threads had checked out are checked out in the copy, where `BufferPool.holders` names their owners
and any thread may put them; buffers that those threads were just getting or putting are free. (In a pool with
``checked=False`` they cannot be told apart, and all of them stay checked out.) A magazine of another thread can be
closed, and its buffers got. The parent is not affected. Fork with `os.fork`, or what is built on it, while no thread is
compiling: numba's lock would stay locked in the child.

Examples
--------
>>> import iobuf_nb
>>> pool = iobuf_nb.BufferPool(8, iobuf_nb.Tier.SMALL)
>>> with pool.lease() as buffer:
...     buffer[:] = 1
"""

# The map of the library, from the ground up; a room imports only from those above it (checked by lint-imports):
#
#   _requirements  what is needed of machine and interpreter
#   _command     what the command line needs first
#   _log         the logger
#   _jit/        how Python becomes kernels: options, code cache, faces, handles, instructions, checks, C methods
#   atomics      public: atomic operations on 64-bit words
#   _threads/    waiting: C library, GIL and signals, clocks, fences, parking, back-off, statuses
#   _memory/     aligned memory, tiers, buffers, struct iovec, dtypes, borrowed arrays
#   syscalls     public: system calls in kernels and in Python
#   _sockets/    addresses and messages as records, calls on sockets, epoll, timers;  sockets, events: public
#   _free/       lock-free words: queue, waiting, depot, handover, deques, owner words, free list
#   _pools/      objects: bounded queue, allocator, layout, magazine, pool, coroutines, forks
#   _uring/      liburing, kernels over a ring;  uring: public
#   _streams/    sources, pieces, crew and turns, output, mapping, decompression; stream, blocks, scan, copy
#   _text/       words, searches, numbers, tables of byte keys;  text: public
#   _dask/       a stream as tasks of a Dask cluster, pools of its workers;  dask: public
#   _warm        what compiles each part by a first use
#   _doctor/     what works on a machine, and the remedies
#   __main__     the command line
#
# `pool.get()` reads downward: _pools.pool, .index_pool, .allocator, _free.free_list, .queue, atomics.

from . import (
    _command,
    _requirements,  # noqa: F401 (raises where the library cannot work)
)

if _command.is_command():  # before all else is imported, which takes time and opens files
    _command.occupy_standard_descriptors()
    _command.leave_at_once()

from . import atomics, syscalls
from ._jit import notice as _notice  # noqa: F401 (tells on a terminal that kernels are compiled)
from ._memory.aligned import (
    CACHE_LINE_SIZE,
    aligned_mem,
    aligned_mem_block,
    aligned_mem_blocks,
    cache_line_aligned_mem,
    cache_line_aligned_mem_blocks,
    page_size,
    set_page_size,
)
from ._memory.buffers import new_buffers, view_as_buffers
from ._memory.iovec import (
    IOVEC_DTYPE,
    IoVec,
    advance_iovec,
    fill_iovec,
    iovec_addr_len,
    iovec_from_buffers,
    iovec_from_registered,
)
from ._memory.tier import Tier
from ._pools import fork as _fork  # noqa: F401 (mends pools in a forked child)
from ._pools import observed as _observed  # noqa: F401 (what a BufferPool with trace or debug is)
from ._pools import value_queue as _value_queue  # noqa: F401 (what a BoundedQueue with a dtype is)
from ._pools.bounded_queue import BoundedQueue
from ._pools.channel import Channel
from ._pools.item_pool import ItemPool
from ._pools.magazine import Magazine, MagazineSet
from ._pools.observation import PoolStats
from ._pools.pool import BufferPool
from ._streams.blocks import blocks
from ._streams.copy import CopyResult, copy
from ._streams.scan import ScanResult, scan
from ._streams.sinks import Sink
from ._streams.stream import StreamError, StreamResult, stream
from ._threads.backoff import Backoff, SpinWait
from ._threads.outcomes import Closed, PoolClosed, WouldBlock
from .atomics import pause

__version__ = "0.1.0"

__all__ = [
    "CACHE_LINE_SIZE",
    "IOVEC_DTYPE",
    "Backoff",
    "BoundedQueue",
    "BufferPool",
    "Channel",
    "Closed",
    "CopyResult",
    "IoVec",
    "ItemPool",
    "Magazine",
    "MagazineSet",
    "PoolClosed",
    "PoolStats",
    "ScanResult",
    "Sink",
    "SpinWait",
    "StreamError",
    "StreamResult",
    "Tier",
    "WouldBlock",
    "advance_iovec",
    "aligned_mem",
    "aligned_mem_block",
    "aligned_mem_blocks",
    "atomics",
    "blocks",
    "cache_line_aligned_mem",
    "cache_line_aligned_mem_blocks",
    "copy",
    "fill_iovec",
    "iovec_addr_len",
    "iovec_from_buffers",
    "iovec_from_registered",
    "new_buffers",
    "page_size",
    "pause",
    "scan",
    "set_page_size",
    "stream",
    "syscalls",
    "view_as_buffers",
]
