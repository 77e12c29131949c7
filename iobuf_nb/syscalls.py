"""System calls on files, pipes and sockets: the same functions in Python and in kernels.

All functions follow the same rules:

Results and errors
    In a kernel they return a count, or -errno; in Python an error is raised as an `OSError`. Invalid arguments raise
    TypeError or ValueError in Python before any call is made; in kernels their types are checked when the kernel is
    compiled. With the JIT off (``NUMBA_DISABLE_JIT``) kernels are Python, and errors are raised there too.
Blocking
    They block as their manual pages say. While they block they do not hold the GIL, even in a kernel compiled without
    ``nogil``. A call interrupted by a signal (EINTR) is repeated after Python's signal handlers have run, unless a
    handler raises. They are thread-safe, as the system calls are.
fd
    A file descriptor (int); in Python also a socket or a raw file (``open(..., buffering=0)``). The position of a
    buffered file differs from that of its descriptor, so it is accepted only by functions that take an offset, and is
    flushed first. Files that decode, such as gzip or text, and any other object with ``fileno()`` raise TypeError.
buffer
    A contiguous array, of any dtype and shape; in Python also anything bytes-like. Writable, if it is read into.
iovec
    An array of `IOVEC_DTYPE`, 1-D and contiguous; in Python an `IoVec`, which keeps its memory alive, or a sequence of
    buffers. More entries than the system takes at once (IOV_MAX, 1024) are split into several calls, of which the last
    may be short.
_full variants
    They continue after a short transfer until all bytes are done. The result is less only at the end of the file or
    stream, or if an error occurs after some bytes; the next call then reports the error.
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

from ._jit import check
from ._jit.check_in_kernels import require_integer
from ._jit.compile import INTERPRETED, kernel
from ._jit.faces import kernel_overload
from ._memory.buffers import keep, memory_of
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
from ._threads.clock import left_ms, now_ns
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
    """Make one system call; return a count or -errno. `last` is the offset, the flags or the deadline, if it has one.

    All arguments are integers and one kernel serves all calls, so that it is compiled only once.
    """
    if fd < 0 or fd >= 2**31:  # C would truncate it to an int, and poll(2) would wait for ever on a negative one
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
            n = np.int64(libc.poll(address, count, left_ms(last)))
        if n < 0:
            n = -libc.last_error()  # before regain_gil, which may overwrite errno
        regain_gil(state)
        if n != -errno.EINTR:
            return n
        check_signals()


@kernel
def call_full(operation, fd, address, count, last):
    """Repeat `call` until `count` bytes are done, the end or an error; return the bytes done, or else -errno."""
    moves = operation in (PREAD, PWRITE)
    done = 0
    while True:
        n = call(operation, fd, address + done, count - done, last + done if moves else last)
        if n <= 0:
            return done if done > 0 else n
        done += n
        if done >= count:
            return done
        check_signals()  # a signal may have cut this call short, and the next may block


@kernel
def call_vector(operation, fd, iovec, offset):
    """Make one system call for every IOV_MAX entries, up to the first that is short; return as `call_full` does."""
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
    """Repeat `call_vector`, on a copy of the iovec, as `call_full` does."""
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
    """Turn the body of a kernel, which takes a `buffer` or an `iovec`, into a function for Python and kernels.

    `into` means that the call writes into that memory.
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
            memory = as_iovec(memory, into) if vectored else memory_of("buffer", memory, into)
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
        kernel_overload(from_python)(choose)
        return from_python  # type: ignore[return-value]

    return declare


def _require_integers(*arguments: tuple[str, Any]) -> None:
    """Raise TypingError at compile time for arguments that are not integers, which C would truncate."""
    for name, value in arguments:
        require_integer(name, value, " in a kernel")


def as_descriptor(fd: Any, at_offset: bool) -> int:
    """Return a file descriptor, or that of a file object for I/O at an offset or at its position, as an int."""
    if hasattr(fd, "fileno"):
        return descriptor("fd", fd, at_offset)
    return check.integer("fd", fd, -1, 2**31 - 1)


def as_iovec(iovec: Any, into: bool) -> Any:
    """Return an iovec, or one made of a sequence of buffers; TypeError or ValueError if it is not valid."""
    if not isinstance(iovec, np.ndarray) or iovec.dtype != IOVEC_DTYPE:
        return iovec_of("iovec", iovec, into)
    check_iovec(iovec)
    if len(iovec) and (iovec["len"].min() < 0 or iovec["len"].sum(dtype=float) >= 2.0**63):
        raise ValueError("iovec must have lengths >= 0 and a total of less than 2**63 bytes (SSIZE_MAX)")
    if into:
        require_writable(iovec)
    if not isinstance(iovec, IoVec) and iovec["len"].any() and not INTERPRETED:  # interpreted kernels may pass them
        raise keeps_nothing(iovec)
    return iovec


@_system_call(into=True)
def read(fd: Any, buffer: Any) -> int:
    """Read once into a buffer, from the current position of the file; see read(2).

    Parameters
    ----------
    fd : int, socket or raw file
    buffer : writable contiguous array or bytes-like

    Returns
    -------
    int
        Bytes read, at most the size of the buffer; 0 at the end of the file. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of this module.

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
    """Read until the buffer is full or the file ends; parameters and errors as in `read`.

    Examples
    --------
    >>> with open("/dev/zero", "rb", buffering=0) as zeros:
    ...     read_full(zeros, bytearray(100))
    100
    """
    return call_full(READ, fd, buffer.ctypes.data, buffer.nbytes, 0)


@_system_call(into=False)
def write(fd: Any, buffer: Any) -> int:
    """Write a buffer once, at the current position of the file; see write(2).

    Parameters
    ----------
    fd : int, socket or raw file
    buffer : contiguous array or bytes-like

    Returns
    -------
    int
        Bytes written, which may be fewer than the buffer has. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of this module.

    Examples
    --------
    >>> with open("/dev/null", "wb", buffering=0) as null:
    ...     write(null, b"abc")
    3
    """
    return call(WRITE, fd, buffer.ctypes.data, buffer.nbytes, 0)


@_system_call(into=False)
def write_full(fd: Any, buffer: Any) -> int:
    """Write a whole buffer, at the current position of the file; parameters and errors as in `write`.

    Examples
    --------
    >>> with open("/dev/null", "wb", buffering=0) as null:
    ...     write_full(null, np.zeros((10, 8)))
    640
    """
    return call_full(WRITE, fd, buffer.ctypes.data, buffer.nbytes, 0)


@_system_call(into=True)
def pread(fd: Any, buffer: Any, offset: int) -> int:
    """Read like `read`, but from byte `offset` of the file, without changing its position; see pread(2).

    Parameters
    ----------
    fd : int, raw or buffered file
    buffer : writable contiguous array or bytes-like
    offset : int
        From 0; the file must be seekable.

    Returns
    -------
    int
        Bytes read, at most the size of the buffer; 0 at the end of the file. In a kernel also -errno.

    Examples
    --------
    >>> import tempfile
    >>> buffer = bytearray(3)
    >>> with tempfile.TemporaryFile() as file:
    ...     pwrite(file, b"abcdef", 0), pread(file, buffer, 2), buffer
    (6, 3, bytearray(b'cde'))
    """
    return call(PREAD, fd, buffer.ctypes.data, buffer.nbytes, offset)


@_system_call(into=True)
def pread_full(fd: Any, buffer: Any, offset: int) -> int:
    """Read from byte `offset` of the file until the buffer is full or the file ends; otherwise like `pread`."""
    return call_full(PREAD, fd, buffer.ctypes.data, buffer.nbytes, offset)


@_system_call(into=False)
def pwrite(fd: Any, buffer: Any, offset: int) -> int:
    """Write like `write`, but at byte `offset` of the file, without changing its position; see pwrite(2).

    Parameters
    ----------
    fd : int, raw or buffered file
    buffer : contiguous array or bytes-like
    offset : int
        From 0; the file must be seekable.

    Returns
    -------
    int
        Bytes written, which may be fewer than the buffer has. In a kernel also -errno.
    """
    return call(PWRITE, fd, buffer.ctypes.data, buffer.nbytes, offset)


@_system_call(into=False)
def pwrite_full(fd: Any, buffer: Any, offset: int) -> int:
    """Write a whole buffer at byte `offset` of the file; otherwise like `pwrite`."""
    return call_full(PWRITE, fd, buffer.ctypes.data, buffer.nbytes, offset)


@_system_call(into=True)
def readv(fd: Any, iovec: Any) -> int:
    """Read into the buffers of an iovec, filling one after the other; see readv(2).

    Parameters
    ----------
    fd : int, socket or raw file
    iovec : IoVec or sequence of buffers
        Over writable memory without overlaps. In a kernel, an array of `IOVEC_DTYPE`.

    Returns
    -------
    int
        Bytes read, at most the total of the iovec; 0 at the end of the file. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of this module.

    Examples
    --------
    >>> import os
    >>> reader, writer = os.pipe()
    >>> writev(writer, [b"one", b"two"])
    6
    >>> buffers = bytearray(2), bytearray(10)
    >>> readv(reader, buffers), buffers[0], buffers[1][:4]
    (6, bytearray(b'on'), bytearray(b'etwo'))
    >>> os.close(reader), os.close(writer)
    (None, None)
    """
    return call_vector(READV, fd, iovec, 0)


@_system_call(into=True)
def readv_full(fd: Any, iovec: Any) -> int:
    """Read until all buffers are full or the file ends; parameters and errors as in `readv`."""
    return call_vector_full(READV, fd, iovec, 0)


@_system_call(into=False)
def writev(fd: Any, iovec: Any) -> int:
    """Write the buffers of an iovec, one after the other; see writev(2).

    Parameters
    ----------
    fd : int, socket or raw file
    iovec : IoVec or sequence of buffers
        In a kernel, an array of `IOVEC_DTYPE`.

    Returns
    -------
    int
        Bytes written, which may be fewer than the total of the iovec. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of this module.

    Examples
    --------
    >>> with open("/dev/null", "wb", buffering=0) as null:
    ...     writev(null, [b"one", b"two"])
    6
    """
    return call_vector(WRITEV, fd, iovec, 0)


@_system_call(into=False)
def writev_full(fd: Any, iovec: Any) -> int:
    """Write all buffers of an iovec completely; parameters and errors as in `writev`."""
    return call_vector_full(WRITEV, fd, iovec, 0)


@_system_call(into=True)
def preadv(fd: Any, iovec: Any, offset: int) -> int:
    """Read like `readv`, but from byte `offset` of the file, without changing its position; see preadv(2)."""
    return call_vector(PREADV, fd, iovec, offset)


@_system_call(into=True)
def preadv_full(fd: Any, iovec: Any, offset: int) -> int:
    """Read from byte `offset` of the file until all buffers are full or the file ends; otherwise like `preadv`."""
    return call_vector_full(PREADV, fd, iovec, offset)


@_system_call(into=False)
def pwritev(fd: Any, iovec: Any, offset: int) -> int:
    """Write like `writev`, but at byte `offset` of the file, without changing its position; see pwritev(2)."""
    return call_vector(PWRITEV, fd, iovec, offset)


@_system_call(into=False)
def pwritev_full(fd: Any, iovec: Any, offset: int) -> int:
    """Write all buffers of an iovec completely, at byte `offset` of the file; otherwise like `pwritev`."""
    return call_vector_full(PWRITEV, fd, iovec, offset)


@_system_call(into=True)
def recv(fd: Any, buffer: Any, flags: int = 0) -> int:
    """Receive once from a socket into a buffer; see recv(2).

    Parameters
    ----------
    fd : int or socket
    buffer : writable contiguous array or bytes-like
    flags : int
        Such as `socket.MSG_DONTWAIT`.

    Returns
    -------
    int
        Bytes received, at most the size of the buffer; 0 at the end of the stream. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of this module.

    Examples
    --------
    >>> import socket
    >>> a, b = socket.socketpair()
    >>> buffer = bytearray(3)
    >>> with a, b:
    ...     send(a, b"abc"), recv(b, buffer), buffer
    (3, 3, bytearray(b'abc'))
    """
    return call(RECV, fd, buffer.ctypes.data, buffer.nbytes, flags)


@_system_call(into=True)
def recv_full(fd: Any, buffer: Any, flags: int = 0) -> int:
    """Receive until the buffer is full or the stream ends; parameters and errors as in `recv`."""
    return call_full(RECV, fd, buffer.ctypes.data, buffer.nbytes, flags)


@_system_call(into=False)
def send(fd: Any, buffer: Any, flags: int = 0) -> int:
    """Send a buffer once over a socket; see send(2).

    Parameters
    ----------
    fd : int or socket
    buffer : contiguous array or bytes-like
    flags : int
        Such as `socket.MSG_NOSIGNAL`.

    Returns
    -------
    int
        Bytes sent, which may be fewer than the buffer has. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of this module.
    """
    return call(SEND, fd, buffer.ctypes.data, buffer.nbytes, flags)


@_system_call(into=False)
def send_full(fd: Any, buffer: Any, flags: int = 0) -> int:
    """Send a whole buffer over a socket; parameters and errors as in `send`."""
    return call_full(SEND, fd, buffer.ctypes.data, buffer.nbytes, flags)


_POLLIN = 1


@kernel
def _poll_in(fd, timeout_ms):
    request = np.empty(1, np.int64)  # struct pollfd: int fd, short events, short revents
    request[0] = fd | _POLLIN << 32
    end = -1 if timeout_ms < 0 else now_ns() + timeout_ms * 1_000_000
    n = call(POLL_IN, fd, request.ctypes.data, 1, end)
    keep(request)
    return n


def poll_in(fd: Any, timeout_ms: int) -> int:
    """Wait until a file descriptor is readable, at its end, or failed; see poll(2).

    Parameters
    ----------
    fd : int
        In Python also any object with ``fileno()``; bytes that it has already read ahead do not count.
    timeout_ms : int
        The longest wait in milliseconds, less than 2**31; -1 waits without limit, and 0 returns at once.

    Returns
    -------
    int
        1 if it is ready, 0 after the timeout. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of this module.

    Examples
    --------
    >>> import os
    >>> reader, writer = os.pipe()
    >>> write(writer, b"x")
    1
    >>> bool(poll_in(reader, timeout_ms=1000))
    True
    >>> os.close(reader), os.close(writer)
    (None, None)
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
