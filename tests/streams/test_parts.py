"""Parts of compressed files: how they are found, taken in batches, and read in sequence where that is needed."""

import gzip
import io
import re
import struct

import pytest
from archives import (
    LIBRARIES,
    bgzip,
    bgzip_block,
    both_ways,
    drain,
    expect_broken,
    only,
    read,
    skippable,
    zstd,
    zstd_flushed,
    zstd_of_unknown_size,
)
from streaming import text
from support import content

from iobuf_nb._streams import decompress, parts
from iobuf_nb._streams.decompress import open_reader

pytest.importorskip("zstandard")

pytestmark = pytest.mark.usefixtures("threads_end")


def test_no_more_than_some_batches_are_ahead(monkeypatch):
    """Parts are taken as results are, so that memory is bounded."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield parts.Member(b"", parts._BATCH_BYTES, 0)

    results = parts.in_parallel(endless(), lambda part: b"x", 3)
    for done in range(1, 50):
        assert next(results) == b"x"
        assert taken <= done + 3 + 2
    results.close()


def test_a_batch_is_full_as_soon_as_it_can_be():
    sizes = [parts._BATCH_BYTES // 4, parts._BATCH_BYTES * 32, parts._BATCH_BYTES * 32, 1]
    batches = parts._batches(parts.Member(b"", size, 0) for size in sizes)
    assert [[part.most for part in batch] for batch in batches] == [sizes[:2], sizes[2:3], sizes[3:]]


@pytest.mark.parametrize("large", [zstd, zstd_of_unknown_size], ids=["size known", "size unknown"])
def test_a_frame_that_is_too_large_is_read_in_sequence(file, large, monkeypatch):
    sizes = []

    def unzstd(library, part):
        found = parts.unzstd(library, part)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(decompress, "unzstd", unzstd)
    data = bytes(range(256)) * 4096 * 33
    small = text(200_000)
    archive = zstd(small) + large(data) + zstd(small)
    with open(file(archive), "rb") as opened:
        assert drain(open_reader(opened.fileno(), "archive", "zstd", 2), 1 << 20) == small + data + small
    assert sizes == [len(small)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 1 << 17])
def test_frames_of_zstd_are_found_however_little_is_read(size, monkeypatch):
    monkeypatch.setattr(parts, "INPUT_BYTES", size)
    compress = zstd, zstd_of_unknown_size, zstd_flushed
    frames = [each(data) for each in compress for data in (b"", b"x", bytes(200_000), text(5_000))]
    archive = b"".join(skippable(bytes(k)) + frame for k, frame in enumerate(frames)) + skippable(b"end")
    found, rest = [*parts.zstd_frames(parts.zstd_pieces(io.BufferedReader(io.BytesIO(archive))), rest := [])], rest
    assert [frame.data for frame in found] == frames and not rest
    assert all(archive[frame.offset :].startswith(frame.data) for frame in found)
    for piece in parts.zstd_pieces(io.BufferedReader(io.BytesIO(archive))):
        assert piece.data and archive[piece.offset :].startswith(piece.data)


@pytest.mark.parametrize("library", LIBRARIES["zstd"])
@both_ways
def test_an_error_names_where_zstd_is_wrong(file, library, threads):
    """Also in a frame of so many blocks that it is read in sequence, after threads have taken the first of them."""
    first = zstd(b"data")
    blocks = [struct.pack("<I", 1000 << 3 | (k == 599))[:3] + content(1000) for k in range(600)]
    archive = first + b"\x28\xb5\x2f\xfd\x00\x38" + b"".join(blocks)
    with only("zstd", library):
        assert len(read(file, archive, "zstd", threads)) == 600_004
        for k in (0, 1, 100, 254, 256, 400, 599):
            fault = len(first) + 6 + k * 1003
            for broken in (archive[:fault] + b"\x46" + archive[fault + 1 :], archive[:fault] + b"\xf8\xff\xff" * 2):
                with pytest.raises(OSError, match="compressed offset") as info:
                    read(file, broken, "zstd", threads)
                offset = int(re.search(r"offset (\d+)", str(info.value))[1])
                assert fault - (1 << 17) - 1010 <= offset <= fault + 6


def test_bgzip_may_go_on_as_gzip(file):
    data = text(200_000)
    assert read(file, bgzip(data) + gzip.compress(data) + bgzip(data), "gzip", 3) == 3 * data
    assert read(file, bgzip(data) + bytes(999), "gzip", 3) == data


@pytest.mark.parametrize("library", LIBRARIES["gzip"])
def test_blocks_of_bgzip_may_be_full(file, library):
    data = text(1 << 18)
    with only("gzip", library):
        assert read(file, bgzip(data, block=1 << 16), "gzip", 2) == data


def test_parts_that_lie(file):
    block = bytearray(bgzip_block(b"data"))
    for size, match in ((10, "has 11 bytes"), (len(block) - 2, "cut off|end where"), (len(block) + 9, "end where")):
        block[16:18] = struct.pack("<H", size)
        expect_broken(file, bytes(block) + bgzip(b"more"), "gzip", 2, match)
    frame = zstd(b"data" * 100)
    assert frame[:5] == b"\x28\xb5\x2f\xfd\x64" and struct.unpack("<H", frame[5:7]) == (400 - 256,)
    for size, match in (
        (2**62, "says that it holds"),
        (0, "corrupt|unknown|mismatch|match"),
        (399, "orrupt|match|size"),
    ):
        lying = b"\x28\xb5\x2f\xfd\xe4" + struct.pack("<Q", size) + frame[7:]
        for threads in (1, 2):
            with pytest.raises(OSError, match="Broken zstd data"):
                read(file, lying, "zstd", threads)
        if size > 400:
            expect_broken(file, lying, "zstd", 2, match)
    too_long = b"\x28\xb5\x2f\xfd\x20\x00" + struct.pack("<I", (1 << 17) + 1 << 3)[:3]
    expect_broken(file, too_long, "zstd", 2, "A block of zstd says that it has 131073 bytes")
