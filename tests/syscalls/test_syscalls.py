"""System calls: every byte on files, pipes and sockets, whole and in pieces, in Python and in kernels."""

import errno
import gzip
import os
import socket
import tempfile
from itertools import count

import numpy as np
import pytest
from channels import (
    AT_OFFSET,
    BASE,
    CALLS,
    NAMES,
    READS,
    VECTOR,
    WRITES,
    arguments_of,
    call_on,
    channel,
    content,
    on_channels,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from support import beside

from iobuf_nb import IOVEC_DTYPE, BufferPool, iovec_from_buffers, syscalls
from iobuf_nb.syscalls import IOV_MAX, poll_in


def odd_sizes():
    return (1 + k * 37 % 1500 for k in count(7))


@pytest.mark.parametrize("kind, name", on_channels(READS))
def test_reads_of_what_comes_in_odd_pieces(call, kind, name):
    data = content(50_000)
    lengths = (3000, 0, 2000) if name in VECTOR else (3000,)
    with channel(kind) as (reader, writer, close):

        def feed():
            rest = data.data
            for n in odd_sizes():
                rest = rest[os.write(writer, rest[:n]) :]
                if not rest:
                    return close(writer)

        with beside(feed):
            got, shorts = b"", 0
            while True:
                pieces = [np.zeros(n, np.uint8) for n in lengths]
                n = call(name, reader, iovec_from_buffers(pieces) if name in VECTOR else pieces[0])
                assert 0 <= n <= sum(lengths)
                if n == 0:
                    break
                got += b"".join(map(bytes, pieces))[:n]
                shorts += n < sum(lengths)
    assert got == data.tobytes()
    # The whole variants come short at the end alone, and the plain ones did so, or this tests nothing.
    assert shorts == (len(data) % sum(lengths) != 0) if name.endswith("_full") else shorts > 1


@pytest.mark.parametrize("kind, name", on_channels(WRITES))
def test_writes_to_who_reads_in_odd_pieces(call, kind, name):
    data = content(60_000)
    got = bytearray()
    full = name.endswith("_full")
    with channel(kind) as (reader, writer, close):
        os.set_blocking(writer, full)

        def drain():
            for n in odd_sizes():
                piece = os.read(reader, n)
                got.extend(piece)
                if not piece:
                    return

        with beside(drain):
            sent = shorts = 0
            while sent < len(data):
                pieces = [data[sent : sent + 7000], data[:0], data[sent + 7000 :]]
                n = call(name, writer, iovec_from_buffers(pieces) if name in VECTOR else data[sent:])
                assert n > 0 or (n == -errno.EAGAIN and not full)
                sent += max(n, 0)
                shorts += n > 0 and sent < len(data)
            close(writer)
    assert got == data.tobytes()
    assert shorts == 0 if full else shorts > 0


@pytest.mark.parametrize("kind, name", on_channels(READS + WRITES))
def test_ends_that_do_not_block(call, kind, name):
    """The count first, then why it was not more."""
    with channel(kind) as (reader, writer, _):
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        data = np.zeros(1_000_000, np.uint8) if name in READS else content(1_000_000)
        memory = iovec_from_buffers(data.reshape(1000, 1000)) if name in VECTOR else data
        if name in READS:
            assert call(name, reader, memory) == -errno.EAGAIN
            os.write(writer, b"four")
            poll_in(reader, -1)
            assert call(name, reader, memory) == 4 and bytes(data[:5]) == b"four\0"
            assert call(name, reader, memory) == -errno.EAGAIN
        else:
            n = call(name, writer, memory)
            assert 0 < n < len(data)
            while (more := call(name, writer, data[n:] if memory is data else iovec_from_buffers([data[n:]]))) > 0:
                n += more  # TCP moves on by itself
            assert more == -errno.EAGAIN
            got = b""
            while len(got) < n and poll_in(reader, 30_000):
                got += os.read(reader, n)
            assert got == data[:n].tobytes()


# ---- files -----------------------------------------------------------------------------------------------------------


ALL = bytes(range(200))


@pytest.fixture
def file(tmp_path):
    """Give a descriptor of a file of 200 bytes, each its own value."""
    (tmp_path / "data").write_bytes(ALL)
    fd = os.open(tmp_path / "data", os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("full", ["", "_full"])
def test_files_one_buffer(call, file, full):
    buffer = np.zeros(120, np.uint8)
    assert call("read" + full, file, buffer) == 120 and bytes(buffer) == ALL[:120]
    assert call("read" + full, file, buffer) == 80 and bytes(buffer) == ALL[120:] + ALL[80:120]
    assert call("read" + full, file, buffer) == 0
    assert call("pread" + full, file, buffer, 150) == 50 and bytes(buffer[:50]) == ALL[150:]
    assert call("pread" + full, file, buffer, 200) == 0
    assert call("pwrite" + full, file, buffer[:3] * 0, 10) == 3
    assert call("write" + full, file, buffer[:4] * 0) == 4
    assert os.lseek(file, 0, os.SEEK_CUR) == 204
    assert os.pread(file, 300, 0) == ALL[:10] + bytes(3) + ALL[13:] + bytes(4)


@pytest.mark.parametrize("full", ["", "_full"])
def test_files_in_pieces(call, file, full):
    pool = BufferPool(4, 64)
    entries = pool.iovec([2, 0], [64, 40])
    assert call("readv" + full, file, entries) == 104
    assert bytes(pool.value(2)) + bytes(pool.value(0)) == ALL[:104] + bytes(24)
    assert call("readv" + full, file, entries) == 96
    assert call("readv" + full, file, entries) == 0
    assert call("preadv" + full, file, entries, 190) == 10
    assert bytes(pool.value(2)) == ALL[190:] + ALL[114:168]
    pool.value(2)[:], pool.value(0)[:] = 1, 2
    assert call("pwritev" + full, file, entries, 50) == 104
    assert call("writev" + full, file, entries) == 104
    new = bytes([1] * 64 + [2] * 40)
    assert os.pread(file, 400, 0) == ALL[:50] + new + ALL[154:] + new
    assert entries["len"].tolist() == [64, 40]  # the caller's own is not advanced


@given(st.lists(st.integers(0, 40), max_size=8), st.lists(st.integers(0, 40), max_size=8), st.integers(0, 60))
@settings(deadline=None, max_examples=40)
def test_any_pieces(write_lengths, read_lengths, offset):
    """What was written in some pieces is read in others: at an offset, from a position, through a socket."""
    source = [content(n + k)[k:] for k, n in enumerate(write_lengths)]
    data = b"".join(map(bytes, source))
    room = sum(read_lengths)
    for kind in CALLS:
        for full in ("", "_full"):
            ends = socket.socketpair()
            with tempfile.TemporaryFile(buffering=0) as opened, ends[0], ends[1]:
                fd, (ours, theirs) = opened.fileno(), (end.fileno() for end in ends)
                opened.write(ALL[:30])
                assert call_on(kind, "pwritev" + full, fd, iovec_from_buffers(source), offset) == len(data)
                assert call_on(kind, "writev" + full, fd, iovec_from_buffers(source)) == len(data)
                assert call_on(kind, "writev" + full, ours, iovec_from_buffers(source)) == len(data)
                ends[0].close()
                whole = ALL[:30].ljust(offset, b"\0") if data else ALL[:30]
                whole = whole[:offset] + data + whole[offset + len(data) :]
                whole = whole[:30] + data + whole[30 + len(data) :]
                opened.seek(0)
                for name, at, expected in (
                    ("preadv", (fd, offset), whole[offset:]),
                    ("readv", (fd,), whole),
                    ("readv", (theirs,), data),
                ):
                    pieces = [np.zeros(n, np.uint8) for n in read_lengths]
                    n = call_on(kind, name + full, at[0], iovec_from_buffers(pieces), *at[1:])
                    assert n == len(expected[:room])
                    assert b"".join(map(bytes, pieces)) == expected[:room].ljust(room, b"\0")


@pytest.mark.parametrize("n", [IOV_MAX, IOV_MAX + 1, 3 * IOV_MAX + 5])
@pytest.mark.parametrize("full", ["", "_full"])
def test_more_entries_than_the_system_takes(call, file, n, full):
    data = content(3 * n)
    back = np.zeros((n, 3), np.uint8)
    source, target = iovec_from_buffers(data.reshape(n, 3)), iovec_from_buffers(back)
    assert call("writev" + full, file, source) == call("pwritev" + full, file, source, 3 * n) == 3 * n
    assert os.pread(file, 7 * n, 0) == data.tobytes() * 2
    assert call("preadv" + full, file, target, 0) == 3 * n and back.tobytes() == data.tobytes()
    back[:] = 0
    assert call("readv" + full, file, target) == 3 * n and back.tobytes() == data.tobytes()
    back[:] = 0
    assert call("preadv" + full, file, target, 6 * n - 4) == 4
    assert back.tobytes() == data[-4:].tobytes() + bytes(3 * n - 4)


def test_a_short_transfer_in_the_middle_of_many_entries(call):
    data = content(15 * IOV_MAX)
    back = np.zeros_like(data)
    source, target = (iovec_from_buffers(array.reshape(-1, 5)) for array in (data, back))
    with channel("pipe", 8192) as (reader, writer, _):  # which is full in the second thousand of entries
        os.set_blocking(writer, False)
        for name in ("writev", "writev_full"):
            assert 5 * IOV_MAX < (done := call(name, writer, source)) <= 8192
            assert call("readv", reader, target) == done and (back[:done] == data[:done]).all()
            assert not back[done:].any()
        os.set_blocking(writer, True)

        def feed():
            for part in (data[:7001], data[7001:]):
                assert call_on("python", "write_full", writer, part) == len(part)

        with beside(feed):
            assert call("readv_full", reader, target) == len(data)
        assert (back == data).all()


def test_more_bytes_than_the_system_takes(call):
    zeros = np.zeros(2**31, np.uint8)  # never touched, so it takes no memory
    with open("/dev/null", "wb", buffering=0) as opened:
        assert call("write", opened.fileno(), zeros) == call("pwrite", opened.fileno(), zeros, 0) == 2**31 - 4096
        assert call("write_full", opened.fileno(), zeros) == 2**31
        assert call("writev", opened.fileno(), iovec_from_buffers([zeros, zeros])) == 2**31 - 4096
        assert call("pwritev_full", opened.fileno(), iovec_from_buffers([zeros, zeros]), 0) == 2**32


DONTWAIT, PEEK = int(socket.MSG_DONTWAIT), int(socket.MSG_PEEK)  # numba cannot take the flags on every Python


def with_keywords(fd, ours, theirs, buffer, iovec):
    return (
        syscalls.pwrite(fd=fd, buffer=buffer, offset=2),
        syscalls.preadv_full(offset=3, iovec=iovec, fd=fd),
        syscalls.send(ours, buffer, flags=DONTWAIT),
        syscalls.recv(flags=PEEK, fd=theirs, buffer=buffer[:4]),
        syscalls.recv_full(theirs, flags=PEEK, buffer=buffer),
        poll_in(timeout_ms=0, fd=theirs),
    )


def test_keywords_and_flags(face, file):
    ours, theirs = socket.socketpair()
    buffer, back = np.frombuffer(bytearray(b"hello"), np.uint8), bytearray(6)
    with ours, theirs:
        results = face.jit(with_keywords)(file, ours.fileno(), theirs.fileno(), buffer, iovec_from_buffers([back]))
    assert results == (5, 6, 5, 4, 5, 1)
    assert back == b"ello" + ALL[7:9] and bytes(buffer) == b"hello"


def test_objects_that_have_descriptors(tmp_path):
    buffer = bytearray(4)
    ours, theirs = socket.socketpair()
    with ours, theirs, open(tmp_path / "data", "w+b", buffering=0) as opened:
        assert syscalls.pwrite(opened, b"hello", 0) == 5
        assert syscalls.pread(opened, buffer, 1) == 4 and buffer == b"ello"
        assert syscalls.send(ours, b"four") == syscalls.recv(theirs, buffer) == 4 and buffer == b"four"
    with pytest.raises(OSError, match="Bad file descriptor"):
        syscalls.recv(theirs, buffer)


def test_buffered_files_are_taken_at_an_offset_only(tmp_path):
    buffer = bytearray(4)
    with open(tmp_path / "data", "w+b") as opened:
        opened.write(b"written, and not yet there")
        assert syscalls.pread(opened, buffer, 0) == 4 and buffer == b"writ"
        opened.seek(0)
        opened.write(b"READ")
        assert syscalls.preadv_full(opened, [buffer], 0) == 4 and buffer == b"READ"
        opened.seek(0)
        assert opened.read(4) == b"READ"  # and it has more in its buffer
        opened.write(b"----")
        assert syscalls.pwrite(opened, b"++", 5) == 2  # in this order
        assert opened.read(3) == b" an" and opened.tell() == 11
        opened.seek(0)
        assert opened.read(8) == b"READ-++-"
        for function in (syscalls.read, syscalls.read_full, syscalls.write, syscalls.recv, syscalls.send_full):
            with pytest.raises(TypeError, match="fd must not be a buffered file, whose .* pass fd.fileno"):
                function(opened, buffer)
        for function in (syscalls.readv, syscalls.readv_full, syscalls.writev):
            with pytest.raises(TypeError, match="fd must not be a buffered file, whose .* pass fd.fileno"):
                function(opened, [buffer])
    with tempfile.NamedTemporaryFile() as named:
        named.write(b"more")
        assert syscalls.pread(named, buffer, 0) == 4 and buffer == b"more"


class Derived(socket.socket):
    pass


def test_what_has_other_bytes_than_its_descriptor_is_refused(tmp_path):
    with gzip.open(tmp_path / "zip", "wb") as opened:
        opened.write(b"data")
    with (
        gzip.open(tmp_path / "zip") as zipped,
        open(tmp_path / "zip") as text,
        tempfile.NamedTemporaryFile("w+") as named,
        Derived() as derived,
    ):
        for opened in (zipped, text, named, derived):
            for call in (
                lambda opened=opened: syscalls.read(opened, bytearray(4)),
                lambda opened=opened: syscalls.pread(opened, bytearray(4), 0),
                lambda opened=opened: syscalls.writev(opened, [b"data"]),
                lambda opened=opened: syscalls.recv_full(opened, bytearray(4)),
            ):
                with pytest.raises(TypeError, match="fd must be a socket or a binary file that open.. returns"):
                    call()
            assert poll_in(opened, 0) == 1  # which is about the descriptor


def test_nothing_at_all(call, file):
    with channel("unix") as (reader, writer, _):
        os.write(writer, b"x")
        for name in NAMES:
            fd = file if BASE[name] not in ("recv", "send") else reader if "recv" in name else writer
            assert call(name, fd, *arguments_of(name, np.zeros(0, np.uint8))) == 0
            if name in VECTOR:
                assert call(name, fd, np.zeros(0, IOVEC_DTYPE), *([0] if name in AT_OFFSET else [])) == 0
    assert os.pread(file, 300, 0) == ALL
