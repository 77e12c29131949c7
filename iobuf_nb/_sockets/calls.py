"""System calls on sockets and event descriptors: one compiled kernel makes them all."""

from __future__ import annotations

import errno
import socket

import numpy as np

from .._jit.compile import hot, kernel
from .._threads import libc
from .._threads.clock import left_ms, now_ns
from .._threads.gil import check_signals, regain_gil, release_gil

RECVMSG, SENDMSG, RECVMMSG, SENDMMSG, ACCEPT, CONNECT, SHUTDOWN, CLOSE, GETSOCKOPT, SETSOCKOPT = range(10)
EPOLL_CREATE, EPOLL_CTL, EPOLL_WAIT, EVENTFD, TIMERFD_CREATE, TIMERFD_SETTIME = range(10, 16)

CLOEXEC = int(getattr(socket, "SOCK_CLOEXEC", 0))  # the same number for sockets, epoll, eventfd and timerfd


@kernel
def call(operation, fd, a, b, c, d):
    """Make one system call, without the GIL; return its result or -errno.

    `a` to `d` are the arguments after the descriptor, as far as the call has them, or a deadline in their place.
    """
    if fd < 0 or fd >= 2**31:  # C would truncate it to an int
        return -errno.EBADF
    while True:
        state = release_gil()
        n = np.int64(-1)
        if operation == RECVMSG:
            n = libc.recvmsg(fd, a, b)
        elif operation == SENDMSG:
            n = libc.sendmsg(fd, a, b)
        elif operation == RECVMMSG:
            n = np.int64(libc.recvmmsg(fd, a, b, c, 0))
        elif operation == SENDMMSG:
            n = np.int64(libc.sendmmsg(fd, a, b, c))
        elif operation == ACCEPT:
            n = np.int64(libc.accept4(fd, a, b, c))
        elif operation == CONNECT:
            n = np.int64(libc.connect(fd, a, b))
        elif operation == SHUTDOWN:
            n = np.int64(libc.shutdown(fd, a))
        elif operation == CLOSE:
            n = np.int64(libc.close(fd))
        elif operation == GETSOCKOPT:
            n = np.int64(libc.getsockopt(fd, a, b, c, d))
        elif operation == SETSOCKOPT:
            n = np.int64(libc.setsockopt(fd, a, b, c, d))
        elif operation == EPOLL_CREATE:
            n = np.int64(libc.epoll_create(a))
        elif operation == EPOLL_CTL:
            n = np.int64(libc.epoll_ctl(fd, a, b, c))
        elif operation == EPOLL_WAIT:
            n = np.int64(libc.epoll_wait(fd, a, b, left_ms(c)))
        elif operation == EVENTFD:
            n = np.int64(libc.eventfd(a, b))
        elif operation == TIMERFD_CREATE:
            n = np.int64(libc.timerfd_create(a, b))
        elif operation == TIMERFD_SETTIME:
            n = np.int64(libc.timerfd_settime(fd, 0, a, 0))
        if n < 0:
            n = np.int64(-libc.last_error())  # before regain_gil, which may overwrite errno
        regain_gil(state)
        if n != -errno.EINTR or operation == CLOSE:  # which is done even so, and the number may be another's by now
            return n
        check_signals()  # and again: on Linux this holds for connect(2), too, which waits on


@hot
def deadline(limit_ns):
    """Return the end of a wait of so many nanoseconds by the monotonic clock; -1 for none."""
    return np.int64(-1) if limit_ns < 0 else now_ns() + limit_ns
