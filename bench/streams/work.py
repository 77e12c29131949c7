"""What is done with the items of a source: kernels, with the states they need and how states are merged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from iobuf_nb._streams.scan import count_bytes

BINS = 256

State = np.ndarray


class Work(NamedTuple):
    """A kernel, the dtype of its items, what makes a state for it, and what merges two of them."""

    kernel: Any
    dtype: str
    state: Callable[[], State]
    combine: Callable[[State, State], State] = np.add


@njit(nogil=True, cache=True)
def count_newlines(buffer, n, offset, state):
    """Count newline bytes."""
    found = np.uint32(0)  # in 64 bits it would take twice as many instructions, and a piece has less than 2**32 bytes
    for i in range(n):
        found = np.uint32(found + np.uint32(buffer[i] == 10))
    state[0] += found


@njit(nogil=True, cache=True, fastmath=True)
def add(values, n, offset, state):
    """Add float32 values, in any order."""
    total = 0.0
    for i in range(n):
        total += values[i]
    state[0] += total


@njit(nogil=True, cache=True)
def count_bins(values, n, offset, state):
    """Count values from 0 to 1 in bins of equal width."""
    for i in range(n):
        state[int(values[i] * BINS)] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def summarize(values, n, offset, totals):
    """Sum, minimum, maximum and histogram of values from 0 to 1, into an array of 3 + BINS floats."""
    total, low, high = 0.0, values[0], values[0]
    for x in values:
        total += x
        low = min(low, x)
        high = max(high, x)
        totals[3 + int(x * BINS)] += 1
    totals[0] += total
    totals[1] = min(totals[1], low)
    totals[2] = max(totals[2], high)


@njit(nogil=True, cache=True)
def look(values, n, offset, state):
    """Do next to nothing, so that all the time goes into reading."""
    state[0] += values[0]


def no_summary() -> State:
    """Return what `summarize` starts from."""
    totals = np.zeros(3 + BINS)
    totals[1:3] = np.inf, -np.inf
    return totals


def merge(a: State, b: State) -> State:
    """Return the summary of what two of them summarize."""
    total: State = a + b
    total[1:3] = min(a[1], b[1]), max(a[2], b[2])
    return total


NEWLINES = Work(count_newlines, "u1", partial(np.zeros, 1, np.int64))
SUM = Work(add, "f4", partial(np.zeros, 1))
HISTOGRAM = Work(count_bins, "f4", partial(np.zeros, BINS, np.int64))
SUMMARY = Work(summarize, "f4", no_summary, merge)
LOOK = Work(look, "f4", partial(np.zeros, 1))
BYTES = Work(count_bytes, "u1", partial(np.zeros, (8, 256), np.int64))
