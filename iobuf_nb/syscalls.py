"""System calls for kernels: each returns a count, or -errno. None takes or needs the GIL.

They take file descriptors and raw addresses, and block as their manual pages say. errno is read by the very function
that made the call, before anything else can overwrite it.
"""

from __future__ import annotations

import sys

import numpy as np
from numba import types

from ._jit import kernel

_readv = types.ExternalFunction("readv", types.intp(types.int32, types.intp, types.int32))
_preadv = types.ExternalFunction("preadv", types.intp(types.int32, types.intp, types.int32, types.int64))
_poll = types.ExternalFunction("poll", types.int32(types.intp, types.uint64, types.int32))
_errno = types.ExternalFunction(
    "__error" if sys.platform == "darwin" else "__errno_location", types.CPointer(types.int32)()
)

_POLLIN = 1


@kernel
def readv(fd, iovec, count):
    """Read into `count` iovecs at address `iovec`; bytes read, 0 at the end, or -errno. See readv(2)."""
    n = _readv(fd, iovec, count)
    return n if n >= 0 else -np.int64(_errno()[0])


@kernel
def preadv(fd, iovec, count, offset):
    """Read into `count` iovecs from `offset`, leaving the file's own position alone; else like `readv`."""
    n = _preadv(fd, iovec, count, offset)
    return n if n >= 0 else -np.int64(_errno()[0])


@kernel
def poll_in(fd, timeout_ms):
    """Wait until `fd` can be read or has ended: 1, 0 when `timeout_ms` is over, or -errno. See poll(2)."""
    request = np.empty(1, np.uint64)  # struct pollfd: int fd, short events, short revents
    request[0] = np.uint64(np.uint32(fd)) | np.uint64(_POLLIN) << np.uint64(32)
    n = _poll(request.ctypes.data, np.uint64(1), timeout_ms)
    return np.int64(n) if n >= 0 else -np.int64(_errno()[0])
