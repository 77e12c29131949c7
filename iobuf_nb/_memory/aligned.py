"""Memory that starts on a page or on a cache line.

Every function returns a zeroed uint8 numpy array over an anonymous private mapping of its own (mmap(2)). The mapping
is unmapped when the array and all views of it are gone. All functions are thread-safe.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._jit import check

#: Bytes of a cache line: 64 on x86-64, 128 (the largest in use) elsewhere.
CACHE_LINE_SIZE = 64 if platform.machine().lower() in ("x86_64", "amd64") else 128
MAX_BYTES = 2**47  # of one allocation: the address space of a process on x86-64
MAX_BUFFER_BYTES = 2**40
MAX_ITEMS = 2**32  # items of a queue, buffers of a pool or an array
_HUGE_PAGE = 2**21
_page_size = mmap.PAGESIZE


def page_size() -> int:
    """Return the default alignment of `aligned_mem` in bytes: the system's page size, or what `set_page_size` set.

    Examples
    --------
    >>> page_size() == mmap.PAGESIZE
    True
    """
    return _page_size


def set_page_size(size: int) -> None:
    """Set the default alignment of `aligned_mem` for the whole process.

    Memory that is already allocated does not change.

    Parameters
    ----------
    size : int
        Bytes, a power of two from 64 to 2**30.

    Raises
    ------
    TypeError, ValueError
        `size` is not such a number; the default stays as it was.

    Examples
    --------
    >>> set_page_size(65536)
    >>> aligned_mem_block().nbytes
    65536
    >>> set_page_size(mmap.PAGESIZE)
    """
    global _page_size
    _page_size = check.power_of_two("size", size, 64, 2**30)


def aligned_mem(
    size: int,
    page_size: int | None = None,
    *,
    huge_pages: bool = False,
    lock: bool = False,
    populate: bool = False,
) -> NDArray[np.uint8]:
    """Return `size` zeroed bytes that start at a multiple of `page_size`.

    Parameters
    ----------
    size : int
        Bytes, from 1 to 2**47.
    page_size : int, optional
        Alignment in bytes, a power of two from 1 to 2**30; by default `page_size()`.
    huge_pages : bool
        Ask for transparent huge pages (madvise(2), MADV_HUGEPAGE), and align to 2 MiB at least. Linux only.
    lock : bool
        Lock the memory into RAM (mlock(2)).
    populate : bool
        Touch every page now, so that later accesses cause no page faults.

    Returns
    -------
    uint8 array of shape (size,)

    Raises
    ------
    TypeError, ValueError
        `size` or `page_size` is not an integer, or out of its range.
    MemoryError
        The system cannot provide that much address space.
    OSError
        The system refuses huge pages, or to lock this much memory (RLIMIT_MEMLOCK).

    Examples
    --------
    >>> memory = aligned_mem(65536, 4096)
    >>> memory.ctypes.data % 4096, memory.nbytes
    (0, 65536)
    """
    size = check.integer("size", size, 1, MAX_BYTES)
    alignment = _page_size if page_size is None else check.power_of_two("page_size", page_size, 1, 2**30)
    return _map(size, alignment, huge_pages=huge_pages, lock=lock, populate=populate)


def aligned_mem_blocks(n: int, page_size: int | None = None, **options: bool) -> NDArray[np.uint8]:
    """Return `n` zeroed blocks of `page_size` bytes, each starting at a multiple of it, in one mapping.

    Parameters
    ----------
    n : int
        Blocks, from 1 to 2**32.
    page_size : int, optional
        Bytes of a block and its alignment, a power of two from 1 to 2**30; by default `page_size()`.
    **options : bool
        Those of `aligned_mem`; so are the errors.

    Returns
    -------
    uint8 array of shape (n, page_size)

    Raises
    ------
    ValueError
        The blocks have more than 2**47 bytes in all.

    Examples
    --------
    >>> blocks = aligned_mem_blocks(16, 4096)
    >>> blocks.shape, blocks[5].ctypes.data % 4096
    ((16, 4096), 0)
    """
    n = check.integer("n", n, 1, MAX_ITEMS)
    block = _page_size if page_size is None else check.power_of_two("page_size", page_size, 1, 2**30)
    size = check.integer("n * page_size", n * block, 1, MAX_BYTES)
    return aligned_mem(size, block, **options).reshape(n, block)


def aligned_mem_block() -> NDArray[np.uint8]:
    """Return one zeroed block of `page_size()` bytes that starts at a multiple of it; errors as in `aligned_mem`.

    Examples
    --------
    >>> aligned_mem_block().nbytes == page_size()
    True
    """
    return aligned_mem(_page_size)


def cache_line_aligned_mem(size: int, **options: bool) -> NDArray[np.uint8]:
    """Return `size` zeroed bytes that start on a cache line; `options` and errors are those of `aligned_mem`.

    Examples
    --------
    >>> cache_line_aligned_mem(100).ctypes.data % CACHE_LINE_SIZE
    0
    """
    return aligned_mem(size, CACHE_LINE_SIZE, **options)


def cache_line_aligned_mem_blocks(n: int, block_size: int, **options: bool) -> NDArray[np.uint8]:
    """Return `n` zeroed blocks that share no cache line, in one mapping.

    Parameters
    ----------
    n : int
        Blocks, from 1 to 2**32.
    block_size : int
        Bytes of a block, from 1 to 2**40.
    **options : bool
        Those of `aligned_mem`; so are the errors.

    Returns
    -------
    uint8 array of shape (n, block_size)
        The distance between rows is `block_size` rounded up to a multiple of `CACHE_LINE_SIZE`.

    Raises
    ------
    ValueError
        The blocks have more than 2**47 bytes in all.

    Examples
    --------
    >>> blocks = cache_line_aligned_mem_blocks(4, 100)
    >>> blocks.shape, blocks.strides[0] % CACHE_LINE_SIZE
    ((4, 100), 0)
    """
    n = check.integer("n", n, 1, MAX_ITEMS)
    block_size = check.integer("block_size", block_size, 1, MAX_BUFFER_BYTES)
    stride = round_up(block_size, CACHE_LINE_SIZE)
    size = check.integer("n * block_size", n * stride, 1, MAX_BYTES)
    return cache_line_aligned_mem(size, **options).reshape(n, stride)[:, :block_size]


def round_up(size: int, multiple: int) -> int:
    """Return the smallest multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple


def _map(size: int, alignment: int, *, huge_pages: bool, lock: bool, populate: bool) -> NDArray[np.uint8]:
    if huge_pages:
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            raise OSError("huge_pages=True needs Linux: this system has no MADV_HUGEPAGE")
        alignment = max(alignment, _HUGE_PAGE)
    slack = alignment if alignment > mmap.PAGESIZE else 0
    # Private, so that a forked child gets a copy: with shared memory, both processes would own every buffer.
    kind: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        mapping = mmap.mmap(-1, size + slack, **kind)
    except (OSError, ValueError, OverflowError) as error:
        raise MemoryError(f"the system cannot provide {size} bytes of address space: {error}") from None
    if huge_pages:
        try:
            mapping.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:
            raise OSError(error.errno, "huge_pages=True is refused by this Linux") from None
    memory = np.frombuffer(mapping, np.uint8)
    start = -memory.ctypes.data % alignment
    memory = memory[start : start + size]
    if lock:
        lock_memory(memory)
    if populate:
        memory[:: mmap.PAGESIZE] = 0
    return memory


def lock_memory(memory: NDArray[np.uint8]) -> None:
    """Lock memory into RAM; OSError if the system refuses that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlock(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes)) != 0:
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        limit = "without limit" if allowed == resource.RLIM_INFINITY else f"up to {allowed} bytes"
        code = ctypes.get_errno()
        raise OSError(
            code,
            f"lock=True cannot lock {memory.nbytes} bytes ({os.strerror(code)}); RLIMIT_MEMLOCK allows {limit}",
        )
