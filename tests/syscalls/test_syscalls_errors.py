"""System calls that fail, wait or are refused: each error is told, and a wait ends as it should."""

import errno
import os
import socket
import struct
import tempfile
import threading
import time
from contextlib import closing, contextmanager, suppress

import numpy as np
import pytest
from channels import (
    AT_OFFSET,
    BASE,
    KERNELS,
    NAMES,
    READS,
    VECTOR,
    WRITES,
    arguments_of,
    channel,
    content,
    on_channels,
)
from numba import config, njit
from numba.core.errors import TypingError
from support import EVERY_WAY, Alarm, alarms, beside, ring, small_disk

from iobuf_nb import IOVEC_DTYPE, BufferPool, iovec_from_buffers, syscalls
from iobuf_nb.syscalls import IOV_MAX, poll_in

# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_descriptors_of_the_wrong_kind(call, face, name, tmp_path):
    rest = arguments_of(name, np.zeros(10, np.uint8))
    cut = () if face.name == "python" or config.DISABLE_JIT else (2**32, 1 - 2**32)  # Python refuses these
    with open(tmp_path / "closed", "w+b") as opened:
        closed = opened.fileno()
    for fd in (closed, -1, *cut):
        assert call(name, fd, *rest) == -errno.EBADF
    with channel("pipe") as ends:
        fd = ends[0 if name in READS or "read" in name else 1]
        if name in AT_OFFSET:
            assert call(name, fd, *rest) == -errno.ESPIPE
        if name.startswith(("recv", "send")):
            assert call(name, fd, *rest) == -errno.ENOTSOCK
    folder = os.open(tmp_path, os.O_RDONLY)
    if "read" in name:
        assert call(name, folder, *rest) == -errno.EISDIR
    os.close(folder)


@pytest.mark.parametrize("kind, name", on_channels(WRITES))
def test_nobody_reads(call, kind, name):
    with channel(kind) as (reader, writer, close):
        close(reader)
        results = [call(name, writer, *arguments_of(name, content(10))) for _ in range(2)]
        assert results[1] == -errno.EPIPE  # TCP learns of it by the first
    if kind != "tcp":
        assert results[0] == -errno.EPIPE


@pytest.mark.parametrize("name", READS)
def test_connections_that_are_reset(call, name):
    with channel("tcp") as (reader, writer, close):
        os.write(writer, b"some")
        buffer = np.zeros(4, np.uint8)
        assert call(name, reader, *arguments_of(name, buffer)) == 4 and bytes(buffer) == b"some"
        with socket.socket(fileno=os.dup(writer)) as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            close(writer)
        assert call(name, reader, *arguments_of(name, buffer)) == -errno.ECONNRESET


@pytest.fixture
def full_disk(tmp_path):
    """Give a descriptor of a file on a disk of 1 MiB."""
    with small_disk(tmp_path, 1 << 20) as disk, open(disk / "data", "w+b", buffering=0) as opened:
        yield opened.fileno()


@pytest.mark.parametrize("name", ["write_full", "writev_full", "pwrite_full", "pwritev_full"])
def test_a_full_disk(call, full_disk, name):
    data = content(1_500_000)
    memory = iovec_from_buffers(data.reshape(-1, 1000)) if name in VECTOR else data

    def at(offset):
        os.lseek(full_disk, offset, os.SEEK_SET)
        return (full_disk, memory, offset) if name in AT_OFFSET else (full_disk, memory)

    assert call(name, *at(1000)) == 2**20 - 1000
    assert os.pread(full_disk, 2**21, 0) == bytes(1000) + data[: 2**20 - 1000].tobytes()
    for either in (name, BASE[name]):
        assert call(either, *at(2**20)) == -errno.ENOSPC
        with pytest.raises(OSError, match="No space left on device"):
            getattr(syscalls, either)(*at(2**20))


def test_python_raises_errors_of_their_own_kind(tmp_path):
    with channel("pipe") as (reader, writer, close):
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError, match="Resource temporarily unavailable"):
            syscalls.read(reader, bytearray(10))
        close(reader)
        with pytest.raises(BrokenPipeError, match="Broken pipe"):
            syscalls.writev(writer, [b"x"])
    with pytest.raises(OSError, match="Bad file descriptor"):
        syscalls.recv(-1, bytearray(10))


STRIDED = np.zeros((4, 4), np.uint8)[:, 1]
TWICE = bytearray(10)
POOL = BufferPool(2, 16)
MUST_BE_INTEGER = "must be an integer from -?[0-9]+ to [0-9]+, not "


@pytest.mark.parametrize(
    "name, arguments, error, message",
    [
        ("read", [b"x"], ValueError, "buffer must be writable memory, to be read into, not read-only"),
        ("recv", [b"x"], ValueError, "buffer must be writable memory, to be read into, not read-only"),
        ("pread", [STRIDED, 0], ValueError, r"buffer must be contiguous; it has shape \(4,\) and strides \(4,\)"),
        ("write", ["text"], TypeError, "buffer must be bytes-like or an array, not 'text'"),
        ("write", [np.array([None])], TypeError, "buffer must be plain memory, not an array of Python objects"),
        ("pwrite", [b"x", "1"], TypeError, f"offset {MUST_BE_INTEGER}'1'"),
        ("pwrite", [b"x", 2**63], ValueError, f"offset {MUST_BE_INTEGER}9223372036854775808"),
        ("pwrite_full", [b"x", -1], OSError, "Invalid argument"),
        ("send", [b"x", 1.5], TypeError, f"flags {MUST_BE_INTEGER}1.5"),
        ("send", [b"x", 2**32], ValueError, f"flags {MUST_BE_INTEGER}4294967296"),
        ("write", [], TypeError, "missing a required argument: 'buffer'"),
        ("write", [b"x", 1], TypeError, "positional argument"),
        ("readv", [[TWICE, b"x"]], ValueError, r"iovec\[1\] must be writable memory"),
        ("readv", [iovec_from_buffers([b"x"])], ValueError, r"must be over writable .* buffers\[0\] is read-only"),
        ("readv_full", [[TWICE, TWICE]], ValueError, "without overlaps, but entries 0 and 1 overlap"),
        ("preadv", [POOL.iovec([1, 1]), 0], ValueError, "without overlaps, but entries 0 and 1 overlap"),
        ("writev", [np.array([(0, -1)], IOVEC_DTYPE)], ValueError, "iovec must have lengths >= 0 and a total of"),
        ("writev", [np.array([(0, 2**62)] * 2, IOVEC_DTYPE)], ValueError, r"less than 2\*\*63 bytes \(SSIZE_MAX\)"),
        ("writev", [np.zeros((2, 2), IOVEC_DTYPE)], TypeError, "one-dimensional array of IOVEC_DTYPE"),
        ("writev", [b"bytes"], TypeError, "iovec must be a sequence of buffers, not one: b'bytes'"),
    ],
)
def test_python_refuses(name, arguments, error, message):
    held = POOL.get(False)
    before = POOL.holders()
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(b"as it was")
        file.seek(0)
        with pytest.raises(error, match=message):
            getattr(syscalls, name)(file, *arguments)
        assert file.tell() == 0 and file.read() == b"as it was"
    assert not any(TWICE) and not POOL.value(1).any() and POOL.holders() == before
    POOL.put(held)


@pytest.mark.parametrize("fd, error", [("x", TypeError), (True, TypeError), (1.0, TypeError), (2**31, ValueError)])
def test_python_refuses_what_is_no_descriptor(fd, error):
    for name in (*NAMES, "poll_in"):
        with pytest.raises(error, match=f"fd must be an integer from -1 to 2147483647, not {fd!r}"):
            getattr(syscalls, name)(fd, *([1] if name == "poll_in" else arguments_of(name, bytearray(1))))


@pytest.mark.compiled
@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("read", (0, np.zeros((4, 4))[:, 1]), "buffer must be a contiguous array in a kernel, not array"),
        ("write", (0, b"bytes"), "buffer must be a contiguous array in a kernel, not"),
        ("recv", (0, np.frombuffer(b"x", np.uint8)), "buffer must be a writable array, to be read into, not"),
        ("write", (0.5, np.zeros(1)), "fd must be an integer in a kernel, not float64"),
        ("write", (True, np.zeros(1)), "fd must be an integer in a kernel, not bool"),
        ("pread", (0, np.zeros(1), 0.5), "offset must be an integer in a kernel, not float64"),
        ("pwritev", (0, np.zeros(1, IOVEC_DTYPE), None), "offset must be an integer in a kernel, not none"),
        ("readv", (0, np.zeros(1)), "iovec must be a contiguous one-dimensional array of IOVEC_DTYPE, not"),
        ("writev_full", (0, np.zeros(4, IOVEC_DTYPE)[::2]), "iovec must be a contiguous one-dimensional array of"),
    ],
)
def test_kernels_refuse(name, arguments, message):
    with pytest.raises(TypingError, match=message):
        KERNELS[name](*arguments)


# ---- waiting ---------------------------------------------------------------------------------------------------------


@contextmanager
def alarms_at(handler, close, fd, *times):
    """Have signals handled; if that does not end the wait in time, closing `fd` does, and the test fails."""
    rescue = threading.Timer(20, close, (fd,))
    rescue.start()
    try:
        with alarms(handler, *times):
            yield
    finally:
        rescue.cancel()
        rescue.join()


def read(fd, buffer):
    return syscalls.read(fd, buffer)


def write_full(fd, buffer):
    return syscalls.write_full(fd, buffer)


def send_full(fd, buffer):
    return syscalls.send_full(fd, buffer)


def writev_full(fd, iovec):
    return syscalls.writev_full(fd, iovec)


@EVERY_WAY
def test_a_read_goes_on_after_signals(jit, untraced):
    buffer, read_ = np.zeros(10, np.uint8), jit(read)
    with channel("pipe") as (reader, writer, close):
        os.write(writer, b"warm up")
        read_(reader, buffer)  # compiles: signals are to come while it reads
        seen = []

        def note(*_):
            seen.append(1)
            if len(seen) == 3:
                os.write(writer, b"data")

        with alarms_at(note, close, writer):
            assert read_(reader, buffer) == 4 and bytes(buffer[:4]) == b"data"
        assert len(seen) >= 3
        with pytest.raises(Alarm), alarms_at(ring, close, writer):
            read_(reader, buffer)


@EVERY_WAY
@pytest.mark.parametrize("function, kind", [(write_full, "pipe"), (writev_full, "pipe"), (send_full, "unix")])
def test_a_write_goes_on_after_signals(jit, function, kind, untraced):
    """A signal cuts a write short that has begun; its handler here makes room for more."""
    data = content(75 * IOV_MAX)
    memory = iovec_from_buffers(data.reshape(-1, 5)) if function is writev_full else data
    write = jit(function)
    got, busy = bytearray(), threading.Lock()
    with channel(kind, 8192) as (reader, writer, close):
        write(writer, memory[:0])  # compiles: signals are to come while it writes
        os.set_blocking(reader, False)

        def drain(*_):
            if busy.acquire(blocking=False):  # or this signal came in the midst of another's handler
                with suppress(BlockingIOError):
                    got.extend(os.read(reader, 1777))
                busy.release()

        with alarms_at(drain, close, reader, 0.002, 0.002):
            assert write(writer, memory) == len(data)
        while len(got) < len(data):
            got += os.read(reader, len(data))
        assert got == data.tobytes()
        # One signal is enough, although it comes when part of the data is written.
        start = time.monotonic()
        with pytest.raises(Alarm), alarms_at(ring, close, reader, 0.05, 10):
            write(writer, memory)
        assert time.monotonic() - start < 10


def exchange(fd, buffer):
    return syscalls.read_full(fd, buffer), syscalls.write_full(fd, buffer)


@EVERY_WAY
def test_the_gil_is_free_while_a_call_waits(jit):
    """Neither side can go on alone: the socket holds but a little of the data."""
    data = content(300_000)
    got = bytearray()
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # if it fails it is not to hang
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 20, 0))
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        def peer():
            theirs.sendall(data)
            while len(got) < len(data):
                got.extend(theirs.recv(9999))

        with beside(peer):
            assert jit(exchange)(ours.fileno(), np.zeros_like(data)) == (len(data), len(data))
    assert got == data.tobytes()


def poll(fd, timeout_ms):
    return poll_in(fd, timeout_ms)


@EVERY_WAY
def test_polling(jit, untraced):
    poll_ = jit(poll)
    with channel("pipe") as (reader, writer, close):
        assert poll_(reader, 0) == 0
        with alarms_at(lambda *_: None, close, writer):
            start = time.monotonic()
            assert poll_(reader, 50) == 0  # also if signals come all the time
            assert time.monotonic() - start >= 0.05
        with pytest.raises(Alarm), alarms_at(ring, close, writer):
            poll_(reader, -1)
        os.write(writer, b"x")
        assert poll_(reader, 1000) == 1 and poll_(reader, -1) == 1
        os.read(reader, 1)
        close(writer)
        assert poll_(reader, -1) == 1  # the end can be read too


def test_polling_refuses():
    with pytest.raises(TypeError, match="timeout_ms must be an integer from -1 to 2147483647, not 1.5"):
        poll_in(0, 1.5)
    with pytest.raises(OSError, match="Bad file descriptor"):
        poll_in(-1, -1)  # poll(2) would wait for ever
    if not config.DISABLE_JIT:
        assert njit(poll)(-1, -1) == -errno.EBADF
        with pytest.raises(TypingError, match="timeout_ms must be an integer in a kernel, not float64"):
            njit(poll)(0, 1.5)
