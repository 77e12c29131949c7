"""Archives of every format, made in memory, and how tests read them."""

import bz2
import errno
import gzip
import importlib
import lzma
import os
import struct
import sys
import zlib
from contextlib import contextmanager

import pytest

from iobuf_nb._streams.decompress import open_reader


def if_installed(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


lz4, zstandard = if_installed("lz4.frame"), if_installed("zstandard")


def bgzip_block(data, level=6):
    body = zlib.compressobj(level, zlib.DEFLATED, -15)
    body = body.compress(data) + body.flush()
    header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
    return header + body + struct.pack("<II", zlib.crc32(data), len(data))


def bgzip(data, level=6, block=60_000):
    return b"".join(bgzip_block(data[at : at + block], level) for at in range(0, len(data), block)) + bgzip_block(b"")


def zstd(data, level=3, **options):
    return zstandard.ZstdCompressor(level, write_checksum=True, **options).compress(data)


def zstd_of_unknown_size(data, level=3):
    return zstd(data, level, write_content_size=False)


def zstd_flushed(data, level=3):
    """Return a frame of many blocks."""
    stream = zstandard.ZstdCompressor(level, write_checksum=True).compressobj()
    blocks = [
        stream.compress(data[at : at + 1000]) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for at in range(0, len(data), 1000)
    ]
    return b"".join(blocks) + stream.flush()


def skippable(data):
    return b"\x5a\x2a\x4d\x18" + struct.pack("<I", len(data)) + data


MAKERS = {  # (format, function of data and level)
    "gzip": ("gzip", gzip.compress),
    "bgzip": ("gzip", bgzip),
    "zstd": ("zstd", zstd),
    "zstd of unknown size": ("zstd", zstd_of_unknown_size),
    "zstd flushed": ("zstd", zstd_flushed),
    "lz4": ("lz4", lambda data, level=0: lz4.compress(data, level, content_checksum=True)),
    "bz2": ("bz2", bz2.compress),
    "xz": ("xz", lambda data, level=1: lzma.compress(data, preset=level)),
}
MISSING = {kind for kind, library in {"lz4": lz4, "zstd": zstandard}.items() if library is None}
every_maker = pytest.mark.parametrize("maker", MAKERS)
both_ways = pytest.mark.parametrize("threads", [1, 3])
LIBRARIES = {"gzip": ["isal.isal_zlib", "zlib_ng.zlib_ng", "zlib"], "zstd": ["zstandard", "compression.zstd"]}


def drain(reader, size=1 << 16):
    """Read all, with views of one size; return it."""
    found = bytearray()
    room = bytearray(size)
    try:
        while filled := reader.readinto(memoryview(room)):
            assert filled == size or reader.readinto(memoryview(bytearray(1))) == 0, "only the end is short"
            found += room[:filled]
        assert reader.readinto(memoryview(room)) == 0
    finally:
        reader.close()
    return bytes(found)


def read(file, data, how="auto", threads=1, size=1 << 16):
    """Write data to a file, and read what it holds."""
    with open(file(data), "rb", buffering=0) as opened:
        found = drain(open_reader(opened.fileno(), "an archive", how, threads), size)
        os.fstat(opened.fileno())  # the descriptor is still open
    return found


def expect_broken(file, data, how, threads, match):
    for _ in range(2):
        with pytest.raises(OSError, match=match) as info:
            read(file, data, how, threads)
        assert info.value.errno == errno.EBADMSG and info.value.filename == "an archive"
        assert f"Broken {how} data" in str(info.value)


@contextmanager
def only(kind, library):
    """Hide the libraries that go before one."""
    with pytest.MonkeyPatch.context() as patch:
        for other in LIBRARIES[kind][: LIBRARIES[kind].index(library)]:
            patch.setitem(sys.modules, other, None)
        if library == "compression.zstd" and sys.version_info < (3, 14):  # its code under another name, if it is there
            patch.setitem(sys.modules, library, pytest.importorskip("backports.zstd"))
        pytest.importorskip(library)
        yield
