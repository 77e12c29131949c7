"""Pools for streams."""

import pytest

from iobuf_nb import BufferPool


@pytest.fixture
def pool(threads_end):
    """Give a pool that must have all its buffers back, and threads that must have ended, after the test."""
    with BufferPool(3, 4096) as pool:
        yield pool
        assert not pool.holders() and pool.available() == 3
