"""liburing as Python and kernels call it: its functions, constants and C structs.

The functions come from the shared library in the package ``liburing``, which is loaded with the first `Ring`. A kernel
over a ring, new or cached, finds them, because it is linked after a ring was made. They return -errno themselves.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import importlib
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding
from numba import types
from numpy.typing import NDArray

from .._jit.compile import INTERPRETED, c_function
from .._jit.faces import compiled_as

MAX_ENTRIES = 32768  # Linux's limit, for a submission queue and for a ring of provided buffers
SQE_BUFFER_SELECT = 1 << 5  # IOSQE_BUFFER_SELECT
_CANCEL_ALL, _CANCEL_ANY = 1, 4  # IORING_ASYNC_CANCEL_ALL, IORING_ASYNC_CANCEL_ANY

#: Room for a struct io_uring: liburing 2 uses 216 bytes; later versions may use more, and cannot say how many.
URING_BYTES = 1024
BUF_BYTES = 16  #: sizeof(struct io_uring_buf), a slot of a ring of provided buffers

# struct io_uring_cqe: u64 user_data, s32 res, u32 flags.
CQE_BYTES = 16
CQE_BUFFER = 1  #: in its flags, IORING_CQE_F_BUFFER: a provided buffer was used
CQE_MORE = 2  #: in its flags, IORING_CQE_F_MORE: the operation will post further completions
CQE_BUFFER_SHIFT = 16  #: of the buffer's number in the flags, IORING_CQE_BUFFER_SHIFT

# struct io_uring_params, as u32: where Linux reports the sizes of the two queues.
PARAMS_SQ_ENTRIES, PARAMS_CQ_ENTRIES = 0, 1


def new_params() -> NDArray[np.uint32]:
    """Return a zeroed struct io_uring_params, 120 bytes: no flags."""
    return np.zeros(30, np.uint32)


def buf_reg(address: int, entries: int) -> ctypes.Array[ctypes.c_char]:
    """Return a struct io_uring_buf_reg for the ring of `entries` provided buffers at `address`, as buffer group 0.

    u64 ring_addr; u32 ring_entries; u16 bgid, flags; u64 resv[3].
    """
    return ctypes.create_string_buffer(struct.pack("QIHH3Q", address, entries, 0, 0, 0, 0, 0))


def cancel_all_reg() -> ctypes.Array[ctypes.c_char]:
    """Return a struct io_uring_sync_cancel_reg that matches all operations, with a timeout of 0: it does not wait.

    u64 addr; s32 fd; u32 flags; struct __kernel_timespec timeout; u64 pad[4].
    """
    return ctypes.create_string_buffer(struct.pack("QiI2q4Q", 0, -1, _CANCEL_ALL | _CANCEL_ANY, 0, 0, 0, 0, 0, 0))


def timespec(ns: int) -> tuple[int, int]:
    """Return the members of a struct __kernel_timespec, s64 tv_sec and tv_nsec; the same in kernels."""
    return ns // 1_000_000_000, ns % 1_000_000_000


compiled_as(timespec)(timespec)
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
    """Load liburing, for Python to call and for kernels to be linked against."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"io_uring is a part of Linux, and this system is {sys.platform}")
    try:
        path = str(importlib.import_module("liburing.liburing").__file__)
    except ImportError as error:
        raise ImportError(f"io_uring needs the package liburing: pip install 'iobuf-nb[uring]' ({error})") from error
    library = ctypes.CDLL(path)
    missing = [name for name in _FUNCTIONS.split() if not hasattr(library, name)]
    if missing:  # checked here, because a kernel linked without them crashes the process
        raise ImportError(f"io_uring needs a newer liburing: {path} has no {', '.join(missing)}")
    binding.load_library_permanently(path)
    return library


def sysctl_disabled() -> str:
    """Return the sysctl kernel.io_uring_disabled: "0", "1" or "2"; "0" also where there is none."""
    path = Path("/proc/sys/kernel/io_uring_disabled")
    return path.read_text().strip() if path.exists() else "0"


def call(name: str, *arguments: int) -> int:
    """Call a liburing function that returns an int from Python: where calls are rare, or it is too late to compile."""
    return int(getattr(_library(), name)(*map(ctypes.c_int64, arguments)))


def _function(name: str, result: types.Type, *arguments: types.Type) -> Any:
    """Return a function of liburing for kernels; the library need not be loaded yet."""
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
