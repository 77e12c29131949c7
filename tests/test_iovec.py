"""Iovecs: entries over any memory, in Python and in kernels, that keep what they point at alive."""

import array
import copy
import ctypes
import gc
import mmap
import os
import socket
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config, njit
from numba.core.errors import TypingError

import iobuf_nb
from iobuf_nb import (
    IOVEC_DTYPE,
    BufferPool,
    IoVec,
    Tier,
    advance_iovec,
    fill_iovec,
    iovec_addr_len,
    iovec_from_buffers,
    iovec_from_registered,
    new_buffers,
    view_as_buffers,
)


def iovec(pool, indices, lengths):
    # Copied to look at: a kernel's iovec is borrowed.
    return pool.iovec(indices, lengths).copy()


def fill(entries, pool, indices, lengths):
    return fill_iovec(entries, pool, indices, lengths)


def advance(entries, n):
    return advance_iovec(entries, n)


def addr_len(entries):
    return iovec_addr_len(entries)


KERNELS = {f: njit(nogil=True)(f) for f in (iovec, fill, advance, addr_len)}


def plain(function):
    return function


@pytest.fixture
def on(face):
    """Give what turns one of the functions above into the call of this face."""
    return KERNELS.__getitem__ if face.name == "kernel" else plain


def pointed_at(entries):
    """Return the bytes that an iovec points at."""
    return b"".join(ctypes.string_at(int(entry["base"]), int(entry["len"])) for entry in entries)


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
        with pytest.raises(
            TypeError, match="iovec must be an IoVec, as .* make them, or buffers: a plain array of IOVEC"
        ):
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


def test_filling_an_iovec_keeps_the_pool():
    entries, pool = BufferPool(2, 64).iovec([0, 1]), BufferPool(2, 32)
    alive = weakref.ref(pool)
    assert fill_iovec(entries, pool, [1]) == 32
    del pool
    gc.collect()
    assert alive() is not None
    del entries
    gc.collect()
    assert alive() is None


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


# ---- from pools ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"size": 100}, {"size": Tier.MEDIUM}, {"shape": (3, 5), "dtype": "f4"}], ids=str)
def test_over_buffers_of_a_pool(on, options):
    pool = BufferPool(5, **options)
    for k in range(5):
        pool.value(k)[:] = k + 1
    indices = np.array([3, 0, 4])
    entries = on(iovec)(pool, indices, None)
    assert pointed_at(entries) == b"".join(pool.value(k).tobytes() for k in indices)
    lengths = np.array([7, 0, pool.buffer_size])
    entries = on(iovec)(pool, indices, lengths)
    assert pointed_at(entries) == b"".join(pool.value(k).tobytes()[:n] for k, n in zip(indices, lengths, strict=True))
    twice = on(iovec)(pool, np.array([2, 2], np.uint8), np.array([4, 2], np.uint64))
    assert pointed_at(twice) == pool.value(2).tobytes()[:4] + pool.value(2).tobytes()[:2]
    assert len(on(iovec)(pool, np.empty(0, np.int64), None)) == 0
    assert not pool.holders()


def test_in_python_any_integers_will_do():
    pool = BufferPool(5, 64)
    expected = pool.iovec(np.array([1, 3]), np.array([5, 6])).tolist()
    assert pool.iovec([1, 3], (5, 6)).tolist() == expected
    assert pool.iovec(np.array([1, 3], np.uint8), np.array([5, 6], np.int32)).tolist() == expected
    assert pool.iovec(range(0)).shape == pool.iovec([], []).shape == (0,)
    assert pool.iovec(lengths=[5, 6], indices=[1, 3]).tolist() == expected
    entries = np.zeros(2, IOVEC_DTYPE)
    assert fill_iovec(entries, pool, [1, 3], (5, 6)) == 11 and entries.tolist() == expected


def test_fill_takes_the_first_entries(on):
    pool = BufferPool(4, 64)
    entries = np.zeros(4, IOVEC_DTYPE)
    assert on(fill)(entries, pool, np.array([2, 1]), None) == 128
    assert entries["base"].tolist() == [pool.arena + 2 * 64, pool.arena + 64, 0, 0]
    assert on(fill)(entries, pool, np.array([3]), np.array([9])) == 9
    assert entries["len"].tolist() == [9, 64, 0, 0]


@pytest.mark.parametrize(
    "entries, indices, lengths, error, message",
    [
        (2, [4], None, IndexError, "indices must be from 0 to capacity - 1"),
        (2, [-1], None, IndexError, "indices must be from 0 to capacity - 1"),
        (2, [1], [65], ValueError, "lengths must be from 0 to buffer_size"),
        (2, [1], [-1], ValueError, "lengths must be from 0 to buffer_size"),
        (2, [1, 2], [3], ValueError, "lengths must be as many as indices"),
        (2, [1, 2, 3], None, ValueError, "iovec must have an entry for each index"),
        (2, [1, 4], None, IndexError, "indices must be from 0 to capacity - 1"),
        (2, [1, 2], [1, 65], ValueError, "lengths must be from 0 to buffer_size"),
    ],
)
def test_fill_refuses(on, entries, indices, lengths, error, message):
    pool = BufferPool(4, 64)
    held = pool.get()
    holders = pool.holders()
    filled = np.zeros(entries, IOVEC_DTYPE)
    with pytest.raises(error, match=message):
        on(fill)(filled, pool, np.array(indices), lengths and np.array(lengths))
    assert not any(filled["base"]) and not any(filled["len"]) and pool.holders() == holders
    pool.put(held)


@pytest.mark.parametrize(
    "indices, lengths, message",
    [
        ([1.5], None, "indices must be a sequence of integers, not"),
        ("ab", None, "indices must be a sequence of integers, not"),
        ([[1]], None, "indices must be a sequence of integers, not"),
        ([True], None, r"indices must be a sequence of integers, not \[True\]"),
        ([2**70], None, "indices must be a sequence of integers, not"),
        (1, None, "indices must be a sequence of integers, not 1"),
        ([1], [1.5], r"lengths must be a sequence of integers, not \[1.5\]"),
        ([1], [[1]], r"lengths must be a sequence of integers, not \[\[1\]\]"),
        ([1], 5, "lengths must be a sequence of integers, not 5"),
    ],
)
def test_pools_refuse_what_is_no_index(indices, lengths, message):
    pool = BufferPool(4, 64)
    with pytest.raises(TypeError, match=message):
        pool.iovec(indices, lengths)
    with pytest.raises(TypeError, match=message):
        fill_iovec(np.zeros(4, IOVEC_DTYPE), pool, indices, lengths)


READ_ONLY = np.frombuffer(bytes(16), IOVEC_DTYPE)
A_WRITABLE = "iovec must be a writable contiguous one-dimensional array of IOVEC_DTYPE, not"
AN_ARRAY = "iovec must be a contiguous one-dimensional array of IOVEC_DTYPE, not"


@pytest.mark.parametrize(
    "wrong", [np.zeros(3), READ_ONLY, np.zeros(6, IOVEC_DTYPE)[::2], np.zeros((2, 2), IOVEC_DTYPE)]
)
def test_what_is_no_iovec(on, wrong):
    refused = TypingError if on is not plain and not config.DISABLE_JIT else TypeError
    with pytest.raises(refused, match=A_WRITABLE):
        on(fill)(wrong, BufferPool(4, 64), np.array([1]), None)
    with pytest.raises(refused, match=A_WRITABLE):
        on(advance)(wrong, 0)
    if wrong is not READ_ONLY:
        with pytest.raises(refused, match=AN_ARRAY):
            on(addr_len)(wrong)
    assert not any(READ_ONLY.tolist()[0])


@pytest.mark.compiled
def test_kernels_refuse_what_would_be_cut_to_integers():
    pool, entries = BufferPool(4, 64), np.zeros(4, IOVEC_DTYPE)
    good = np.array([1])
    for wrong in (np.array([1.5]), np.array([[1]]), 1):
        for name, indices, lengths in (("indices", wrong, None), ("lengths", good, wrong)):
            with pytest.raises(TypingError, match=f"{name} must be a one-dimensional array of integers in a kernel"):
                KERNELS[fill](entries, pool, indices, lengths)
    with pytest.raises(TypingError, match="indices must be a one-dimensional array of integers in a kernel, not"):
        KERNELS[iovec](pool, np.array([1.5]), None)
    with pytest.raises(TypingError, match="n must be an integer in a kernel, not float64"):
        KERNELS[advance](entries, 1.5)


def with_keywords(pool, entries, indices):
    total = fill_iovec(iovec=entries, indices=indices, pool=pool)
    first = advance_iovec(n=70, iovec=entries)
    return total, first, iovec_addr_len(iovec=entries)[1], len(pool.iovec(lengths=indices, indices=indices))


def test_keywords(face):
    entries = np.zeros(3, IOVEC_DTYPE)
    assert face.jit(with_keywords)(BufferPool(4, 64), entries, np.array([2, 0])) == (128, 1, 3, 2)
    assert entries["len"].tolist() == [0, 58, 0]


def test_buffers_of_a_pool_go_wherever_buffers_go(tmp_path):
    pool = BufferPool(4, 8)
    (tmp_path / "data").write_bytes(b"0123456789abcdef")
    with open(tmp_path / "data", "r+b") as file:
        assert os.preadv(file.fileno(), [pool.value(2), pool.value(0)], 0) == 16
        assert pool.value(2).tobytes() + pool.value(0).tobytes() == b"0123456789abcdef"
        assert os.writev(file.fileno(), [pool.value(0), pool.value(2)]) == 16
    assert (tmp_path / "data").read_bytes() == b"89abcdef01234567"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendmsg([pool.value(2), pool.value(0)])
        assert theirs.recvmsg_into([pool.value(1), pool.value(3)])[0] == 16
    assert pool.value(1).tobytes() + pool.value(3).tobytes() == b"0123456789abcdef"


# ---- advancing and addresses -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), max_size=6), st.data())
@settings(deadline=None)
def test_advancing_against_a_model(lengths, data):
    pieces = [bytes(range(10 * k, 10 * k + n)) for k, n in enumerate(lengths)]
    whole = b"".join(pieces)
    n = data.draw(st.integers(0, len(whole)))
    for call in (advance, KERNELS[advance]):
        entries = iovec_from_buffers(pieces)
        first = call(entries, n)
        assert pointed_at(entries) == pointed_at(entries[first:]) == whole[n:]
        assert first == len(entries) or entries["len"][first] > 0
        assert not entries["len"][:first].any()


@pytest.mark.parametrize("n", [-1, 21, 2**62])
def test_advancing_too_far(on, n):
    entries = iovec_from_buffers([bytes(10), bytes(10)])
    before = entries.tolist()
    with pytest.raises(ValueError, match=f"n must be an integer from 0 to 20, not {n}|n must be from 0 to the total"):
        on(advance)(entries, n)
    assert entries.tolist() == before


@pytest.mark.parametrize("n", [1.0, "1", True, None])
def test_advancing_by_what_is_no_integer(n):
    with pytest.raises(TypeError, match=f"n must be an integer from 0 to 10, not {n!r}"):
        advance_iovec(iovec_from_buffers([bytes(10)]), n)


def test_address_and_length(on):
    entries = iovec_from_buffers([b"a", b"b"])
    assert on(addr_len)(entries) == (entries.ctypes.data, 2)
    assert on(addr_len)(entries[:0]) == (0, 0)
    assert on(addr_len)(np.zeros(0, IOVEC_DTYPE)) == (0, 0)
    with pytest.raises(TypeError, match=f"{AN_ARRAY} None"):
        iovec_addr_len(None)


# ---- registered, viewed, new -----------------------------------------------------------------------------------------


def test_the_whole_of_a_pool_for_registering(monkeypatch):
    pool = BufferPool(10, 4096)
    alive = weakref.ref(pool)
    entries = iovec_from_registered(pool)
    assert entries.tolist() == [(pool.arena, 40960)]
    del pool
    gc.collect()
    pool = alive()
    assert pool is not None  # the entries keep it
    # Pieces hold whole buffers.
    monkeypatch.setattr("iobuf_nb._memory.iovec._REGISTERED_BYTES", 3 * 4096 + 100)
    entries = iovec_from_registered(pool)
    assert entries["len"].tolist() == [3 * 4096] * 3 + [4096]
    assert (np.diff(entries["base"]) == 3 * 4096).all()
    monkeypatch.setattr("iobuf_nb._memory.iovec._REGISTERED_BYTES", 4095)
    with pytest.raises(ValueError, match="pool must have buffers of at most 4095 bytes, not 4096"):
        iovec_from_registered(pool)


def test_memory_seen_as_buffers():
    memory = bytearray(range(100))
    view = view_as_buffers(memory, Tier.PICO, 4, 3)
    assert view.shape == (3, 16) and view.tobytes() == bytes(range(4, 52))
    view[2, 0] = 255
    assert memory[36] == 255
    own = view.copy()
    own[:] = 0
    assert memory[36] == 255
    assert view_as_buffers(memory, 16).shape == (6, 16)
    assert view_as_buffers(memory, 16, 100).shape == (0, 16)
    assert not view_as_buffers(b"x" * 16, 16).flags.writeable
    assert view_as_buffers(np.zeros((4, 4), "f8"), 16).shape == (8, 16)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((b"x" * 32, 0), ValueError, "tier must be an integer from 1 to .* not 0"),
        ((b"x" * 32, 16, 33), ValueError, "offset must be an integer from 0 to 32, not 33"),
        ((b"x" * 32, 16, -1), ValueError, "offset must be an integer from 0 to 32, not -1"),
        ((b"x" * 32, 16, 1, 2), ValueError, r"n \(buffers of 16 from byte 1\) must be an integer from 0 to 1, not 2"),
        ((np.zeros((4, 4))[:, 1], 16), ValueError, "mem must be contiguous"),
        (("text", 16), TypeError, "mem must be bytes-like or an array, not 'text'"),
    ],
)
def test_views_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        view_as_buffers(*arguments)


def test_new_buffers():
    buffers = new_buffers(3, 1000)
    assert buffers.shape == (3, 1000) and buffers.ctypes.data % iobuf_nb.page_size() == 0 and not buffers.any()
    for arguments, name in (((0, 1), "n"), ((1, 0), "size"), ((2**32, 2**40), "n . size")):
        with pytest.raises(ValueError, match=f"{name} must be"):
            new_buffers(*arguments)
