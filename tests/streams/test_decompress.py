"""Compressed input: every format, by every library for it, in sequence and on threads, whole, broken and cut off."""

import errno
import gzip
import importlib
import lzma
import os
import socket
import sys
import threading
from contextlib import closing

import numpy as np
import pytest
from archives import (
    LIBRARIES,
    MAKERS,
    bgzip,
    both_ways,
    drain,
    every_maker,
    expect_broken,
    only,
    read,
    skippable,
    zstd,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from streaming import fed, text
from support import content, python

from iobuf_nb import BufferPool, StreamError, WouldBlock, stream
from iobuf_nb._streams import decompress
from iobuf_nb._streams.decompress import check_decompress, open_reader

lz4 = pytest.importorskip("lz4.frame")
zstandard = pytest.importorskip("zstandard")

pytestmark = pytest.mark.usefixtures("threads_end")


# ---- whole -----------------------------------------------------------------------------------------------------------


@every_maker
@both_ways
@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_all_formats_and_sizes_of_views(file, maker, threads, size):
    kind, compress = MAKERS[maker]
    data = text(3_000 if size < 10 else 300_000)
    archive = compress(data)
    for how in ("auto", kind):
        assert read(file, archive, how, threads, size) == data


@every_maker
@both_ways
def test_members_that_follow_each_other(file, maker, threads):
    kind, compress = MAKERS[maker]
    members = [b"", text(70_000), b"x", b"", bytes(400_000), content(200_000)]
    assert read(file, b"".join(map(compress, members)), kind, threads) == b"".join(members)


@pytest.mark.parametrize("kind, library", [(kind, each) for kind, names in LIBRARIES.items() for each in names])
@both_ways
def test_each_library(file, kind, library, threads):
    data = text(2_000_000)
    with only(kind, library):
        for maker, (of, compress) in MAKERS.items():
            if of == kind:
                archive = compress(data) + compress(data)
                assert read(file, archive, "auto", threads) == data + data, maker
                with pytest.raises(OSError, match="cut off"):
                    read(file, archive[:-1], "auto", threads)
                flipped = bytearray(archive)
                flipped[len(archive) // 4] ^= 4
                with pytest.raises(OSError, match="Broken"):
                    read(file, bytes(flipped), "auto", threads)


@pytest.mark.parametrize("kind, maker, library", [("gzip", "bgzip", name) for name in LIBRARIES["gzip"]])
def test_the_library_that_is_there_is_the_one_that_works(file, kind, maker, library):
    with only(kind, library):
        assert decompress._library(kind) is importlib.import_module(library)


CHUNKS = st.lists(
    st.one_of(
        st.binary(max_size=300), st.builds(lambda unit, n: unit * n, st.binary(max_size=9), st.integers(0, 40_000))
    ),
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(
    chunks=CHUNKS,
    maker=st.sampled_from(sorted(MAKERS)),
    level=st.integers(1, 9),
    size=st.integers(1000, 500_000),
    threads=st.integers(1, 3),
)
def test_any_data(tmp_path_factory, chunks, maker, level, size, threads):
    kind, compress = MAKERS[maker]
    path = tmp_path_factory.mktemp("any") / "archive"
    path.write_bytes(b"".join(compress(chunk, level) for chunk in chunks) or compress(b""))
    with open(path, "rb") as opened:
        assert drain(open_reader(opened.fileno(), "any", kind, threads), size) == b"".join(chunks)


@every_maker
@both_ways
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_pipes_and_sockets(maker, threads, kind):
    data = text(200_000)
    archive = MAKERS[maker][1](data)
    for chunk in (1, 1000, 1 << 20):
        part = data if chunk > 1 else data[:2000]
        with fed(kind, archive if chunk > 1 else MAKERS[maker][1](part), chunk) as fd:
            assert drain(open_reader(fd, kind, "auto", threads)) == part


def test_a_descriptor_that_does_not_block(file):
    data = text(500_000)
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)

        def write():
            there.sendall(gzip.compress(data))
            there.shutdown(socket.SHUT_WR)

        thread = threading.Timer(0.05, write)
        thread.start()
        assert drain(open_reader(here.fileno(), "socket", "auto", 1)) == data
        thread.join()


@pytest.mark.parametrize("data", [b"", b"\x1f", b"plain", b"\x28\xb5\x2f", content(300_000)], ids=len)
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_other_data_is_passed_through(file, data, size):
    data = data[: 5000 * size]
    with open(file(data), "rb") as opened:
        reader = open_reader(opened.fileno(), "raw", "auto", 2)
        assert reader.format == "raw"
        assert drain(reader, size) == data
    with fed("pipe", data, 1000) as fd:
        assert drain(open_reader(fd, "pipe", "auto", 2), size) == data


def test_it_begins_where_the_descriptor_stands(file):
    with open(file(b"12345" + bgzip(b"data")), "rb", buffering=0) as opened:
        opened.seek(5)
        assert drain(open_reader(opened.fileno(), "archive", "auto", 2)) == b"data"


@every_maker
def test_format(file, maker):
    kind, compress = MAKERS[maker]
    with open(file(compress(b"")), "rb") as opened:
        reader = open_reader(opened.fileno(), "archive", "auto", 2)
        assert reader.format == kind
        assert drain(reader) == b""


@both_ways
def test_skippable_frames(file, threads):
    frames = [
        skippable(b"abc"),
        zstd(b"one"),
        skippable(bytes(3_000_000)),
        skippable(b""),
        zstd(b"two"),
        skippable(b"z"),
    ]
    assert read(file, b"".join(frames), "auto", threads) == b"onetwo"
    assert read(file, skippable(b"nothing else"), "zstd", threads) == b""
    assert read(file, skippable(b"abc") + lz4.compress(b"data"), "lz4", threads) == b"data"


# ---- on threads ------------------------------------------------------------------------------------------------------


def at_work():
    return [thread for thread in threading.enumerate() if thread.name.startswith("iobuf_nb-decompress")]


@pytest.mark.parametrize("maker", ["bgzip", "zstd", "zstd of unknown size"])
def test_threads_end_with_the_reader(file, maker):
    data = content(3_000_000)
    archive = b"".join(MAKERS[maker][1](data[at : at + 300_000]) for at in range(0, len(data), 300_000))
    with open(file(archive), "rb") as opened, closing(open_reader(opened.fileno(), "archive", "auto", 2)) as reader:
        view = memoryview(bytearray(1000))
        assert not at_work()
        assert reader.readinto(view) == 1000 and view == data[:1000]
        assert at_work()
        reader.close()
        assert not at_work()
        reader.close()
        with pytest.raises(ValueError, match="the reader of archive is closed"):
            reader.readinto(view)
        os.fstat(opened.fileno())


def test_one_thread_needs_no_others(file, monkeypatch):
    monkeypatch.setattr(decompress, "in_parallel", None)
    data = text(100_000)
    for maker in ("bgzip", "zstd"):
        assert read(file, MAKERS[maker][1](data), "auto", 1) == data
    with fed("pipe", zstd(data), 1000) as fd:
        assert drain(open_reader(fd, "pipe", "auto", 4)) == data


# ---- broken ----------------------------------------------------------------------------------------------------------


def positions(archive):
    return sorted({*range(0, min(40, len(archive))), *range(0, len(archive), max(1, len(archive) // 60))})


@every_maker
@both_ways
def test_cut_off_anywhere(file, maker, threads):
    kind, compress = MAKERS[maker]
    first = compress(text(100_000))
    archive = first + compress(content(3_000))
    for cut in {*positions(archive), len(first) + 1, len(first) + 5, len(archive) - 1} - {len(first)}:
        if maker == "bgzip" and is_gzip(archive[:cut]):
            continue  # between two blocks
        with pytest.raises(OSError, match="Broken|No .* data") as info:
            read(file, archive[:cut], kind, threads)
        assert info.value.errno == errno.EBADMSG


def is_gzip(archive):
    try:
        return bool(gzip.decompress(archive))
    except (EOFError, gzip.BadGzipFile):
        return False


@every_maker
@both_ways
def test_a_bit_that_is_wrong(file, maker, threads):
    """It is told of, or changes nothing, as in the time of a header."""
    kind, compress = MAKERS[maker]
    data = text(60_000)
    archive = compress(data) + compress(data)
    told = 0
    for position in positions(archive):
        broken = bytearray(archive)
        broken[position] ^= 1 << position % 8
        try:
            assert read(file, bytes(broken), kind, threads) == data + data
        except RuntimeWarning:
            assert kind in ("gzip", "bz2")
        except OSError as error:
            assert error.errno == errno.EBADMSG
            told += 1
    assert told > 50


@both_ways
def test_an_error_is_raised_again(file, threads):
    with open(file(bgzip(text(200_000))[:-100]), "rb") as opened:
        reader = open_reader(opened.fileno(), "archive", "gzip", threads)
        for _ in range(3):
            with pytest.raises(OSError, match="Broken gzip data: The data is cut off, at or after compressed offset"):
                while reader.readinto(memoryview(bytearray(1 << 20))):
                    pass
        assert not at_work()
        os.fstat(opened.fileno())


@pytest.mark.parametrize("kind", ["gzip", "zstd", "lz4", "bz2", "xz"])
@both_ways
def test_what_is_not_compressed(file, kind, threads):
    for data in (b"", b"B", b"plain text", bytes(100), content(200_000)):
        with pytest.raises(OSError, match=f"No {kind} data: it begins with ") as info:
            read(file, data, kind, threads)
        assert repr(data[:6]) in str(info.value)
        assert info.value.errno == errno.EBADMSG and info.value.filename == "an archive"


@pytest.mark.parametrize("maker", ["gzip", "bgzip", "bz2"])
@both_ways
def test_garbage_that_is_ignored(file, maker, threads):
    kind, compress = MAKERS[maker]
    archive = compress(b"data")
    for garbage in (b"x", b"garbage" * 10, content(300_000)):
        text = f"an archive: what begins at compressed offset {len(archive)} is not compressed, and ignored"
        with pytest.warns(RuntimeWarning, match=text):
            assert read(file, archive + garbage, kind, threads) == b"data"


@pytest.mark.parametrize("maker", ["zstd", "lz4", "xz"])
@both_ways
def test_garbage_that_is_an_error(file, maker, threads):
    kind, compress = MAKERS[maker]
    for garbage in (b"x", b"garbage" * 10, content(300_000)):
        expect_broken(file, compress(b"data") + garbage, kind, threads, "compressed offset")


@both_ways
def test_padding(file, threads):
    for maker in ("gzip", "bgzip", "xz"):
        kind, compress = MAKERS[maker]
        archive = compress(b"one") + bytes(400_000) + compress(b"two") + bytes(8)
        assert read(file, archive, kind, threads) == b"onetwo"
    for end in (bytes(3), bytes(5) + lzma.compress(b"two")):
        expect_broken(file, lzma.compress(b"one") + end, "xz", threads, f"Padding of {end.count(0, 0, 5)} zeros")


def test_a_descriptor_that_cannot_be_read(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError) as info:
            open_reader(fd, "a folder", "auto", 1)
        assert info.value.filename == "a folder"
    finally:
        os.close(fd)


def test_a_descriptor_that_fails_later(file, monkeypatch):
    data = content(1_000_000)
    for archive in (gzip.compress(data), bgzip(data), zstd(data), data):
        with open(file(archive), "rb") as opened:
            reader = open_reader(opened.fileno(), "archive", "auto", 2)
            with monkeypatch.context() as patch:

                def fail(*_):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

                patch.setattr(os, "readv", fail)
                for _ in range(2):
                    with pytest.raises(OSError, match="Input/output error: 'archive'"):
                        reader.readinto(memoryview(bytearray(100)))
            reader.close()


# ---- the argument ----------------------------------------------------------------------------------------------------


def test_check_decompress(monkeypatch):
    for value in (None, "auto", "gzip", "zstd", "lz4", "bz2", "xz"):
        assert check_decompress(value) == value
    for value in ("zip", "", "raw", b"gzip", 1, True, ["gzip"]):
        with pytest.raises(ValueError, match=r"decompress must be None, 'auto' or one of 'gzip', .*'xz', not ") as info:
            check_decompress(value)
        assert repr(value) in str(info.value)


def test_libraries_that_are_missing(file, monkeypatch):
    for name in ("zstandard", "compression.zstd", "lz4.frame"):
        monkeypatch.setitem(sys.modules, name, None)
    for kind, compress in (("zstd", zstd), ("lz4", lz4.compress)):
        with pytest.raises(
            ImportError, match=rf"{kind} data needs the package .*: pip install 'iobuf-nb\[compression\]'"
        ):
            check_decompress(kind)
        with pytest.raises(ImportError, match=r"pip install 'iobuf-nb\[compression\]'"):
            read(file, compress(b"data"))
    assert check_decompress("auto") == "auto"
    assert read(file, gzip.compress(b"data")) == b"data"
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(ImportError, match="xz data needs the module lzma, which this Python was built without"):
        check_decompress("xz")


def test_no_library_is_imported_before_it_is_needed():
    program = "import sys, iobuf_nb, iobuf_nb._streams.decompress; print(*sys.modules)"
    modules = python("-c", program).stdout.split()
    assert "iobuf_nb._streams.decompress" in modules
    assert not {"isal", "zlib_ng", "zstandard", "lz4"} & set(modules)


# ---- through a stream ------------------------------------------------------------------------------------------------


@njit
def copied(buffer, n, offset, state, output):
    output[:n] = buffer
    return n


@njit
def fails(buffer, n, offset, state):
    raise ZeroDivisionError


@pytest.mark.parametrize("kind", ["path", "descriptor", "pipe", "two"])
def test_a_stream_of_what_is_compressed(file, kind):
    data = content(300_000)
    path = file(gzip.compress(data))
    options = {"collect": np.uint8, "decompress": "auto", "tier": 4096, "workers": 3}
    if kind == "pipe":
        with fed("pipe", path.read_bytes(), 1000) as reader:
            result = stream(reader, copied, **options)
    elif kind == "descriptor":
        with open(path, "rb") as opened:
            result = stream(opened, copied, **options)
    else:
        result = stream([path, memoryview(b"plain")] if kind == "two" else path, copied, **options)
    assert result.collected.tobytes() == data + b"plain" * (kind == "two") and result.bytes == len(result.collected)


def test_a_kernel_that_fails_leaves_no_buffer_out(file):
    path = file(gzip.compress(content(1_000_000)))
    with BufferPool(4, 1 << 16) as pool:
        for _ in range(20):
            with pytest.raises(StreamError, match="ZeroDivisionError"):
                stream(path, fails, pool=pool, decompress="gzip")
            assert pool.available() == 4


def test_a_pool_that_may_not_wait_and_has_no_buffer(file):
    path = file(gzip.compress(content(100_000)))
    with BufferPool(1, 1 << 16, nonblocking=True) as pool, pool.lease(), pytest.raises(WouldBlock):
        stream(path, fails, pool=pool, decompress="gzip")
    with BufferPool(1, 1 << 12, nonblocking=True) as pool:
        assert stream(path, copied, pool=pool, decompress="gzip", collect="u1").bytes == 100_000
