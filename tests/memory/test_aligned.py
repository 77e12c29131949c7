"""Aligned memory: where it starts, that it is zeroed, how long it lives, what is refused."""

import gc
import mmap
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from support import in_a_child, without_rights

import iobuf_nb
from iobuf_nb import Tier
from iobuf_nb._memory import aligned as memory


def mapping_of(address):
    """Return what /proc/self/smaps says of the mapping that holds an address: its size in bytes, and its fields."""
    found = {"bytes": 0}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head, *rest = line.split()
        if head.endswith(":"):
            if inside:
                found[head[:-1]] = rest
        else:
            start, end = (int(number, 16) for number in head.split("-"))
            inside = start <= address < end
            if inside:
                found["bytes"] = end - start
    return found


@pytest.mark.parametrize("alignment", [1, 64, 4096, 16384, 2**21])
@pytest.mark.parametrize("size", [1, 100, 4096, 65536, 1000003])
def test_starts_where_it_should(size, alignment):
    array = iobuf_nb.aligned_mem(size, alignment)
    assert array.ctypes.data % alignment == 0
    assert array.shape == (size,) and array.dtype == np.uint8 and array.flags.writeable
    assert not array.any()
    array[:] = 1


def test_blocks():
    blocks = iobuf_nb.aligned_mem_blocks(16, 8192)
    assert blocks.shape == (16, 8192) and not blocks.any()
    assert all(block.ctypes.data % 8192 == 0 for block in blocks)
    assert iobuf_nb.aligned_mem_block().shape == (iobuf_nb.page_size(),)
    lines = iobuf_nb.cache_line_aligned_mem_blocks(5, 70)
    assert lines.shape == (5, 70)
    assert all(block.ctypes.data % iobuf_nb.CACHE_LINE_SIZE == 0 for block in lines)
    assert iobuf_nb.cache_line_aligned_mem(10).ctypes.data % iobuf_nb.CACHE_LINE_SIZE == 0


def test_page_size_is_the_systems_until_set():
    assert iobuf_nb.page_size() == mmap.PAGESIZE
    try:
        iobuf_nb.set_page_size(65536)
        assert iobuf_nb.page_size() == 65536
        assert iobuf_nb.aligned_mem(10).ctypes.data % 65536 == 0
        assert iobuf_nb.aligned_mem_block().shape == (65536,)
        assert iobuf_nb.BufferPool(2, 65536).stride == 65536
        for bad, error in [(0, ValueError), (3000, ValueError), (2**31, ValueError), ("4096", TypeError)]:
            with pytest.raises(error, match="size must be"):
                iobuf_nb.set_page_size(bad)
        assert iobuf_nb.page_size() == 65536
    finally:
        iobuf_nb.set_page_size(mmap.PAGESIZE)


def test_memory_lives_as_long_as_a_view():
    array = iobuf_nb.aligned_mem(1 << 30)
    address = array.ctypes.data
    view = array[-10:].view()
    del array
    gc.collect()
    assert mapping_of(address)["bytes"] >= 1 << 30
    view[:] = 3
    del view
    gc.collect()
    assert mapping_of(address)["bytes"] < 1 << 30


def test_a_forked_child_has_memory_of_its_own():
    memory = iobuf_nb.aligned_mem(10)

    def write():
        memory[0] = 1

    in_a_child(write)
    assert memory[0] == 0


def resident(array):
    """Return how many bytes of the mapping that holds `array` are in memory."""
    return int(mapping_of(array.ctypes.data)["Rss"][0]) * 1024


def test_populate_touches_every_page():
    assert resident(iobuf_nb.aligned_mem(1 << 22, populate=True)) >= 1 << 22


def flags_of(array):
    """Return Linux's flags of the mapping that holds `array`."""
    return mapping_of(array.ctypes.data)["VmFlags"]


def test_huge_pages_are_asked_for():
    assert "hg" in flags_of(iobuf_nb.aligned_mem(5 << 20, huge_pages=True))
    assert "hg" not in flags_of(iobuf_nb.aligned_mem(5 << 20))


def test_huge_pages_start_on_huge_pages():
    array = iobuf_nb.aligned_mem(5 << 20, huge_pages=True, populate=True)
    assert array.ctypes.data % 2**21 == 0 and array.shape == (5 << 20,) and not array.any()


def test_lock_keeps_memory_resident():
    array = iobuf_nb.aligned_mem(16384, lock=True)
    assert resident(array) >= 16384


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up the right to lock without limit")
def test_lock_beyond_the_limit_is_an_error():
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (8192, hard))
    try:
        message = "lock=True cannot lock 1048576 bytes .*RLIMIT_MEMLOCK allows up to 8192 bytes"
        with without_rights(), pytest.raises(OSError, match=message):
            iobuf_nb.aligned_mem(1 << 20, lock=True)
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))


def test_systems_without_huge_pages_say_so(monkeypatch):
    monkeypatch.delattr(memory.mmap, "MADV_HUGEPAGE")
    with pytest.raises(OSError, match="huge_pages=True needs Linux"):
        iobuf_nb.aligned_mem(10, huge_pages=True)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: iobuf_nb.aligned_mem(0), ValueError, "size must be an integer from 1 to .* not 0"),
        (lambda: iobuf_nb.aligned_mem(-1), ValueError, "size must be"),
        (lambda: iobuf_nb.aligned_mem(2**60), ValueError, "size must be"),
        (lambda: iobuf_nb.aligned_mem(2**46), MemoryError, "cannot provide 70368744177664 bytes"),
        (lambda: iobuf_nb.aligned_mem("8"), TypeError, "size must be an integer from 1 to .* not '8'"),
        (lambda: iobuf_nb.aligned_mem(1.5), TypeError, "size must be"),
        (lambda: iobuf_nb.aligned_mem(True), TypeError, "size must be"),
        (lambda: iobuf_nb.aligned_mem(8, 3), ValueError, "page_size must be a power of two from 1 to .* not 3"),
        (lambda: iobuf_nb.aligned_mem_blocks(0), ValueError, "n must be"),
        (lambda: iobuf_nb.aligned_mem_blocks(4, 5), ValueError, "page_size must be a power of two"),
        (lambda: iobuf_nb.cache_line_aligned_mem_blocks(4, 0), ValueError, "block_size must be"),
        (lambda: Tier.for_size(2**18 + 1), ValueError, "n must be an integer from 1 to 262144, not 262145"),
        (lambda: Tier.for_size(0), ValueError, "n must be"),
        (lambda: Tier.for_size("8"), TypeError, "n must be"),
    ],
)
def test_refuses_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
