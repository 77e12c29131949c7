"""An iovec: over any memory, which it keeps in its place and alive."""

import array
import copy
import ctypes
import gc
import mmap
import weakref

import numpy as np
import pytest
from numba import njit
from pointing import pointed_at

import iobuf_nb
from iobuf_nb import (
    IOVEC_DTYPE,
    BufferPool,
    IoVec,
    iovec_from_buffers,
    view_as_buffers,
)

# ---- from buffers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "buffer",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"view")[1:3],
        memoryview(array.array("d", [1, 2, 3])),
        memoryview(b"characters").cast("c"),
        memoryview(b"in two dimensions").cast("B", (1, 17)),
        memoryview(bytes(range(16))).cast("P"),  # numpy knows no pointers
        (ctypes.c_void_p * 2)(7, 8),
        array.array("i", [4, 5]),
        np.arange(6),
        np.arange(6.0).reshape(2, 3),
        np.array(7.0),
        np.array(["2026-01-01"], "M8[s]"),
        np.array(0, "m8[ns]"),
        np.ma.array([1, 2, 3]),
        np.zeros(3, [("a", "i4"), ("b", "f8")]),
        b"",
        np.zeros((0, 4)),
    ],
    ids=lambda buffer: type(buffer).__name__,
)
def test_over_any_memory(buffer):
    entries = iovec_from_buffers([b"before", buffer])
    assert isinstance(entries, IoVec) and entries.dtype == IOVEC_DTYPE and entries.shape == (2,)
    data = buffer.tobytes() if hasattr(buffer, "tobytes") else bytes(buffer)
    assert view_as_buffers(buffer, 1).tobytes() == data
    assert entries["len"].tolist() == [6, len(data)]
    assert pointed_at(entries) == b"before" + data


def test_over_a_map_of_a_file(tmp_path):
    (tmp_path / "data").write_bytes(b"0123456789")
    with open(tmp_path / "data", "r+b") as file, mmap.mmap(file.fileno(), 10) as mapping:
        entries = iovec_from_buffers([mapping], writable=True)
        assert pointed_at(entries) == b"0123456789"
        with pytest.raises(BufferError):
            mapping.close()
        entries["base"] = 0
        kept = entries[:0]
        del entries
        gc.collect()
        with pytest.raises(BufferError):
            mapping.close()
        del kept
        gc.collect()
        mapping.close()


def test_it_keeps_buffers_in_their_place():
    buffer = bytearray(10)
    entries = iovec_from_buffers([buffer])
    rest = entries[:0].copy()
    del entries
    with pytest.raises(BufferError):
        buffer.extend(b"more")
    assert len(buffer) == 10
    del rest
    gc.collect()
    buffer.extend(b"more")


@pytest.mark.parametrize(
    "derive",
    [
        lambda e: e,
        lambda e: e[1:],
        lambda e: e.copy(),
        lambda e: copy.copy(e[:1]),
        lambda e: copy.deepcopy(e)[::-1],
        lambda e: e[[1, 0]],
        lambda e: e[e["len"] > 0]["base"],
    ],
)
@pytest.mark.parametrize("make", [lambda: BufferPool(4, 64), lambda: np.zeros(100, np.uint8)], ids=["pool", "array"])
def test_it_keeps_its_buffers_and_pools_alive(make, derive):
    owner = make()
    alive = weakref.ref(owner)
    entries = owner.iovec([1, 2]) if isinstance(owner, BufferPool) else iovec_from_buffers([owner, owner[50:]])
    kept = derive(entries)
    del owner, entries
    assert alive() is not None
    del kept
    assert alive() is None


@pytest.mark.parametrize(
    "buffers, options, error, message",
    [
        ([5], {}, TypeError, r"buffers\[0\] must be bytes-like or an array, not 5"),
        ([b"x", "text"], {}, TypeError, r"buffers\[1\] must be bytes-like or an array, not 'text'"),
        (b"one buffer", {}, TypeError, "buffers must be a sequence of buffers, not one: b'one buffer'"),
        ([np.array([object()])], {}, TypeError, r"buffers\[0\] must be plain memory, not an array of Python objects"),
        ([np.zeros((4, 4))[:, 1]], {}, ValueError, r"buffers\[0\] must be contiguous; it has shape \(4,\) and strides"),
        ([np.zeros((4, 4)).T], {}, ValueError, r"buffers\[0\] must be contiguous"),
        ([memoryview(b"abcd")[::2]], {}, ValueError, r"buffers\[0\] must be contiguous"),
        (
            [bytearray(1), b"x"],
            {"writable": True},
            ValueError,
            r"buffers\[1\] must be writable memory, to be read into",
        ),
    ],
)
def test_refuses(buffers, options, error, message):
    with pytest.raises(error, match=message):
        iovec_from_buffers(buffers, **options)


def test_refuses_overlaps_for_reading_into():
    memory = np.zeros(100, np.uint8)
    pieces = [memory[50:], memory[:10], memory[20:51]]
    with pytest.raises(ValueError, match="memory without overlaps, but entries 2 and 0 overlap"):
        iovec_from_buffers(pieces, writable=True)
    assert len(iovec_from_buffers(pieces)) == 3  # to write from, they may
    assert len(iovec_from_buffers([memory[:50], memory[50:], memory[50:50]], writable=True)) == 3


# ---- of several iovecs -----------------------------------------------------------------------------------------------


FULL = 2**16


def two():
    """Return iovecs of two pools, and what tells whether their memory is alive."""
    pools = BufferPool(2, FULL), BufferPool(2, FULL)
    alive = [weakref.ref(pool) for pool in pools]
    return [pool.iovec([0, 1]) for pool in pools], alive


def put_into(a, b):
    a[:1] = b[1:]
    return a


def copied_over(a, b):
    np.copyto(a, b)
    return a


def written_by_out(a, b):
    np.concatenate([a[:1], b[:1]], out=a)
    return a


def put_by_index(a, b):
    np.put(a, [0], b[1])
    return a


def filled_fields(a, b):
    a["base"][:], a["len"][:] = b["base"], b["len"]
    return a


OF_TWO = {
    "concatenate": lambda a, b: np.concatenate([a, b]),
    "stack": lambda a, b: np.stack([a, b])[1],
    "hstack": lambda a, b: np.hstack((a, b)),
    "append": np.append,
    "insert": lambda a, b: np.insert(a, 1, b[:1]),
    "r_": lambda a, b: np.r_[a, b[:1]],
    "where": lambda a, b: np.where([True, False], a, b),
    "choose": lambda a, b: np.choose([0, 1], [a, b]),
    "an entry assigned": lambda a, b: a.__setitem__(0, b[0]) or a,
    "a list of entries assigned": lambda a, b: a.__setitem__([0, 1], [b[0], b[1]]) or a,
    "a slice assigned": put_into,
    "fields assigned": filled_fields,
    "copyto": copied_over,
    "out": written_by_out,
    "put": put_by_index,
}


@pytest.mark.proof
@pytest.mark.parametrize("how", OF_TWO)
def test_what_is_made_of_two_keeps_the_memory_of_both(how, tmp_path):
    (a, b), alive = two()
    made = OF_TWO[how](a, b)
    assert isinstance(made, IoVec)
    kept = made[:]
    del a, b, made
    gc.collect()
    assert alive[1]() is not None
    (tmp_path / "data").write_bytes(b"\xff" * 4 * FULL)
    others = [np.zeros(FULL, np.uint8) for _ in range(8)]
    with open(tmp_path / "data", "rb") as file:
        assert iobuf_nb.syscalls.readv(file.fileno(), kept) == kept["len"].sum() > 0
    assert not any(other.any() for other in others)
    del kept
    gc.collect()
    assert not any(pool() for pool in alive)


def test_each_keeps_no_more_than_its_own():
    (a, b), alive = two()
    made = np.hstack([np.atleast_1d(a, b)[0], b])
    del b, made
    gc.collect()
    assert alive[0]() is not None and alive[1]() is None
    c = a.copy()
    (_, d), others = two()
    c[0] = d[0]
    del c, d, _
    gc.collect()
    assert not any(pool() for pool in others)  # a copy's entries are its own
    a[:] = two()[0][1]
    gc.collect()
    assert alive[0]() is None  # nothing of it points there any more


@pytest.mark.parametrize("call", ["readv", "readv_full", "writev", "writev_full"])
@pytest.mark.parametrize(
    "make",
    [
        np.array,
        np.asarray,
        lambda entries: entries.view(np.ndarray),
        lambda entries: np.array([entries[0], entries[1]]),
        lambda entries: np.array(entries.tolist(), IOVEC_DTYPE),
        lambda entries: np.frombuffer(entries.tobytes(), IOVEC_DTYPE).copy(),
        lambda entries: np.concatenate([np.asarray(entries), entries]),
        lambda entries: np.lib.stride_tricks.as_strided(entries),
        lambda entries: njit(lambda entries: entries[:1].copy())(entries),
    ],
)
@pytest.mark.compiled
def test_python_refuses_plain_arrays_which_keep_nothing(call, make, tmp_path):
    pool = BufferPool(2, 64)
    (tmp_path / "data").write_bytes(b"x" * 10)
    with open(tmp_path / "data", "r+b") as file:
        with pytest.raises(TypeError, match="iovec must be an IoVec, made by .*, or buffers: a plain array of IOVEC"):
            getattr(iobuf_nb.syscalls, call)(file.fileno(), make(pool.iovec([0, 1])))
        assert file.read() == b"x" * 10  # nothing was read or written
    assert not pool.value(0).any()


@pytest.mark.compiled
def test_nor_what_a_kernel_returns(tmp_path):
    (tmp_path / "data").write_bytes(b"x" * 10)
    made = njit(lambda pool: pool.iovec(np.array([0])))(BufferPool(2, 64))
    with open(tmp_path / "data", "rb") as file, pytest.raises(TypeError, match="iovec must be an IoVec"):
        iobuf_nb.syscalls.readv(file.fileno(), made)


@pytest.mark.parametrize(
    "write",
    [
        lambda entries, plain: entries.__setitem__(slice(None), plain),
        lambda entries, plain: entries.__setitem__(0, plain[0]),
        lambda entries, plain: entries.__setitem__(0, plain[0].copy()),
        lambda entries, plain: np.copyto(entries, plain),
        lambda entries, plain: np.concatenate([plain[:1], plain[:1]], out=entries),
    ],
)
def test_entries_of_a_plain_array_are_refused(write):
    entries = BufferPool(2, 64).iovec([0, 1])
    before = entries.tolist()
    with pytest.raises(TypeError, match="a plain array of IOVEC_DTYPE keeps no memory alive"):
        write(entries, np.array(BufferPool(2, 64).iovec([0, 1])))
    assert entries.tolist() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda pool: np.concatenate([pool.iovec([0]), iovec_from_buffers([b"read-only"])]),
        lambda pool: np.concatenate([pool.iovec([0]), pool.iovec([0])]),
        lambda pool: put_into(pool.iovec([0, 1]), pool.iovec([0, 1])),
        lambda pool: put_into(pool.iovec([0, 1]), iovec_from_buffers([b"read-only", b"too"])),
        lambda pool: np.repeat(pool.iovec([0]), 2),
    ],
)
def test_what_is_unfit_to_read_into_stays_so(make, tmp_path):
    (tmp_path / "data").write_bytes(b"x" * 300)
    entries = make(BufferPool(2, 64))
    unfit = pytest.raises(ValueError, match="must be over writable memory without overlaps")
    with open(tmp_path / "data", "rb") as file, unfit:
        iobuf_nb.syscalls.readv(file.fileno(), entries)
