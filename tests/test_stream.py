"""Streams: every byte reaches the kernel once, in blocks as promised, and every failure ends cleanly."""

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config, njit, prange

from iobuf_nb import BufferPool, StreamError, Tier, WouldBlock, stream, syscalls
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
        ({"engine": "uring", "ordered": True}, ValueError, "engine='uring' reads blocks of one size"),
        (
            {"engine": "uring", "delimiter": b"x"},
            ValueError,
            "engine='uring' reads blocks of one size, which end in any",
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
        with pytest.raises(StreamError, match=f"on the block at offset [0-9]+ of {path}: ZeroDivisionError") as caught:
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
        with pytest.raises(ValueError, match="line at offset 6 that is longer than a block, 4096 bytes"):
            stream(source, check, state=fresh(len(data)), delimiter=b"\n", pool=pool)


@njit
def slow(buffer, n, offset, state):
    for i in range(n):
        buffer[i] = np.uint8(np.sqrt(np.float64(offset + i)))


@pytest.mark.compiled
def test_a_file_that_shrinks(file, pool):
    path = file(bytes(200 << 20))
    for options in ({}, {"ordered": True}):
        os.truncate(path, 200 << 20)
        with pytest.raises(OSError, match="Changed while it was read, after [0-9]+ of 209715200 bytes") as caught:
            stream(path, slow, progress=lambda *_: os.truncate(path, 1 << 20), pool=pool, **options)
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
from iobuf_nb._blocks import work_on_blocks

@njit
def add(buffer, n, offset, state):
    state[0] += buffer.sum()

print(int(stream(sys.argv[1], add, state=np.zeros(1, np.int64), combine=np.add).state[0]))
print(sum(work_on_blocks.stats.cache_misses.values()), sum(work_on_blocks.stats.cache_hits.values()))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", script, str(file(b"\1" * 1000))]
    runs = [subprocess.run(command, capture_output=True, text=True, env=environment, check=True) for _ in range(2)]
    assert [run.stdout.split() for run in runs] == [["1000", "1", "0"], ["1000", "0", "1"]]
