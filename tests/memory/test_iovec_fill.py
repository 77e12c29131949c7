"""Filling, advancing and reading an iovec, in Python and in kernels."""

import gc
import os
import socket
import weakref

import faces
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config
from numba.core.errors import TypingError
from pointing import pointed_at

from iobuf_nb import (
    IOVEC_DTYPE,
    BufferPool,
    Tier,
    advance_iovec,
    fill_iovec,
    iovec_addr_len,
    iovec_from_buffers,
)


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


# ---- from pools ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"size": 100}, {"size": Tier.MEDIUM}, {"shape": (3, 5), "dtype": "f4"}], ids=str)
def test_over_buffers_of_a_pool(face, options):
    pool = BufferPool(5, **options)
    for k in range(5):
        pool.value(k)[:] = k + 1
    indices = np.array([3, 0, 4])
    entries = face.iovec(pool, indices, None)
    assert pointed_at(entries) == b"".join(pool.value(k).tobytes() for k in indices)
    lengths = np.array([7, 0, pool.buffer_size])
    entries = face.iovec(pool, indices, lengths)
    assert pointed_at(entries) == b"".join(pool.value(k).tobytes()[:n] for k, n in zip(indices, lengths, strict=True))
    twice = face.iovec(pool, np.array([2, 2], np.uint8), np.array([4, 2], np.uint64))
    assert pointed_at(twice) == pool.value(2).tobytes()[:4] + pool.value(2).tobytes()[:2]
    assert len(face.iovec(pool, np.empty(0, np.int64), None)) == 0
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


def test_fill_takes_the_first_entries(face):
    pool = BufferPool(4, 64)
    entries = np.zeros(4, IOVEC_DTYPE)
    assert face.point(entries, pool, np.array([2, 1]), None) == 128
    assert entries["base"].tolist() == [pool.arena + 2 * 64, pool.arena + 64, 0, 0]
    assert face.point(entries, pool, np.array([3]), np.array([9])) == 9
    assert entries["len"].tolist() == [9, 64, 0, 0]


@pytest.mark.parametrize(
    "entries, indices, lengths, error, message",
    [
        (2, [4], None, IndexError, "indices must be from 0 to capacity - 1"),
        (2, [-1], None, IndexError, "indices must be from 0 to capacity - 1"),
        (2, [1], [65], ValueError, "lengths must be from 0 to buffer_size"),
        (2, [1], [-1], ValueError, "lengths must be from 0 to buffer_size"),
        (2, [1, 2], [3], ValueError, "lengths must have one entry per index"),
        (2, [1, 2, 3], None, ValueError, "iovec must have an entry for each index"),
        (2, [1, 4], None, IndexError, "indices must be from 0 to capacity - 1"),
        (2, [1, 2], [1, 65], ValueError, "lengths must be from 0 to buffer_size"),
    ],
)
def test_fill_refuses(face, entries, indices, lengths, error, message):
    pool = BufferPool(4, 64)
    held = pool.get()
    holders = pool.holders()
    filled = np.zeros(entries, IOVEC_DTYPE)
    with pytest.raises(error, match=message):
        face.point(filled, pool, np.array(indices), lengths and np.array(lengths))
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
def test_what_is_no_iovec(face, wrong):
    refused = TypingError if face.name == "kernel" and not config.DISABLE_JIT else TypeError
    with pytest.raises(refused, match=A_WRITABLE):
        face.point(wrong, BufferPool(4, 64), np.array([1]), None)
    with pytest.raises(refused, match=A_WRITABLE):
        face.advance(wrong, 0)
    if wrong is not READ_ONLY:
        with pytest.raises(refused, match=AN_ARRAY):
            face.address_and_length(wrong)
    assert not any(READ_ONLY.tolist()[0])


@pytest.mark.compiled
def test_kernels_refuse_what_would_be_cut_to_integers():
    pool, entries = BufferPool(4, 64), np.zeros(4, IOVEC_DTYPE)
    good = np.array([1])
    for wrong in (np.array([1.5]), np.array([[1]]), 1):
        for name, indices, lengths in (("indices", wrong, None), ("lengths", good, wrong)):
            with pytest.raises(TypingError, match=f"{name} must be a one-dimensional array of integers in a kernel"):
                faces.kernel.point(entries, pool, indices, lengths)
    with pytest.raises(TypingError, match="indices must be a one-dimensional array of integers in a kernel, not"):
        faces.kernel.iovec(pool, np.array([1.5]), None)
    with pytest.raises(TypingError, match="n must be an integer in a kernel, not float64"):
        faces.kernel.advance(entries, 1.5)


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
    for call in (faces.python.advance, faces.kernel.advance):
        entries = iovec_from_buffers(pieces)
        first = call(entries, n)
        assert pointed_at(entries) == pointed_at(entries[first:]) == whole[n:]
        assert first == len(entries) or entries["len"][first] > 0
        assert not entries["len"][:first].any()


@pytest.mark.parametrize("n", [-1, 21, 2**62])
def test_advancing_too_far(face, n):
    entries = iovec_from_buffers([bytes(10), bytes(10)])
    before = entries.tolist()
    with pytest.raises(ValueError, match=f"n must be an integer from 0 to 20, not {n}|n must be from 0 to the total"):
        face.advance(entries, n)
    assert entries.tolist() == before


@pytest.mark.parametrize("n", [1.0, "1", True, None])
def test_advancing_by_what_is_no_integer(n):
    with pytest.raises(TypeError, match=f"n must be an integer from 0 to 10, not {n!r}"):
        advance_iovec(iovec_from_buffers([bytes(10)]), n)


def test_address_and_length(face):
    entries = iovec_from_buffers([b"a", b"b"])
    assert face.address_and_length(entries) == (entries.ctypes.data, 2)
    assert face.address_and_length(entries[:0]) == (0, 0)
    assert face.address_and_length(np.zeros(0, IOVEC_DTYPE)) == (0, 0)
    with pytest.raises(TypeError, match=f"{AN_ARRAY} None"):
        iovec_addr_len(None)
