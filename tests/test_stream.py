"""Streams: every byte reaches the kernel once, in blocks as promised, and every failure ends cleanly."""

import _thread
import bz2
import codecs
import errno
import fcntl
import gzip
import io
import lzma
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
import zipfile
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import cfunc, config, guvectorize, jit, njit, prange, typed, types, vectorize
from numba.experimental import jitclass

from iobuf_nb import BufferPool, StreamError, Tier, WouldBlock, atomics, scan, stream, syscalls
from iobuf_nb._streams import source as source_module
from iobuf_nb.uring import Ring

# Words of the state of `check`.
SUM, BYTES, BLOCKS, NEXT, RECORD, DELIMITER, END, BAD = range(8)


@njit(nogil=True)
def check(buffer, n, offset, state):
    """Sum up bytes weighted by their position, and look whether the block is what was promised."""
    if len(buffer) != n or n % state[RECORD] or offset % state[RECORD]:
        state[BAD] += 1
    if state[DELIMITER] >= 0 and offset + n != state[END] and buffer[n - 1] != state[DELIMITER]:
        state[BAD] += 1
    if state[NEXT] >= 0:
        state[BAD] += offset != state[NEXT]
        state[NEXT] = offset + n
    state[BLOCKS] += 1
    state[BYTES] += n
    state[SUM] += (np.arange(offset + 1, offset + n + 1) * buffer).sum()


def fresh(size, record=1, delimiter=-1, ordered=False):
    return np.array([0, 0, 0, 0 if ordered else -1, record, delimiter, size, 0], np.int64)


def expect(result, data):
    state = np.sum(result.state, axis=0)
    weights = np.arange(1, len(data) + 1)
    assert state[BAD] == 0
    assert state[BYTES] == result.bytes == len(data)
    assert state[SUM] == (weights * np.frombuffer(data, np.uint8)).sum()
    assert result.seconds > 0 and result.gb_per_s >= 0


def text(n, seed=0):
    """Return `n` bytes, one in twenty of them a newline."""
    return np.random.default_rng(seed).choice(np.arange(20, dtype=np.uint8) + 10, n).tobytes()


@contextmanager
def fed(kind, data, chunk):
    """Give the reading end of a pipe or socket into which a thread writes `data` in pieces."""
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())

    def write():
        try:
            for start in range(0, len(data), chunk):
                syscalls.write_full(writer, data[start : start + chunk])
        except BrokenPipeError:  # the stream has failed, and the reading end is closed
            pass
        finally:
            os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield reader
    finally:
        os.close(reader)
        thread.join()


@pytest.fixture
def file(tmp_path):
    def make(data, name="data"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


def uring_is_there():
    try:
        Ring(1).close()
    except (ImportError, OSError) as error:
        print("io_uring is left out:", error)
        return False
    return True


KINDS = ["path", "descriptor", "list", "pipe", "socket", "mmap", "direct"] + ["uring"] * uring_is_there()
WITH_URING = [{"engine": "uring"}, {"engine": "uring", "direct": True}] * ("uring" in KINDS)
needs_uring = pytest.mark.skipif(not WITH_URING, reason="no io_uring here")


@given(
    st.sampled_from(KINDS),
    st.integers(0, 3000),
    st.sampled_from([16, 64, 100, 256, 1000]),
    st.integers(1, 400),
    st.sampled_from([None, 1, 2, 7, 16]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 9),
)
@settings(deadline=None, max_examples=40 if config.DISABLE_JIT else 1000)
def test_any_split(tmp_path_factory, kind, n, size, chunk, record, lines, ordered, workers, seed):
    """Any kind of source, size of buffers, pieces that a writer writes, record or lines, order, number of workers."""
    lines, ordered = lines and kind != "uring", ordered and kind != "uring"
    unit = 1 if record is None or lines else record
    n *= 20 if kind == "direct" else 1  # the buffers are larger there
    data = text(n // unit * unit, seed)
    # A line must fit into a buffer: end one at least every 16 bytes.
    data = bytes(10 if lines and k % 16 == 15 else byte for k, byte in enumerate(data))
    state = fresh(len(data), unit, 10 if lines else -1, ordered)
    options = {
        "tier": size if kind != "direct" else 3 * 4096,
        "workers": workers,
        "ordered": ordered,
        "record": None if lines else record,
        "delimiter": b"\n" if lines else None,
    }
    path = tmp_path_factory.mktemp("stream") / "data"
    if kind in ("pipe", "socket"):
        with fed(kind, data, chunk) as reader:
            expect(stream(reader, check, state=state, **options), data)
    elif kind == "descriptor":
        path.write_bytes(b"before" + data)
        with open(path, "rb") as opened:
            os.lseek(opened.fileno(), 6, os.SEEK_SET)
            expect(stream(opened.fileno(), check, state=state, **options), data)
            assert os.lseek(opened.fileno(), 0, os.SEEK_CUR) == 6 + len(data)
    elif kind == "list" and not lines:
        cut = len(data) // 3 // unit * unit
        path.write_bytes(data[:cut])
        other = path.with_name("other")
        other.write_bytes(data[cut:])
        expect(stream([path, str(other)], check, state=state, **options), data)
    else:
        path.write_bytes(data)
        engine = kind if kind in ("mmap", "uring") else "auto"
        expect(stream(path, check, state=state, engine=engine, direct=kind == "direct", **options), data)


@pytest.mark.parametrize("kind", KINDS[3:5])
def test_a_long_pipe_in_small_and_large_pieces(kind):
    data = text(3_000_000)
    for chunk in (1000, 70_000, 3_000_000):
        with fed(kind, data, chunk) as reader, BufferPool(3, Tier.LARGE) as pool:
            expect(stream(reader, check, state=fresh(len(data)), pool=pool), data)
            assert not pool.holders()


def test_files_larger_than_all_buffers(file):
    data = text(5_000_011)
    with BufferPool(2, Tier.HUGE) as pool:
        for options in ({}, {"ordered": True}, {"engine": "mmap"}, {"direct": True}, {"delimiter": b"\n"}, *WITH_URING):
            end = 10 if "delimiter" in options else -1
            state = fresh(len(data), 1, end, options.get("ordered", False))
            expect(stream(file(data), check, state=state, pool=pool, **options), data)
            assert not pool.holders()


# ---- file objects ----------------------------------------------------------------------------------------------------

ENGINES = [{}, {"ordered": True}, {"delimiter": b"\n"}, {"engine": "mmap"}, *WITH_URING[:1]]


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

    class Bytes:
        def __fspath__(self):
            return undecodable

    reader, writer = os.pipe()
    os.write(writer, b"more")
    os.close(writer)
    with open(tmp_path / "last", "rb") as opened:
        opened.seek(100)
        sources = [os.fsencode(tmp_path / "\xe9"), Bytes(), tmp_path / "last", opened, str(tmp_path / "\xe9"), reader]
        expected = data + data[600:] + data[:100] + b"more"
        expect(stream(sources, check, state=fresh(len(expected))), expected)
    os.close(reader)


@pytest.mark.parametrize("name", [b"\xff", "\xe9".encode()])
def test_names_that_are_no_text_can_be_printed(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as opened:
        opened.write(bytes(100))
    with pytest.raises(StreamError) as caught:
        stream(path, fail_at, state=np.array([50]))
    assert caught.value.filename == os.fsdecode(path)
    assert name.decode(errors="backslashreplace") in str(caught.value).encode().decode()
    with pytest.raises(ValueError, match="must be whole records of 7 bytes") as refused:
        stream(path, check, state=fresh(0), record=7)
    assert name.decode(errors="backslashreplace") in str(refused.value).encode().decode()
    os.unlink(path)
    with pytest.raises(FileNotFoundError) as missing:
        stream(path, check, state=fresh(0))
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


# ---- threads ---------------------------------------------------------------------------------------------------------


def test_io_uring_needs_threads(file, monkeypatch, pool):
    real = _thread.start_new_thread
    monkeypatch.setattr(_thread, "start_new_thread", lambda *arguments: real(*arguments))  # as gevent does
    path = file(bytes(1000))
    reads = []
    monkeypatch.setattr("iobuf_nb._streams.source.open_file", lambda *_: reads.append(1))
    with pytest.raises(ValueError, match="engine='uring' needs threads, which gevent or eventlet has replaced"):
        stream(path, check, state=fresh(1000), engine="uring", pool=pool)
    assert not reads


GREEN = """
import sys
if sys.argv[2] == "gevent":
    from gevent import monkey
    monkey.patch_all()
else:
    import eventlet
    eventlet.monkey_patch()
import numpy as np
from numba import njit
from iobuf_nb import stream

@njit
def count(buffer, n, offset, state):
    state[0] += n

for options in {}, {"ordered": True}, {"engine": "mmap"}, {"engine": "uring"}:
    options = {"state": np.zeros(1, np.int64), "combine": np.add, "workers": 4, "buffers": 2, **options}
    try:
        print(stream(sys.argv[1], count, **options).state)
    except ValueError as error:
        print(str(error)[:28])
"""


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["gevent", "eventlet"])
def test_beside_greenlets(file, tmp_path, name):
    pytest.importorskip(name)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}  # so that all is compiled
    command = [sys.executable, "-W", "ignore", "-c", GREEN, str(file(bytes(9_000_000))), name]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.stdout == "[9000000]\n" * 3 + "engine='uring' needs threads\n", result.stderr


# ---- state, types, signature -----------------------------------------------------------------------------------------


def test_typed_blocks_and_combine(file):
    values = np.random.default_rng(1).random(100_003).astype(np.float32)

    @njit
    def extremes(buffer, n, offset, state):
        for x in buffer:
            state[0] = min(state[0], x)
            state[1] = max(state[1], x)
        state[2] += n

    def combine(a, b):
        return np.array([min(a[0], b[0]), max(a[1], b[1]), a[2] + b[2]])

    start = np.array([np.inf, -np.inf, 0])
    result = stream(file(values.tobytes()), extremes, state=start, combine=combine, dtype="f4", tier=1000, workers=3)
    assert result.state.tolist() == [values.min(), values.max(), len(values)]
    assert start.tolist() == [np.inf, -np.inf, 0]


def test_records_of_a_structured_dtype(file):
    dtype = np.dtype([("key", "i4"), ("value", "f8")])
    records = np.zeros(1000, dtype)
    records["key"] = np.arange(1000) % 7
    records["value"] = np.arange(1000)

    @njit
    def group(buffer, n, offset, state):
        for k in range(n):
            state[buffer[k]["key"]] += buffer[k]["value"]

    result = stream(file(records.tobytes()), group, state=np.zeros(7), combine=np.add, dtype=dtype, tier=100, workers=2)
    assert result.state.tolist() == np.bincount(records["key"], records["value"]).tolist()


def test_states_by_copy_by_call_and_none_at_all(file):
    path = file(bytes(1000))
    states = stream(path, check, state=fresh(1000), workers=3, tier=16).state
    assert len(states) == 3 and len({id(state) for state in states}) == 3
    made = []

    def make():
        made.append(fresh(1000))
        return made[-1]

    assert stream(path, check, state=make, workers=2, tier=16).state == made and len(made) == 2
    assert len(stream(path, check, state=fresh(1000, ordered=True), workers=2, ordered=True).state) == 1

    @njit
    def nothing(buffer, n, offset, state):
        return n

    result = stream(path, nothing, workers=2)
    assert result.state == [None, None] and result.bytes == 1000


@pytest.mark.compiled
def test_states_of_several_types_are_refused(file, pool):
    array = np.zeros(1, np.int64)
    frozen = array.copy()
    frozen.flags.writeable = False
    others = [
        np.zeros(1),
        np.zeros((1, 1), np.int64),
        np.zeros(4, np.int64)[::2],
        frozen,
        (array,),
        typed.List([1]),
        None,
        1,
    ]
    for other in others:
        states = iter([array, array.copy(), other])
        with pytest.raises(TypeError, match="state must (make the same type for each worker|be something)"):
            stream(file(bytes(100)), check, state=lambda states=states: next(states), workers=3, pool=pool)
    assert frozen.tolist() == [0]


Pair = namedtuple("Pair", "one other")


@pytest.mark.compiled
@pytest.mark.parametrize(
    "state",
    [0, 1.5, True, 1j, "text", b"bytes", np.float32(1), np.datetime64(1, "s"), (1, 2.0), Pair(1, (2, "x")), slice(1)],
    ids=repr,
)
def test_states_that_no_kernel_can_change_are_refused(file, pool, state):
    @njit
    def lose(buffer, n, offset, state):
        state = n  # noqa: F841

    message = "state must be something that a kernel can change in place, such as np.zeros.1., not "
    for either in (state, lambda: state):
        with pytest.raises(TypeError, match=message):
            stream(file(bytes(100)), lose, state=either, pool=pool)


@pytest.mark.compiled
def test_states_that_must_not_be_written_are_refused(file, pool):
    frozen = np.zeros(2, [("x", "i8")])
    frozen.flags.writeable = False

    @njit
    def write(buffer, n, offset, state):
        state[0] += n

    @njit
    def write_record(buffer, n, offset, state):
        state.x += n

    readings = [
        (write, frozen["x"]),
        (write, memoryview(bytes(8))),
        (write, (frozen["x"], 1)),
        (write_record, frozen[0]),
    ]
    for kernel, state in readings:
        for either in (state, lambda state=state: state):
            with pytest.raises(TypeError, match="state must be something that a kernel can change"):
                stream(file(bytes(100)), kernel, state=either, workers=1, pool=pool)
    assert frozen["x"].tolist() == [0, 0]

    @njit
    def look_up(buffer, n, offset, state):
        state[1][0] += n + state[0][0]

    assert stream(file(bytes(100)), look_up, state=lambda: (frozen["x"], np.zeros(1)), workers=1).state[0][1] == 100


@jitclass([("n", types.int64)])
class Counter:
    def __init__(self):
        self.n = 0


@pytest.mark.compiled
def test_containers_of_numba_are_copied(file):
    @njit
    def into_list(buffer, n, offset, state):
        state[0] += n

    @njit
    def into_nested(buffer, n, offset, state):
        state[0][1][0] += n

    @njit
    def into_dict(buffer, n, offset, state):
        state["n"][0] += n

    @njit
    def into_tuple(buffer, n, offset, state):
        state[0][0] += n
        state[1][7] += n

    path = file(bytes(100_000))
    numbers = typed.List([0])
    nested = typed.List([typed.List([np.zeros(1), np.zeros(1)])])
    by_name = typed.Dict()
    by_name["n"] = np.zeros(1)
    by_number = typed.Dict()
    by_number[7] = 0.0
    for kernel, state, read in (
        (into_list, numbers, lambda s: s[0]),
        (into_nested, nested, lambda s: s[0][1][0]),
        (into_dict, by_name, lambda s: s["n"][0]),
        (into_tuple, Pair(typed.List([0]), by_number), lambda s: s.one[0] + s.other[7]),
    ):
        states = stream(path, kernel, state=state, workers=3, tier=100).state
        times = 2 if isinstance(state, Pair) else 1
        assert sum(map(read, states)) == times * 100_000 and read(state) == 0
        assert stream(path, kernel, state=lambda state=state: state, ordered=True).state == [state]


@pytest.mark.compiled
def test_states_that_cannot_be_copied_are_made(file, pool):
    @njit
    def add(buffer, n, offset, state):
        state.n += n

    path = file(bytes(100_000))
    made = stream(path, add, state=Counter, workers=3, pool=pool).state
    assert sum(state.n for state in made) == 100_000
    with pytest.raises(TypeError, match="state must be something that can be copied, .* pass a callable"):
        stream(path, add, state=Counter(), pool=pool)
    for nothing in (object(), {"a": 1}, typed.List()):
        with pytest.raises(TypeError, match="state must be something that numba kernels take, not"):
            stream(path, add, state=lambda nothing=nothing: nothing, pool=pool)


def test_a_state_that_workers_share_counts_once(file):
    @njit
    def mark(buffer, n, offset, state):
        state[offset // 100] = n

    table = np.zeros(100, np.int64)
    result = stream(file(bytes(10_000)), mark, state=lambda: table, combine=np.add, workers=3, tier=100)
    assert result.state is table and table.tolist() == [100] * 100


@pytest.mark.parametrize(
    "combine, message",
    [
        (3, "combine must be a function of two states, such as np.add, not 3"),
        ("add", "combine must be a function of two states"),
        (lambda a: a, "combine must be a function of two states, which .* is not: too many positional arguments"),
        (lambda a, b, c: a, "combine must be a function of two states, which .* is not: missing a required argument"),
    ],
)
def test_combine_is_looked_at_before_anything_is_read(pool, combine, message):
    reader, writer = os.pipe()
    os.write(writer, b"data")
    os.close(writer)
    with pytest.raises(TypeError, match=message):
        stream(reader, check, state=fresh(4), combine=combine, pool=pool)
    assert os.read(reader, 10) == b"data"
    os.close(reader)
    assert stream("/dev/null", check, state=fresh(0), combine=max, workers=1).bytes == 0  # it has no signature


C, A = types.Array(types.uint8, 1, "C"), types.Array(types.uint8, 1, "A")
OUT, ANY_OUT = types.Array(types.int64, 1, "C"), types.Array(types.int64, 1, "A")
READ_ONLY = types.Array(types.uint8, 1, "C", readonly=True)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "signatures",
    [
        "void(u1[::1], i8, i8, i8[::1])",
        "(u1[:], i8, i8, i8[:])",
        types.void(READ_ONLY, types.int64, types.int64, ANY_OUT),
        ["void(f4[::1], i8, i8, i8[::1])", "void(u1[:], i8, i8, i8[::1])"],
        ["void(u1[::1], i4, i4, i8[::1])", "void(u1[::1], i8, i8, i8[:])"],
    ],
    ids=str,
)
def test_kernels_compiled_with_signatures(file, signatures):
    @njit(signatures, nogil=True)
    def count(buffer, n, offset, state):
        state[0] += n

    before = list(count.overloads)
    result = stream(file(bytes(100_000)), count, state=np.zeros(1, np.int64), combine=np.add, workers=2, tier=1000)
    assert result.state[0] == 100_000 and list(count.overloads) == before


@pytest.mark.compiled
@pytest.mark.parametrize(
    "signatures, options",
    [
        ("void(u1[::1], i4, i8, i8[::1])", {}),
        ("void(u1[::1], i8, i4, i8[::1])", {}),
        ("void(f4[::1], i8, i8, i8[::1])", {}),
        ("void(u1[::1], i8, i8, f8[::1])", {}),
        ("void(u1[::1], i8, i8, i8[:,:])", {}),
        ("void(u1[::1], i8, i8, i8[::1])", {"dtype": "f4"}),
    ],
)
def test_kernels_compiled_for_other_arguments_are_refused(file, pool, signatures, options):
    kernel = njit(signatures)(lambda buffer, n, offset, state: None)
    with pytest.raises(TypeError, match="kernel must take .* does not: it is compiled for .* and no more\nkernel must"):
        stream(file(bytes(100)), kernel, state=np.zeros(1, np.int64), pool=pool, **options)


@pytest.mark.compiled
def test_what_is_no_kernel_is_refused(file, pool):
    def one(buffer, n, offset, state):
        return offset

    signature = "f8(f8, f8, f8, f8)"
    made = [vectorize(signature)(one), cfunc(signature)(one), jit(forceobj=True)(one), one, None]
    made.append(guvectorize("void(f8[:], f8, f8, f8[:])", "(n),(),()->(n)")(lambda buffer, n, offset, state: None))
    for kernel in made:
        with pytest.raises(TypeError, match="kernel must be a function compiled by numba.njit, not"):
            stream(file(bytes(100)), kernel, state=np.zeros(1), pool=pool)


@pytest.mark.compiled
def test_kernels_with_defaults_and_any_number_of_arguments(file):
    @njit
    def default(buffer, n, offset, state, times=2):
        state[0] += times * n

    @njit
    def star(buffer, *rest):
        rest[2][0] += 2 * rest[0]

    for kernel in (default, star):
        state = stream(file(bytes(1000)), kernel, state=np.zeros(1), combine=np.add, workers=2, tier=100).state
        assert state[0] == 2000


@pytest.mark.skipif(sys.platform != "linux", reason="about how Linux accounts for memory")
def test_mapping_a_file_larger_than_memory(tmp_path):
    @njit
    def touch(buffer, n, offset, state):
        state[0] += n + np.int64(buffer[0])
        buffer[0] = 1  # it is the kernel's own

    size = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with open(tmp_path / "large", "wb") as opened:
        opened.truncate(size)
    result = stream(
        tmp_path / "large", touch, state=np.zeros(1, np.int64), combine=np.add, engine="mmap", tier=1 << 30, buffers=1
    )
    assert result.state[0] == result.bytes == size
    with open(tmp_path / "large", "rb") as opened:
        assert opened.read(1) == b"\0"


def test_mapping_writes_nothing_back(file):
    path = file(bytes(100_000))

    @njit
    def overwrite(buffer, n, offset, state):
        buffer[:] = 7

    for options in ENGINES[:1] + ENGINES[3:]:
        stream(path, overwrite, workers=2, tier=4096, **options)
        assert path.read_bytes() == bytes(100_000)


def test_a_file_that_cannot_be_mapped_is_named(file, monkeypatch, pool):
    path = file(bytes(100))

    def fail(*_, **__):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("mmap.mmap", fail)
    with pytest.raises(OSError, match="Cannot allocate memory") as caught:
        stream(path, check, state=fresh(100), engine="mmap", pool=pool)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOMEM, str(path))

    def shorter(*_, **__):
        raise ValueError("mmap length is greater than file size")

    monkeypatch.setattr("mmap.mmap", shorter)
    with pytest.raises(OSError, match="Changed while it was read, after 0 of 100 bytes"):
        stream(path, check, state=fresh(100), engine="mmap", pool=pool)


@pytest.mark.compiled
def test_a_kernel_with_threads_of_its_own(file):
    values = np.arange(100_000, dtype=np.float64)

    @njit(parallel=True)
    def add(buffer, n, offset, state):
        total = 0.0
        for k in prange(n):
            total += buffer[k]
        state[0] += total

    path = file(values.tobytes())
    for options in ({}, {"ordered": True, "workers": 3}):
        assert stream(path, add, state=np.zeros(1), dtype="f8", tier=4096, **options).state[0][0] == values.sum()
    with pytest.raises(ValueError, match="workers must be 1 for a kernel with parallel=True, not 2"):
        stream(path, add, state=np.zeros(1), dtype="f8", workers=2)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "kernel, message",
    [
        (len, "kernel must be a function compiled by numba.njit, not <built-in function len>"),
        (njit(lambda buffer, n, offset: None), "too many positional arguments"),
        (njit(lambda buffer, n, offset, state: state.no_such_thing), "no_such_thing"),
        (njit("f8(f8, f8, f8, f8)")(lambda buffer, n, offset, state: n), "state: array"),
    ],
)
def test_a_kernel_of_the_wrong_signature(file, kernel, message):
    with pytest.raises(TypeError, match=message) as caught:
        stream(file(b"data"), kernel, state=np.zeros(3))
    if kernel is not len:
        wanted = "kernel must take (buffer: array(uint8, 1d, C), n: int64, offset: int64, state: array(float64, 1d, C))"
        assert wanted in str(caught.value)


class Unnumbered:
    """What has a descriptor that is no number."""

    def fileno(self):
        return "7"


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"source": None}, TypeError, "source must be a path, a file descriptor or an object with fileno.., not None"),
        ({"source": ["/dev/null", 1.5]}, TypeError, "source must be .* not 1.5"),
        ({"source": -1}, ValueError, "source .a file descriptor. must be .* not -1"),
        ({"engine": "magic"}, ValueError, "engine must be 'auto', 'preadv', 'uring' or 'mmap', not 'magic'"),
        ({"workers": 0}, ValueError, "workers must be an integer from 1 to 1024, not 0"),
        ({"tier": 0}, ValueError, "tier must be .* not 0"),
        ({"buffers": -1}, ValueError, "buffers must be .* not -1"),
        ({"buffers": 2**31, "tier": 2**20}, ValueError, "buffers . tier must be an integer from 1 to .* not 22517998"),
        ({"source": [Unnumbered()]}, TypeError, "source .a file descriptor. must be .* not '7'"),
        ({"pool": 3}, TypeError, "pool must be a BufferPool, not 3"),
        ({"record": 0}, ValueError, "record must be .* not 0"),
        ({"record": 17, "tier": 16}, ValueError, "tier must make buffers that hold a record of 17 bytes, not of 16"),
        ({"record": 6, "dtype": "f4"}, ValueError, "record must be a multiple of the 4 bytes of float32, not 6"),
        ({"dtype": object}, TypeError, "dtype must be one .* not "),
        ({"dtype": "no such"}, TypeError, "dtype must be one that numba knows, not 'no such'"),
        ({"delimiter": b""}, ValueError, "delimiter must be one byte, such as .* not b''"),
        ({"delimiter": "\n"}, ValueError, "delimiter must be one byte"),
        ({"delimiter": b"\n", "record": 2}, ValueError, "needs lines of bytes"),
        ({"progress": 1}, TypeError, "progress must be True, False or a callable, not 1"),
        ({"direct": True, "tier": 512}, ValueError, "hold a record of 1 bytes and 4096 bytes around it|multiples of"),
        ({"direct": True, "source": 0}, ValueError, "direct=True needs a path to open, not 0"),
        ({"source": "/dev/null", "engine": "mmap"}, ValueError, "engine='mmap' needs regular files, and /dev/null"),
        ({"engine": "uring", "ordered": True}, ValueError, "engine='uring' reads pieces of one size"),
        (
            {"engine": "uring", "delimiter": b"x"},
            ValueError,
            "engine='uring' reads pieces of one size, which end in any",
        ),
    ],
)
def test_refuses(file, options, error, message, threads_end):
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(error, match=message):
        stream(**{"source": file(b"x" * 100), "kernel": check, "state": fresh(100), **options})
    assert os.listdir("/proc/self/fd") == descriptors


# ---- failures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(threads_end):
    """Give a pool that must have all its buffers back, and threads that must have ended, after the test."""
    with BufferPool(3, 4096) as pool:
        yield pool
        assert not pool.holders() and pool.available() == 3


@njit
def fail_at(buffer, n, offset, state):
    if offset <= state[0] < offset + n:
        raise ZeroDivisionError("no way", offset)


@pytest.mark.parametrize(
    "options", [{}, {"ordered": True}, {"engine": "mmap"}, {"delimiter": b"\n"}, *WITH_URING], ids=str
)
def test_a_kernel_that_raises(file, pool, options):
    path = file(text(1_000_000))
    for workers in (1, 3):
        with pytest.raises(StreamError, match=f"on the piece at offset [0-9]+ of {path}: ZeroDivisionError") as caught:
            stream(path, fail_at, state=np.array([500_000]), workers=workers, pool=pool, **options)
        error = caught.value
        assert isinstance(error.__cause__, ZeroDivisionError) and error.filename == str(path)
        assert error.offset <= 500_000 < error.offset + 4096
        assert error.__cause__.args[1] == error.offset


@needs_uring
def test_io_uring_refuses_what_it_cannot_do(file, pool):
    with pytest.raises(ValueError, match="engine='uring' needs regular files, and /dev/null is none"):
        stream("/dev/null", check, state=fresh(0), engine="uring", pool=pool)
    with pytest.raises(ValueError, match="engine='uring' fills whole buffers: they must be of 4095 bytes"):
        stream(file(bytes(21)), check, state=fresh(21, 7), record=7, engine="uring", pool=pool)
    assert (
        stream("/proc/version", check, state=fresh(-1), engine="uring", pool=pool).bytes > 0
    )  # of a nominal size of 0


def test_a_kernel_that_raises_on_an_endless_pipe(pool):
    with fed("pipe", bytes(10_000_000), 4096) as reader, pytest.raises(StreamError, match="at offset"):
        stream(reader, fail_at, state=np.array([100_000]), pool=pool)


def test_a_source_that_fails(pool):
    with pytest.raises(OSError, match="Input/output error at offset 0: '/proc/self/mem'") as caught:
        stream("/proc/self/mem", check, state=fresh(0), pool=pool)
    assert caught.value.errno == errno.EIO


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


def test_the_second_of_several_sources_fails(file, pool):
    with pytest.raises(FileNotFoundError, match="No such file .* '/no/such'"):
        stream([file(b"x" * 9000), "/no/such"], check, state=fresh(9000), pool=pool)


def test_a_connection_that_breaks(pool):
    server = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(server.getsockname())
    receiver, _ = server.accept()
    sender.sendall(bytes(20_000))

    def break_off(done, size):
        # Closing with this option set breaks the connection off (RST) instead of ending it (FIN).
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sender.close()

    with server, receiver, pytest.raises(ConnectionResetError, match="Connection reset by peer at offset 20000"):
        stream(receiver, check, state=fresh(20_000), pool=pool, progress=break_off)


def test_a_descriptor_that_does_not_block(pool):
    data = text(300_000)
    with fed("pipe", data, 1000) as reader:
        os.set_blocking(reader, False)
        expect(stream(reader, check, state=fresh(len(data)), pool=pool), data)


def test_sources_that_end_inside_a_record(file, pool):
    with pytest.raises(ValueError, match="must be whole records of 7 bytes, as record or dtype says, and has 100"):
        stream(file(bytes(100)), check, state=fresh(100, 7), record=7, pool=pool)
    with fed("pipe", bytes(100), 9) as reader, pytest.raises(ValueError, match="at offset 98 inside a record of 7"):
        stream(reader, check, state=fresh(100, 7), record=7, pool=pool)


@pytest.mark.parametrize("kind", ["path", "pipe"])
def test_a_line_that_is_longer_than_a_buffer(file, pool, kind):
    data = b"short\n" + b"x" * 5000 + b"\n"
    with fed("pipe", data, 100) as reader:
        source = reader if kind == "pipe" else file(data)
        with pytest.raises(ValueError, match="line at offset 6 that is longer than a piece, 4096 bytes"):
            stream(source, check, state=fresh(len(data)), delimiter=b"\n", pool=pool)


@njit(nogil=True)
def held_up(buffer, n, offset, state):
    while atomics.load(state, 0) == 0:
        atomics.pause(100)


def test_a_file_that_shrinks(file, pool):
    path, truncated = file(bytes(200 << 20)), np.zeros(1, np.int64)

    def truncate(*_):
        os.truncate(path, 1 << 20)
        atomics.store(truncated, 0, 1)

    for options in ({}, {"ordered": True}):
        os.truncate(path, 200 << 20)
        truncated[0] = 0
        with pytest.raises(OSError, match="Changed while it was read, after [0-9]+ of 209715200 bytes") as caught:
            stream(path, held_up, state=lambda: truncated, progress=truncate, pool=pool, **options)
        assert caught.value.errno == errno.EIO and caught.value.filename == str(path)


def test_direct_on_a_file_system_that_refuses_it(pool):
    with pytest.raises(OSError, match="direct=True is refused by the file system: '/proc/self/status'"):
        stream("/proc/self/status", check, state=fresh(0), direct=True, pool=pool)


def test_a_pool_without_free_buffers_makes_it_wait(file, pool):
    held = [pool.get() for _ in range(3)]
    started = threading.Event()

    def give_back():
        started.wait()
        for index in held:
            pool.put(index)

    thread = threading.Thread(target=give_back)
    thread.start()
    data = text(100_000)
    expect(stream(file(data), check, state=fresh(len(data)), pool=pool, progress=lambda *_: started.set()), data)
    thread.join()


def test_a_pool_that_may_not_wait(file, pool):
    pool.nonblocking = True
    with pytest.raises(WouldBlock), pool.lease(), pool.lease(), pool.lease():
        stream(file(bytes(100)), check, state=fresh(100), pool=pool)


def test_progress_reaches_the_end_and_its_errors_stop_everything(file, pool):
    seen = []
    stream(file(bytes(10_000)), check, state=fresh(10_000), progress=lambda *now: seen.append(now), pool=pool)
    assert seen[-1] == (10_000, 10_000)

    def fail(done, size):
        raise RuntimeError("no more")

    with fed("pipe", bytes(10_000_000), 4096) as reader, pytest.raises(RuntimeError, match="no more"):
        stream(reader, check, state=fresh(0), progress=fail, pool=pool)


def test_a_bar(file, capsys):
    stream(file(bytes(10_000)), check, state=fresh(10_000), progress=True)
    assert "B/s" in capsys.readouterr().err


CTRL_C = """
import os, signal, sys
import numpy as np
from numba import njit
from iobuf_nb import BufferPool, stream
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with

@njit
def nothing(buffer, n, offset, state):
    pass

pool = BufferPool(3, 4096)
try:
    stream(0, nothing, pool=pool, ordered=sys.argv[1] == "ordered", progress=lambda *now: print(*now, flush=True))
except KeyboardInterrupt:
    print("interrupted", pool.holders(), flush=True)
"""


@pytest.mark.parametrize("order", ["ordered", "unordered"])
def test_ctrl_c_on_a_silent_pipe(order):
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", CTRL_C, order], stdin=reader, stdout=subprocess.PIPE, text=True
    ) as child:
        os.write(writer, b"x" * 100)
        assert "100 None\n" in child.stdout  # it has seen all there is, and waits for more
        child.send_signal(signal.SIGINT)
        start = time.monotonic()
        rest = child.stdout.read()
        assert rest.splitlines()[-1] == "interrupted {}"
        assert time.monotonic() - start < 30  # it ends by itself: the pipe is still open
    os.close(reader)
    os.close(writer)


@pytest.mark.compiled
def test_a_second_process_compiles_only_the_kernel_of_its_own(file, tmp_path):
    script = """
import sys
import numpy as np
from numba import njit
from iobuf_nb import stream
from iobuf_nb._streams.pieces import work_on_pieces

@njit
def add(buffer, n, offset, state):
    state[0] += buffer.sum()

print(int(stream(sys.argv[1], add, state=np.zeros(1, np.int64), combine=np.add).state[0]))
print(sum(work_on_pieces.stats.cache_misses.values()), sum(work_on_pieces.stats.cache_hits.values()))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", script, str(file(b"\1" * 1000))]
    runs = [subprocess.run(command, capture_output=True, text=True, env=environment, check=True) for _ in range(2)]
    assert [run.stdout.split() for run in runs] == [["1000", "1", "0"], ["1000", "0", "1"]]


@pytest.mark.compiled
def test_types_of_one_program_do_not_reach_another_through_the_cache(file, tmp_path):
    script = """
import sys
from collections import namedtuple
import numpy as np
from numba import njit
from iobuf_nb import stream

@njit
def add(buffer, n, offset, state):
    state[0][0] += n

state = np.zeros(1)
{}
print(stream(sys.argv[1], add, state=({}), ordered=True).state[0][0][0])
"""
    scripts = [script.format("Own = namedtuple('Own', 'total')", "Own(state)"), script.format("", "state,")]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for text_ in scripts:
        command = [sys.executable, "-c", text_, str(file(bytes(1000)))]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert result.stdout == "1000.0\n", result.stderr
