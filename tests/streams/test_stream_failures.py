"""Failures of a stream: each ends it cleanly, with all buffers back and all threads ended."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from numba import njit
from streaming import WITH_URING, check, expect, fail_at, fed, fresh, needs_uring, text
from support import CTRL_C

from iobuf_nb import StreamError, WouldBlock, atomics, stream


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
    with pytest.raises(ValueError, match="engine='uring' needs regular files, and /dev/null is not one"):
        stream("/dev/null", check, state=fresh(0), engine="uring", pool=pool)
    with pytest.raises(ValueError, match="engine='uring' fills whole buffers: they must have 4095 bytes"):
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


def test_the_second_of_several_sources_fails(file, pool):
    with pytest.raises(FileNotFoundError, match="No such file .* '/no/such'"):
        stream([file(b"x" * 9000), "/no/such"], check, state=fresh(9000), pool=pool)


def test_sources_that_end_inside_a_record(file, pool):
    with pytest.raises(ValueError, match="must be whole records of 7 bytes, as set by record or dtype, but has 100"):
        stream(file(bytes(100)), check, state=fresh(100, 7), record=7, pool=pool)
    with fed("pipe", bytes(100), 9) as reader, pytest.raises(ValueError, match="at offset 98 inside a record of 7"):
        stream(reader, check, state=fresh(100, 7), record=7, pool=pool)


@pytest.mark.parametrize("kind", ["path", "pipe"])
def test_a_line_that_is_longer_than_a_buffer(file, pool, kind):
    data = b"short\n" + b"x" * 5000 + b"\n"
    with fed("pipe", data, 100) as reader:
        source = reader if kind == "pipe" else file(data)
        with pytest.raises(ValueError, match="line at offset 6 that is longer than a piece, 4032 bytes"):
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


def test_direct_on_a_file_system_that_refuses_it():
    with pytest.raises(OSError, match="direct=True is refused by the file system: '/proc/self/status'"):
        stream("/proc/self/status", check, state=fresh(0), direct=True)


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


SILENT = """
import os, sys
import numpy as np
from numba import njit
from iobuf_nb import BufferPool, stream

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
        [sys.executable, "-c", CTRL_C + SILENT, order], stdin=reader, stdout=subprocess.PIPE, text=True
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
