"""Streams: every byte reaches the kernel once, in pieces as promised."""

import _thread
import os
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config, njit, types
from streaming import ENGINES, KINDS, WITH_URING, check, expect, fed, fresh, text
from support import python

from iobuf_nb import BufferPool, Tier, stream


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
    path, cache = str(file(bytes(9_000_000))), str(tmp_path / "cache")  # so that all is compiled
    result = python("-W", "ignore", "-c", GREEN, path, name, NUMBA_CACHE_DIR=cache)
    assert result.stdout == "[9000000]\n" * 3 + "engine='uring' needs threads\n", result.stderr


C, A = types.Array(types.uint8, 1, "C"), types.Array(types.uint8, 1, "A")


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


class Unnumbered:
    """What has a descriptor that is no number."""

    def fileno(self):
        return "7"


@pytest.mark.parametrize(
    "options, error, message",
    [
        (
            {"source": None},
            TypeError,
            "source must be a path, .* object with fileno.., or memory such as an array, not",
        ),
        ({"source": ["/dev/null", 1.5]}, TypeError, "source must be .* not 1.5"),
        ({"source": -1}, ValueError, "source .a file descriptor. must be .* not -1"),
        ({"engine": "magic"}, ValueError, "engine must be 'auto', 'preadv', 'uring' or 'mmap', not 'magic'"),
        ({"workers": 0}, ValueError, "workers must be an integer from 1 to 1024, not 0"),
        ({"tier": 0}, ValueError, "tier must be .* not 0"),
        ({"buffers": -1}, ValueError, "buffers must be .* not -1"),
        ({"buffers": 2**31, "tier": 2**20}, ValueError, "buffers . tier must be an integer from 1 to .* not 22517998"),
        ({"source": [Unnumbered()]}, TypeError, "source .a file descriptor. must be .* not '7'"),
        ({"pool": 3}, TypeError, "pool must be a BufferPool, not 3"),
        ({"pool": BufferPool(2, 4096), "tier": 4096}, ValueError, "pool has its own number and size of buffers"),
        ({"pool": BufferPool(2, 4096), "buffers": 2}, ValueError, "leave out tier and buffers, or pool"),
        ({"record": 0}, ValueError, "record must be .* not 0"),
        (
            {"record": 17, "tier": 16},
            ValueError,
            "tier must make buffers that hold a record of 17 bytes, not buffers of 16",
        ),
        ({"record": 6, "dtype": "f4"}, ValueError, "record must be a multiple of the 4 bytes of float32, not 6"),
        ({"dtype": object}, TypeError, "dtype must be one .* not "),
        ({"dtype": "no such"}, TypeError, "dtype must be one that numba knows, not 'no such'"),
        ({"delimiter": b""}, ValueError, "delimiter must be 1 to 64 bytes, such as .* not b''"),
        ({"delimiter": "\n"}, ValueError, "delimiter must be 1 to 64 bytes"),
        ({"delimiter": b"\n", "record": 2}, ValueError, "needs lines of bytes"),
        ({"progress": 1}, TypeError, "progress must be True, False or a callable, not 1"),
        ({"direct": True, "source": 0}, ValueError, "direct=True needs a path to open, not 0"),
        ({"source": "/dev/null", "engine": "mmap"}, ValueError, "engine='mmap' needs regular files, and /dev/null"),
        (
            {"engine": "uring", "direct": True, "record": 7, "tier": 4096},
            ValueError,
            "tier must make buffers that hold whole records of 7 bytes in whole blocks of 4096, 28672 bytes at least",
        ),
        ({"engine": "uring", "ordered": True}, ValueError, "engine='uring' reads pieces of one size"),
        (
            {"engine": "uring", "delimiter": b"x"},
            ValueError,
            "engine='uring' reads pieces of one size, which complete in any",
        ),
    ],
)
def test_refuses(file, options, error, message, threads_end):
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(error, match=message):
        stream(**{"source": file(b"x" * 100), "kernel": check, "state": fresh(100), **options})
    assert os.listdir("/proc/self/fd") == descriptors


def test_a_bar(file, capsys):
    stream(file(bytes(10_000)), check, state=fresh(10_000), progress=True)
    assert "B/s" in capsys.readouterr().err
