"""Messages: many at once by the indices of buffers, times, and other control data."""

import errno
import os
import socket
import struct
import time

import numpy as np
import pytest
from both import new_messages
from support import EVERY_WAY, Alarm, alarms, beside, ring

from iobuf_nb import BufferPool, events, iovec_from_buffers, sockets
from iobuf_nb.sockets import (
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_TRUNC,
    MSG_WAITFORONE,
    SO_TIMESTAMPNS,
    SOL_SOCKET,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    address_of,
    controls_of,
    to_python,
)


@pytest.fixture
def pool():
    made = BufferPool(4, 16)
    indices = np.array([made.get() for _ in range(4)])
    yield made
    made.put_many(indices)


INDICES = np.array([2, 0, 3])


def got(pool, messages, n):
    return [
        (bytes(pool.value(i)[: m["length"]]), int(m["flags"]), to_python(m["address"]))
        for i, m in zip(INDICES[:n], messages, strict=False)
    ]


def test_many_at_once(call, pair, pool):
    server, client = pair
    pool.value(1)[:] = 7
    messages, source = new_messages(5), client.getsockname()
    for data in (b"one", b"x" * 20, b"", b"four"):
        client.sendto(data, server.getsockname())
    # Three of four: one of them is cut, which is told of it alone.
    assert call("recvmmsg", server.fileno(), pool, INDICES, messages, MSG_WAITFORONE) == 3
    assert got(pool, messages, 3) == [(b"one", 0, source), (b"x" * 16, MSG_TRUNC, source), (b"", 0, source)]
    messages["length"] = -1
    assert call("recvmmsg", server.fileno(), pool, INDICES, messages, MSG_WAITFORONE) == 1
    assert got(pool, messages, 1) == [(b"four", 0, source)] and messages["length"][1:].tolist() == [-1] * 4
    assert call("recvmmsg", server.fileno(), pool, INDICES, messages, MSG_DONTWAIT) == -errno.EAGAIN
    assert call("recvmmsg", server.fileno(), pool, INDICES[:0], messages, 0) == 0
    client.sendto(b"x" * 20, server.getsockname())
    assert call("recvmmsg", server.fileno(), pool, INDICES[:1], messages, MSG_TRUNC) == 1
    assert messages["length"][0] == 20 and messages["flags"][0] & MSG_TRUNC
    assert (pool.value(1) == 7).all()


def test_many_are_sent(call, pair, pool):
    server, client = pair
    messages = new_messages(3)
    for k, index in enumerate(INDICES):
        pool.value(index)[:] = k
        messages["length"][k], messages["address"][k] = 5 * k, address_of(server.getsockname())
    assert call("sendmmsg", client.fileno(), pool, INDICES, messages, 0) == 3
    for k in range(3):
        assert server.recvfrom(99) == (bytes([k] * 5 * k), client.getsockname())
    messages["address"][1]["family"] = 99
    assert call("sendmmsg", client.fileno(), pool, INDICES, messages, 0) == 1  # up to the one that fails
    assert server.recvfrom(99)[0] == b""
    assert call("sendmmsg", client.fileno(), pool, INDICES[1:], messages[1:], 0) < 0


@pytest.mark.parametrize("name", ["recvmmsg", "sendmmsg"])
@pytest.mark.parametrize(
    "indices, lengths, error, message",
    [
        ([0, 4], 1, IndexError, "indices must be from 0 to capacity - 1, 3, not 4"),
        ([-1], 1, IndexError, "indices must be from 0 to capacity - 1, 3, not -1"),
        ([0, 1, 2], 1, ValueError, "messages must have an entry for each index, 3, not 2"),
        ([0, 1], 17, ValueError, "lengths must be from 0 to buffer_size, 16, not 17"),
        ([0, 1], -1, ValueError, "lengths must be from 0 to buffer_size, 16, not -1"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_done(call, udp, pool, name, indices, lengths, error, message):
    server, client = udp
    messages = new_messages(2)
    messages["length"] = lengths
    messages["address"] = address_of(server.getsockname())
    client.sendto(b"there", server.getsockname())
    if name == "recvmmsg" and error is ValueError and len(indices) == 2:
        return  # lengths come from Linux
    with pytest.raises(error, match=message):
        call(name, (server if name == "recvmmsg" else client).fileno(), pool, np.array(indices), messages, 0)
    server.setblocking(False)
    assert server.recv(10) == b"there" and messages["length"].tolist() == [lengths] * 2
    with pytest.raises(BlockingIOError):
        server.recv(10)


def test_more_than_linux_takes_at_once(call, udp):
    server, client = udp
    pool, messages = BufferPool(1030, 16, checked=False), new_messages(1030)
    messages["address"] = address_of(server.getsockname())
    messages["length"] = 1
    sockets.setsockopt(server, SOL_SOCKET, sockets.SO_RCVBUF, 4)
    assert call("sendmmsg", client.fileno(), pool, np.arange(1030), messages, 0) == 1024
    assert 0 < call("recvmmsg", server.fileno(), pool, np.arange(1030), messages, MSG_DONTWAIT) <= 1024


def test_times(call, udp, pool):
    server, client = udp
    messages = new_messages(3)
    assert call("setsockopt", server.fileno(), SOL_SOCKET, SO_TIMESTAMPNS, 1) == 0
    before = time.time_ns()
    for _ in range(3):
        client.sendto(b"x", server.getsockname())
    assert call("recvmmsg", server.fileno(), pool, INDICES, messages, 0) == 3
    times = messages["time_ns"].tolist()
    # Linux begins a little after the option is set: until then it gives the time of the call.
    assert all(before <= each <= time.time_ns() for each in times)
    (level, kind, data), *others = controls_of(messages[0])
    assert not others and (level, kind) == (SOL_SOCKET, SO_TIMESTAMPNS)
    seconds, ns = struct.unpack("qq", data)
    assert seconds * 10**9 + ns == times[0]
    call("setsockopt", server.fileno(), SOL_SOCKET, SO_TIMESTAMPNS, 0)
    client.sendto(b"x", server.getsockname())
    assert call("recvmmsg", server.fileno(), pool, INDICES[:1], messages, 0) == 1
    assert messages["time_ns"][0] == messages["control_length"][0] == 0


def test_datagrams_put_together(call, udp):
    """A message of several datagrams says how long each is."""
    server, client = udp
    pool, messages = BufferPool(1, 1024, checked=False), new_messages(1)
    try:
        sockets.setsockopt(server, SOL_UDP, UDP_GRO, 1)
    except OSError as error:
        pytest.skip(f"this Linux has no UDP_GRO: {error}")
    messages["address"], messages["length"] = address_of(server.getsockname()), 350
    assert call("add_control", messages[0], SOL_UDP, UDP_SEGMENT, np.array([100], np.uint16)) == 24
    assert call("sendmmsg", client.fileno(), pool, np.zeros(1, np.int64), messages, 0) == 1
    assert call("recvmmsg", server.fileno(), pool, np.zeros(1, np.int64), messages, 0) == 1
    assert (messages["length"][0], messages["segment"][0]) == (350, 100)


# ---- one message -----------------------------------------------------------------------------------------------------


def test_a_message_in_pieces(call, pair):
    server, client = pair
    message = new_messages(1)[0]
    buffers = [np.zeros(n, np.uint8) for n in (3, 0, 4)]
    message["address"] = address_of(server.getsockname())
    assert call("sendmsg", client.fileno(), iovec_from_buffers([b"ab", b"", b"cde"]), message, 0) == 5
    assert call("recvmsg", server.fileno(), iovec_from_buffers(buffers), message, 0) == message["length"] == 5
    assert b"".join(map(bytes, buffers)) == b"abcde\0\0" and to_python(message["address"]) == client.getsockname()
    client.sendto(b"longer than seven", server.getsockname())
    assert call("recvmsg", server.fileno(), iovec_from_buffers(buffers), message, 0) == -errno.EMSGSIZE
    assert b"".join(map(bytes, buffers)) == b"longer " and message["flags"] & MSG_TRUNC
    before = message.copy()
    assert call("recvmsg", server.fileno(), iovec_from_buffers(buffers), message, MSG_DONTWAIT) == -errno.EAGAIN
    assert message == before


def test_control_data_goes_along(call):
    """Descriptors, as control data in general: from a kernel to Python and back."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    reader, writer = os.pipe()
    with ours, theirs, open(reader), open(writer, "w"):
        message, iovec = new_messages(1)[0], iovec_from_buffers([bytearray(1)])
        sent = np.array([reader, writer], np.int32)
        assert call("add_control", message, SOL_SOCKET, socket.SCM_RIGHTS, sent) == 24
        assert call("sendmsg", ours.fileno(), iovec, message, 0) == 1
        _, received, _, _ = socket.recv_fds(theirs, 1, 9)
        assert [os.fstat(fd).st_ino for fd in received] == [os.fstat(fd).st_ino for fd in sent]
        socket.send_fds(theirs, [b"x"], received)
        assert call("recvmsg", ours.fileno(), iovec, message, 0) == 1
        k = call("find_control", message, SOL_SOCKET, socket.SCM_RIGHTS)
        back = message["control"][k : k + 8].view(np.int32).tolist()
        assert [os.fstat(fd).st_ino for fd in back] == [os.fstat(fd).st_ino for fd in sent]
        assert not any(os.get_inheritable(fd) for fd in back)
        assert not call("find_control", message, SOL_SOCKET, SO_TIMESTAMPNS)
        socket.send_fds(theirs, [b"x"], [reader] * 40)
        assert call("recvmsg", ours.fileno(), iovec, message, 0) == 1 and message["flags"] == MSG_CTRUNC
        ((_, _, data),) = controls_of(message)
        for fd in [*received, *back, *np.frombuffer(data, np.int32)]:
            os.close(fd)


def test_control_data_that_has_no_room(call):
    message = new_messages(1)[0]
    for k in range(1, 6):
        assert call("add_control", message, 1, k, np.arange(k, dtype=np.uint8)) == 24 * k
    assert call("add_control", message, 1, 9, np.zeros(1, np.uint8)) == -errno.ENOBUFS
    assert message["control_length"] == 120
    assert controls_of(message) == [(1, k, bytes(range(k))) for k in range(1, 6)]
    assert [call("find_control", message, level, 2) for level in (1, 2)] == [40, 0]
    message["control_length"] = 2**63 - 1
    assert call("add_control", message, 1, 9, np.zeros(1, np.uint8)) == -errno.ENOBUFS
    message["control_length"] = 120
    message["control"][:8] = 0  # no memory beside it is touched, and none is walked over for ever
    assert call("find_control", message, 1, 2) == 0 and controls_of(message) == []


def receive(fd, pool, indices, messages):
    return sockets.recvmmsg(fd, pool, indices, messages)


@EVERY_WAY
def test_waiting_for_all(jit, udp, pool, untraced):
    server, client = udp
    receive_, messages = jit(receive), new_messages(3)
    receive_(server.fileno(), pool, INDICES[:0], messages)  # compiles
    with pytest.raises(Alarm), alarms(ring):
        receive_(server.fileno(), pool, INDICES, messages)

    def feed():  # needs the GIL
        for data in (b"a", b"b", b"c"):
            events.sleep(0.005)
            client.sendto(data, server.getsockname())

    seen = []
    with beside(feed), alarms(lambda *_: seen.append(1), 0.003, 0.003):  # and goes on after signals between them
        assert receive_(server.fileno(), pool, INDICES, messages) == 3
    assert seen
    assert [data for data, _, _ in got(pool, messages, 3)] == [b"a", b"b", b"c"]
