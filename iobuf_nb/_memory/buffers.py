"""Buffers outside a pool: plain memory viewed as bytes, or as rows of equal size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._jit import check
from .._jit.compile import hot
from .aligned import MAX_BUFFER_BYTES, MAX_BYTES, MAX_ITEMS, aligned_mem
from .tier import Tier


def memory_of(name: str, buffer: Any, writable: bool) -> NDArray[np.uint8]:
    """Return the bytes of `buffer` as an array, without a copy; TypeError or ValueError unless plain and contiguous."""
    try:
        array = np.asarray(buffer if isinstance(buffer, np.ndarray) else memoryview(buffer))
    except TypeError:
        raise TypeError(f"{name} must be bytes-like or an array, not {buffer!r:.60}") from None
    except (ValueError, RuntimeError):  # items that numpy does not know, such as pointers or single records
        array = np.frombuffer(buffer, np.uint8)
    if array.dtype.hasobject:
        raise TypeError(f"{name} must be plain memory, not an array of Python objects")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be contiguous; it has shape {array.shape} and strides {array.strides}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{name} must be writable memory, to be read into, not read-only")
    return array.reshape(-1).view(np.uint8)


@hot
def keep(array):
    """Keep an array of a kernel alive up to here: numba frees it after its last use, which its address is not."""


def view_as_buffers(mem: Any, tier: Tier | int, offset: int = 0, n: int | None = None) -> NDArray[np.uint8]:
    """Return part of `mem` as `n` buffers of `tier` bytes, without a copy.

    Parameters
    ----------
    mem : bytes-like or array
        Contiguous memory, of any dtype but Python objects.
    tier : Tier or int
        Bytes of a buffer, from 1 to 2**40.
    offset : int
        The byte of `mem` at which the first buffer starts.
    n : int, optional
        Number of buffers; by default, as many as fit.

    Returns
    -------
    uint8 array of shape (n, tier)
        A view of `mem`, which it keeps alive; read-only if `mem` is.

    Raises
    ------
    TypeError, ValueError
        `mem` is not contiguous memory, or the buffers extend beyond its end.

    Examples
    --------
    >>> memory = bytearray(100)
    >>> view_as_buffers(memory, Tier.PICO, 4, 3)[1, :] = 7
    >>> memory.index(7), memory.count(7)
    (20, 16)
    """
    memory = memory_of("mem", mem, False)
    size = check.integer("tier", tier, 1, MAX_BUFFER_BYTES)
    offset = check.integer("offset", offset, 0, len(memory))
    most = (len(memory) - offset) // size
    n = most if n is None else check.integer(f"n (buffers of {size} from byte {offset})", n, 0, most)
    return memory[offset : offset + n * size].reshape(n, size)


def new_buffers(n: int, size: int) -> NDArray[np.uint8]:
    """Return `n` zeroed buffers of `size` bytes, contiguous in memory, of which the first starts on a page.

    Parameters
    ----------
    n : int
        Number of buffers, from 1 to 2**32.
    size : Tier or int
        Bytes of a buffer, from 1 to 2**40.

    Returns
    -------
    uint8 array of shape (n, size)

    Raises
    ------
    TypeError, ValueError
        `n` or `size` is not an integer, or out of its range; or the buffers have more than 2**47 bytes in all.
    MemoryError
        The system cannot provide that much address space.

    Examples
    --------
    >>> from iobuf_nb import iovec_from_buffers
    >>> buffers = new_buffers(8, Tier.SMALL)
    >>> buffers.shape, len(iovec_from_buffers(buffers, writable=True))
    ((8, 1024), 8)
    """
    n = check.integer("n", n, 1, MAX_ITEMS)
    size = check.integer("size", size, 1, MAX_BUFFER_BYTES)
    return aligned_mem(check.integer("n * size", n * size, 1, MAX_BYTES)).reshape(n, size)
