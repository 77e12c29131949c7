"""Blocks: the pieces of a source for Python code, in order, and threads that end with the iterator."""

import gzip
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import fed, text
from support import in_a_child

from iobuf_nb import blocks


@settings(deadline=None, max_examples=60)
@given(
    st.binary(max_size=3000),
    st.sampled_from(["path", "pipe", "memory", "gzip", "two"]),
    st.sampled_from([64, 100, 1000, 4096]),
    st.booleans(),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_the_bytes_come_in_order(tmp_path_factory, data, kind, tier, lines, workers, more):
    data = b"".join(data[k : k + 30].replace(b"\n", b"-") + b"\n" for k in range(0, len(data), 30))
    path = tmp_path_factory.mktemp("blocks") / "data"
    path.write_bytes(gzip.compress(data) if kind == "gzip" else data)
    options = {"tier": tier, "workers": workers, "buffers": 2 + more, "delimiter": b"\n" if lines else None}
    if kind == "pipe":
        with fed("pipe", data, 500) as reader:
            got = [bytes(block) for block in blocks(reader, **options)]
    else:
        sources = {"path": path, "memory": bytearray(data), "gzip": path, "two": [path, str(path)]}
        how = "gzip" if kind == "gzip" else None
        got = [bytes(block) for block in blocks(sources[kind], decompress=how, **options)]
    assert b"".join(got) == data * (2 if kind == "two" else 1)
    assert all(len(block) <= tier and (not lines or block.endswith(b"\n")) for block in got)


def test_rows_and_parts(file, tmp_path):
    values = np.arange(12_000, dtype="f4").reshape(-1, 3)
    np.save(tmp_path / "a.npy", values)
    got = [block.copy() for block in blocks(tmp_path / "a.npy", tier=1024)]
    assert (np.concatenate(got) == values).all() and got[0].shape[1:] == (3,)
    got = [block.copy() for block in blocks(values, start=24, stop=2400, skip=2, tier=100)]
    assert (np.concatenate(got) == values[4:200]).all()


def test_a_dropped_or_closed_iterator_ends_its_threads(file, threads_end):
    path = file(bytes(1_000_000))
    descriptors = os.listdir("/proc/self/fd")
    for how in "close", "drop", "unused":
        blocks_ = blocks(path, tier=1000)
        if how != "unused":
            next(blocks_), next(blocks_)
        if how == "close":
            blocks_.close()
        del blocks_
    assert os.listdir("/proc/self/fd") == descriptors


def test_a_pipe_that_never_ends_can_be_left(threads_end):
    reader, writer = os.pipe()
    os.write(writer, bytes(5000))
    pieces = blocks(reader, tier=1000)
    assert len(next(pieces)) == 1000
    pieces.close()
    os.close(reader)
    os.close(writer)


def test_blocks_before_an_error_are_good(file, tmp_path, threads_end):
    path = file(gzip.compress(text(1_000_000))[:-1000])
    got = []
    with pytest.raises(OSError, match="Broken gzip data"):
        for block in blocks(path, decompress="auto", tier=1 << 16):
            got.append(bytes(block))
    assert got and text(1_000_000).startswith(b"".join(got))


def test_a_block_outlives_its_iterator(file):
    pieces = blocks(file(b"abc"))
    block = next(pieces)
    del pieces
    assert bytes(block) == b"abc"


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"source": None}, TypeError, "source must be a path"),
        ({"engine": "mmap"}, ValueError, "engine must be 'auto' or 'preadv', not 'mmap'"),
        ({"buffers": 1}, ValueError, "buffers must be an integer from 2 to"),
        ({"workers": 0}, ValueError, "workers must be"),
        ({"decompress": "zip"}, ValueError, "decompress must be"),
    ],
)
def test_refuses(file, options, error, message):
    with pytest.raises(error, match=message):
        blocks(**{"source": file(b"x"), **options})


def test_an_endless_iterator_of_sources_can_be_left(file, threads_end):
    path = file(b"data")
    pieces = blocks(path for _ in iter(int, 1))
    assert bytes(next(pieces)) == b"data"
    pieces.close()


def test_a_forked_child_cannot_go_on(file):
    pieces = blocks(file(bytes(100_000)), tier=1000)
    next(pieces)

    def child():
        with pytest.raises(RuntimeError, match="fork"):
            next(pieces)
        pieces.close()

    in_a_child(child)
    assert sum(map(len, pieces)) == 99_000
