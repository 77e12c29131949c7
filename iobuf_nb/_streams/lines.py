"""Lines: where a text may be cut, so that every piece is whole lines.

A cut is behind an occurrence of the delimiter. Delimiters of several bytes may overlap themselves, as two newlines do
in three: then only an occurrence that no other one overlaps from the left is a cut, because there all who read from
left to right agree, wherever they began.
"""

from __future__ import annotations

from .._jit.compile import kernel
from .._threads.libc import memchr, memcmp, memmem, memrchr
from .addresses import bytes_at


@kernel
def first_cut(plan, address, low, n, inside):
    """Return the first cut k, low <= k <= n, of the `n` bytes at an address, or -1.

    `inside` is 1 if the delimiter stands right before the address: it may overlap what comes.
    """
    size = plan.delimiter_size
    at = low - size
    if at < 0:
        at = 0
    while True:
        if size == 1:
            found = memchr(address + at, bytes_at(plan.delimiter)[0], n - at)
        else:
            found = memmem(address + at, n - at, plan.delimiter, size)
        if found == 0:
            return -1
        at = found - address
        if not plan.overlaps or _is_first(plan, address, at, inside):
            return at + size
        at += 1


@kernel
def last_cut(plan, address, low, n, inside):
    """Return the last cut k, low < k <= n, of the `n` bytes at an address, or -1; `inside` as in `first_cut`."""
    size = plan.delimiter_size
    if size == 1:
        found = memrchr(address + low, bytes_at(plan.delimiter)[0], n - low)
        return found - address + 1 if found else -1
    for at in range(n - size, low - size, -1):
        found = at >= 0 and memcmp(address + at, plan.delimiter, size) == 0
        if found and (not plan.overlaps or _is_first(plan, address, at, inside)):
            return at + size
    return -1


@kernel
def _is_first(plan, address, at, inside):
    """Whether no delimiter begins less than its size before the one at `at`."""
    size, text = plan.delimiter_size, plan.delimiter
    for k in range(at - size + 1, at):
        if k >= 0:
            overlaps = memcmp(address + k, text, size) == 0
        else:  # its first bytes are the last ones of the delimiter before the address
            overlaps = inside and memcmp(text, text + size + k, -k) == 0 and memcmp(address, text - k, size + k) == 0
        if overlaps:
            return False
    return True
