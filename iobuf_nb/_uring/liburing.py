"""liburing: its functions and constants, as kernels and Python call them.

The functions come from the shared library of the package ``liburing``. It is loaded with the first `Ring`: a kernel
over a ring, new or from the cache, finds them because it is linked after its argument was made. They return -errno
themselves.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib
import sys
from typing import Any

from llvmlite import binding
from numba import types

from .._jit.compile import INTERPRETED, c_function

MAX_ENTRIES = 32768  # the kernel's limit, of a submission queue and of a ring of provided buffers alike
CQE_BUFFER, CQE_MORE = 1, 2  # IORING_CQE_F_BUFFER, IORING_CQE_F_MORE
SQE_BUFFER_SELECT = 1 << 5  # IOSQE_BUFFER_SELECT
CANCEL_ALL = 1 | 4  # IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY

_FUNCTIONS = """
    io_uring_buf_ring_add io_uring_buf_ring_advance io_uring_cq_advance io_uring_get_sqe io_uring_peek_batch_cqe
    io_uring_prep_nop io_uring_prep_read_fixed io_uring_prep_recv_multishot io_uring_prep_write_fixed
    io_uring_queue_exit io_uring_queue_init_params io_uring_register_buf_ring io_uring_register_buffers
    io_uring_register_sync_cancel io_uring_sq_ready io_uring_sqe_set_buf_group io_uring_sqe_set_data64
    io_uring_sqe_set_flags io_uring_submit io_uring_submit_and_wait_timeout io_uring_unregister_buf_ring
    io_uring_unregister_buffers
"""


@functools.cache
def _library() -> ctypes.CDLL:
    """Load liburing, for kernels to be linked with and for Python."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"io_uring is a part of Linux, and this system is {sys.platform}")
    try:
        path = str(importlib.import_module("liburing.liburing").__file__)
    except ImportError as error:
        raise ImportError(f"io_uring needs the package liburing: pip install 'iobuf-nb[uring]' ({error})") from error
    library = ctypes.CDLL(path)
    missing = [name for name in _FUNCTIONS.split() if not hasattr(library, name)]
    if missing:  # found out here, because a kernel that is linked without them takes the process with it
        raise ImportError(f"io_uring needs a newer liburing: {path} has no {', '.join(missing)}")
    binding.load_library_permanently(path)
    return library


def call(name: str, *arguments: int) -> int:
    """Call a function of liburing that returns an int from Python: where it is rare, or too late to compile."""
    return int(getattr(_library(), name)(*map(ctypes.c_int64, arguments)))


def _function(name: str, result: types.Type, *arguments: types.Type) -> Any:
    """Return a function of liburing as kernels call it; it need not be there yet."""
    if not INTERPRETED:
        return c_function(name, result, *arguments)
    return lambda *values: c_function(name, result, *arguments, library=_library()._name)(*values)


_int, _long, _void = types.int32, types.int64, types.void
get_sqe = _function("io_uring_get_sqe", _long, _long)
prep_read_fixed = _function("io_uring_prep_read_fixed", _void, _long, _int, _long, _int, _long, _int)
prep_write_fixed = _function("io_uring_prep_write_fixed", _void, _long, _int, _long, _int, _long, _int)
prep_recv_multishot = _function("io_uring_prep_recv_multishot", _void, _long, _int, _long, _long, _int)
sqe_set_data = _function("io_uring_sqe_set_data64", _void, _long, _long)
sqe_set_flags = _function("io_uring_sqe_set_flags", _void, _long, _int)
sqe_set_buf_group = _function("io_uring_sqe_set_buf_group", _void, _long, _int)
submit = _function("io_uring_submit", _int, _long)
submit_and_wait = _function("io_uring_submit_and_wait_timeout", _int, _long, _long, _int, _long, _long)
peek_batch_cqe = _function("io_uring_peek_batch_cqe", _int, _long, _long, _int)
cq_advance = _function("io_uring_cq_advance", _void, _long, _int)
buf_ring_add = _function("io_uring_buf_ring_add", _void, _long, _long, _int, _int, _int, _int)
buf_ring_advance = _function("io_uring_buf_ring_advance", _void, _long, _int)
