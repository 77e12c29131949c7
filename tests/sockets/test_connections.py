"""Connections: made, refused, ended, interrupted; and options of sockets."""

import errno
import os
import socket
import threading

import numpy as np
import pytest
from both import bound, new_address
from support import EVERY_WAY, Alarm, alarms, beside, ring

from iobuf_nb import events, sockets, syscalls
from iobuf_nb.sockets import (
    SHUT_WR,
    SO_ERROR,
    SO_RCVBUF,
    SO_REUSEPORT,
    SOCK_NONBLOCK,
    SOL_SOCKET,
    address_of,
    to_python,
)


@pytest.fixture
def server(kind, tmp_path):
    with bound(kind, tmp_path, socket.SOCK_STREAM) as made:
        made.listen(1)
        yield made


def test_a_connection_from_its_begin_to_its_end(call, server):
    address, buffer = new_address(), np.zeros(9, np.uint8)
    with socket.socket(server.family) as client:
        assert call("connect", client.fileno(), address_of(server.getsockname())) == 0
        fd = call("accept", server.fileno(), address, 0)
        assert fd >= 0 and not os.get_inheritable(fd) and os.get_blocking(fd)
        assert to_python(address) == (client.getsockname() or None if server.family != socket.AF_UNIX else "")
        client.sendall(b"question")
        assert syscalls.recv(fd, buffer) == 8
        assert call("shutdown", client.fileno(), SHUT_WR) == 0
        assert syscalls.recv(fd, buffer) == 0
        assert syscalls.send(fd, b"answer") == 6
        assert call("close", fd) == 0 and client.recv(9) == b"answer" and client.recv(9) == b""
        assert call("close", fd) == call("shutdown", fd, SHUT_WR) == -errno.EBADF


def test_nobody_is_there(call, server):
    server.setblocking(False)
    address = address_of("/as/it/was")
    assert call("accept", server.fileno(), address, 0) == -errno.EAGAIN
    assert to_python(address) == "/as/it/was"
    target = address_of(server.getsockname())
    server.close()
    with socket.socket(server.family) as client:
        assert call("connect", client.fileno(), target) == -errno.ECONNREFUSED
        code = 0 if server.family == socket.AF_UNIX else -errno.ENOTCONN
        assert call("shutdown", client.fileno(), SHUT_WR) == code
    assert call("connect", -1, target) == call("accept", -1, address, 0) == -errno.EBADF


def test_a_socket_that_does_not_block(call, tmp_path):
    with bound("inet", tmp_path, socket.SOCK_STREAM) as server, socket.socket() as client:
        server.listen()
        client.setblocking(False)
        assert call("connect", client.fileno(), address_of(server.getsockname())) in (0, -errno.EINPROGRESS)
        records = np.array([(client.fileno(), events.POLLOUT, 0)], events.POLL_DTYPE)
        assert call("poll", records, 30) == 1
        assert call("getsockopt", client.fileno(), SOL_SOCKET, SO_ERROR) == 0
        fd = call("accept", server.fileno(), new_address(), SOCK_NONBLOCK)
        assert not os.get_blocking(fd)
        os.close(fd)


def accept(fd, address):
    return sockets.accept(fd, address)


def connect(fd, address):
    return sockets.connect(fd, address)


@EVERY_WAY
def test_waiting_for_a_connection(jit, tmp_path, untraced):
    accept_, address, seen = jit(accept), new_address(), []
    with bound("inet", tmp_path, socket.SOCK_STREAM) as server, socket.socket() as client:
        server.listen()
        with socket.create_connection(server.getsockname()):
            os.close(accept_(server.fileno(), address))  # compiles

        def note(*_):
            seen.append(1)
            if len(seen) == 3:
                client.connect(server.getsockname())

        with alarms(note):
            os.close(accept_(server.fileno(), address))
        assert len(seen) >= 3 and to_python(address) == client.getsockname()
        with pytest.raises(Alarm), alarms(ring):
            accept_(server.fileno(), address)


@EVERY_WAY
def test_waiting_to_be_connected(jit, tmp_path, untraced):
    """It goes on after signals. A queue that is full lets UNIX sockets wait."""
    connect_, seen = jit(connect), []
    with bound("unix", tmp_path, socket.SOCK_STREAM) as server, socket.socket(socket.AF_UNIX) as client:
        server.listen(0)
        target = address_of(server.getsockname())
        with socket.socket(socket.AF_UNIX) as first:
            connect_(first.fileno(), target)  # compiles, and fills the queue

            def note(*_):
                seen.append(1)
                if len(seen) == 3:
                    server.accept()[0].close()

            with alarms(note):
                assert connect_(client.fileno(), target) == 0
        assert len(seen) >= 3
        with socket.socket(socket.AF_UNIX) as third, pytest.raises(Alarm), alarms(ring):
            connect_(third.fileno(), target)


def test_options(call, udp):
    server, _ = udp
    fd = server.fileno()
    assert call("setsockopt", fd, SOL_SOCKET, SO_RCVBUF, 100_000) == 0
    assert call("getsockopt", fd, SOL_SOCKET, SO_RCVBUF) == server.getsockopt(SOL_SOCKET, socket.SO_RCVBUF) >= 100_000
    with socket.socket() as tcp:
        for level, option in ((SOL_SOCKET, SO_REUSEPORT), (sockets.IPPROTO_TCP, sockets.TCP_NODELAY)):
            for value in (1, 0):
                assert call("setsockopt", tcp.fileno(), level, option, value) == 0
                assert call("getsockopt", tcp.fileno(), level, option) == value
    peek_offset = 42  # SO_PEEK_OFF, which is -1 if it is off
    assert call("setsockopt", fd, SOL_SOCKET, peek_offset, -1) == 0
    assert call("getsockopt", fd, SOL_SOCKET, peek_offset) == 2**32 - 1
    assert call("getsockopt", fd, SOL_SOCKET, 9999) == call("setsockopt", fd, SOL_SOCKET, 9999, 1) == -errno.ENOPROTOOPT
    assert call("getsockopt", -1, SOL_SOCKET, SO_RCVBUF) == -errno.EBADF


def test_the_numbers_are_those_of_the_standard_library():
    names = [name for name in sockets.__all__ if name.isupper() and isinstance(getattr(sockets, name), int)]
    known = {name: int(getattr(socket, name)) for name in names if hasattr(socket, name)}
    assert len(known) > 20 and known == {name: getattr(sockets, name) for name in known}


def serve(fd, address, n):
    """Answer `n` connections, one after the other, with what they send."""
    buffer = np.zeros(64, np.uint8)
    for _ in range(n):
        connection = sockets.accept(fd, address)
        while True:
            got = syscalls.recv(connection, buffer)
            if got <= 0:
                break
            syscalls.send_full(connection, buffer[:got])
        sockets.close(connection)
    return n


def test_a_server_in_a_kernel(face, tmp_path):
    """It does not hold the GIL, or its clients, in other threads, could not go on."""
    with bound("inet", tmp_path, socket.SOCK_STREAM) as server:
        server.listen()
        answers = []

        def ask(k):
            with socket.create_connection(server.getsockname()) as client:
                client.sendall(b"x" * k)
                client.shutdown(SHUT_WR)
                answers.append(client.makefile("rb").read())

        clients = [threading.Thread(target=ask, args=(k,)) for k in (1, 1000)]
        with beside(lambda: [each.start() or each.join() for each in clients]):
            assert face.jit(serve)(server.fileno(), new_address(), 2) == 2
        assert answers == [b"x", b"x" * 1000]
