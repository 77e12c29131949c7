"""Waiting for several descriptors, for other threads, and for time: the same functions in Python and in kernels.

They follow the rules of `sockets` and `syscalls`: -errno in kernels and `OSError` in Python; no GIL while they wait; a
wait goes on after a signal, with the time that is left, unless its handler raises. All times are in seconds, as floats,
but for `now_ns`.

`poll` takes an array of `POLL_DTYPE`, with a descriptor `fd`, the `events` to wait for and in `revents` those that have
come; `epoll_wait` one of `EPOLL_DTYPE`, with the `events` that have come and in `data` the number given to `epoll_ctl`.

Constants have the names and the values of Linux: POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL, POLLRDHUP;
EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT; EPOLL_CTL_ADD,
EPOLL_CTL_DEL, EPOLL_CTL_MOD; EFD_NONBLOCK, EFD_SEMAPHORE, TFD_NONBLOCK.

Linux only, but for `now_ns` and `sleep`.
"""

from __future__ import annotations

from ._sockets.polling import EPOLL_DTYPE, POLL_DTYPE, epoll_create, epoll_ctl, epoll_wait, poll
from ._sockets.timers import (
    eventfd,
    eventfd_read,
    eventfd_write,
    sleep,
    timerfd,
    timerfd_read,
    timerfd_set,
)
from ._threads.clock import now_ns

POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLNVAL, POLLRDHUP = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x2000
EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP = 0x01, 0x02, 0x04, 0x08, 0x10, 0x2000
EPOLLEXCLUSIVE, EPOLLONESHOT, EPOLLET = 1 << 28, 1 << 30, 1 << 31
EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD = 1, 2, 3
EFD_SEMAPHORE = 1
EFD_NONBLOCK = TFD_NONBLOCK = 0o4000

__all__ = [
    "EFD_NONBLOCK",
    "EFD_SEMAPHORE",
    "EPOLLERR",
    "EPOLLET",
    "EPOLLEXCLUSIVE",
    "EPOLLHUP",
    "EPOLLIN",
    "EPOLLONESHOT",
    "EPOLLOUT",
    "EPOLLPRI",
    "EPOLLRDHUP",
    "EPOLL_CTL_ADD",
    "EPOLL_CTL_DEL",
    "EPOLL_CTL_MOD",
    "EPOLL_DTYPE",
    "POLLERR",
    "POLLHUP",
    "POLLIN",
    "POLLNVAL",
    "POLLOUT",
    "POLLPRI",
    "POLLRDHUP",
    "POLL_DTYPE",
    "TFD_NONBLOCK",
    "epoll_create",
    "epoll_ctl",
    "epoll_wait",
    "eventfd",
    "eventfd_read",
    "eventfd_write",
    "now_ns",
    "poll",
    "sleep",
    "timerfd",
    "timerfd_read",
    "timerfd_set",
]
