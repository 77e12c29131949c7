"""Connections and options of sockets: accept, connect, shut down, close, get and set integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._jit.compile import kernel
from .._memory.buffers import keep
from .addresses import ADDRESS, ADDRESS_TO_READ, SOCKADDR_BYTES, SOCKADDR_DTYPE, give_address, take_address
from .arguments import FD, INT, NUMBER, in_both_faces, integer
from .calls import ACCEPT, CLOEXEC, CLOSE, CONNECT, GETSOCKOPT, SETSOCKOPT, SHUTDOWN, call


@kernel
def _accept(fd, address, flags):
    sockaddr, size = np.empty(1, SOCKADDR_DTYPE), np.empty(1, np.int32)
    size[0] = SOCKADDR_BYTES
    made = call(ACCEPT, fd, sockaddr.ctypes.data, size.ctypes.data, flags | CLOEXEC, 0)
    if made >= 0:
        take_address(sockaddr[0], np.int64(size[0]), address)
    return made


@in_both_faces(fd=FD, address=ADDRESS, flags=INT)
def accept(fd: Any, address: Any, flags: int = 0) -> int:
    """Wait for a connection to a listening socket, and accept it; see accept4(2).

    Parameters
    ----------
    fd : int or socket
    address : record of ADDRESS_DTYPE
        Becomes that of the other end.
    flags : int
        0 or SOCK_NONBLOCK. Children that execute other programs do not inherit the descriptor.

    Returns
    -------
    int
        The descriptor of the connection, which the caller closes. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`.

    Examples
    --------
    >>> import socket
    >>> from iobuf_nb import sockets
    >>> with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
    ...     address = sockets.address_of(("0.0.0.0", 0))
    ...     fd = accept(server, address)
    ...     sockets.to_python(address) == client.getsockname()
    True
    >>> close(fd)
    0
    """
    return _accept(fd, address, flags)


@kernel
def _connect(fd, address):
    sockaddr = np.empty(1, SOCKADDR_DTYPE)
    size = give_address(address, sockaddr[0])
    n = call(CONNECT, fd, sockaddr.ctypes.data, size, 0, 0)
    keep(sockaddr)
    return n


@in_both_faces(fd=FD, address=ADDRESS_TO_READ)
def connect(fd: Any, address: Any) -> int:
    """Connect a socket to an address; see connect(2).

    Parameters
    ----------
    fd : int or socket
    address : record of ADDRESS_DTYPE
        In Python also what `address_of` takes.

    Returns
    -------
    int
        0. In a kernel also -errno; of a non-blocking socket -EINPROGRESS, and it can be written when it is connected.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`.
    """
    return _connect(fd, address)


@in_both_faces(fd=FD, how=integer(0, 2))
def shutdown(fd: Any, how: int) -> int:
    """Shut down one direction of a connection, or both; see shutdown(2).

    Parameters
    ----------
    fd : int or socket
    how : int
        SHUT_RD, SHUT_WR or SHUT_RDWR.

    Returns
    -------
    int
        0. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`.
    """
    return call(SHUTDOWN, fd, how, 0, 0, 0)


@in_both_faces(fd=integer(-1, 2**31 - 1))
def close(fd: int) -> int:
    """Close a descriptor; see close(2).

    Parameters
    ----------
    fd : int
        Not that of an object, which closes it itself.

    Returns
    -------
    int
        0. In a kernel also -errno; the descriptor is closed then, too, unless it is -EBADF.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`.
    """
    return call(CLOSE, fd, 0, 0, 0, 0)


@kernel
def _getsockopt(fd, level, option):
    value, size = np.empty(1, np.uint32), np.empty(1, np.int32)  # unsigned: below 0 are errors
    value[0], size[0] = 0, 4
    n = call(GETSOCKOPT, fd, level, option, value.ctypes.data, size.ctypes.data)
    keep(size)
    return n if n < 0 else np.int64(value[0])


@in_both_faces(fd=FD, level=NUMBER, option=NUMBER)
def getsockopt(fd: Any, level: int, option: int) -> int:
    """Return an option of a socket that is an integer; see getsockopt(2).

    Parameters
    ----------
    fd : int or socket
    level, option : int
        Such as SOL_SOCKET and SO_RCVBUF.

    Returns
    -------
    int
        Its value, from 0 to 2**32 - 1, which stands for -1. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`.

    Examples
    --------
    >>> import socket
    >>> from iobuf_nb.sockets import IPPROTO_TCP, TCP_NODELAY
    >>> with socket.socket() as tcp:
    ...     setsockopt(tcp, IPPROTO_TCP, TCP_NODELAY, 1), getsockopt(tcp, IPPROTO_TCP, TCP_NODELAY)
    (0, 1)
    """
    return _getsockopt(fd, level, option)


@kernel
def _setsockopt(fd, level, option, value):
    memory = np.empty(1, np.int32)
    memory[0] = value
    n = call(SETSOCKOPT, fd, level, option, memory.ctypes.data, 4)
    keep(memory)
    return n


@in_both_faces(fd=FD, level=NUMBER, option=NUMBER, value=INT)
def setsockopt(fd: Any, level: int, option: int, value: int) -> int:
    """Set an option of a socket that is an integer; see setsockopt(2).

    Parameters
    ----------
    fd : int or socket
    level, option : int
        Such as SOL_SOCKET and SO_TIMESTAMPNS.
    value : int
        1 and 0 switch on and off.

    Returns
    -------
    int
        0. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`.
    """
    return _setsockopt(fd, level, option, value)
