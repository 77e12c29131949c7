"""Pools for the tests of magazines; other files of this room have pools of their own."""

import pytest
from support import assert_whole

from iobuf_nb import BufferPool


@pytest.fixture(params=[True, False], ids=["checked", "unchecked"])
def pool(request):
    """Four buffers, all of which must be back when the test ends."""
    pool = BufferPool(4, 16, checked=request.param)
    yield pool
    assert_whole(pool)


@pytest.fixture
def checked():
    pool = BufferPool(4, 16)
    yield pool
    assert_whole(pool)


@pytest.fixture(params=[True, pytest.param(False, marks=pytest.mark.proof)], ids=["membarrier", "fences"])
def system(request, monkeypatch):
    """Run the test where the system has membarrier(2), and as if it had not."""
    if not request.param:
        monkeypatch.setattr("iobuf_nb._pools.magazine.register_heavy_fence", lambda: False)
