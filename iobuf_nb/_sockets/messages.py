"""Messages: what Linux says of each that is received, or is told of each that is sent, as records that kernels read.

The headers that Linux takes (struct mmsghdr, with the addresses of all other memory) are written anew for each call, so
that no record points at memory that may have moved or gone.
"""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from .._jit.compile import hot, kernel
from .._threads.libc import memcpy
from .addresses import ADDRESS_DTYPE, SOCKADDR_BYTES, give_address, take_address
from .arguments import NUMBER, buffer, in_both_faces, many, one

CONTROL = 128  # bytes of control data that a record has room for

#: A message; `sockets` explains the fields.
MESSAGE_DTYPE = np.dtype(
    [
        ("length", np.int64),
        ("time_ns", np.int64),
        ("flags", np.int32),
        ("segment", np.int32),
        ("control_length", np.int64),
        ("control", np.uint8, CONTROL),
        ("address", ADDRESS_DTYPE),
    ]
)

#: struct mmsghdr, which begins with a struct msghdr.
HEADER_DTYPE = np.dtype(
    [
        ("name", np.int64),
        ("name_length", np.uint32),
        ("_", np.uint32),
        ("iovec", np.int64),
        ("entries", np.int64),
        ("control", np.int64),
        ("control_length", np.int64),
        ("flags", np.int32),
        ("_1", np.int32),
        ("length", np.uint32),
        ("_2", np.uint32),
    ]
)

assert HEADER_DTYPE.itemsize == 64, "headers must have the layout of the C struct"

MESSAGE = one(MESSAGE_DTYPE, "MESSAGE_DTYPE")
MESSAGES = many(MESSAGE_DTYPE, "MESSAGE_DTYPE")

MSG_TRUNC, MSG_DONTWAIT, MSG_WAITFORONE, CMSG_CLOEXEC = 0x20, 0x40, 0x10000, 0x40000000
SOL_SOCKET, SOL_UDP, SO_TIMESTAMPNS, UDP_GRO = 1, 17, 35, 104  # on the processors that are supported
_HEAD = 16  # bytes of a struct cmsghdr; data begin behind it, and all of it takes a multiple of 8 bytes


@hot
def prepare(header, sockaddr, sockaddr_length, iovec, entries, control, control_length):
    """Write the header of a message: memory for its address, an iovec, memory for control data, all by address."""
    header["name"], header["name_length"] = sockaddr if sockaddr_length else 0, sockaddr_length
    header["iovec"], header["entries"] = iovec, entries
    header["control"], header["control_length"] = control, control_length
    header["flags"] = 0


@hot
def prepare_to_receive(header, sockaddr, iovec, entries, message):
    """Write the header of a message that is received; all but the record are arrays of one."""
    control = message["control"].ctypes.data
    prepare(header[0], sockaddr.ctypes.data, SOCKADDR_BYTES, iovec, entries, control, CONTROL)


@hot
def prepare_to_send(header, sockaddr, iovec, entries, message):
    """Write the header of a message that is sent."""
    size = give_address(message["address"], sockaddr[0])
    used = min(max(message["control_length"], 0), CONTROL)
    prepare(header[0], sockaddr.ctypes.data, size, iovec, entries, message["control"].ctypes.data, used)


@hot
def take(header, sockaddr, length, message):
    """Write what Linux says of a message that was received into its record."""
    take_address(sockaddr, np.int64(header["name_length"]), message["address"])
    message["length"], message["flags"] = length, header["flags"] & ~CMSG_CLOEXEC
    message["time_ns"] = message["segment"] = 0
    message["control_length"] = header["control_length"]
    if header["control_length"] > 0:
        words = message["control"].view(np.int64)
        k = _find(message, SOL_SOCKET, SO_TIMESTAMPNS) // 8
        if k > 0:
            message["time_ns"] = words[k] * 1_000_000_000 + words[k + 1]
        k = _find(message, SOL_UDP, UDP_GRO) // 8
        if k > 0:
            message["segment"] = words[k] & 0xFFFFFFFF


@hot
def _tag(level, kind):
    """Return the second word of a struct cmsghdr: two ints, as they lie in memory."""
    return (level & 0xFFFFFFFF) | (kind & 0xFFFFFFFF) << 32


@kernel
def _find(message, level, kind):
    words = message["control"].view(np.int64)
    used, tag = min(message["control_length"], CONTROL), _tag(level, kind)
    k = 0
    while k + _HEAD <= used:
        size = words[k // 8]
        if size < _HEAD or size > used - k:
            return 0
        if words[k // 8 + 1] == tag:
            return k + _HEAD
        k += (size + 7) // 8 * 8
    return 0


@in_both_faces(message=MESSAGE, level=NUMBER, kind=NUMBER)
def find_control(message: Any, level: int, kind: int) -> int:
    """Find control data in a message; in kernels and in Python.

    Parameters
    ----------
    message : record of MESSAGE_DTYPE
    level, kind : int
        Such as SOL_SOCKET and SO_TIMESTAMPNS; see cmsg(3).

    Returns
    -------
    int
        The byte of ``message["control"]`` at which the data begin, a multiple of 8; 0 if there are none of this kind.

    Raises
    ------
    TypeError, ValueError
        An argument has another type, or is out of range.

    Examples
    --------
    >>> message = np.zeros(1, MESSAGE_DTYPE)[0]
    >>> find_control(message, SOL_UDP, UDP_GRO)
    0
    """
    return _find(message, level, kind)


@kernel
def _add(message, level, kind, address, size):
    used = max(0, message["control_length"])
    room = (_HEAD + size + 7) // 8 * 8
    if room > CONTROL - used:  # not used + room, which may be too large for an int64
        return np.int64(-errno.ENOBUFS)
    control = message["control"]
    words = control.view(np.int64)
    words[used // 8], words[used // 8 + 1] = _HEAD + size, _tag(level, kind)
    memcpy(control.ctypes.data + used + _HEAD, address, size)
    message["control_length"] = used + room
    return np.int64(used + room)


@in_both_faces(message=MESSAGE, level=NUMBER, kind=NUMBER, data=buffer(into=False))
def add_control(message: Any, level: int, kind: int, data: Any) -> int:
    r"""Add control data to a message that is to be sent; in kernels and in Python.

    Parameters
    ----------
    message : record of MESSAGE_DTYPE
        Its `control_length` says what it has already.
    level, kind : int
        Such as SOL_UDP and UDP_SEGMENT; see cmsg(3).
    data : contiguous array or bytes-like

    Returns
    -------
    int
        The new `control_length`. In a kernel also -errno: -ENOBUFS if there is no room.

    Raises
    ------
    TypeError, ValueError
        An argument has another type, or is out of range.
    OSError
        In Python: there is no room. Nothing has changed then.

    Examples
    --------
    >>> message = np.zeros(1, MESSAGE_DTYPE)[0]
    >>> add_control(message, 17, 103, np.array([1200], np.uint16))  # UDP_SEGMENT: sent as datagrams of 1200 bytes
    24
    >>> controls_of(message)
    [(17, 103, b'\xb0\x04')]
    """
    return _add(message, level, kind, data.ctypes.data, data.nbytes)


def controls_of(message: Any) -> list[tuple[int, int, bytes]]:
    """Return the control data of a message, as `socket.socket.recvmsg` does. Python only.

    Parameters
    ----------
    message : record of MESSAGE_DTYPE

    Returns
    -------
    list of (level, kind, data)

    Raises
    ------
    TypeError
        `message` is no such record.
    """
    message = MESSAGE.from_python("message", message)
    data, found, k = message["control"][: max(0, message["control_length"])], [], 0
    while k + _HEAD <= len(data):
        size = int(data[k : k + 8].view(np.int64)[0])
        if not _HEAD <= size <= len(data) - k:
            break
        level, kind = data[k + 8 : k + _HEAD].view(np.int32).tolist()
        found.append((level, kind, data[k + _HEAD : k + size].tobytes()))
        k += (size + 7) // 8 * 8
    return found
