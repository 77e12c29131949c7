"""Pools, queues and rings, and what they read and write."""

import os

import numpy as np
import pytest
from ring_faces import Face

from iobuf_nb import BoundedQueue, BufferPool
from iobuf_nb.uring import RegisteredPool, Ring


@pytest.fixture
def io(face):
    return Face(face)


@pytest.fixture
def make():
    """Return what makes a pool, a queue and a registration; in the end no buffer may be out."""
    made = []

    def make(capacity=8, size=4096, entries=64, **options):
        pool, ring = BufferPool(capacity, size), Ring(entries)
        registered = RegisteredPool(pool, ring, **options)
        made.append((pool, ring))
        return pool, BoundedQueue(capacity), registered

    yield make
    for pool, ring in made:
        ring.close()
        assert not pool.holders()
        assert pool.available() == pool.capacity


@pytest.fixture
def file(tmp_path):
    """A file of 100,001 random bytes, open for reading and writing."""
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(1).bytes(100_001))
    with path.open("r+b", buffering=0) as file:
        yield file


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)
