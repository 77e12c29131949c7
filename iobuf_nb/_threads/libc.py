"""The C library's functions, declared once: kernels link them by name; with the JIT off they go through ctypes.

On failure most of them return -1 and set errno, which `last_error` must read at once.
"""

from __future__ import annotations

import ctypes
import platform
import sys

import numpy as np
from numba import types

from .._jit.compile import c_function
from .._jit.faces import compiled_as

# Numbers of the system calls that the C library does not wrap, futex(2) and membarrier(2); -1 if not available. Other
# numbers of Linux here (FIONREAD, MAP_NORESERVE, O_NONBLOCK, SO_TIMESTAMPNS) are those of these machines, too.
_NUMBERS = {"x86_64": (202, 324), "aarch64": (98, 283), "riscv64": (98, 283)}
FUTEX, MEMBARRIER = _NUMBERS.get(platform.machine(), (-1, -1)) if sys.platform == "linux" else (-1, -1)

syscall = c_function("syscall", types.int64, *[types.int64] * 7)
clock_gettime = c_function("clock_gettime", types.int32, types.int32, types.int64)
sched_yield = c_function("sched_yield", types.int32)
usleep = c_function("usleep", types.int32, types.uint32)
getpid = c_function("getpid", types.int32)
pthread_self = c_function("pthread_self", types.int64)
ioctl = c_function("ioctl", types.int32, types.int32, types.int64, types.int64)
_two = types.int64, types.int32, types.int64, types.int64
_three = (*_two, types.int64)
read = c_function("read", *_two)
write = c_function("write", *_two)
pread = c_function("pread", *_three)
pwrite = c_function("pwrite", *_three)
readv = c_function("readv", *_two)
writev = c_function("writev", *_two)
preadv = c_function("preadv", *_three)
pwritev = c_function("pwritev", *_three)
recv = c_function("recv", *_three)
send = c_function("send", *_three)
poll = c_function("poll", types.int32, types.int64, types.int64, types.int32)
_fd_address = types.int32, types.int64
recvmsg = c_function("recvmsg", types.int64, *_fd_address, types.int32)
sendmsg = c_function("sendmsg", types.int64, *_fd_address, types.int32)
recvmmsg = c_function("recvmmsg", types.int32, *_fd_address, types.uint32, types.int32, types.int64)
sendmmsg = c_function("sendmmsg", types.int32, *_fd_address, types.uint32, types.int32)
accept4 = c_function("accept4", types.int32, *_fd_address, types.int64, types.int32)
connect = c_function("connect", types.int32, *_fd_address, types.uint32)
shutdown = c_function("shutdown", types.int32, types.int32, types.int32)
getsockopt = c_function("getsockopt", *[types.int32] * 4, types.int64, types.int64)
setsockopt = c_function("setsockopt", *[types.int32] * 4, types.int64, types.uint32)
epoll_create = c_function("epoll_create1", types.int32, types.int32)
epoll_ctl = c_function("epoll_ctl", *[types.int32] * 4, types.int64)
epoll_wait = c_function("epoll_wait", types.int32, *_fd_address, types.int32, types.int32)
eventfd = c_function("eventfd", types.int32, types.uint32, types.int32)
timerfd_create = c_function("timerfd_create", types.int32, types.int32, types.int32)
timerfd_settime = c_function("timerfd_settime", *[types.int32] * 3, types.int64, types.int64)

_errno = types.ExternalFunction(
    "__error" if sys.platform == "darwin" else "__errno_location", types.CPointer(types.int32)()
)


@compiled_as(lambda: np.int64(_errno()[0]))
def last_error() -> int:
    """Return errno; any other call may overwrite it."""
    return ctypes.get_errno()


memcpy = c_function("memcpy", *[types.int64] * 4)
memset = c_function("memset", types.int64, types.int64, types.int32, types.int64)
memcmp = c_function("memcmp", types.int32, *[types.int64] * 3)
memchr = c_function("memchr", types.int64, types.int64, types.int32, types.int64)
memrchr = c_function("memrchr", types.int64, types.int64, types.int32, types.int64)
memmem = c_function("memmem", *[types.int64] * 5)
open_path = c_function("open", types.int32, types.int64, types.int32, types.int32)
close = c_function("close", types.int32, types.int32)
lseek = c_function("lseek", types.int64, types.int32, types.int64, types.int32)
fcntl = c_function("fcntl", types.int32, types.int32, types.int32, types.int64)
mmap = c_function("mmap", types.int64, types.int64, types.int64, types.int32, types.int32, types.int32, types.int64)
munmap = c_function("munmap", types.int32, types.int64, types.int64)
statx = c_function("statx", types.int32, types.int32, types.int64, types.int32, types.int32, types.int64)
