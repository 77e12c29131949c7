"""System calls on files, pipes and sockets: the same functions in Python and in kernels.

In a kernel each returns a count, or -errno; from Python the error is raised as an `OSError`. None of them holds the GIL
while it waits, also in a kernel that does; one that a signal interrupts is made again, once Python's handlers have run,
and ends with what they raise. They block as their manual pages say.

A *buffer* is any contiguous array, in Python anything bytes-like. An *iovec* is an array of `IOVEC_DTYPE`: in a kernel
any, in Python an `IoVec`, which keeps its memory alive, or a sequence of buffers. More entries than the system takes at
once (IOV_MAX, 1024) become several calls, of which the last may be short. The ``_full`` variants go on after a short
transfer until all is done. What they return is less only at the end of a file or stream, or where an error came after
some bytes: the next call then reports it.

A file is a descriptor, in Python also a socket or a raw file (``open(..., buffering=0)``). A buffered file stands
elsewhere than its descriptor: it is taken where an offset is given, its own writes first. What decodes, such as gzip
or text, and any other object with ``fileno()`` raises TypeError.

An argument that is out of its range raises ValueError, and one of another kind TypeError, before anything is called.

With the JIT off (``NUMBA_DISABLE_JIT``) a kernel is Python, and gets the errors raised too.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import types
from numba.core import errors
from numba.extending import overload

from ._jit import check
from ._jit.check_in_kernels import require_integer
from ._jit.compile import INTERPRETED, kernel
from ._jit.faces import kernel_overload
from ._jit.refusals import refusing
from ._memory.buffers import memory_of
from ._memory.files import descriptor
from ._memory.iovec import (
    IOVEC_DTYPE,
    IoVec,
    advance_iovec,
    check_iovec,
    iovec_of,
    keeps_nothing,
    require_iovec,
    require_writable,
)
from ._threads import libc
from ._threads.clock import now_ns
from ._threads.gil import check_signals, regain_gil, release_gil

__all__ = [
    "poll_in",
    "pread",
    "pread_full",
    "preadv",
    "preadv_full",
    "pwrite",
    "pwrite_full",
    "pwritev",
    "pwritev_full",
    "read",
    "read_full",
    "readv",
    "readv_full",
    "recv",
    "recv_full",
    "send",
    "send_full",
    "write",
    "write_full",
    "writev",
    "writev_full",
]

IOV_MAX = 1024
READ, WRITE, PREAD, PWRITE, READV, WRITEV, PREADV, PWRITEV, RECV, SEND, POLL_IN = range(11)


@kernel
def call(operation, fd, address, count, last):
    """Make one system call: a count or -errno. `last` is the offset, the flags or the time to end; others ignore it.

    All arguments are integers and one kernel serves all calls, so that it is compiled once.
    """
    if fd < 0 or fd >= 2**31:  # C would take the low half of it for a descriptor, and poll(2) would wait for ever
        return -errno.EBADF
    while True:
        state = release_gil()
        if operation == READ:
            n = libc.read(fd, address, count)
        elif operation == WRITE:
            n = libc.write(fd, address, count)
        elif operation == PREAD:
            n = libc.pread(fd, address, count, last)
        elif operation == PWRITE:
            n = libc.pwrite(fd, address, count, last)
        elif operation == READV:
            n = libc.readv(fd, address, count)
        elif operation == WRITEV:
            n = libc.writev(fd, address, count)
        elif operation == PREADV:
            n = libc.preadv(fd, address, count, last)
        elif operation == PWRITEV:
            n = libc.pwritev(fd, address, count, last)
        elif operation == RECV:
            n = libc.recv(fd, address, count, last)
        elif operation == SEND:
            n = libc.send(fd, address, count, last)
        else:
            left_ms = -1 if last < 0 else max(0, last - now_ns() + 999_999) // 1_000_000
            n = np.int64(libc.poll(address, count, left_ms))
        if n < 0:
            n = -libc.last_error()  # at once, before the GIL comes back
        regain_gil(state)
        if n != -errno.EINTR:
            return n
        check_signals()


@kernel
def call_full(operation, fd, address, count, last):
    """Repeat `call` until `count` bytes are done or nothing more can be: the bytes done, or -errno if none."""
    moves = operation in (PREAD, PWRITE)
    done = 0
    while True:
        n = call(operation, fd, address + done, count - done, last + done if moves else last)
        if n <= 0:
            return done if done > 0 else n
        done += n
        if done >= count:
            return done
        check_signals()  # perhaps it was one that cut this call short, and the next may block


@kernel
def call_vector(operation, fd, iovec, offset):
    """Make one system call for every IOV_MAX entries, as long as they are not short."""
    done = 0
    first = 0
    while True:
        part = iovec[first : first + IOV_MAX]
        n = call(operation, fd, part.ctypes.data, len(part), offset + done)
        if n < 0:
            return done if done > 0 else n
        done += n
        first += len(part)
        total = 0
        for k in range(len(part)):
            total += part[k]["len"]
        if first >= len(iovec) or n < total:
            return done


@kernel
def call_vector_full(operation, fd, iovec, offset):
    """Repeat `call_vector`, with an iovec of its own, as `call_full` does."""
    rest = iovec.copy()
    done = 0
    while True:
        n = call_vector(operation, fd, rest, offset + done)
        if n <= 0:
            return done if done > 0 else n
        done += n
        rest = rest[advance_iovec(rest, n) :]
        if len(rest) == 0:
            return done
        check_signals()


Function = TypeVar("Function", bound=Callable[..., int])


def _system_call(into: bool) -> Callable[[Function], Function]:
    """Make a kernel's body, with a `buffer` or an `iovec` for its second argument, the function of that name.

    `into`: it writes into that memory.
    """

    def declare(body: Function) -> Function:
        signature = inspect.signature(body)
        vectored = "iovec" in signature.parameters
        third = [*signature.parameters][-1]
        limit = 2**31 if third == "flags" else 2**63
        at_offset = third == "offset"

        @functools.wraps(body)
        def from_python(*arguments: Any, **named: Any) -> int:
            if named or len(arguments) < 2:
                arguments = signature.bind(*arguments, **named).args
            fd, memory, *last = arguments
            memory = _as_iovec(memory, into) if vectored else memory_of("buffer", memory, into)
            last = [check.integer(third, value, -limit, limit - 1) for value in last]
            n = body(as_descriptor(fd, at_offset), memory, *last)
            if n < 0:
                raise OSError(-n, os.strerror(-n))
            return n

        def choose(*arguments: Any, **named: Any) -> Any:
            fd, memory, *last = signature.bind(*arguments, **named).args
            _require_integers(("fd", fd), *((third, value) for value in last))
            if vectored:
                require_iovec(memory)
            elif not (isinstance(memory, types.Array) and memory.layout == "C"):
                raise errors.TypingError(f"buffer must be a contiguous array in a kernel, not {memory}")
            elif into and not memory.mutable:
                raise errors.TypingError(f"buffer must be a writable array, to be read into, not {memory}")
            return body

        choose.__signature__ = signature  # type: ignore[attr-defined]
        overload(from_python, strict=False)(refusing(choose, body.__name__))
        return from_python  # type: ignore[return-value]

    return declare


def _require_integers(*arguments: tuple[str, Any]) -> None:
    """Refuse, while a kernel is compiled, what is no integer and would be cut to one."""
    for name, value in arguments:
        require_integer(name, value, " in a kernel")


def as_descriptor(fd: Any, at_offset: bool) -> int:
    """Return a file descriptor, or that of a file to read or write at an offset or where it stands, as an int."""
    if hasattr(fd, "fileno"):
        return descriptor("fd", fd, at_offset)
    return check.integer("fd", fd, -1, 2**31 - 1)


def _as_iovec(iovec: Any, into: bool) -> Any:
    if not isinstance(iovec, np.ndarray) or iovec.dtype != IOVEC_DTYPE:
        return iovec_of("iovec", iovec, into)
    check_iovec(iovec)
    if len(iovec) and (iovec["len"].min() < 0 or iovec["len"].sum(dtype=float) >= 2.0**63):
        raise ValueError("iovec must have lengths from 0 up, of less than 2**63 bytes (SSIZE_MAX) in all")
    if into:
        require_writable(iovec)
    if not isinstance(iovec, IoVec) and iovec["len"].any() and not INTERPRETED:  # where kernels are Python, they may
        raise keeps_nothing(iovec)
    return iovec


@_system_call(into=True)
def read(fd: Any, buffer: Any) -> int:
    """Read up to a buffer's length, from where the file stands: bytes read, 0 at the end. See read(2).

    Examples
    --------
    >>> buffer = bytearray(3)
    >>> with open("/dev/zero", "rb", buffering=0) as zeros:
    ...     read(zeros, buffer)
    3
    """
    return call(READ, fd, buffer.ctypes.data, buffer.nbytes, 0)


@_system_call(into=True)
def read_full(fd: Any, buffer: Any) -> int:
    """Read until the buffer is full or the file ends."""
    return call_full(READ, fd, buffer.ctypes.data, buffer.nbytes, 0)


@_system_call(into=False)
def write(fd: Any, buffer: Any) -> int:
    """Write a buffer where the file stands: bytes written. See write(2)."""
    return call(WRITE, fd, buffer.ctypes.data, buffer.nbytes, 0)


@_system_call(into=False)
def write_full(fd: Any, buffer: Any) -> int:
    """Write all of a buffer."""
    return call_full(WRITE, fd, buffer.ctypes.data, buffer.nbytes, 0)


@_system_call(into=True)
def pread(fd: Any, buffer: Any, offset: int) -> int:
    """Read like `read`, but from byte `offset` of the file, whose own position stays. See pread(2)."""
    return call(PREAD, fd, buffer.ctypes.data, buffer.nbytes, offset)


@_system_call(into=True)
def pread_full(fd: Any, buffer: Any, offset: int) -> int:
    """Read from byte `offset` of the file until the buffer is full or the file ends."""
    return call_full(PREAD, fd, buffer.ctypes.data, buffer.nbytes, offset)


@_system_call(into=False)
def pwrite(fd: Any, buffer: Any, offset: int) -> int:
    """Write like `write`, but at byte `offset` of the file, whose own position stays. See pwrite(2)."""
    return call(PWRITE, fd, buffer.ctypes.data, buffer.nbytes, offset)


@_system_call(into=False)
def pwrite_full(fd: Any, buffer: Any, offset: int) -> int:
    """Write all of a buffer at byte `offset` of the file."""
    return call_full(PWRITE, fd, buffer.ctypes.data, buffer.nbytes, offset)


@_system_call(into=True)
def readv(fd: Any, iovec: Any) -> int:
    """Read into the pieces of an iovec, one after the other: bytes read, 0 at the end. See readv(2).

    Examples
    --------
    >>> import os
    >>> reader, writer = os.pipe()
    >>> writev(writer, [b"one", b"two"])
    6
    >>> pieces = bytearray(2), bytearray(10)
    >>> readv(reader, pieces), pieces[0], pieces[1][:4]
    (6, bytearray(b'on'), bytearray(b'etwo'))
    >>> os.close(reader), os.close(writer)
    (None, None)
    """
    return call_vector(READV, fd, iovec, 0)


@_system_call(into=True)
def readv_full(fd: Any, iovec: Any) -> int:
    """Read until all pieces are full or the file ends."""
    return call_vector_full(READV, fd, iovec, 0)


@_system_call(into=False)
def writev(fd: Any, iovec: Any) -> int:
    """Write the pieces of an iovec, one after the other: bytes written. See writev(2)."""
    return call_vector(WRITEV, fd, iovec, 0)


@_system_call(into=False)
def writev_full(fd: Any, iovec: Any) -> int:
    """Write all of all pieces."""
    return call_vector_full(WRITEV, fd, iovec, 0)


@_system_call(into=True)
def preadv(fd: Any, iovec: Any, offset: int) -> int:
    """Read like `readv`, but from byte `offset` of the file, whose own position stays. See preadv(2)."""
    return call_vector(PREADV, fd, iovec, offset)


@_system_call(into=True)
def preadv_full(fd: Any, iovec: Any, offset: int) -> int:
    """Read from byte `offset` of the file until all pieces are full or the file ends."""
    return call_vector_full(PREADV, fd, iovec, offset)


@_system_call(into=False)
def pwritev(fd: Any, iovec: Any, offset: int) -> int:
    """Write like `writev`, but at byte `offset` of the file, whose own position stays. See pwritev(2)."""
    return call_vector(PWRITEV, fd, iovec, offset)


@_system_call(into=False)
def pwritev_full(fd: Any, iovec: Any, offset: int) -> int:
    """Write all of all pieces at byte `offset` of the file."""
    return call_vector_full(PWRITEV, fd, iovec, offset)


@_system_call(into=True)
def recv(fd: Any, buffer: Any, flags: int = 0) -> int:
    """Receive up to a buffer's length from a socket: bytes received, 0 at the end. See recv(2)."""
    return call(RECV, fd, buffer.ctypes.data, buffer.nbytes, flags)


@_system_call(into=True)
def recv_full(fd: Any, buffer: Any, flags: int = 0) -> int:
    """Receive until the buffer is full or the stream ends."""
    return call_full(RECV, fd, buffer.ctypes.data, buffer.nbytes, flags)


@_system_call(into=False)
def send(fd: Any, buffer: Any, flags: int = 0) -> int:
    """Send a buffer over a socket: bytes sent. See send(2)."""
    return call(SEND, fd, buffer.ctypes.data, buffer.nbytes, flags)


@_system_call(into=False)
def send_full(fd: Any, buffer: Any, flags: int = 0) -> int:
    """Send all of a buffer."""
    return call_full(SEND, fd, buffer.ctypes.data, buffer.nbytes, flags)


_POLLIN = 1


@kernel
def _poll_in(fd, timeout_ms):
    request = np.empty(1, np.int64)  # struct pollfd: int fd, short events, short revents
    request[0] = fd | _POLLIN << 32
    end = -1 if timeout_ms < 0 else now_ns() + timeout_ms * 1_000_000
    return call(POLL_IN, fd, request.ctypes.data, 1, end)


def poll_in(fd: Any, timeout_ms: int) -> int:
    """Wait until a file descriptor can be read, or has ended or failed, for at most `timeout_ms`; -1: for ever.

    In Python `fd` may be any object with ``fileno()``; what that has read ahead does not count.

    Returns
    -------
    int
        1, or 0 if the time is over. In a kernel also -errno.
    """
    fd = fd.fileno() if hasattr(fd, "fileno") else fd
    n = _poll_in(check.integer("fd", fd, -1, 2**31 - 1), check.integer("timeout_ms", timeout_ms, -1, 2**31 - 1))
    if n < 0:
        raise OSError(-n, os.strerror(-n))
    return n


@kernel_overload(poll_in)
def _poll_in_in_kernel(fd: Any, timeout_ms: Any) -> Any:
    _require_integers(("fd", fd), ("timeout_ms", timeout_ms))
    return lambda fd, timeout_ms: _poll_in(fd, timeout_ms)
