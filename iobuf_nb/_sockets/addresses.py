"""Addresses of sockets as records that kernels read, compare and send to, and what Linux has in their place.

Linux has a struct for each family, with the port in network order and the address at different places. A record has
the same fields for all, and bytes that are not used are 0, so that equal addresses are equal bytes.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any

import numpy as np

from .._jit import check
from .._jit.compile import hot, kernel
from .arguments import in_both_faces, one

MOST_HOST = 108  # bytes of the longest path of a UNIX socket

#: struct sockaddr_storage: the family, the port, and the rest as bytes, of which some are the scope of an IPv6 address.
SOCKADDR_DTYPE = np.dtype(
    {
        "names": ["family", "high", "low", "scope", "bytes"],
        "formats": [np.uint16, np.uint8, np.uint8, np.uint32, (np.uint8, 128)],
        "offsets": [0, 2, 3, 24, 0],
    }
)
SOCKADDR_BYTES = SOCKADDR_DTYPE.itemsize

#: The address of a socket; `sockets` explains the fields.
ADDRESS_DTYPE = np.dtype(
    [("family", np.uint16), ("port", np.uint16), ("scope", np.uint32), ("length", np.int32), ("host", np.uint8, 108)]
)

AF_UNIX, AF_INET, AF_INET6 = int(socket.AF_UNIX), int(socket.AF_INET), int(socket.AF_INET6)


@hot
def take_address(sockaddr, size, address):
    """Turn the first `size` bytes of a struct sockaddr of Linux into a record."""
    family = np.int64(sockaddr["family"]) if size >= 2 else np.int64(0)
    port = scope = np.int64(0)
    data = sockaddr["bytes"]
    first, length = 2, min(max(size - 2, 0), MOST_HOST)
    if family in (AF_INET, AF_INET6):
        port = np.int64(sockaddr["high"]) << 8 | np.int64(sockaddr["low"])
    if family == AF_INET:
        first, length = 4, 4
    elif family == AF_INET6:
        first, length, scope = 8, 16, np.int64(sockaddr["scope"])
    elif family == AF_UNIX and data[2] != 0:  # a path, which ends with a 0; abstract names do not
        while length > 0 and data[1 + length] == 0:
            length -= 1
    host, before = address["host"], _used(address)
    for k in range(length):
        host[k] = data[first + k]
    for k in range(length, before):
        host[k] = 0
    address["family"], address["port"], address["scope"], address["length"] = family, port, scope, length


@hot
def give_address(address, sockaddr):
    """Write a record as a struct sockaddr; return its size, 0 if there is no address."""
    family, port, host = np.int64(address["family"]), np.int64(address["port"]), address["host"]
    if family == 0:
        return 0
    first, length = 2, _used(address)
    size = 2 + length
    data = sockaddr["bytes"]
    for k in range(len(data)):
        data[k] = 0
    sockaddr["family"] = family
    if family in (AF_INET, AF_INET6):
        sockaddr["high"], sockaddr["low"] = port >> 8, port & 255
    if family == AF_INET:
        first, length, size = 4, 4, 16
    elif family == AF_INET6:
        first, length, size = 8, 16, 28
        sockaddr["scope"] = address["scope"]
    for k in range(length):
        data[first + k] = host[k]
    return size


@hot
def _used(address):
    """Return how many bytes of `host` are used: `length`, which anybody may write to."""
    return min(max(np.int64(address["length"]), 0), MOST_HOST)


def address_of(address: Any) -> Any:
    """Return an address of the `socket` module as a record that kernels read. Python only.

    Parameters
    ----------
    address : tuple, str or bytes
        ``(host, port)`` with a numeric IPv4 or IPv6 host, for the latter also ``(host, port, flow, scope)``, of which
        the flow is dropped; or the path of a UNIX socket, or its abstract name, which begins with a 0.

    Returns
    -------
    record of ADDRESS_DTYPE
        Of an array of its own, and writable.

    Raises
    ------
    TypeError, ValueError
        `address` is none of these. Names of hosts are refused: look them up with `socket.getaddrinfo`.

    Notes
    -----
    Thread-safe.

    Examples
    --------
    >>> address = address_of(("127.0.0.1", 53))
    >>> address["port"], address["host"][:4].tolist()
    (np.uint16(53), [127, 0, 0, 1])
    >>> to_python(address)
    ('127.0.0.1', 53)
    """
    return _record_of("address", address)


def _record_of(name: str, address: Any) -> Any:
    """Return the record of an address; errors name the argument `name`."""
    record = np.zeros(1, ADDRESS_DTYPE)[0]
    if isinstance(address, tuple) and len(address) in (2, 4) and isinstance(address[0], str):
        host, port, *rest = address
        try:
            number = ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(
                f"{name} must have a numeric host, not {host!r:.60}: look it up with socket.getaddrinfo"
            ) from None
        if number.version == 4 and rest:
            raise TypeError(f"{name} must be (host, port) for IPv4, not {address!r:.60}")
        record["family"] = AF_INET if number.version == 4 else AF_INET6
        record["port"] = check.integer(f"port of {name}", port, 0, 2**16 - 1)
        if number.version == 6:
            scope = rest[1] if rest else _interface(name, host)
            record["scope"] = check.integer(f"scope of {name}", scope, 0, 2**32 - 1)
        data = number.packed
    elif isinstance(address, (str, bytes)):
        try:
            data = os.fsencode(address)
        except UnicodeError:
            raise ValueError(f"{name} must be a path that the system can take, not {address!r:.60}") from None
        if not 0 < len(data) <= MOST_HOST:
            raise ValueError(f"{name} must be a path of 1 to {MOST_HOST} bytes, not {address!r:.60}")
        if data[0] != 0 and 0 in data:
            raise ValueError(f"{name} must be a path without zeros, or an abstract name, not {address!r:.60}")
        record["family"] = AF_UNIX
    else:
        raise TypeError(f"{name} must be (host, port), or the path of a UNIX socket, not {address!r:.60}")
    record["host"][: len(data)] = np.frombuffer(data, np.uint8)
    record["length"] = len(data)
    return record


def _interface(name: str, host: str) -> int:
    """Return the number of the interface that stands behind the % of an IPv6 host."""
    interface = host.partition("%")[2] or "0"
    try:
        return int(interface) if interface.isdecimal() else socket.if_nametoindex(interface)
    except (OSError, ValueError):
        raise ValueError(f"{name} must name an interface that is there, not {host!r:.60}") from None


ADDRESS = one(ADDRESS_DTYPE, "ADDRESS_DTYPE")
ADDRESS_TO_READ = one(ADDRESS_DTYPE, "ADDRESS_DTYPE", _record_of)


def to_python(address: Any) -> Any:
    """Return an address as the `socket` module has it. Python only.

    Parameters
    ----------
    address : record of ADDRESS_DTYPE

    Returns
    -------
    tuple, str, bytes or None
        ``(host, port)``, for IPv6 ``(host, port, 0, scope)``; the path of a UNIX socket as str, or its abstract name as
        bytes; None if there is no address. Of other families ``(family, bytes)``.

    Raises
    ------
    TypeError, ValueError
        `address` is no such record.

    Examples
    --------
    >>> to_python(address_of("/run/log.socket"))
    '/run/log.socket'
    """
    address = ADDRESS_TO_READ.from_python("address", address)
    family = int(address["family"])
    data = bytes(address["host"][: max(0, int(address["length"]))])
    if family == 0:
        return None
    if family == AF_UNIX:
        return data if data[:1] == b"\0" else os.fsdecode(data)
    if family == AF_INET:
        return socket.inet_ntop(family, bytes(address["host"][:4])), int(address["port"])
    if family == AF_INET6:
        return socket.inet_ntop(family, bytes(address["host"][:16])), int(address["port"]), 0, int(address["scope"])
    return family, data


@in_both_faces(a=ADDRESS_TO_READ, b=ADDRESS_TO_READ)
def same_address(a: Any, b: Any) -> bool:
    """Return whether two addresses are the same, with their ports; in kernels and in Python.

    Parameters
    ----------
    a, b : record of ADDRESS_DTYPE
        In Python also what `address_of` takes.

    Returns
    -------
    bool

    Raises
    ------
    TypeError, ValueError
        An argument is no address.

    Examples
    --------
    >>> same_address(("::1", 53), address_of(("::1", 54)))
    False
    """
    return _same(a, b)


@kernel
def _same(a, b):
    same = a["family"] == b["family"] and a["port"] == b["port"] and a["scope"] == b["scope"]
    ours, theirs = a["host"], b["host"]
    for k in range(_used(a) if a["length"] == b["length"] else 0):
        same = same and ours[k] == theirs[k]
    return bool(same and a["length"] == b["length"])
