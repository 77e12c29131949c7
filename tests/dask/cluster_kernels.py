"""Kernels and what goes with them, which workers of a cluster import by their names."""

from numba import njit, types

from iobuf_nb import atomics, text
from iobuf_nb._jit.compile import c_function

end_process = c_function("_exit", types.void, types.int32)


@njit(nogil=True)
def add(buffer, n, offset, state):
    """Add up the values, and those weighted by where they stand, among all sources."""
    for k in range(n):
        state[0] += buffer[k]
        state[1] += buffer[k] * (offset // buffer.itemsize + k)
    state[2] += n


@njit(nogil=True)
def neighbours(buffer, n, offset, state, source, before, after):
    """Add up the products of each value with those beside it, by source."""
    for k in range(before, before + n):
        left = buffer[k - 1] if k else 0
        right = buffer[k + 1] if k + 1 < before + n + after else 0
        state[source] += buffer[k] * (3 * left + 5 * right)


@njit(nogil=True)
def count_words(buffer, n, offset, table):
    """Count lines by what they are."""
    i = 0
    while i < n:
        end = text.find_byte(buffer, 10, i, n)
        end = n if end < 0 else end
        table.rows[table.slot(buffer, i, end), 0] += 1
        i = end + 1


@njit(nogil=True)
def squares(buffer, n, offset, state, output):
    """Square what is odd."""
    found = 0
    for k in range(n):
        if buffer[k] % 2:
            output[found] = buffer[k] * buffer[k]
            found += 1
    return found


@njit(nogil=True)
def fail_at_seven(buffer, n, offset, state):
    """Raise on a piece that begins with 7."""
    if buffer[0] == 7:
        raise ValueError("seven")


@njit(nogil=True)
def slow(buffer, n, offset, state):
    """Add up, and take a millisecond or so for it."""
    state[0] += buffer.sum()
    for _ in range(2000):
        atomics.pause(100)


@njit(nogil=True)
def deadly(buffer, n, offset, state):
    """End the process at a piece that begins with 7, as a fault in a library would."""
    if buffer[0] == 7:
        end_process(1)


@njit(nogil=True, parallel=True)
def in_parallel(buffer, n, offset, state):
    """Add up with numba's own threads."""
    state[0] += buffer.sum()
