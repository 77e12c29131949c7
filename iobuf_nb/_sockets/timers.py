"""Descriptors that other threads make ready (eventfd), or time does (timerfd); and sleep."""

from __future__ import annotations

import errno
import time
from typing import Any

import numpy as np
from numba import types
from numba.core import errors

from .. import syscalls
from .._jit import check
from .._jit.check import FormattedValueError
from .._jit.compile import kernel
from .._jit.faces import kernel_overload
from .._memory.buffers import keep
from .._threads import clock
from .arguments import FD, INT, SECONDS, Argument, in_both_faces, integer
from .calls import CLOEXEC, EVENTFD, TIMERFD_CREATE, TIMERFD_SETTIME, call

_MONOTONIC = getattr(time, "CLOCK_MONOTONIC", 1)
_MOST = 2**63 - 1


_ALWAYS = "a number of seconds >= 0"


def nanoseconds(name: str, seconds: float | None, allowed: str = check.SECONDS_OR_NONE) -> int:
    """Return a number of seconds as nanoseconds, -1 for None; TypeError or ValueError that names the argument."""
    return check.timeout_ns(seconds, name, allowed)


@kernel_overload(nanoseconds)
def _nanoseconds_in_kernel(name: Any, seconds: Any, allowed: Any = check.SECONDS_OR_NONE) -> Any:
    name = getattr(name, "literal_value", "seconds")  # after an error, numba tries again without literals
    allowed = getattr(allowed, "literal_value", check.SECONDS_OR_NONE)
    kind = getattr(seconds, "type", seconds)  # of an Optional
    if not isinstance(kind, (types.Integer, types.Float, types.NoneType)):
        raise errors.TypingError(f"{name} must be {allowed}, not {seconds}")
    message = f"{name} must be {allowed}, not {{}}"

    def checked(name, seconds, allowed=""):
        if seconds is None:
            return -1
        if not seconds >= 0:
            raise FormattedValueError(message, seconds)
        return np.int64(min(seconds, float(check.MAX_SECONDS)) * 1e9)

    return checked


def _no_none(name: str, value: Any) -> Any:
    if value is None:
        raise TypeError(f"{name} must be {_ALWAYS}, not None")
    return value


def _no_none_in_kernel(name: str, kind: Any) -> None:
    if not isinstance(kind, (types.Integer, types.Float)):
        raise errors.TypingError(f"{name} must be {_ALWAYS}, not {kind}")


@in_both_faces(seconds=Argument(_no_none, _no_none_in_kernel))
def sleep(seconds: float) -> int:
    """Sleep without the GIL; in kernels and in Python.

    Parameters
    ----------
    seconds : float
        From 0.

    Returns
    -------
    int
        0.

    Raises
    ------
    TypeError, ValueError
        `seconds` is no number, or below 0; the latter in kernels, too.
    KeyboardInterrupt
        Or whatever the handler of a signal raises, in the main thread; a signal alone does not end the sleep.

    Examples
    --------
    >>> from iobuf_nb.events import now_ns
    >>> start = now_ns()
    >>> sleep(0.001), now_ns() - start >= 1_000_000
    (0, True)
    """
    clock.sleep(nanoseconds("seconds", seconds, _ALWAYS))
    return 0


@kernel
def _read_word(fd):
    word = np.empty(1, np.uint64)
    n = syscalls.call(syscalls.READ, fd, word.ctypes.data, 8, 0)
    if n == 8:
        return np.int64(min(word[0], np.uint64(_MOST)))
    return n if n < 0 else np.int64(-errno.EINVAL)


@in_both_faces(initial=integer(0, 2**32 - 1), flags=INT)
def eventfd(initial: int = 0, flags: int = 0) -> int:
    """Make an event descriptor: a count that can be read, waited for and added to; see eventfd(2).

    Parameters
    ----------
    initial : int
        The count at first, less than 2**32.
    flags : int
        EFD_NONBLOCK, EFD_SEMAPHORE. Children that execute other programs do not inherit the descriptor.

    Returns
    -------
    int
        The descriptor, which the caller closes. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `events`.

    Examples
    --------
    >>> import os
    >>> event = eventfd()
    >>> eventfd_write(event, 2), eventfd_write(event), eventfd_read(event)
    (0, 0, 3)
    >>> os.close(event)
    """
    return call(EVENTFD, 0, initial, flags | CLOEXEC, 0, 0)


@in_both_faces(fd=FD)
def eventfd_read(fd: Any) -> int:
    """Wait until the count of an event descriptor is not 0, and set it to 0.

    Parameters
    ----------
    fd : int

    Returns
    -------
    int
        What it was, at most 2**63 - 1; 1 of a semaphore, of which 1 is taken. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `events`.
    """
    return _read_word(fd)


@kernel
def _write_word(fd, n):
    word = np.empty(1, np.int64)
    word[0] = n
    done = syscalls.call(syscalls.WRITE, fd, word.ctypes.data, 8, 0) if n >= 0 else np.int64(-errno.EINVAL)
    keep(word)
    return min(done, 0)


@in_both_faces(fd=FD, n=integer(0, _MOST))
def eventfd_write(fd: Any, n: int = 1) -> int:
    """Add to the count of an event descriptor, which wakes who waits for it; wait if it would pass 2**64 - 2.

    Parameters
    ----------
    fd : int
    n : int
        From 0.

    Returns
    -------
    int
        0. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `events`.
    """
    return _write_word(fd, n)


@in_both_faces(flags=INT)
def timerfd(flags: int = 0) -> int:
    """Make a timer descriptor on the monotonic clock, which is not set; see timerfd_create(2).

    Parameters
    ----------
    flags : int
        0 or TFD_NONBLOCK. Children that execute other programs do not inherit the descriptor.

    Returns
    -------
    int
        The descriptor, which the caller closes. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `events`.

    Examples
    --------
    >>> import os
    >>> timer = timerfd()
    >>> timerfd_set(timer, 0.001), timerfd_read(timer)
    (0, 1)
    >>> os.close(timer)
    """
    return call(TIMERFD_CREATE, 0, _MONOTONIC, flags | CLOEXEC, 0, 0)


@kernel
def _timerfd_set(fd, first_ns, interval_ns):
    if first_ns < 0:
        first_ns = interval_ns = 0
    elif first_ns == 0:
        first_ns = 1  # to Linux, 0 is to stop
    words = np.empty(4, np.int64)  # struct itimerspec: the interval, then the first time
    words[0], words[1] = max(0, interval_ns) // 1_000_000_000, max(0, interval_ns) % 1_000_000_000
    words[2], words[3] = first_ns // 1_000_000_000, first_ns % 1_000_000_000
    n = call(TIMERFD_SETTIME, fd, words.ctypes.data, 0, 0, 0)
    keep(words)
    return n


@in_both_faces(fd=FD, first=SECONDS, interval=SECONDS)
def timerfd_set(fd: Any, first: float | None, interval: float | None = None) -> int:
    """Set a timer, or stop it; see timerfd_settime(2).

    Parameters
    ----------
    fd : int
    first : float or None
        Seconds from now until it expires; None stops it.
    interval : float, optional
        Seconds from one expiration to the next; by default it expires once.

    Returns
    -------
    int
        0. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `events`. ValueError in kernels, too, for numbers below 0.
    """
    return _timerfd_set(fd, nanoseconds("first", first), nanoseconds("interval", interval))


@in_both_faces(fd=FD)
def timerfd_read(fd: Any) -> int:
    """Wait until a timer expires.

    Parameters
    ----------
    fd : int

    Returns
    -------
    int
        How often it has expired since it was set or read. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `events`.
    """
    return _read_word(fd)
