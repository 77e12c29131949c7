"""System calls: every byte on files, pipes and sockets, whole and in pieces, in Python and in kernels."""

import errno
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config, njit
from numba.core.errors import TypingError

from iobuf_nb import IOVEC_DTYPE, BufferPool, iovec_from_buffers, syscalls
from iobuf_nb.syscalls import IOV_MAX, poll_in

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="interpreted, there are no kernels")


def make_kernel(function, last):
    if last:
        return njit(lambda fd, memory, last: function(fd, memory, last), nogil=True)
    return njit(lambda fd, memory: function(fd, memory), nogil=True)


AT_OFFSET = ("pread", "pwrite", "preadv", "pwritev")
NAMES = [name for name in syscalls.__all__ if name != "poll_in"]
KERNELS = {name: make_kernel(getattr(syscalls, name), name.removesuffix("_full") in AT_OFFSET) for name in NAMES}


class Python:
    """The functions called from Python: a count, or -errno as kernels give it."""

    @staticmethod
    def call(name, *arguments):
        try:
            return getattr(syscalls, name)(*arguments)
        except OSError as error:
            return -error.errno


class Kernel:
    """The functions called in kernels."""

    @staticmethod
    def call(name, *arguments):
        if config.DISABLE_JIT:
            return Python.call(name, *arguments)
        return KERNELS[name](*arguments)


@pytest.fixture(params=[Python, Kernel], ids=["python", "kernel"])
def on(request):
    return request.param


def content(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n, np.uint8)


def is_vector(name):
    return name.removesuffix("_full") in ("readv", "writev", "preadv", "pwritev")


# ---- pipes and sockets -----------------------------------------------------------------------------------------------


def tcp():
    with socket.create_server(("127.0.0.1", 0)) as server:
        writer = socket.create_connection(server.getsockname())
        reader = server.accept()[0]
    return reader, writer


@contextmanager
def channel(kind):
    """Give the reading and the writing end of a channel that holds little, so that transfers come short."""
    if kind == "pipe":
        reader, writer = os.pipe()
        fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ
    else:
        ends = tcp() if kind == "tcp" else socket.socketpair()
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader, writer = (end.detach() for end in ends)
    ends = {reader, writer}

    def close(fd):
        ends.remove(fd)
        os.close(fd)

    try:
        yield reader, writer, close
    finally:
        for fd in ends:
            os.close(fd)


CHANNELS = ["pipe", "unix", "tcp"]
READS = [name for name in NAMES if name.startswith(("read", "recv"))]
WRITES = [name for name in NAMES if name.startswith(("write", "send"))]


def with_sockets_only(names):
    return [(kind, name) for kind in CHANNELS for name in names if kind != "pipe" or name[:4] not in ("recv", "send")]


@pytest.mark.parametrize("kind, name", with_sockets_only(READS))
def test_reads_of_what_comes_in_odd_pieces(on, kind, name):
    data = content(50_000)
    with channel(kind) as (reader, writer, close):

        def feed():
            view = data.data
            for n in range(1, len(data)):
                if not len(view):
                    break
                n = 1 + n * 37 % 1500
                while n and len(view):
                    done = os.write(writer, view[:n])
                    view, n = view[done:], n - done
            close(writer)

        thread = threading.Thread(target=feed)
        thread.start()
        got = bytearray()
        shorts = 0
        while True:
            pieces = [np.zeros(3000, np.uint8), np.zeros(0, np.uint8), np.zeros(2000, np.uint8)]
            target = iovec_from_buffers(pieces) if is_vector(name) else pieces[0]
            whole = 5000 if is_vector(name) else 3000
            n = on.call(name, reader, target)
            assert 0 <= n <= whole
            if n == 0:
                break
            got += np.concatenate(pieces)[:n].tobytes()
            shorts += n < whole
        thread.join()
    assert got == data.tobytes()
    # The whole variants come short at the end alone, and the plain ones did so, or this tests nothing.
    assert shorts == (len(data) % whole != 0) if name.endswith("_full") else shorts > 1


@pytest.mark.parametrize("kind, name", with_sockets_only(WRITES))
def test_writes_to_who_reads_in_odd_pieces(on, kind, name):
    data = content(60_000)
    got = bytearray()
    with channel(kind) as (reader, writer, close):
        full = name.endswith("_full")
        os.set_blocking(writer, full)

        def drain():
            n = 1
            while piece := os.read(reader, n):
                got.extend(piece)
                n = 1 + n * 37 % 1501

        thread = threading.Thread(target=drain)
        thread.start()
        sent = 0
        shorts = 0
        while sent < len(data):
            pieces = [data[sent : sent + 7000], data[:0], data[sent + 7000 :]]
            source = iovec_from_buffers(pieces) if is_vector(name) else data[sent:]
            n = on.call(name, writer, source)
            assert n != 0
            if n < 0:
                assert n == -errno.EAGAIN and not full
                select.select([], [writer], [])
            else:
                shorts += sent + n < len(data)
                sent += n
        close(writer)
        thread.join()
    assert got == data.tobytes()
    assert shorts == 0 if full else shorts > 0


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    """Give a descriptor of a file of 200 bytes, each its own value."""
    path = tmp_path / "data"
    path.write_bytes(bytes(range(200)))
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("full", ["", "_full"])
def test_files_one_buffer(on, file, full):
    buffer = np.zeros(120, np.uint8)
    assert on.call("read" + full, file, buffer) == 120 and bytes(buffer) == bytes(range(120))
    assert on.call("read" + full, file, buffer) == 80 and bytes(buffer[:80]) == bytes(range(120, 200))
    assert on.call("read" + full, file, buffer) == 0
    assert on.call("pread" + full, file, buffer, 150) == 50 and bytes(buffer[:50]) == bytes(range(150, 200))
    assert on.call("pread" + full, file, buffer, 200) == 0
    assert on.call("pwrite" + full, file, buffer[:3] * 0, 10) == 3
    assert on.call("write" + full, file, buffer[:4] * 0) == 4
    assert os.lseek(file, 0, os.SEEK_CUR) == 204
    assert os.pread(file, 300, 0) == bytes(range(10)) + bytes(3) + bytes(range(13, 200)) + bytes(4)


@pytest.mark.parametrize("full", ["", "_full"])
def test_files_in_pieces(on, file, full):
    pool = BufferPool(4, 64)
    entries = pool.iovec([2, 0], [64, 40])
    assert on.call("readv" + full, file, entries) == 104
    assert bytes(pool.value(2)) + bytes(pool.value(0))[:40] == bytes(range(104))
    assert on.call("readv" + full, file, entries) == 96
    assert on.call("readv" + full, file, entries) == 0
    assert on.call("preadv" + full, file, entries, 190) == 10
    assert bytes(pool.value(2)[:10]) == bytes(range(190, 200))
    pool.value(2)[:], pool.value(0)[:] = 1, 2
    assert on.call("pwritev" + full, file, entries, 50) == 104
    assert on.call("writev" + full, file, entries) == 104
    new = bytes([1] * 64 + [2] * 40)
    assert os.pread(file, 400, 0) == bytes(range(50)) + new + bytes(range(154, 200)) + new
    assert entries["len"].tolist() == [64, 40]  # the caller's own is not advanced


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(0, 60), st.booleans())
@settings(deadline=None, max_examples=50)
def test_any_pieces(tmp_path_factory, lengths, offset, full):
    path = tmp_path_factory.mktemp("pieces") / "data"
    suffix = "_full" if full else ""
    for on in (Python, Kernel):
        path.write_bytes(bytes(range(100)))
        with open(path, "r+b", buffering=0) as opened:
            pieces = [np.zeros(n, np.uint8) for n in lengths]
            entries = iovec_from_buffers(pieces)
            expected = bytes(range(100))[offset : offset + sum(lengths)]
            assert on.call("preadv" + suffix, opened.fileno(), entries, offset) == len(expected)
            assert b"".join(map(bytes, pieces))[: len(expected)] == expected
            assert on.call("pwritev" + suffix, opened.fileno(), entries, offset) == sum(lengths)
        assert path.read_bytes()[offset:][: sum(lengths)] == b"".join(map(bytes, pieces))


@pytest.mark.parametrize("n", [IOV_MAX, IOV_MAX + 1, 3 * IOV_MAX + 5])
def test_more_entries_than_the_system_takes(on, tmp_path, n):
    data = content(3 * n)
    with open(tmp_path / "data", "w+b", buffering=0) as opened:
        fd = opened.fileno()
        assert on.call("writev", fd, iovec_from_buffers(data.reshape(n, 3))) == 3 * n
        back = np.zeros((n, 3), np.uint8)
        assert on.call("preadv", fd, iovec_from_buffers(back), 0) == 3 * n
        assert back.tobytes() == data.tobytes()
        assert on.call("preadv", fd, iovec_from_buffers(back), 3 * n - 4) == 4


def test_a_short_transfer_in_the_middle_of_many_entries(on):
    n = 3 * IOV_MAX
    data = content(5 * n)
    with channel("pipe") as (reader, writer, _):
        fcntl.fcntl(writer, 1031, 8192)  # F_SETPIPE_SZ: the second thousand of entries comes to its end in the middle
        os.set_blocking(writer, False)
        entries = iovec_from_buffers(data.reshape(n, 5))
        got = np.zeros(10_000, np.uint8)
        for name in ("writev", "writev_full"):
            done = on.call(name, writer, entries)
            assert 5 * IOV_MAX < done <= 8192
            assert on.call("read", reader, got) == done and (got[:done] == data[:done]).all()


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_closed_descriptors(on, name):
    buffer = np.zeros(10, np.uint8)
    target = iovec_from_buffers([buffer]) if is_vector(name) else buffer
    last = (0,) if name.removesuffix("_full") in AT_OFFSET else ()
    assert on.call(name, -1, target, *last) == -errno.EBADF
    assert on.call(name, 9999, target, *last) == -errno.EBADF


def test_errors_by_their_numbers(on, tmp_path):
    buffer = np.zeros(10, np.uint8)
    with channel("pipe") as (reader, writer, close):
        assert on.call("pread", reader, buffer, 0) == -errno.ESPIPE
        assert on.call("recv", reader, buffer) == -errno.ENOTSOCK
        os.set_blocking(reader, False)
        assert on.call("read", reader, buffer) == -errno.EAGAIN
        assert on.call("read_full", reader, buffer) == -errno.EAGAIN
        os.write(writer, b"four")
        assert on.call("read_full", reader, buffer) == 4  # what there was; the next call says why not more
        close(reader)
        assert on.call("write", writer, buffer) == -errno.EPIPE
    fd = os.open(tmp_path, os.O_RDONLY)
    assert on.call("read", fd, buffer) == -errno.EISDIR
    os.close(fd)


def test_a_connection_that_is_reset(on):
    with channel("tcp") as (reader, writer, close):
        os.write(writer, b"some")
        with socket.socket(fileno=os.dup(writer)) as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            close(writer)
        select.select([], [], [reader], 0)
        buffer = np.zeros(10, np.uint8)
        results = [on.call("recv", reader, buffer) for _ in range(2)]
        assert -errno.ECONNRESET in results


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_full_disk(on, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=65536", "tmpfs", disk], check=True)
    try:
        fd = os.open(disk / "data", os.O_RDWR | os.O_CREAT)
        data = content(100_000)
        entries = iovec_from_buffers(data.reshape(1000, 100))
        assert on.call("write_full", fd, data) == 65536
        assert on.call("write_full", fd, data) == -errno.ENOSPC
        assert on.call("pwritev_full", fd, entries, 60_000) == 5536
        assert on.call("pwrite", fd, data, 65536) == -errno.ENOSPC
        os.close(fd)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_python_raises_errors_of_their_own_kind():
    buffer = bytearray(10)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError, match="Resource temporarily unavailable"):
        syscalls.read(reader, buffer)
    os.close(reader)
    with pytest.raises(BrokenPipeError, match="Broken pipe"):
        syscalls.writev(writer, [b"x"])
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        poll_in(-1, 0) or syscalls.read(-1, buffer)


READ_ONLY = b"read-only"
STRIDED = np.zeros((4, 4), np.uint8)[:, 1]
TWICE = bytearray(10)


@pytest.mark.parametrize(
    "name, arguments, error, message",
    [
        ("read", (0, READ_ONLY), ValueError, "buffer must be writable memory, to be read into, not read-only"),
        ("recv", (0, READ_ONLY), ValueError, "buffer must be writable memory, to be read into, not read-only"),
        ("pread", (0, STRIDED, 0), ValueError, r"buffer must be contiguous; it has shape \(4,\) and strides \(4,\)"),
        ("write", (0, "text"), TypeError, "buffer must be bytes-like or an array, not 'text'"),
        ("write", (0, np.array([None])), TypeError, "buffer must be plain memory, not an array of Python objects"),
        ("write", ("x", b""), TypeError, "fd must be an integer from -1 to 2147483647, not 'x'"),
        ("write", (True, b""), TypeError, "fd must be an integer from -1 to 2147483647, not True"),
        ("write", (2**31, b""), ValueError, "fd must be an integer from -1 to 2147483647, not 2147483648"),
        ("pwrite", (0, b"", "x"), TypeError, "offset must be an integer .* not 'x'"),
        ("send", (0, b"", 1.5), TypeError, "flags must be an integer .* not 1.5"),
        ("write", (0,), TypeError, "missing a required argument: 'buffer'"),
        ("write", (0, b"", 1), TypeError, "positional argument"),
        ("readv", (0, [bytearray(1), READ_ONLY]), ValueError, r"buffers\[1\] must be writable memory"),
        (
            "readv",
            (0, iovec_from_buffers([READ_ONLY])),
            ValueError,
            r"must be over writable .* buffers\[0\] is read-only",
        ),
        ("readv_full", (0, [TWICE, TWICE]), ValueError, "without overlaps, but entries 0 and 1 overlap"),
        ("preadv", (0, BufferPool(2, 16).iovec([1, 1]), 0), ValueError, "but entries 0 and 1 overlap"),
        (
            "writev",
            (0, np.array([(0, -1)], IOVEC_DTYPE)),
            ValueError,
            "iovec must have lengths from 0 up, of less than",
        ),
        ("writev", (0, np.array([(0, 2**62)] * 2, IOVEC_DTYPE)), ValueError, r"less than 2\*\*63 bytes \(SSIZE_MAX\)"),
        ("writev", (0, np.zeros((2, 2), IOVEC_DTYPE)), ValueError, r"one-dimensional; it has shape \(2, 2\)"),
        ("writev", (0, b"bytes"), TypeError, "buffers must be a sequence of buffers, not one: b'bytes'"),
    ],
)
def test_python_refuses(name, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(syscalls, name)(*arguments)


def test_keywords_and_objects_with_descriptors(tmp_path):
    with open(tmp_path / "data", "w+b", buffering=0) as opened:
        assert syscalls.pwrite(fd=opened, buffer=b"hello", offset=2) == 5
        buffer = bytearray(4)
        assert syscalls.pread(opened, buffer, offset=3) == 4 and buffer == b"ello"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert syscalls.send(ours, b"hello", flags=socket.MSG_DONTWAIT) == 5
        assert syscalls.recv(theirs, buffer, socket.MSG_PEEK) == 4 and buffer == b"hell"
        assert syscalls.recv_full(theirs, buffer) == 4 and buffer == b"hell"


def test_nothing_at_all(on, file):
    assert on.call("read", file, np.zeros(0, np.uint8)) == 0
    assert on.call("write_full", file, np.zeros(0, np.uint8)) == 0
    assert on.call("readv", file, np.zeros(0, IOVEC_DTYPE)) == 0
    assert on.call("pwritev_full", file, iovec_from_buffers([b"", b""]), 0) == 0


@compiled
@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("read", (0, np.zeros((4, 4))[:, 1]), "buffer must be a contiguous array in a kernel, not array"),
        ("read", (0, np.frombuffer(b"x", np.uint8)), "buffer must be a writable array, to be read into, not"),
        ("write", (0.5, np.zeros(1)), "fd must be an integer in a kernel, not float64"),
        ("readv", (0, np.zeros(1)), "iovec must be a contiguous one-dimensional array of IOVEC_DTYPE, not"),
    ],
)
def test_kernels_refuse(name, arguments, message):
    with pytest.raises(TypingError, match=message):
        KERNELS[name](*arguments)


# ---- waiting ---------------------------------------------------------------------------------------------------------


@njit
def poll_in_kernel(fd, timeout_ms):
    return poll_in(fd, timeout_ms)


@pytest.mark.parametrize("poll", [poll_in, poll_in_kernel])
def test_polling(poll):
    with channel("pipe") as (reader, writer, close):
        assert poll(reader, 0) == 0 and poll(reader, 5) == 0
        os.write(writer, b"x")
        assert poll(reader, 1000) == 1 and poll(reader, -1) == 1
        os.read(reader, 1)
        close(writer)
        assert poll(reader, -1) == 1  # the end can be read too


@contextmanager
def alarms(handler, every=0.01):
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, every, every)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_some(fd, buffer):
    return syscalls.read(fd, buffer)


WAYS = [syscalls.read, njit(nogil=True)(read_some), njit(read_some)]
IDS = ["python", "nogil kernel", "kernel with the GIL"]


@pytest.mark.parametrize("read", WAYS, ids=IDS)
def test_a_read_goes_on_after_signals(read):
    buffer = np.zeros(10, np.uint8)
    with channel("pipe") as (reader, writer, _):
        os.write(writer, b"warm up")
        read(reader, buffer)  # compiles: signals are to come while it reads
        seen = []

        def note(*_):
            seen.append(1)
            if len(seen) == 3:
                os.write(writer, b"data")

        with alarms(note):
            assert read(reader, buffer) == 4 and bytes(buffer[:4]) == b"data"
    assert len(seen) >= 3


@pytest.mark.parametrize("read", WAYS, ids=IDS)
def test_a_handler_that_raises_ends_a_read(read):
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    buffer = np.zeros(10, np.uint8)
    with channel("pipe") as (reader, writer, _):
        os.write(writer, b"warm up")
        read(reader, buffer)
        with pytest.raises(Stop), alarms(stop):
            read(reader, buffer)


@pytest.mark.parametrize("read", WAYS, ids=IDS)
def test_the_gil_is_free_while_a_read_waits(read):
    buffer = np.zeros(10, np.uint8)
    with channel("pipe") as (reader, writer, _):
        os.write(writer, b"warm up")
        read(reader, buffer)
        ready = threading.Event()

        def feed():
            ready.wait()
            total = sum(range(100_000))  # needs the GIL for several switches
            os.write(writer, str(total).encode())

        thread = threading.Thread(target=feed)
        thread.start()
        ready.set()
        assert read(reader, buffer) == 10 and bytes(buffer) == b"4999950000"
        thread.join()


def test_a_descriptor_beyond_what_c_takes(on):
    buffer = np.zeros(10, np.uint8)
    if on is Kernel and not config.DISABLE_JIT:  # in Python it is refused as an argument
        assert on.call("read", 2**32, buffer) == -errno.EBADF  # not a read of descriptor 0


def test_a_poll_that_signals_interrupt_ends_in_time():
    with channel("pipe") as (reader, _, _), alarms(lambda *_: None, every=0.02):
        start = time.monotonic()
        assert poll_in(reader, 200) == 0
        assert 0.19 < time.monotonic() - start < 10
