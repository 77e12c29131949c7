"""Time: the monotonic clock, time limits, and sleep without the GIL."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numba import types
from numba.core import errors

from .._jit import check, seam
from .._jit.check import FormattedValueError
from .._jit.compile import hot, kernel
from .._jit.faces import compiled_as, kernel_overload
from .._jit.instructions import load_word, two_words
from .gil import LOOK_NS, check_signals, main_thread_id, regain_gil, release_gil
from .libc import clock_gettime, pthread_self, usleep

FOREVER_NS = 2**62
_MOST_MS = 2**31 - 1


def limit_ns(block: bool, timeout: float | None) -> int:
    """Return the longest wait, in nanoseconds, for `block` and `timeout` (in seconds); -1 for no limit."""
    if type(block) is not bool:
        block = check.block(block)
    limit = check.timeout_ns(timeout)
    return limit if block else 0


@kernel_overload(limit_ns)
def _limit_in_kernel(block: Any, timeout: Any) -> Any:
    if not isinstance(block, (bool, types.Boolean)):
        hint = "; did you mean timeout=?" if isinstance(block, types.Number) else ""
        raise errors.TypingError(f"block must be a bool, not {block}{hint}")
    if timeout not in (None, types.none) and not isinstance(
        getattr(timeout, "type", timeout), (types.Integer, types.Float)
    ):
        raise errors.TypingError(f"timeout must be None or a number of seconds >= 0, not {timeout}")

    def limit(block, timeout):
        if not block:
            return 0
        if timeout is None:
            return -1
        if not timeout >= 0:
            raise FormattedValueError("timeout must be None or a number of seconds >= 0, not {}", timeout)
        return np.int64(min(timeout, float(check.MAX_SECONDS)) * 1e9)

    return limit


_CLOCK_MONOTONIC = getattr(time, "CLOCK_MONOTONIC", 1)


@kernel
def _now_in_kernel():
    timespec = two_words(0, 0)
    clock_gettime(_CLOCK_MONOTONIC, timespec)
    return load_word(timespec) * 1_000_000_000 + load_word(timespec + 8)


@compiled_as(_now_in_kernel)
def now_ns() -> int:
    """Return the time of the monotonic clock in nanoseconds, as `time.monotonic_ns` does; in kernels and in Python.

    Returns
    -------
    int
        Only differences mean something: those between any two threads and processes of one machine.

    Examples
    --------
    >>> start = now_ns()
    >>> now_ns() >= start
    True
    """
    return time.monotonic_ns() if seam.hook is None else int(seam.hook("now", None, -1, ""))


@hot
def left_ms(end):
    """Return how long poll(2) is to wait until `end`, rounded up, as far as an int holds it; -1 if `end` is below 0."""
    return -1 if end < 0 else min(max(0, end - now_ns() + 999_999) // 1_000_000, _MOST_MS)


@kernel
def _nap_in_kernel(ns):
    state = release_gil()
    usleep(ns // 1000 + 1)
    regain_gil(state)


@compiled_as(_nap_in_kernel)
def nap(ns: int) -> None:
    """Sleep `ns` nanoseconds without the GIL and without running signal handlers."""
    time.sleep(ns / 1e9)


@kernel
def _sleep_in_kernel(ns):
    end = now_ns() + ns
    while True:
        left = end - now_ns()
        if left <= 0:
            return
        if pthread_self() == main_thread_id():
            left = min(left, LOOK_NS)
        _nap_in_kernel(left)
        check_signals()


@compiled_as(_sleep_in_kernel)
def sleep(ns: int) -> None:
    """Sleep `ns` nanoseconds without the GIL; a signal handler that raises ends the sleep."""
    time.sleep(ns / 1e9)
