"""Waiting for several descriptors at once: poll and epoll, over records as Linux has them."""

from __future__ import annotations

import errno
import platform
from typing import Any

import numpy as np

from .. import syscalls
from .._jit import check
from .._jit.compile import kernel
from .._memory.buffers import keep
from .._threads.clock import limit_ns
from .arguments import FD, SECONDS, Argument, in_both_faces, integer, many
from .calls import CLOEXEC, EPOLL_CREATE, EPOLL_CTL, EPOLL_WAIT, call, deadline

#: struct pollfd; `events` explains the fields.
POLL_DTYPE = np.dtype([("fd", np.int32), ("events", np.int16), ("revents", np.int16)])
#: struct epoll_event; likewise.
EPOLL_DTYPE = np.dtype([("events", np.uint32), ("data", np.int64)], align=platform.machine() != "x86_64")

#: Waited for, so any object with a descriptor will do.
_TARGET = Argument(
    lambda name, value: check.integer(name, value.fileno() if hasattr(value, "fileno") else value, -1, 2**31 - 1),
    FD.in_kernel,
)
_WORD = integer(-(2**63), 2**63 - 1)


@in_both_faces(records=many(POLL_DTYPE, "POLL_DTYPE"), timeout=SECONDS)
def poll(records: Any, timeout: float | None = None) -> int:
    """Wait until one of several descriptors is ready; see poll(2).

    Parameters
    ----------
    records : array of POLL_DTYPE
        Of each descriptor in `fd` the `events` are waited for, and `revents` is set. A negative `fd` is passed over.
    timeout : float, optional
        Longest wait in seconds, rounded up to milliseconds; no limit by default.

    Returns
    -------
    int
        The number of records whose `revents` is not 0; 0 after `timeout`. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `events`. ValueError in kernels, too, for a `timeout` below 0.

    Examples
    --------
    >>> import os
    >>> from iobuf_nb.events import POLLIN
    >>> reader, writer = os.pipe()
    >>> records = np.array([(reader, POLLIN, 0), (-1, 0, 0)], POLL_DTYPE)
    >>> poll(records, 0.01), os.write(writer, b"x"), poll(records), bool(records["revents"][0] == POLLIN)
    (0, 1, 1, True)
    >>> os.close(reader), os.close(writer)
    (None, None)
    """
    return syscalls.call(syscalls.POLL_IN, 0, records.ctypes.data, len(records), deadline(limit_ns(True, timeout)))


@in_both_faces()
def epoll_create() -> int:
    """Make an epoll instance, which waits for any number of descriptors; see epoll(7).

    Returns
    -------
    int
        Its descriptor, which the caller closes. In a kernel also -errno.

    Raises
    ------
    OSError
        In Python, as for every function of `events`.
    """
    return call(EPOLL_CREATE, 0, CLOEXEC, 0, 0, 0)


@kernel
def _epoll_ctl(fd, operation, target, events, data):
    if target < 0 or target >= 2**31:
        return np.int64(-errno.EBADF)
    record = np.empty(1, EPOLL_DTYPE)
    record[0]["events"], record[0]["data"] = events & 0xFFFFFFFF, data
    n = call(EPOLL_CTL, fd, operation, target, record.ctypes.data, 0)
    keep(record)
    return n


@in_both_faces(fd=FD, operation=integer(1, 3), target=_TARGET, events=integer(0, 2**32 - 1), data=_WORD)
def epoll_ctl(fd: Any, operation: int, target: Any, events: int = 0, data: int = 0) -> int:
    """Add a descriptor to an epoll instance, change what is waited for, or remove it; see epoll_ctl(2).

    Parameters
    ----------
    fd : int
        Of the epoll instance.
    operation : int
        EPOLL_CTL_ADD, EPOLL_CTL_MOD or EPOLL_CTL_DEL.
    target : int
        The descriptor; in Python also an object with ``fileno()``, which must stay open.
    events : int
        Such as EPOLLIN | EPOLLET.
    data : int
        Stands in the entries of `epoll_wait`: the descriptor again, or a number of your own.

    Returns
    -------
    int
        0. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `events`.
    """
    return _epoll_ctl(fd, operation, target, events, data)


@in_both_faces(fd=FD, ready=many(EPOLL_DTYPE, "EPOLL_DTYPE"), timeout=SECONDS)
def epoll_wait(fd: Any, ready: Any, timeout: float | None = None) -> int:
    """Wait until a descriptor of an epoll instance is ready; see epoll_wait(2).

    Parameters
    ----------
    fd : int
        Of the epoll instance.
    ready : array of EPOLL_DTYPE
        Of at least one; the first are set, one for each descriptor that is ready.
    timeout : float, optional
        Longest wait in seconds, rounded up to milliseconds; no limit by default.

    Returns
    -------
    int
        How many entries are set; 0 after `timeout`. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `events`. ValueError in kernels, too, for a `timeout` below 0.

    Examples
    --------
    >>> import os
    >>> from iobuf_nb.events import EPOLL_CTL_ADD, EPOLLIN, eventfd, eventfd_write
    >>> waiting, event, ready = epoll_create(), eventfd(), np.zeros(8, EPOLL_DTYPE)
    >>> epoll_ctl(waiting, EPOLL_CTL_ADD, event, EPOLLIN, 42)
    0
    >>> epoll_wait(waiting, ready, 0.0), eventfd_write(event), epoll_wait(waiting, ready), int(ready["data"][0])
    (0, 0, 1, 42)
    >>> os.close(waiting), os.close(event)
    (None, None)
    """
    return call(EPOLL_WAIT, fd, ready.ctypes.data, len(ready), deadline(limit_ns(True, timeout)), 0)
