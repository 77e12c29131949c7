"""Datagrams and messages, received and sent: one at a time, or many at once by the indices of a pool's buffers."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from .._jit.check import FormattedValueError
from .._jit.compile import hot, kernel
from .._memory.buffers import keep
from .._memory.iovec import IOVEC_DTYPE, fill_entries
from ..syscalls import IOV_MAX
from .addresses import ADDRESS, ADDRESS_TO_READ, SOCKADDR_BYTES, SOCKADDR_DTYPE, give_address, take_address
from .arguments import DISTINCT, FD, INDICES, INT, POOL, buffer, in_both_faces, iovec
from .calls import RECVMMSG, RECVMSG, SENDMMSG, SENDMSG, call
from .messages import (
    CMSG_CLOEXEC,
    HEADER_DTYPE,
    MESSAGE,
    MESSAGES,
    MSG_DONTWAIT,
    MSG_TRUNC,
    MSG_WAITFORONE,
    prepare,
    prepare_to_receive,
    prepare_to_send,
    take,
)


@hot
def _whole(n, told, flags):
    """Return how many bytes came; an error if there were more, unless the caller asks for the true length."""
    return np.int64(-errno.EMSGSIZE) if told & MSG_TRUNC and not flags & MSG_TRUNC else n


@kernel
def _recvfrom(fd, data, size, address, flags):
    header, vector, sockaddr = np.empty(1, HEADER_DTYPE), np.empty(1, IOVEC_DTYPE), np.empty(1, SOCKADDR_DTYPE)
    vector[0]["base"], vector[0]["len"] = data, size
    prepare(header[0], sockaddr.ctypes.data, SOCKADDR_BYTES, vector.ctypes.data, 1, 0, 0)
    n = call(RECVMSG, fd, header.ctypes.data, flags | CMSG_CLOEXEC, 0, 0)
    keep(vector)
    if n < 0:
        return n
    take_address(sockaddr[0], np.int64(header[0]["name_length"]), address)
    return _whole(n, header[0]["flags"], flags)


@in_both_faces(fd=FD, buffer=buffer(into=True), address=ADDRESS, flags=INT)
def recvfrom(fd: Any, buffer: Any, address: Any, flags: int = 0) -> int:
    """Receive a datagram, or part of a stream, and the address of its sender; see recvfrom(2).

    Parameters
    ----------
    fd : int or socket
    buffer : writable contiguous array or bytes-like
    address : record of ADDRESS_DTYPE
        Becomes the sender's. Its family is 0 if there is none, as on connected streams.
    flags : int
        Such as MSG_DONTWAIT.

    Returns
    -------
    int
        Bytes received; of a stream 0 at its end. In a kernel also -errno: -EMSGSIZE if the datagram was longer than the
        buffer. The buffer then has its beginning, `address` is set, and the rest is lost. With MSG_TRUNC in `flags`
        that is no error, and the result is the true length, larger than the buffer.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`.

    Examples
    --------
    >>> import socket
    >>> from iobuf_nb import sockets
    >>> with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
    ...     server.bind(("127.0.0.1", 0))
    ...     sent = sendto(client, b"hello", server.getsockname())
    ...     buffer, address = bytearray(10), sockets.address_of(("0.0.0.0", 0))
    ...     got = recvfrom(server, buffer, address)
    ...     sent, got, sockets.to_python(address) == ("127.0.0.1", client.getsockname()[1])
    (5, 5, True)
    """
    return _recvfrom(fd, buffer.ctypes.data, buffer.nbytes, address, flags)


@kernel
def _sendto(fd, data, size, address, flags):
    header, vector, sockaddr = np.empty(1, HEADER_DTYPE), np.empty(1, IOVEC_DTYPE), np.empty(1, SOCKADDR_DTYPE)
    vector[0]["base"], vector[0]["len"] = data, size
    prepare(header[0], sockaddr.ctypes.data, give_address(address, sockaddr[0]), vector.ctypes.data, 1, 0, 0)
    n = call(SENDMSG, fd, header.ctypes.data, flags, 0, 0)
    keep(header)
    keep(vector)
    keep(sockaddr)
    return n


@in_both_faces(fd=FD, buffer=buffer(into=False), address=ADDRESS_TO_READ, flags=INT)
def sendto(fd: Any, buffer: Any, address: Any, flags: int = 0) -> int:
    """Send a datagram to an address; see sendto(2).

    Parameters
    ----------
    fd : int or socket
    buffer : contiguous array or bytes-like
    address : record of ADDRESS_DTYPE
        Whose family is 0 for the other end of a connected socket. In Python also what `address_of` takes.
    flags : int
        Such as MSG_DONTWAIT.

    Returns
    -------
    int
        Bytes sent: of a datagram all. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`.
    """
    return _sendto(fd, buffer.ctypes.data, buffer.nbytes, address, flags)


@kernel
def _recvmsg(fd, iovec, message, flags):
    if len(iovec) > IOV_MAX:  # Linux calls it EMSGSIZE, which says here that a message was cut
        return np.int64(-errno.EINVAL)
    header, sockaddr = np.empty(1, HEADER_DTYPE), np.empty(1, SOCKADDR_DTYPE)
    prepare_to_receive(header, sockaddr, iovec.ctypes.data, len(iovec), message)
    n = call(RECVMSG, fd, header.ctypes.data, flags | CMSG_CLOEXEC, 0, 0)
    if n < 0:
        return n
    take(header[0], sockaddr[0], n, message)
    return _whole(n, header[0]["flags"], flags)


@in_both_faces(fd=FD, iovec=iovec(into=True), message=MESSAGE, flags=INT)
def recvmsg(fd: Any, iovec: Any, message: Any, flags: int = 0) -> int:
    """Receive a message into the buffers of an iovec, with its address and control data; see recvmsg(2).

    Parameters
    ----------
    fd : int or socket
    iovec : IoVec or sequence of buffers
        At most 1024, over writable memory without overlaps. In a kernel, an array of `IOVEC_DTYPE`; more entries are
        -EINVAL.
    message : record of MESSAGE_DTYPE
        All its fields are set. `flags` has MSG_CTRUNC if there was more control data than it has room for.
    flags : int
        Such as MSG_DONTWAIT.

    Returns
    -------
    int
        Bytes received; in a kernel also -errno. A message that is longer than the buffers is -EMSGSIZE, as in
        `recvfrom`, with `message` set.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`.
    """
    return _recvmsg(fd, iovec, message, flags)


@kernel
def _sendmsg(fd, iovec, message, flags):
    if len(iovec) > IOV_MAX:
        return np.int64(-errno.EINVAL)
    header, sockaddr = np.empty(1, HEADER_DTYPE), np.empty(1, SOCKADDR_DTYPE)
    prepare_to_send(header, sockaddr, iovec.ctypes.data, len(iovec), message)
    n = call(SENDMSG, fd, header.ctypes.data, flags, 0, 0)
    keep(header)
    keep(sockaddr)
    return n


@in_both_faces(fd=FD, iovec=iovec(into=False), message=MESSAGE, flags=INT)
def sendmsg(fd: Any, iovec: Any, message: Any, flags: int = 0) -> int:
    """Send the buffers of an iovec as one message, with an address and control data; see sendmsg(2).

    Parameters
    ----------
    fd : int or socket
    iovec : IoVec or sequence of buffers
        At most 1024. In a kernel, an array of `IOVEC_DTYPE`; more entries are -EINVAL.
    message : record of MESSAGE_DTYPE
        Its `address`, unless that has the family 0, and its control data (see `add_control`) are used.
    flags : int
        Such as MSG_DONTWAIT.

    Returns
    -------
    int
        Bytes sent. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`.
    """
    return _sendmsg(fd, iovec, message, flags)


@hot
def _require_room(indices, messages):
    if len(indices) > len(messages):
        raise FormattedValueError("messages must have an entry for each index, {}, not {}", len(indices), len(messages))


@kernel
def _recvmmsg(fd, capacity, arena, stride, buffer_size, indices, messages, flags):
    _require_room(indices, messages)
    n = min(len(indices), IOV_MAX)
    headers, vectors, sockaddrs = np.empty(n, HEADER_DTYPE), np.empty(n, IOVEC_DTYPE), np.empty(n, SOCKADDR_DTYPE)
    fill_entries(vectors, capacity, arena, stride, buffer_size, indices[:n], None)
    for k in range(n):
        one = slice(k, k + 1)
        prepare_to_receive(headers[one], sockaddrs[one], vectors[one].ctypes.data, 1, messages[k])
    got, waits = np.int64(0), not flags & (MSG_DONTWAIT | MSG_WAITFORONE)
    while True:
        rest = headers[got:]
        # If Linux waited for further messages, a signal would end the call early, and the next with an error of 512.
        came = call(RECVMMSG, fd, rest.ctypes.data, n - got, flags | MSG_WAITFORONE | CMSG_CLOEXEC, 0)
        if came < 0:
            got = got if got > 0 else came
            break
        got += came
        if got == n or not waits:
            break
    keep(vectors)
    for k in range(got):
        take(headers[k], sockaddrs[k], np.int64(headers[k]["length"]), messages[k])
    return got


@in_both_faces(fd=FD, pool=POOL, indices=DISTINCT, messages=MESSAGES, flags=INT)
def recvmmsg(fd: Any, pool: Any, indices: Any, messages: Any, flags: int = 0) -> int:
    """Receive several messages with one system call, each into a buffer of a pool; see recvmmsg(2).

    Parameters
    ----------
    fd : int or socket
    pool : BufferPool
    indices : sequence of integers
        Of the buffers, which differ and should be checked out; at most 1024 are used. In a kernel, a 1-D array.
    messages : array of MESSAGE_DTYPE
        With an entry for each index; those of the messages that came are set. A message that is longer than a buffer
        has MSG_TRUNC in its `flags`. Its `length` is what the buffer has, with MSG_TRUNC in the argument `flags` the
        true one.
    flags : int
        MSG_WAITFORONE: wait for the first message, and take what else is there. Without it the call waits until there
        is one for each index, or an error, and with MSG_DONTWAIT not at all.

    Returns
    -------
    int
        The number of messages. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`. ValueError in kernels, too, if `messages` is too short.
    IndexError
        An index is out of range; in kernels, too. Nothing is received then.

    Examples
    --------
    >>> import socket
    >>> from iobuf_nb import BufferPool, sockets
    >>> pool, messages = BufferPool(8, 2048), np.zeros(8, sockets.MESSAGE_DTYPE)
    >>> indices = np.empty(8, np.int64)
    >>> n = pool.get_many(indices)
    >>> with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
    ...     server.bind(("127.0.0.1", 0))
    ...     for data in (b"one", b"three"):
    ...         sent = sockets.sendto(client, data, server.getsockname())
    ...     n = recvmmsg(server, pool, indices, messages, sockets.MSG_WAITFORONE)
    >>> [pool.value(i)[: m["length"]].tobytes() for i, m in zip(indices[:n], messages)]
    [b'one', b'three']
    >>> pool.put_many(indices)
    """
    return _recvmmsg(fd, pool.capacity, pool.arena, pool.stride, pool.buffer_size, indices, messages, flags)


@kernel
def _sendmmsg(fd, capacity, arena, stride, buffer_size, indices, messages, flags):
    _require_room(indices, messages)
    n = min(len(indices), IOV_MAX)
    headers, vectors, sockaddrs = np.empty(n, HEADER_DTYPE), np.empty(n, IOVEC_DTYPE), np.empty(n, SOCKADDR_DTYPE)
    fill_entries(vectors, capacity, arena, stride, buffer_size, indices[:n], messages["length"][:n])
    for k in range(n):
        one = slice(k, k + 1)
        prepare_to_send(headers[one], sockaddrs[one], vectors[one].ctypes.data, 1, messages[k])
    sent = call(SENDMMSG, fd, headers.ctypes.data, n, flags, 0)
    keep(headers)
    keep(vectors)
    keep(sockaddrs)
    return sent


@in_both_faces(fd=FD, pool=POOL, indices=INDICES, messages=MESSAGES, flags=INT)
def sendmmsg(fd: Any, pool: Any, indices: Any, messages: Any, flags: int = 0) -> int:
    """Send several messages with one system call, each from a buffer of a pool; see sendmmsg(2).

    Parameters
    ----------
    fd : int or socket
    pool : BufferPool
    indices : sequence of integers
        Of the buffers; at most 1024 are used. In a kernel, a 1-D array.
    messages : array of MESSAGE_DTYPE
        With an entry for each index: `length` bytes of the buffer go to `address`, as in `sendmsg`.
    flags : int
        Such as MSG_DONTWAIT.

    Returns
    -------
    int
        The number of messages sent, which may be fewer than there are indices. In a kernel also -errno.

    Raises
    ------
    OSError, TypeError, ValueError
        In Python, as for every function of `sockets`. ValueError in kernels, too, if `messages` is too short, or a
        length is not from 0 to the pool's `buffer_size`.
    IndexError
        An index is out of range; in kernels, too. Nothing is sent then.
    """
    return _sendmmsg(fd, pool.capacity, pool.arena, pool.stride, pool.buffer_size, indices, messages, flags)
