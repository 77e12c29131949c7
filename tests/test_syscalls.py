"""System calls from kernels: counts, ends and -errno."""

import errno
import os

import numpy as np
import pytest
from numba import config, njit

from iobuf_nb import BufferPool
from iobuf_nb.syscalls import poll_in, preadv, readv

pytestmark = pytest.mark.skipif(config.DISABLE_JIT, reason="these exist in compiled code only")


def iovec(*arrays):
    return np.array([(a.ctypes.data, a.nbytes) for a in arrays], np.int64)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(200)))
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_preadv_fills_buffers_in_order_and_leaves_the_position(file):
    pool = BufferPool(4, 64)
    first, second = pool.value(2), pool.value(0)
    vector = iovec(first, second)

    @njit(nogil=True)
    def read(fd, vector, offset):
        return preadv(fd, vector.ctypes.data, len(vector), offset)

    assert read(file, vector, 10) == 128
    assert bytes(first) + bytes(second) == bytes(range(10, 138))
    assert read(file, vector, 150) == 50  # short at the end
    assert bytes(first)[:50] == bytes(range(150, 200))
    assert read(file, vector, 200) == 0
    assert os.lseek(file, 0, os.SEEK_CUR) == 0


def test_readv_moves_the_position(file):
    buffer = np.zeros(150, np.uint8)
    vector = iovec(buffer)
    assert readv(file, vector.ctypes.data, 1) == 150
    assert readv(file, vector.ctypes.data, 1) == 50
    assert bytes(buffer)[:50] == bytes(range(150, 200))
    assert readv(file, vector.ctypes.data, 1) == 0


def test_errors_are_negative_errnos():
    vector = iovec(np.zeros(10, np.uint8))
    address = vector.ctypes.data
    assert readv(-1, address, 1) == -errno.EBADF
    assert preadv(-1, address, 1, 0) == -errno.EBADF
    reader, writer = os.pipe()
    assert preadv(reader, address, 1, 0) == -errno.ESPIPE
    os.set_blocking(reader, False)
    assert readv(reader, address, 1) == -errno.EAGAIN
    assert poll_in(reader, 0) == 0
    os.write(writer, b"x")
    assert poll_in(reader, 1000) == 1
    assert readv(reader, address, 1) == 1
    os.close(writer)
    assert poll_in(reader, 1000) == 1  # the end can be read too
    assert readv(reader, address, 1) == 0
    os.close(reader)
