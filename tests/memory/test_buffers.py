"""Buffers: memory seen as buffers of one size, and new ones."""

import gc
import weakref

import numpy as np
import pytest

import iobuf_nb
from iobuf_nb import (
    BufferPool,
    Tier,
    iovec_from_registered,
    new_buffers,
    view_as_buffers,
)

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
