"""Sources of a stream: what is accepted, how it is opened, where it starts, and how much room a read needs."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import mmap
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._jit import check
from .._memory.files import is_buffered, require_plain, write_out
from ..syscalls import recv
from .remote import is_url, matching, without_scheme
from .turns import BYTES, CONNECTED, MESSAGES

_PACKET_BYTES = 4096  # PIPE_BUF: a packet of a pipe in packet mode (O_DIRECT), which the reading end cannot detect
_USUAL_PIPE, _LARGE_PIPE = 1 << 16, 1 << 18  # bytes that a pipe holds as Linux makes it, and while it is streamed
_MESSAGE_BYTES = 1 << 20  # longer messages are an error
_LONGEST_PATH = 4096
_PTY_MASTER = os.makedev(5, 2)


class Source:
    """A path, URL, file descriptor, socket, binary file or memory as given by the user: checked, but not opened.

    Attributes
    ----------
    name : str
        Used in errors.
    path : str or None
        If it is one.
    url : str or None
        If it is one, of a remote object.
    memory : memoryview or None
        The bytes of what is in memory.
    like : numpy array or None
        An array in memory, which has a dtype and a shape.
    """

    def __init__(self, source: Any) -> None:
        self._file: Any = None
        self.path: str | None = None
        self.memory: memoryview | None = None
        self.like: NDArray[Any] | None = None
        self.url: str | None = None
        if isinstance(source, str) and is_url(source):
            source = without_scheme(source) or source
            if is_url(source):
                self.name = self.url = source
                return
        if type(source) is str or (isinstance(source, (str, os.PathLike)) and not hasattr(source, "fileno")):
            self.name = self.path = check.path("source", source)
            return
        if isinstance(source, bytes) and b"\0" not in source[:_LONGEST_PATH] and os.path.lexists(source):
            raise ValueError(
                f"source is bytes that also name a file, {source!r:.60}: pass os.fsdecode(source) to read the file, or "
                "memoryview(source) to read these bytes"
            )
        if isinstance(source, (bytes, bytearray, memoryview, mmap.mmap, np.ndarray)):
            self.name = f"<{type(source).__name__}>"
            self.like = source if isinstance(source, np.ndarray) else None
            self.memory = _bytes_of(source)
            return
        fd = source
        if hasattr(source, "fileno"):
            self._file = require_plain("source", source)
            fd = self._file.fileno()
        elif isinstance(source, bool) or not isinstance(source, int):
            raise TypeError(
                "source must be a path, a URL, a file descriptor, an object with fileno(), or memory such as an array, "
                f"not {source!r:.60}"
            )
        self._fd = check.integer("source (a file descriptor)", fd, 0, 2**31 - 1)
        self.name = str(source)

    @contextmanager
    def opened(self, direct: bool) -> Iterator[Opened]:
        """Open it for a ``with`` block; a path is closed afterwards."""
        if self.path is None:
            if direct:
                raise ValueError(f"direct=True needs a path to open, not {self.name:.60}")
            with closing(Opened(self.name, self._fd, self._file)) as opened:
                yield opened
            return
        fd = open_file(self.path, os.O_RDONLY, direct)
        try:
            with closing(Opened(self.name, fd, None)) as opened:
                yield opened
        finally:
            os.close(fd)


def _bytes_of(source: Any) -> memoryview:
    """Return the bytes of an object in memory; TypeError if they are not in one piece, or hold Python objects."""
    if isinstance(source, np.ndarray):
        if source.dtype.hasobject:
            raise TypeError(f"source must be of plain memory, not an array of {source.dtype}")
        if not source.flags.c_contiguous:
            raise TypeError("source must be C-contiguous, which this array is not: pass np.ascontiguousarray(source)")
        return source.reshape(-1).view(np.uint8).data if source.size else memoryview(b"")
    view = memoryview(source)
    if not view.c_contiguous:
        raise TypeError("source must be C-contiguous, which this memoryview is not")
    return view.cast("B") if view.nbytes else memoryview(b"")


def sources_of(source: Any) -> Iterator[Source]:
    """Yield the sources that a user has given: one, several, or a pattern of paths."""
    if isinstance(source, (list, tuple)):
        for each in [Source(item) for item in source]:  # all are checked before the first is opened
            yield from _matching(each)
    elif isinstance(source, Iterator) and not hasattr(source, "fileno"):
        for item in source:
            yield from _matching(Source(item))
    else:
        yield from _matching(Source(source))


def plain_paths(source: Any) -> list[str] | None:
    """Return a list of nothing but paths, as str and not patterns, or None; they need no look one by one."""
    if not isinstance(source, (list, tuple)) or len(source) < 2 or any(type(item) is not str for item in source):
        return None
    text = "\0".join(source)
    if text.count("\0") != len(source) - 1 or glob.has_magic(text) or "" in source or "://" in text:
        return None
    return list(source)


def _matching(source: Source) -> Iterator[Source]:
    """Yield a source, or the paths that match it if it is a pattern and no path."""
    path = source.path
    if source.url is not None:
        yield from map(Source, matching(source.url))
        return
    if path is None or not glob.has_magic(path) or os.path.lexists(path):
        yield source
        return
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise FileNotFoundError(errno.ENOENT, "No file has this name or matches this pattern", path)
    for each in found:
        if not os.path.isdir(each):
            yield Source(each)


class Opened:
    """An open source.

    Attributes
    ----------
    name, fd
        The name used in errors, and the file descriptor.
    regular, seekable : bool
        Whether it is a regular file; whether it is read by offset, as regular files and block devices are.
    first, size : int
        The offset at which it starts, and the number of bytes from there; 0 if it does not report one.
    packets : int
        BYTES; MESSAGES: a read returns one message, cut to the buffer; CONNECTED: the same, and an empty message is not
        the end.
    unit : int
        The smallest room for a read that cuts nothing off.
    terminal : bool
        Whether it ends with EIO, as the master of a pseudo-terminal does.
    """

    def __init__(self, name: str, fd: int, file: Any) -> None:
        self.name = name
        self.fd = fd
        self._file = file if is_buffered(file) else None
        self._status = status = os.fstat(fd)
        self._require_readable()
        self.regular = stat.S_ISREG(status.st_mode)
        self.seekable = self.regular or stat.S_ISBLK(status.st_mode)
        if self._file:
            write_out(self._file)
        self.first = self._position() if self.seekable else 0
        self.size = max(status.st_size - self.first, 0) if self.regular else 0
        self.terminal = stat.S_ISCHR(status.st_mode) and status.st_rdev == _PTY_MASTER
        self.packets, self.unit = BYTES, _MESSAGE_BYTES
        self.is_pipe = stat.S_ISFIFO(status.st_mode)
        self.own: int | None = None
        if self.is_pipe:
            self.unit = _PACKET_BYTES
            _enlarge(fd)
        elif stat.S_ISSOCK(status.st_mode):
            kind = _type_of_socket(fd)
            if kind == socket.SOCK_STREAM:
                self.unit = 1
            else:
                self.packets = CONNECTED if kind == socket.SOCK_SEQPACKET else MESSAGES

    def _require_readable(self) -> None:
        """Refuse a source that cannot be read, or where a read would wait forever, such as the wrong end of a pipe."""
        try:
            if self._file and not self._file.readable():
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if stat.S_ISSOCK(self._status.st_mode):
                with suppress(BlockingIOError):
                    recv(self.fd, np.empty(1, np.uint8), socket.MSG_PEEK | socket.MSG_DONTWAIT)
            else:
                os.read(self.fd, 0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None

    def _position(self) -> int:
        return self._file.tell() if self._file else os.lseek(self.fd, 0, os.SEEK_CUR)

    def own_end(self) -> int | None:
        """Return the reading end of a pipe once more, for reads that do not wait; None if that is impossible.

        Reading first, and asking whether there is something only if there was nothing, takes half as many calls.
        """
        if self.is_pipe and self.own is None:
            with suppress(OSError):
                self.own = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return self.own

    def close(self) -> None:
        """Close what `own_end` has opened."""
        if self.own is not None:
            os.close(self.own)
            self.own = None

    def name_of(self, k: int) -> str:
        """Return its name, as a table does that of its source `k`."""
        return self.name

    def first_of(self, k: int) -> int:
        """Return the offset at which it begins."""
        return self.first

    def size_of(self, k: int) -> int:
        """Return how many bytes it has, if it reports that."""
        return self.size

    def read_ahead(self) -> tuple[bytes, bool]:
        """Take what a buffered file has read ahead of its descriptor; return it, and whether the file has ended."""
        if self._file is None or self.seekable:
            return b"", False
        ahead = self._file.read1()  # all that is buffered; if that is nothing, the result of one read
        return ahead, not ahead and os.get_blocking(self.fd)

    def leave_at(self, position: int) -> None:
        """Set the position of the source to where the stream has ended."""
        if self._file and self.seekable:
            self._file.seek(self.first + position)
        elif self.seekable:
            os.lseek(self.fd, self.first + position, os.SEEK_SET)

    def has_shrunk(self) -> bool:
        """Whether the file has become shorter since it was opened."""
        return os.fstat(self.fd).st_size < self._status.st_size

    def changed(self, done: int) -> OSError:
        """Return the error for a source that has changed since it was opened."""
        return changed(self.name, done, self.size)


def open_file(path: str | os.PathLike[str], flags: int, direct: bool, **options: Any) -> int:
    """Open a file, with O_DIRECT if `direct`; `options` are those of `os.open`."""
    if direct and not hasattr(os, "O_DIRECT"):
        raise ValueError("direct=True needs a system with O_DIRECT, such as Linux")
    try:
        return os.open(path, flags | (os.O_DIRECT if direct else 0), **options)
    except OSError as error:
        if direct and error.errno == errno.EINVAL:
            raise OSError(errno.EINVAL, "direct=True is refused by the file system", str(path)) from None
        raise


def read_file(path: str, offset: int, n: int) -> bytes:
    """Return `n` bytes of a file from an offset on, or those up to its end."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, n, offset)
    finally:
        os.close(fd)


def changed(name: str, done: int, size: int) -> OSError:
    """Return the error for a source that has changed since it was opened."""
    return OSError(errno.EIO, f"Changed while it was read, after {done} of {size} bytes", name)


def printable(name: str) -> str:
    r"""Return a name as printable text: undecodable bytes appear as ``\xff``."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _enlarge(fd: int) -> None:
    """Let a pipe hold more than usual, if nobody has chosen its size: reader and writer then wake each other less."""
    with suppress(OSError, AttributeError):  # the user has too many large pipes; the system is not Linux
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) == _USUAL_PIPE:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)


def _type_of_socket(fd: int) -> int:
    """Return SOCK_STREAM or another type; without a `socket` object, which could make the descriptor non-blocking."""
    kind, size = ctypes.c_int(), ctypes.c_uint(4)
    ctypes.CDLL(None).getsockopt(fd, socket.SOL_SOCKET, socket.SO_TYPE, ctypes.byref(kind), ctypes.byref(size))
    return kind.value
