"""Bytes found, counted and split: 32 at a time, compared by one vector instruction, whose result is a word of bits.

No function reads outside of its array: blocks that would are taken byte by byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._jit import check
from .._jit.compile import hot
from .._jit.faces import compiled_as
from .._memory.borrowed import lend
from .words import BLOCK, as_array, highest, in_range, left, lending, lent, load_byte, lowest, matches, ones


@hot
def _find_byte(b, byte, start, end):
    last = len(b) - BLOCK
    while start < end:
        if start <= last:
            hits = matches(b, start, byte)
            if hits != 0:
                start += lowest(hits)
                return start if start < end else -1
            start += BLOCK
        else:
            if load_byte(b, start) == byte:
                return start
            start += 1
    return -1


_find_byte_in = lending(_find_byte)


@compiled_as(_find_byte_in)
def find_byte(b: Any, byte: int, start: int, end: int) -> int:
    r"""Return where `byte` first is in ``b[start:end]``, or -1, as ``bytes.find`` does.

    Parameters
    ----------
    b : uint8 array, 1-D, C-contiguous; from Python any bytes-like object
    byte : int
        From 0 to 255.
    start, end : int
        The range in bytes. Kernels do not check it: 0 <= start <= end <= len(b) must hold.

    Returns
    -------
    int
        The index in `b`, not in the range.

    Raises
    ------
    TypeError, ValueError
        From Python, for invalid arguments.

    Examples
    --------
    >>> find_byte(b"Oslo;-3.5\n", ord(";"), 0, 10)
    4
    >>> find_byte(b"Oslo;-3.5\n", ord(";"), 5, 10)
    -1
    """
    array, start, end = in_range(b, start, end)
    return int(_find_byte_in(array, check.integer("byte", byte, 0, 255), start, end))


@hot
def _rfind_byte(b, byte, start, end):
    while start < end:
        if end >= BLOCK:
            hits = matches(b, end - BLOCK, byte)
            if hits != 0:
                end += highest(hits) - BLOCK
                return end if end >= start else -1
            end -= BLOCK
        else:
            end -= 1
            if load_byte(b, end) == byte:
                return end
    return -1


_rfind_byte_in = lending(_rfind_byte)


@compiled_as(_rfind_byte_in)
def rfind_byte(b: Any, byte: int, start: int, end: int) -> int:
    r"""Return where `byte` last is in ``b[start:end]``, or -1; parameters and errors as in `find_byte`.

    Examples
    --------
    >>> rfind_byte(b"a/b/c", ord("/"), 0, 5)
    3
    """
    array, start, end = in_range(b, start, end)
    return int(_rfind_byte_in(array, check.integer("byte", byte, 0, 255), start, end))


@hot
def _find_any(b, wanted, start, end):
    last = len(b) - BLOCK
    while start < end:
        if start <= last:
            hits = 0
            for k in range(len(wanted)):
                hits |= matches(b, start, wanted[k])
            if hits != 0:
                start += lowest(hits)
                return start if start < end else -1
            start += BLOCK
        else:
            for k in range(len(wanted)):
                if load_byte(b, start) == wanted[k]:
                    return start
            start += 1
    return -1


@hot
def _find_any_in(b, wanted, start, end):
    return _find_any(lent(b), lent(wanted), start, end)


@compiled_as(_find_any_in)
def find_any(b: Any, wanted: Any, start: int, end: int) -> int:
    r"""Return where the first byte of ``b[start:end]`` is that is one of `wanted`, or -1.

    Parameters
    ----------
    b, start, end
        As in `find_byte`.
    wanted : bytes
        A few bytes, such as ``b",;\n"``, or a uint8 array; each takes as long as a search for it.

    Examples
    --------
    >>> find_any(b"key = value", b":=", 0, 11)
    4
    """
    array, start, end = in_range(b, start, end)
    return int(_find_any_in(array, as_array(wanted), start, end))


@hot
def _count_byte(b, byte, start, end):
    count, last = 0, len(b) - BLOCK
    while start + BLOCK <= end:
        count += ones(matches(b, start, byte))
        start += BLOCK
    if start <= last:
        return count + ones(matches(b, start, byte) & (left(1, end - start) - 1))
    while start < end:
        count += load_byte(b, start) == byte
        start += 1
    return count


_count_byte_in = lending(_count_byte)


@compiled_as(_count_byte_in)
def count_byte(b: Any, byte: int, start: int, end: int) -> int:
    r"""Return how often `byte` is in ``b[start:end]``; parameters and errors as in `find_byte`.

    Examples
    --------
    >>> count_byte(b"one\ntwo\n", ord("\n"), 0, 8)
    2
    """
    array, start, end = in_range(b, start, end)
    return int(_count_byte_in(array, check.integer("byte", byte, 0, 255), start, end))


@hot
def _is_space(byte):
    return byte == 32 or 9 <= byte <= 13


@hot
def _trim(b, start, end):
    while start < end and _is_space(load_byte(b, start)):
        start += 1
    while start < end and _is_space(load_byte(b, end - 1)):
        end -= 1
    return start, end


_trim_in = lending(_trim)


@compiled_as(_trim_in)
def trim(b: Any, start: int, end: int) -> tuple[int, int]:
    r"""Return the range that is left of ``b[start:end]`` without the white space at both ends, as ``bytes.strip``.

    White space is space, tab, newline, vertical tab, form feed and carriage return. Parameters and errors as in
    `find_byte`.

    Examples
    --------
    >>> trim(b"  12.5 \r\n", 0, 9)
    (2, 6)
    """
    return _trim_in(*in_range(b, start, end))


@hot
def _split_fields(b, start, end, delimiter, bounds):
    count = 0
    while True:
        stop = _find_byte(b, delimiter, start, end)
        if count < len(bounds):
            bounds[count, 0] = start
            bounds[count, 1] = end if stop < 0 else stop
        count += 1
        if stop < 0:
            return count
        start = stop + 1


@hot
def _split_fields_in(b, start, end, delimiter, bounds):
    return _split_fields(lent(b), start, end, delimiter, lend(bounds, 0))


@compiled_as(_split_fields_in)
def split_fields(b: Any, start: int, end: int, delimiter: int, bounds: NDArray[np.int64]) -> int:
    r"""Find the fields of ``b[start:end]`` between delimiters, as ``bytes.split`` does; quotes mean nothing.

    Parameters
    ----------
    b, start, end
        As in `find_byte`.
    delimiter : int
        From 0 to 255.
    bounds : int64 array of shape (n, 2)
        Field k becomes ``b[bounds[k, 0] : bounds[k, 1]]``. Only the first `n` fields are written.

    Returns
    -------
    int
        How many fields there are, which may be more than `n`; one more than there are delimiters.

    Raises
    ------
    TypeError, ValueError
        From Python, for invalid arguments.

    Examples
    --------
    >>> bounds = np.zeros((8, 2), np.int64)
    >>> count = split_fields(b"7,,Oslo", 0, 7, ord(","), bounds)
    >>> bounds[:count].tolist()
    [[0, 1], [2, 2], [3, 7]]
    """
    array, start, end = in_range(b, start, end)
    if not (isinstance(bounds, np.ndarray) and bounds.dtype == np.int64 and bounds.ndim == 2 and bounds.shape[1] == 2):
        raise TypeError(f"bounds must be an int64 array of shape (n, 2), not {bounds!r:.60}")
    if not bounds.flags.writeable:
        raise ValueError("bounds must be writable, and this array is not")
    return int(_split_fields_in(array, start, end, check.integer("delimiter", delimiter, 0, 255), bounds))
