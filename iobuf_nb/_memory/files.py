"""File objects: which of them have the same bytes, at the same position, as their descriptor.

A raw file and a socket do. A buffered file has the same bytes, but it reads ahead of its position and writes late. A
decoder, such as gzip or text, has other bytes than its descriptor. Nothing is known of other objects.
"""

from __future__ import annotations

import io
import socket
import tempfile
from typing import Any

from .._jit import check

# Exactly these: subclasses may decode, as `ssl.SSLSocket` and the members of `tarfile` do.
_RAW = (io.FileIO, socket.socket, socket.SocketIO)
_BUFFERED = (io.BufferedReader, io.BufferedRandom, io.BufferedWriter)


def is_buffered(file: Any) -> bool:
    """Return whether the position of a file may differ from that of its descriptor."""
    return type(file) in _BUFFERED


def require_plain(name: str, file: Any) -> Any:
    """Return the raw or buffered file behind an object with ``fileno()``; TypeError, naming `name`, otherwise."""
    if type(file) is tempfile._TemporaryFileWrapper:
        file = file.file
    if type(file) in _RAW or (is_buffered(file) and type(file.raw) in _RAW):
        return file
    if not isinstance(file, (io.IOBase, tempfile.SpooledTemporaryFile)):  # the latter's fileno() writes it to disk
        check.integer(f"{name} (a file descriptor)", file.fileno(), 0, 2**31 - 1)
    if isinstance(file, io.TextIOBase):
        instead = f"{name}.buffer, before any text is read or written"
    else:
        instead = f"its path or, for the bytes of the descriptor itself, {name}.fileno()"
    known = "a socket or a binary file that open() returns"
    raise TypeError(f"{name} must be {known}, if it has a fileno(), not {file!r:.60}: pass {instead}")


def descriptor(name: str, file: Any, at_offset: bool) -> int:
    """Return the descriptor of a file, for I/O at an offset or at its position; TypeError if it has other bytes."""
    file = require_plain(name, file)
    if is_buffered(file):
        if not at_offset:
            raise TypeError(
                f"{name} must not be a buffered file, whose position differs from its descriptor's, but {file!r:.60} "
                f"is one: pass {name}.fileno(), or open it with buffering=0"
            )
        write_out(file)
    return check.integer(name, file.fileno(), -1, 2**31 - 1)


def write_out(file: Any) -> None:
    """Flush a buffered file that is open for writing."""
    if file.writable():
        file.flush()
