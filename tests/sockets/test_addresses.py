"""Addresses: what is written is read again, equal ones are equal bytes, and what is none is refused."""

import socket

import numpy as np
import pytest
from both import new_address

from iobuf_nb import text
from iobuf_nb.sockets import ADDRESS_DTYPE, address_of, to_python

ADDRESSES = [
    ("127.0.0.1", 0),
    ("255.1.2.3", 65535),
    ("::1", 80, 0, 0),
    ("fe80::1:2", 443, 0, 7),
    ("::ffff:1.2.3.4", 80, 0, 0),
    "/run/a.socket",
    "x" * 108,
    b"\0abstract\0name",
]


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_what_is_written_is_read_again(address):
    record = address_of(address)
    assert to_python(record) == address
    assert to_python(new_address()) is None
    record.setflags(write=False)
    assert to_python(record) == address


def test_other_families_are_bytes(call, udp):
    record = address_of("kept")
    record["family"] = 16
    assert to_python(record) == (16, b"kept")
    assert call("sendto", udp[0].fileno(), np.ones(1, np.uint8), record, 0) < 0


def test_ports_are_numbers_and_hosts_are_bytes():
    record = address_of(("1.2.3.4", 258))
    assert (record["family"], record["port"], record["length"]) == (socket.AF_INET, 258, 4)
    assert bytes(record["host"]) == bytes([1, 2, 3, 4]).ljust(108, b"\0")
    assert address_of(("fe80::1%7", 1))["scope"] == 7
    assert address_of((f"fe80::1%{socket.if_indextoname(1)}", 1))["scope"] == 1


@pytest.mark.parametrize("a", range(len(ADDRESSES)))
def test_the_same_are_the_same(call, a):
    for b, other in enumerate(ADDRESSES):
        assert call("same_address", address_of(ADDRESSES[a]), address_of(other)) is (a == b)
    one = address_of(("1.2.3.4", 5))
    for field, value in (("port", 6), ("scope", 1), ("length", 3), ("family", 3)):
        other = one.copy()
        other[field] = value
        assert not call("same_address", one, other)


def count(table, addresses):
    for k in range(len(addresses)):
        address = addresses[k]
        table.rows[table.slot(address["host"], 0, address["length"]), 0] += 1


def test_they_are_counted_by_their_bytes(face):
    """A host by its bytes, as the guide does."""
    hosts = ["1.2.3.4", "::1", "1.2.3.4", "::2", "1.2.3.5"]
    addresses = np.array([address_of((host, k)) for k, host in enumerate(hosts)], ADDRESS_DTYPE)
    table = text.ByteTable({"packets": "sum"})
    face.jit(count)(table, addresses)
    assert [row.tolist() for _, row in table.items()] == [[2], [1], [1], [1]]


@pytest.mark.parametrize(
    "address, error, message",
    [
        (("localhost", 80), ValueError, "address must have a numeric host, not 'localhost': look it up with"),
        (("1.2.3.4%1", 80), ValueError, "address must have a numeric host, not '1.2.3.4%1'"),
        (("1.2.3.4", 80, 0, 0), TypeError, r"address must be \(host, port\) for IPv4, not"),
        (("1.2.3.4", 65536), ValueError, "port of address must be an integer from 0 to 65535, not 65536"),
        (("1.2.3.4", "80"), TypeError, "port of address must be an integer from 0 to 65535, not '80'"),
        (("::1", 80, 0, -1), ValueError, "scope of address must be an integer from 0 to 4294967295, not -1"),
        (("fe80::1%nosuch", 80), ValueError, "address must name an interface that is there"),
        (("1.2.3.4",), TypeError, r"address must be \(host, port\), or the path of a UNIX socket, not"),
        ((1, 2), TypeError, r"address must be \(host, port\), or the path of a UNIX socket, not"),
        (None, TypeError, r"address must be \(host, port\), or the path of a UNIX socket, not None"),
        ("", ValueError, "address must be a path of 1 to 108 bytes, not ''"),
        ("x" * 109, ValueError, "address must be a path of 1 to 108 bytes, not 'xxx"),
        ("a\0b", ValueError, "address must be a path without zeros, or an abstract name, not"),
        ("\ud800", ValueError, "address must be a path that the system can take"),
    ],
)
def test_what_is_no_address_is_refused(address, error, message):
    with pytest.raises(error, match=message):
        address_of(address)


def test_lengths_that_are_wrong_are_cut(call, udp):
    """A kernel may write anything into a record; no memory beside it is touched."""
    receiver, sender = udp
    for length in (-5, 2**31 - 1):
        target, before = address_of(receiver.getsockname()), address_of("y" * 108)
        target["length"] = before["length"] = length
        assert call("sendto", sender.fileno(), np.ones(3, np.uint8), target, 0) == 3
        assert call("recvfrom", receiver.fileno(), np.zeros(3, np.uint8), before, 0) == 3
        assert to_python(before) == sender.getsockname()
        assert length < 0 or before == address_of(sender.getsockname())
