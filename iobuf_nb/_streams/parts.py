"""Parts of compressed files: what can be decompressed on its own, found by its headers alone, and on many threads.

A part is a block of bgzip (SAM specification, section 4.1: a gzip member that tells its size) or a frame of zstd (RFC
8878, section 3.1.1). The threads take batches of parts, and their results come in the order of the file.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from concurrent.futures import Future
    from io import BufferedReader

_BGZIP_BYTES = 1 << 16  # the most that a block of bgzip holds
_BGZIP_HEADER = re.compile(rb"\x1f\x8b\x08\x04.{6}\x06\0BC\x02\0(..)", re.DOTALL)
_BGZIP_HEADER_BYTES = 18
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 1 << 17  # the most that a block of zstd holds, compressed or not
_FRAME_BLOCKS = 255  # frames of more blocks are no parts: they would take too much memory
INPUT_BYTES = 1 << 17
_BATCH_BYTES = (
    1 << 20
)  # parts are decompressed together until they may be this large: a thread is then busy for a while


class Broken(Exception):
    """Compressed data that cannot be decompressed: what is wrong, and the compressed offset there or before."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(f"{what}, at or after compressed offset {offset}")


class Member(NamedTuple):
    """What can be decompressed on its own: a block of bgzip, or a frame of zstd."""

    data: bytes
    most: int  # bytes that it holds at most, decompressed
    offset: int  # of its first byte in the compressed data


class Fragment(NamedTuple):
    """A piece of a zstd frame: what was read of it at once."""

    data: bytes
    offset: int
    blocks: int  # that begin in it
    last: bool  # whether the frame ends with it


@contextmanager
def blaming(offset: int) -> Iterator[None]:
    """Turn what a library raises for compressed data, which differs from one to the next, into `Broken`."""
    try:
        yield
    except (Broken, MemoryError):
        raise
    except Exception as error:
        raise Broken(str(error) or type(error).__name__, offset) from error


def is_zstd(head: bytes) -> bool:
    """Return whether data begins like a frame of zstd, or a skippable one."""
    return head[:4] == _ZSTD_MAGIC or is_skippable(head)


def is_skippable(head: bytes) -> bool:
    """Return whether data begins like a skippable frame, of zstd or lz4."""
    return head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5


def bgzip_blocks(file: BufferedReader[Any], rest: bytearray) -> Iterator[Member]:
    """Yield blocks of bgzip up to something else, or the end; `rest` gets what was read of that."""
    while True:
        offset = file.tell()
        head = file.read(_BGZIP_HEADER_BYTES)
        header = _BGZIP_HEADER.match(head)
        if not header:
            rest += head
            return
        size = int.from_bytes(header[1], "little") + 1
        if size <= len(head):
            raise Broken(f"A block of bgzip says that it has {size} bytes", offset)
        yield Member(head + _exactly(file, size - len(head)), _BGZIP_BYTES, offset)


def inflate(library: Any, part: Member) -> bytes:
    """Decompress a block of bgzip by `zlib` or a library like it, which also checks the sum and the size."""
    stream = library.decompressobj(31)
    data = stream.decompress(part.data, part.most + 1)  # one more: the sum is checked after the last byte
    if not stream.eof or stream.unused_data:
        raise Broken("A block of bgzip does not end where its header says", part.offset)
    return data


def zstd_pieces(file: BufferedReader[Any]) -> Iterator[Fragment]:
    """Yield the frames of zstd in pieces, without the skippable ones."""
    data = _Ahead(file)
    while data.size or data.read():
        magic = data.look(0, 4)
        if is_skippable(magic):
            left = 8 + int.from_bytes(data.look(4, 4), "little")
            while left:
                data.need(1)
                left -= len(data.take(left))
        elif magic == _ZSTD_MAGIC:
            yield from _frame(data)
        else:
            raise Broken("No frame of zstd begins here", data.offset)


def zstd_frames(pieces: Iterator[Fragment], rest: list[Fragment]) -> Iterator[Member]:
    """Yield whole frames up to one that is too large; `rest` gets the pieces that were taken of that."""
    frame: list[Fragment] = []
    for piece in pieces:
        frame.append(piece)
        blocks = sum(each.blocks for each in frame)
        if blocks > _FRAME_BLOCKS:
            rest += frame
            return
        if piece.last:
            yield Member(b"".join(each.data for each in frame), blocks * _ZSTD_BLOCK, frame[0].offset)
            frame = []


def unzstd(library: Any, part: Member) -> bytes:
    """Decompress a frame of zstd by python-zstandard, or by Python's own module."""
    if not hasattr(library, "frame_content_size"):
        return library.decompress(part.data)
    size = library.frame_content_size(part.data)
    if size > part.most:
        raise Broken(f"A frame of zstd says that it holds {size} bytes, more than its blocks can", part.offset)
    decompressor = library.ZstdDecompressor()
    if size == 0:  # `decompress` would not look at the blocks
        return decompressor.decompressobj().decompress(part.data)
    return decompressor.decompress(part.data, max_output_size=part.most)


def in_parallel(
    parts: Iterator[Member], decompress: Callable[[Member], bytes], threads: int
) -> Generator[bytes, None, None]:
    """Decompress parts on threads, and yield what they hold, in order; the threads end with the generator.

    At most ``threads + 2`` batches are in memory.
    """
    from concurrent.futures import ThreadPoolExecutor

    def work(batch: list[Member]) -> list[bytes]:
        results = []
        for part in batch:
            with blaming(part.offset):
                results.append(decompress(part))
        return results

    ahead: deque[Future[list[bytes]]] = deque()
    with ThreadPoolExecutor(threads, "iobuf_nb-decompress") as pool:
        for batch in _batches(parts):
            ahead.append(pool.submit(work, batch))
            if len(ahead) > threads + 1:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _batches(parts: Iterator[Member]) -> Iterator[list[Member]]:
    batch: list[Member] = []
    most = 0
    for part in parts:
        batch.append(part)
        most += part.most
        if most >= _BATCH_BYTES:
            yield batch
            batch, most = [], 0
    if batch:
        yield batch


class _Ahead:
    """Compressed data, of which headers are looked at before it is taken."""

    def __init__(self, file: BufferedReader[Any]) -> None:
        self._file = file
        self._data = b""
        self._taken = 0

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self._data) - self._taken

    @property
    def offset(self) -> int:
        """The offset of the first of them in the file."""
        return self._file.tell() - self.size

    def read(self) -> bool:
        """Read on; return False at the end of the file."""
        data = self._file.read1(INPUT_BYTES)
        self._data, self._taken = self._data[self._taken :] + data, 0
        return bool(data)

    def need(self, size: int) -> None:
        """Read on until there are `size` bytes."""
        while self.size < size:
            if not self.read():
                raise Broken("The data is cut off", self._file.tell())

    def look(self, at: int, size: int) -> bytes:
        """Return `size` bytes at a position from the first on, without taking them."""
        self.need(at + size)
        return self._data[self._taken + at : self._taken + at + size]

    def take(self, most: int) -> bytes:
        """Return the first bytes and take them: `most`, or all that there are."""
        data = self._data[self._taken : self._taken + most]
        self._taken += len(data)
        return data


def _frame(data: _Ahead) -> Iterator[Fragment]:
    """Yield a frame of zstd. Its headers are followed through what is read at once, which is then yielded."""
    flags = data.look(4, 1)[0]
    single = flags >> 5 & 1  # a single segment: the size of the window is that of the content
    at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]  # where the next block begins
    last = ended = False
    while not ended:
        blocks = 0
        while not last and at + 3 <= data.size:
            fields = int.from_bytes(data.look(at, 3), "little")
            repeated, size = fields >> 1 & 3 == 1, fields >> 3
            if size > _ZSTD_BLOCK:
                if at:
                    break  # what comes before may be broken, too
                raise Broken(f"A block of zstd says that it has {size} bytes", data.offset)
            last = bool(fields & 1)
            at += 3 + (1 if repeated else size) + (4 if last and flags & 4 else 0)
            blocks += 1
        ended = last and at <= data.size
        offset = data.offset
        piece = data.take(at)
        at -= len(piece)
        yield Fragment(piece, offset, blocks, ended)
        if not ended:
            data.need(1 if at else 3)


def _exactly(file: BufferedReader[Any], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise Broken("The data is cut off", file.tell())
    return data
