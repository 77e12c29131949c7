"""What cannot be right is refused by name, in Python before anything is done, in kernels when they are compiled."""

import socket

import numpy as np
import pytest
from both import KERNELS, new_address, new_messages
from numba.core.errors import TypingError
from support import Index

from iobuf_nb import IOVEC_DTYPE, BufferPool, ItemPool, events, sockets
from iobuf_nb.events import EPOLL_DTYPE, POLL_DTYPE

BYTES, ADDRESS, MESSAGES, POOL = np.zeros(4, np.uint8), new_address(), new_messages(3), BufferPool(2, 16)
READ_ONLY, RECORDS = np.frombuffer(bytes(240), sockets.ADDRESS_DTYPE), np.zeros(2, POLL_DTYPE)
MUST_BE_INTEGER = "must be an integer from -?[0-9]+ to [0-9]+, not "


@pytest.mark.parametrize(
    "name, arguments, error, message",
    [
        ("recvfrom", (b"x", ADDRESS), ValueError, "buffer must be writable memory, to be read into"),
        ("recvfrom", (BYTES, READ_ONLY[0]), TypeError, "address must be an entry of a writable array of ADDRESS_DTYPE"),
        ("recvfrom", (BYTES, ("1.2.3.4", 5)), TypeError, "address must be an entry of a writable array"),
        ("recvfrom", (BYTES, ADDRESS, "1"), TypeError, f"flags {MUST_BE_INTEGER}'1'"),
        ("recvfrom", (BYTES, ADDRESS, 2**31), ValueError, f"flags {MUST_BE_INTEGER}2147483648"),
        ("recvfrom", (BYTES,), TypeError, "missing a required argument: 'address'"),
        ("sendto", ("text", ADDRESS), TypeError, "buffer must be bytes-like or an array, not 'text'"),
        ("sendto", (BYTES, MESSAGES[0]), TypeError, "address must be an entry of ADDRESS_DTYPE, not"),
        ("sendto", (BYTES, ("name", 5)), ValueError, "address must have a numeric host, not 'name'"),
        ("recvmsg", ([b"x"], MESSAGES[0]), ValueError, r"iovec\[0\] must be writable memory"),
        ("recvmsg", ([bytearray()] * 1025, MESSAGES[0]), ValueError, "iovec must have at most 1024 entries, not 1025"),
        ("sendmsg", ([b""] * 1025, MESSAGES[0]), ValueError, "iovec must have at most 1024 entries, not 1025"),
        ("recvmsg", ([BYTES], MESSAGES), TypeError, "message must be an entry of a writable array of MESSAGE_DTYPE"),
        ("sendmsg", (BYTES.tobytes(), MESSAGES[0]), TypeError, "iovec must be a sequence of buffers, not one"),
        ("recvmmsg", (POOL, [0, 0], MESSAGES), ValueError, r"indices must differ, .* not \[0, 0\]"),
        ("recvmmsg", (POOL, 0, MESSAGES), TypeError, "indices must be a sequence of integers, not 0"),
        ("recvmmsg", (5, [0], MESSAGES), TypeError, "pool must be a BufferPool, not 5"),
        ("sendmmsg", (POOL, [0], MESSAGES[::2]), TypeError, "messages must be a writable contiguous one-dimensional"),
        ("accept", (ADDRESS, None), TypeError, f"flags {MUST_BE_INTEGER}None"),
        ("connect", (5,), TypeError, "address must be .*, not 5"),
        ("shutdown", (3,), ValueError, f"how {MUST_BE_INTEGER}3"),
        ("setsockopt", (1, 2, 0.5), TypeError, f"value {MUST_BE_INTEGER}0.5"),
        ("getsockopt", (1, -1), ValueError, f"option {MUST_BE_INTEGER}-1"),
        ("epoll_ctl", (4, 0), ValueError, f"operation {MUST_BE_INTEGER}4"),
        ("epoll_ctl", (1, "x"), TypeError, f"target {MUST_BE_INTEGER}'x'"),
        ("epoll_ctl", (1, 0, -1), ValueError, f"events {MUST_BE_INTEGER}-1"),
        ("epoll_wait", (RECORDS,), TypeError, "ready must be a writable contiguous .* of EPOLL_DTYPE, not"),
        ("eventfd_write", (-1,), ValueError, f"n {MUST_BE_INTEGER}-1"),
        ("timerfd_set", (-1.0,), ValueError, "first must be None or a number of seconds >= 0, not -1.0"),
        ("timerfd_set", (1, "2"), TypeError, "interval must be None or a number of seconds >= 0, not '2'"),
    ],
)
def test_python_refuses(name, arguments, error, message):
    with socket.socket(type=socket.SOCK_DGRAM) as udp, pytest.raises(error, match=message):
        getattr(sockets, name, getattr(events, name, None))(udp, *arguments)
    assert not BYTES.any() and not any(MESSAGES.tobytes()) and not any(ADDRESS.tobytes())


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: sockets.close(socket), TypeError, f"fd {MUST_BE_INTEGER}<module"),
        (lambda: sockets.recvfrom("x", BYTES, ADDRESS), TypeError, f"fd {MUST_BE_INTEGER}'x'"),
        (lambda: sockets.to_python(5), TypeError, "address must be"),
        (lambda: sockets.same_address(ADDRESS, 5), TypeError, r"b must be \(host, port\), or the path of a UNIX"),
        (lambda: sockets.add_control(MESSAGES[0], 1, 2**31, b""), ValueError, f"kind {MUST_BE_INTEGER}"),
        (lambda: sockets.controls_of(ADDRESS), TypeError, "message must be an entry of a writable array of MESSAGE"),
        (lambda: events.poll([(0, 1, 0)]), TypeError, "records must be a writable contiguous .* of POLL_DTYPE, not"),
        (lambda: events.poll(RECORDS, -1), ValueError, "timeout must be None or a number of seconds >= 0, not -1"),
        (lambda: events.sleep(float("nan")), ValueError, "seconds must be a number of seconds >= 0, not nan"),
        (lambda: events.sleep(None), TypeError, "seconds must be a number of seconds >= 0, not None"),
        (lambda: events.sleep("1"), TypeError, "seconds must be a number of seconds >= 0, not '1'"),
        (lambda: events.eventfd(2**32), ValueError, f"initial {MUST_BE_INTEGER}4294967296"),
    ],
)
def test_python_refuses_other_things(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_whatever_is_an_integer_is_taken(udp):
    server, client = udp
    target = server.getsockname()
    assert sockets.sendto(Index(client.fileno()), b"abc", target, flags=Index(0)) == 3
    assert sockets.recvfrom(address=ADDRESS.copy(), fd=server, buffer=bytearray(3)) == 3


@pytest.mark.compiled
@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("recvfrom", (0.5, BYTES, ADDRESS, 0), "fd must be an integer in a kernel, not float64"),
        ("recvfrom", (0, b"x", ADDRESS, 0), "buffer must be a contiguous array in a kernel, not"),
        ("recvfrom", (0, np.frombuffer(b"x", np.uint8), ADDRESS, 0), "buffer must be a writable array, to be read"),
        ("recvfrom", (0, BYTES, MESSAGES[0], 0), "address must be an entry of an array of ADDRESS_DTYPE, not"),
        ("sendto", (0, BYTES, READ_ONLY, 0), "address must be an entry of an array of ADDRESS_DTYPE, not"),
        ("recvmsg", (0, BYTES, MESSAGES[0], 0), "iovec must be a contiguous one-dimensional array of IOVEC_DTYPE"),
        ("sendmsg", (0, np.zeros(1, IOVEC_DTYPE), ADDRESS, 0), "message must be an entry of an array of MESSAGE_DTYPE"),
        ("recvmmsg", (0, ItemPool([1]), np.zeros(1, int), MESSAGES, 0), "pool must be a BufferPool, not"),
        ("recvmmsg", (0, POOL, np.zeros(1), MESSAGES, 0), "indices must be a one-dimensional array of integers"),
        ("sendmmsg", (0, POOL, np.zeros(1, int), RECORDS, 0), "messages must be a writable contiguous one-dimensional"),
        ("setsockopt", (0, 1, 2, 0.5), "value must be an integer in a kernel, not float64"),
        ("poll", (np.zeros(2, EPOLL_DTYPE), 1), "records must be a writable contiguous .* of POLL_DTYPE, not"),
        ("poll", (RECORDS, "1"), "timeout must be None or a number of seconds >= 0, not"),
        ("timerfd_set", (0, 1j, None), "first must be None or a number of seconds >= 0, not complex128"),
        ("sleep", (None,), "seconds must be a number of seconds >= 0, not none"),
        ("sleep", (b"x",), "seconds must be a number of seconds >= 0, not"),
    ],
)
def test_kernels_refuse(name, arguments, message):
    with pytest.raises(TypingError, match=message):
        KERNELS[name](*arguments)


@pytest.mark.parametrize(
    "name, arguments", [("poll", (RECORDS, -1.0)), ("sleep", (-0.5,)), ("timerfd_set", (-1, -1.0, None))]
)
def test_numbers_below_zero(call, name, arguments):
    allowed = "a number of seconds >= 0" if name == "sleep" else "None or a number of seconds >= 0"
    with pytest.raises(ValueError, match=f" must be {allowed}, not -"):
        call(name, *arguments)
    assert not any(RECORDS.tobytes())


@pytest.mark.compiled
def test_kernels_pass_on_what_linux_refuses():
    """Values are not checked when a kernel runs; Linux does that."""
    assert KERNELS["shutdown"](2**40, 0) == KERNELS["epoll_ctl"](0, 1, 2**32, 0, 0) == -9
    assert KERNELS["eventfd_write"](0, -1) == -22
    for name in ("recvmsg", "sendmsg"):  # not -EMSGSIZE, by which a message would be lost
        assert KERNELS[name](0, np.zeros(1025, IOVEC_DTYPE), MESSAGES[0], 0) == -22
