"""Bounded lock-free pools of page-aligned buffers, the same in Python, in notebooks and inside numba kernels.

Examples
--------
>>> import iobuf_nb
>>> pool = iobuf_nb.BufferPool(8, iobuf_nb.Tier.SMALL)
>>> with pool.lease() as buffer:
...     buffer[:] = 1
"""

import sys

if sys.maxsize < 2**63 - 1:
    raise ImportError("iobuf_nb needs a 64-bit Python: its queues are made of 64-bit atomic words")

from . import atomics
from .atomics import pause
from .backoff import Backoff, SpinWait
from .memory import (
    CACHE_LINE_SIZE,
    aligned_mem,
    aligned_mem_block,
    aligned_mem_blocks,
    cache_line_aligned_mem,
    cache_line_aligned_mem_blocks,
    page_size,
    set_page_size,
)
from .pool import BufferPool, ItemPool
from .ring import BoundedQueue
from .stream import ScanResult, scan
from .tier import Tier
from .wait import PoolClosed, WouldBlock

__version__ = "0.1.0"

__all__ = [
    "CACHE_LINE_SIZE",
    "Backoff",
    "BoundedQueue",
    "BufferPool",
    "ItemPool",
    "PoolClosed",
    "ScanResult",
    "SpinWait",
    "Tier",
    "WouldBlock",
    "aligned_mem",
    "aligned_mem_block",
    "aligned_mem_blocks",
    "atomics",
    "cache_line_aligned_mem",
    "cache_line_aligned_mem_blocks",
    "page_size",
    "pause",
    "scan",
    "set_page_size",
]
