"""File objects: whose descriptor has the very bytes that the object has, and stands where it does.

A raw file and a socket are their descriptors. A buffered file reads ahead of where it stands, and writes behind; a
decoder, such as one of gzip or of text, has other bytes than its descriptor; of any other object nobody can tell.
"""

from __future__ import annotations

import io
import socket
import tempfile
from typing import Any

from .._jit import check

# Exactly these: what is derived from them may be a decoder, as `ssl.SSLSocket` and the members of `tarfile` are.
_RAW = (io.FileIO, socket.socket, socket.SocketIO)
_BUFFERED = (io.BufferedReader, io.BufferedRandom, io.BufferedWriter)


def is_buffered(file: Any) -> bool:
    """Whether a file may stand elsewhere than its descriptor."""
    return type(file) in _BUFFERED


def require_plain(name: str, file: Any) -> Any:
    """Return the raw or buffered file that an object with ``fileno()`` is, or refuse it; `name` is the argument."""
    if type(file) is tempfile._TemporaryFileWrapper:
        file = file.file
    if type(file) in _RAW or (is_buffered(file) and type(file.raw) in _RAW):
        return file
    if not isinstance(file, (io.IOBase, tempfile.SpooledTemporaryFile)):  # whose fileno() writes it to the disk
        check.integer(f"{name} (a file descriptor)", file.fileno(), 0, 2**31 - 1)
    if isinstance(file, io.TextIOBase):
        instead = f"{name}.buffer, before any text is read or written"
    else:
        instead = f"its path or, if it is the descriptor's own bytes that are wanted, {name}.fileno()"
    known = "a socket or a binary file that open() returns"
    raise TypeError(f"{name} must be {known}, if it has a fileno(), not {file!r:.60}: pass {instead}")


def descriptor(name: str, file: Any, at_offset: bool) -> int:
    """Return the descriptor of a file to read or write, at an offset or else where it stands, or refuse it."""
    file = require_plain(name, file)
    if is_buffered(file):
        if not at_offset:
            raise TypeError(
                f"{name} must not be a buffered file, which stands elsewhere than its descriptor, but {file!r:.60} is: "
                f"pass {name}.fileno(), or open it with buffering=0"
            )
        write_out(file)
    return check.integer(name, file.fileno(), -1, 2**31 - 1)


def write_out(file: Any) -> None:
    """Write what a buffered file holds back."""
    if file.writable():
        file.flush()
