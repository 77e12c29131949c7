"""Datagrams one at a time: whole, short, cut, interrupted, refused; over IPv4, IPv6 and UNIX sockets."""

import errno
import os
import signal
import socket
import threading

import numpy as np
import pytest
from both import new_address, two
from support import EVERY_WAY, Alarm, alarms, beside, ring

from iobuf_nb import events, sockets
from iobuf_nb.sockets import MSG_CTRUNC, MSG_DONTWAIT, MSG_TRUNC, address_of, to_python


def data_of(size):
    return np.arange(size, dtype=np.uint8)


def test_there_and_back_by_the_address_of_the_sender(call, pair):
    server, client = pair
    source, buffer = new_address(), np.zeros(100, np.uint8)
    for size in (5, 0, 100):
        assert call("sendto", client.fileno(), data_of(size), address_of(server.getsockname()), 0) == size
        assert call("recvfrom", server.fileno(), buffer, source, 0) == size
        assert (buffer[:size] == data_of(size)).all()
        assert to_python(source) == client.getsockname()
        assert call("sendto", server.fileno(), buffer[:size], source, 0) == size
        assert client.recvfrom(100) == (data_of(size).tobytes(), server.getsockname())


def test_a_datagram_that_is_cut_is_told_of(call, pair):
    server, client = pair
    source, buffer, target = new_address(), np.zeros(4, np.uint8), server.getsockname()
    for n in (10, 10, 4):
        client.sendto(data_of(n), target)
    assert call("recvfrom", server.fileno(), buffer, source, 0) == -errno.EMSGSIZE
    assert buffer.tolist() == [0, 1, 2, 3] and to_python(source) == client.getsockname()
    assert call("recvfrom", server.fileno(), buffer, source, MSG_TRUNC) == 10
    assert call("recvfrom", server.fileno(), buffer, source, 0) == 4  # and no other is lost with it


def test_a_record_is_as_new_whatever_it_was_before(call, tmp_path):
    """Equal addresses are equal bytes."""
    record, buffer = address_of("x" * 108), np.zeros(4, np.uint8)
    for kind in ("inet6", "unix", "inet", "abstract", "inet"):
        with two(kind, tmp_path) as (server, client):
            client.sendto(b"x", server.getsockname())
            assert call("recvfrom", server.fileno(), buffer, record, 0) == 1
            assert record.tobytes() == address_of(client.getsockname()).tobytes()


def test_who_has_no_name_has_no_address(call):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        address, buffer = address_of("/somewhere"), np.zeros(4, np.uint8)
        assert call("sendto", ours.fileno(), data_of(3), new_address(), 0) == 3  # to the other end
        assert call("recvfrom", theirs.fileno(), buffer, address, 0) == 3 and to_python(address) is None
        ours.close()
        assert call("recvfrom", theirs.fileno(), buffer, address, 0) == 0


def test_what_fails_changes_nothing(call, udp):
    server, client = udp
    server.setblocking(False)
    address, buffer = address_of("/as/it/was"), np.zeros(4, np.uint8)
    for fd, flags, code in (
        (server.fileno(), 0, errno.EAGAIN),
        (client.fileno(), MSG_DONTWAIT, errno.EAGAIN),
        (-1, 0, errno.EBADF),
        (os.dup(0), 0, errno.ENOTSOCK),
    ):
        assert call("recvfrom", fd, buffer, address, flags) == -code
    os.close(fd)
    assert to_python(address) == "/as/it/was" and not buffer.any()
    target, large = address_of(server.getsockname()), np.zeros(70_000, np.uint8)
    assert call("sendto", client.fileno(), large, target, 0) == -errno.EMSGSIZE
    assert call("sendto", client.fileno(), buffer, address_of(("::1", 1)), 0) == -errno.EAFNOSUPPORT
    fd = client.detach()
    os.close(fd)
    assert call("sendto", fd, buffer, target, 0) == -errno.EBADF


def test_an_error_that_came_for_a_socket(call, udp):
    server, client = udp
    client.connect(server.getsockname())
    server.close()
    assert call("sendto", client.fileno(), data_of(3), new_address(), 0) == 3
    events.poll(np.array([(client.fileno(), 0, 0)], events.POLL_DTYPE))  # until ICMP has told of it
    assert call("recvfrom", client.fileno(), data_of(3), new_address(), 0) == -errno.ECONNREFUSED


def receive(fd, buffer, address):
    return sockets.recvfrom(fd, buffer, address)


@EVERY_WAY
def test_waiting_goes_on_after_signals(jit, udp, untraced):
    server, client = udp
    buffer, address, receive_ = np.zeros(10, np.uint8), new_address(), jit(receive)
    client.sendto(b"warm up", server.getsockname())
    receive_(server.fileno(), buffer, address)  # compiles: signals are to come while it waits
    seen = []

    def note(*_):
        seen.append(1)
        if len(seen) == 3:
            client.sendto(b"data", server.getsockname())

    rescue = threading.Timer(20, client.sendto, (b"late", server.getsockname()))
    rescue.start()
    with alarms(note):
        assert receive_(server.fileno(), buffer, address) == 4 and bytes(buffer[:4]) == b"data"
    assert len(seen) >= 3
    with pytest.raises(Alarm), alarms(ring):
        receive_(server.fileno(), buffer, address)
    with beside(lambda: (events.sleep(0.01), client.sendto(b"more", server.getsockname()))):  # which needs the GIL
        assert receive_(server.fileno(), buffer, address) == 4
    rescue.cancel()
    rescue.join()
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_descriptors_that_are_sent_along_are_not_received(call):
    """They would be lost, and open for ever."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        before = len(os.listdir("/proc/self/fd"))
        socket.send_fds(ours, [b"x"], [0, 0])
        assert call("recvfrom", theirs.fileno(), np.zeros(1, np.uint8), new_address(), MSG_CTRUNC) == 1
        assert len(os.listdir("/proc/self/fd")) == before
