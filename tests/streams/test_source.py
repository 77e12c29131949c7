"""Sources of streams: file objects, paths, messages, terminals, and what is refused."""

import bz2
import codecs
import errno
import fcntl
import gzip
import io
import lzma
import os
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from streaming import ENGINES, check, expect, fail_at, fed, fresh, text
from support import AsBytes

from iobuf_nb import StreamError, Tier, scan, stream, syscalls
from iobuf_nb._streams import source as source_module


@pytest.mark.parametrize("options", ENGINES, ids=str)
def test_a_buffered_file_begins_where_it_stands(file, options):
    data = text(50_000)
    path = file(b"a header\n" + data)

    def state(size):
        return fresh(size, 1, 10 if "delimiter" in options else -1, options.get("ordered", False))

    with open(path, "rb") as opened:
        assert opened.readline() == b"a header\n"
        expect(stream(opened, check, state=state(len(data)), tier=4096, **options), data)
        assert opened.tell() == 9 + len(data) and opened.read() == b""
        opened.seek(9 + 7)  # which may still be in its buffer
        assert opened.read(3) == data[7:10]
        expect(stream(opened, check, state=state(len(data) - 10), tier=4096, **options), data[10:])
        assert opened.tell() == 9 + len(data)


def test_what_a_file_has_not_written_yet_is_part_of_it(file):
    data = text(3000)
    with open(file(b"0123" + bytes(2996)), "r+b") as opened:
        assert opened.read(4) == b"0123"
        opened.write(data[:2000])
        opened.seek(-1000, os.SEEK_CUR)
        opened.write(data[:1000])
        opened.seek(4)
        expect(stream(opened, check, state=fresh(2996)), data[:1000] + data[:1000] + bytes(996))
        opened.write(b"more")
        opened.seek(0, os.SEEK_END)
        assert opened.tell() == 3004
    with tempfile.NamedTemporaryFile() as named, tempfile.TemporaryFile() as other:
        for temporary in (named, other):
            temporary.write(data)
            temporary.seek(1000)
            expect(stream(temporary, check, state=fresh(2000)), data[1000:])


def test_a_raw_file_goes_on_where_it_stood(file):
    data = text(3000)
    with open(file(data), "rb", buffering=0) as opened:
        opened.seek(10)
        expect(stream(opened, check, state=fresh(2990)), data[10:])
        assert opened.tell() == 3000


@contextmanager
def reader_of(kind, data):
    """Give a buffered file that gets `data` through a pipe or a socket."""
    if kind == "child":
        program = [sys.executable, "-c", f"import sys; sys.stdout.buffer.write({data!r})"]
        with subprocess.Popen(program, stdout=subprocess.PIPE) as child:
            yield child.stdout
        return
    with fed(kind, data, 5000) as fd:
        if kind == "pipe":
            with open(fd, "rb", closefd=False) as opened:
                yield opened
        else:
            with socket.socket(fileno=os.dup(fd)) as end, end.makefile("rb") as opened:
                yield opened


@pytest.mark.parametrize("tier", [16, 4096, Tier.GIANT])
@pytest.mark.parametrize("kind", ["pipe", "socket", "child"])
def test_what_a_buffered_file_has_read_ahead_comes_first(kind, tier):
    data = text(20_000)
    data = bytes(10 if k % 16 == 15 else byte for k, byte in enumerate(data))
    for options in ({}, {"delimiter": b"\n"}, {"record": 4, "ordered": True}):
        end = 10 if "delimiter" in options else -1
        state = fresh(len(data), options.get("record", 1), end, options.get("ordered", False))
        with reader_of(kind, b"a header\n" + data) as opened:
            assert opened.readline() == b"a header\n"
            expect(stream(opened, check, state=state, tier=tier, workers=2, **options), data)
            assert opened.read() == b""
    with reader_of(kind, b"all of it is ahead") as opened:
        assert opened.read(4) == b"all "
        expect(stream(opened, check, state=fresh(14), tier=tier), b"of it is ahead")
    with reader_of(kind, b"nothing is left") as opened:
        opened.read()
        assert stream(opened, check, state=fresh(0), tier=tier).bytes == 0


def test_a_buffered_terminal_ends_once(pool):
    terminal, source = os.openpty()
    os.write(terminal, b"one\ntwo\n\x04")
    with open(source, "rb") as opened:
        assert opened.readline() == b"one\n"
        expect(stream(opened, check, state=fresh(4), pool=pool), b"two\n")
        os.write(terminal, b"\x04")
        assert stream(opened, check, state=fresh(0), pool=pool).bytes == 0
    os.close(terminal)


class Descriptor:
    """What has a descriptor, and nobody knows what it makes of its bytes."""

    def __init__(self, opened):
        self.fileno = opened.fileno


class Derived(io.FileIO):
    pass


class DerivedReader(io.BufferedReader):
    pass


def decoders(path):
    """Return what has a descriptor, or claims to, whose bytes are not its own."""
    with tarfile.open(path / "tar", "w") as archive:
        archive.add(path / "data", "data")
    with zipfile.ZipFile(path / "zip", "w") as archive:
        archive.write(path / "data", "data")
    spooled = tempfile.SpooledTemporaryFile(100)  # noqa: SIM115
    spooled.write(b"data")
    return [
        gzip.open(path / "data"),
        bz2.open(path / "data"),
        lzma.open(path / "data"),
        io.BufferedReader(gzip.open(path / "data")),
        open(path / "data"),
        gzip.open(path / "data", "rt"),
        codecs.open(path / "data", encoding="utf-8") if sys.version_info < (3, 14) else open(path / "data"),
        codecs.getreader("utf-8")(open(path / "data", "rb")),
        tempfile.NamedTemporaryFile("w+"),
        tarfile.open(path / "tar").extractfile("data"),
        zipfile.ZipFile(path / "zip").open("data"),
        spooled,
        io.BytesIO(b"data"),
        io.StringIO("data"),
        Descriptor(open(path / "data", "rb")),
        Derived(path / "data"),
        DerivedReader(io.FileIO(path / "data")),
    ]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("k", range(17))
def test_what_has_other_bytes_than_its_descriptor_is_refused(file, tmp_path, pool, k):
    file(b"data\n" * 1000)
    source = decoders(tmp_path)[k]
    message = "source must be a socket or a binary file .* not <.*: pass (its path|source.buffer)"
    with pytest.raises(TypeError, match=message):
        scan(source)
    with pytest.raises(TypeError, match=message):
        stream([tmp_path / "data", source], check, state=fresh(0), pool=pool)
    with pytest.raises(TypeError, match="fd must be a socket or a binary file"):
        syscalls.pread(source, bytearray(4), 0)
    if isinstance(source, tempfile.SpooledTemporaryFile):
        assert not source._rolled  # it is refused as it was


def test_files_that_cannot_be_read_are_refused(file, tmp_path, pool):
    with open(tmp_path / "new", "wb") as opened:
        opened.write(b"data")
        with pytest.raises(OSError, match="Bad file descriptor"):
            stream(opened, check, state=fresh(0), pool=pool)
    with pytest.raises(ValueError, match="closed file"):
        stream([file(b"data"), opened], check, state=fresh(4), pool=pool)
    with open(file(b"data"), "rb") as opened, pytest.raises(ValueError, match="direct=True needs a path to open"):
        stream(opened, check, state=fresh(4), direct=True)


def test_paths_of_any_kind(tmp_path):
    data = text(1000)
    (tmp_path / "\xe9").write_bytes(data[:100])
    undecodable = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(undecodable)).write_bytes(data[100:500])
    (tmp_path / "last").write_bytes(data[500:])

    reader, writer = os.pipe()
    os.write(writer, b"more")
    os.close(writer)
    with open(tmp_path / "last", "rb") as opened:
        opened.seek(100)
        sources = [
            AsBytes(os.fsencode(tmp_path / "\xe9")),
            AsBytes(undecodable),
            tmp_path / "last",
            opened,
            str(tmp_path / "\xe9"),
            reader,
        ]
        expected = data + data[600:] + data[:100] + b"more"
        expect(stream(sources, check, state=fresh(len(expected))), expected)
    os.close(reader)


@pytest.mark.parametrize("name", [b"\xff", "\xe9".encode()])
def test_names_that_are_no_text_can_be_printed(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as opened:
        opened.write(bytes(100))
    with pytest.raises(StreamError) as caught:
        stream(os.fsdecode(path), fail_at, state=np.array([50]))
    assert caught.value.filename == os.fsdecode(path)
    assert name.decode(errors="backslashreplace") in str(caught.value).encode().decode()
    with pytest.raises(ValueError, match="must be whole records of 7 bytes") as refused:
        stream(AsBytes(path), check, state=fresh(0), record=7)
    assert name.decode(errors="backslashreplace") in str(refused.value).encode().decode()
    os.unlink(path)
    with pytest.raises(FileNotFoundError) as missing:
        stream(AsBytes(path), check, state=fresh(0))
    assert missing.value.filename == os.fsdecode(path) and str(missing.value).encode()


# ---- messages --------------------------------------------------------------------------------------------------------


def packets(parts, both_ends):
    """Return the reading end of a pipe that keeps writes apart, and holds some."""
    reader, writer = os.pipe2(os.O_DIRECT) if both_ends else os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_DIRECT)
    for part in parts:
        os.write(writer, part)
    os.close(writer)
    return reader


def messages(kind, parts):
    one, other = socket.socketpair(socket.AF_UNIX, kind)
    for part in parts:
        one.send(part)
    if kind == socket.SOCK_DGRAM:
        one.send(b"")  # else it never ends
    one.close()
    return other.detach()


MESSAGES = {
    "SEQPACKET": lambda parts: messages(socket.SOCK_SEQPACKET, parts),
    "DGRAM": lambda parts: messages(socket.SOCK_DGRAM, parts),
    "pipe": lambda parts: packets(parts, True),
    "pipe of whose kind only the writer knows": lambda parts: packets(parts, False),
}


@pytest.mark.parametrize("tier", [16, 1000, 4096, Tier.GIANT])
@pytest.mark.parametrize("kind", MESSAGES)
def test_messages_are_not_cut(kind, tier, threads_end):
    parts = [text(n, n) for n in (1, 1000, 4096, 999, 17, 3000, 2048)]
    data = b"".join(parts)
    whole = len(data) // 7 * 7
    for options, parts_ in (({}, parts), ({"record": 7}, [*parts[:-1], parts[-1][: whole - len(data)]])):
        for order in ({}, {"ordered": True}):
            source = MESSAGES[kind](parts_)
            state = fresh(len(data), options.get("record", 1), -1, bool(order))
            expect(stream(source, check, state=state, tier=tier, workers=2, **options, **order), b"".join(parts_))
            os.close(source)


def test_an_empty_message_in_a_connection_is_not_its_end(pool):
    source = messages(socket.SOCK_SEQPACKET, [b"", b"first", b"", b"", b"second", b"", b""])
    expect(stream(source, check, state=fresh(11), pool=pool), b"firstsecond")
    os.close(source)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.send(b"")

    def go_on(done, size):
        if done == 0 and one.fileno() >= 0:
            one.send(b"after an empty one")
            one.close()

    with other:
        expect(stream(other, check, state=fresh(18), pool=pool, progress=go_on), b"after an empty one")


def test_datagrams_of_the_internet(pool):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for part in (b"a" * 3000, b"b" * 3000, b""):
                sender.sendto(part, receiver.getsockname())
        expect(stream(receiver, check, state=fresh(6000), pool=pool), b"a" * 3000 + b"b" * 3000)


def test_a_message_too_long_is_an_error(pool, monkeypatch):
    monkeypatch.setattr(source_module, "_MESSAGE_BYTES", 100)
    for kind in (socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        source = messages(kind, [b"short", bytes(5000)])
        with pytest.raises(OSError, match="Message too long at offset 5") as caught:
            stream(source, check, state=fresh(0), pool=pool)
        assert caught.value.errno == errno.EMSGSIZE
        os.close(source)


def test_sockets_stay_as_they_are(pool):
    """A default for new sockets does not reach the descriptor of an old one."""
    one, other = socket.socketpair()
    one.send(b"data")
    one.close()
    source = other.detach()
    socket.setdefaulttimeout(10)
    try:
        expect(stream(source, check, state=fresh(4), pool=pool), b"data")
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(source)
    os.close(source)


@pytest.mark.parametrize("tier", [16, 4096])
def test_the_master_of_a_terminal_ends_with_its_last_user(tier, threads_end):
    source, terminal = os.openpty()
    modes = termios.tcgetattr(terminal)
    modes[1] &= ~termios.OPOST
    termios.tcsetattr(terminal, termios.TCSANOW, modes)
    os.write(terminal, b"some lines\nof output\n")
    os.close(terminal)
    expect(stream(source, check, state=fresh(21), tier=tier), b"some lines\nof output\n")
    os.close(source)


def test_what_cannot_be_read_is_not_waited_for(file, pool):
    reader, writer = os.pipe()
    written = os.open(file(b"data"), os.O_WRONLY)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for source, code in ((writer, errno.EBADF), (written, errno.EBADF), (server, errno.ENOTCONN)):
            with pytest.raises(OSError, match=os.strerror(code)) as caught:
                stream(source, check, state=fresh(0), pool=pool)
            assert (caught.value.errno, caught.value.filename) == (code, str(source))
    for fd in (reader, writer, written):
        os.close(fd)


def test_a_terminal_ends_at_the_first_ctrl_d(pool):
    terminal, source = os.openpty()
    os.write(terminal, b"one\ntwo\n\x04")
    expect(stream(source, check, state=fresh(8), pool=pool), b"one\ntwo\n")
    os.close(terminal)
    os.close(source)


def test_datagrams_end_with_an_empty_one(pool):
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        for part in (b"first", b"second", b""):
            one.send(part)
        expect(stream(other, check, state=fresh(11), pool=pool), b"firstsecond")


def test_a_connection_that_breaks(pool):
    server = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(server.getsockname())
    receiver, _ = server.accept()
    sender.sendall(bytes(20_000))

    def break_off(done, size):
        if sender.fileno() >= 0:
            # Closing with this option set breaks the connection off (RST) instead of ending it (FIN).
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sender.close()

    with server, receiver, pytest.raises(ConnectionResetError, match="Connection reset by peer at offset 20000"):
        stream(receiver, check, state=fresh(20_000), pool=pool, progress=break_off)


@pytest.mark.parametrize(("before", "after"), [(None, 1 << 18), (1 << 12, 1 << 12), (1 << 19, 1 << 19)])
def test_a_pipe_of_the_usual_size_is_enlarged(pool, before, after):
    data = text(3000)
    reader, writer = os.pipe()
    try:
        if before is not None:
            fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, before)
        syscalls.write_full(writer, data)
        os.close(writer)
        expect(stream(reader, check, state=fresh(len(data)), pool=pool), data)
        assert fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) == after
    finally:
        os.close(reader)


def test_a_pipe_that_may_not_be_enlarged_is_read_as_it_is(pool, monkeypatch):
    def refuse(fd, command, *argument):
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return control(fd, command, *argument)

    control = fcntl.fcntl
    data = text(300_000)
    with fed("pipe", data, 1000) as reader:
        monkeypatch.setattr(fcntl, "fcntl", refuse)
        expect(stream(reader, check, state=fresh(len(data)), pool=pool), data)
        assert control(reader, fcntl.F_GETPIPE_SZ) == 1 << 16


def test_a_descriptor_that_does_not_block(pool):
    data = text(300_000)
    with fed("pipe", data, 1000) as reader:
        os.set_blocking(reader, False)
        expect(stream(reader, check, state=fresh(len(data)), pool=pool), data)
