"""Decompression: a reader that fills memory with what a compressed descriptor holds, by whichever library is there.

A reader goes through engines, functions that fill a view in part and return 0 when their share of the data ends: first
one that works on many threads, as long as the data comes apart (see `parts`), then one that goes on in sequence.
"""

from __future__ import annotations

import errno
import functools
import importlib
import io
import os
import select
import stat
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from .parts import (
    INPUT_BYTES,
    Broken,
    Fragment,
    bgzip_blocks,
    blaming,
    in_parallel,
    inflate,
    is_skippable,
    is_zstd,
    unzstd,
    zstd_frames,
    zstd_pieces,
)

Engine: TypeAlias = Callable[[memoryview], int]

_MAGIC = {"gzip": b"\x1f\x8b", "lz4": b"\x04\x22\x4d\x18", "bz2": b"BZh", "xz": b"\xfd7zXZ\0"}
_LIBRARIES = {  # of each format, the fastest first
    "gzip": ("isal.isal_zlib", "zlib_ng.zlib_ng", "zlib"),
    "zstd": ("zstandard", "compression.zstd"),
    "lz4": ("lz4.frame",),
    "bz2": ("bz2",),
    "xz": ("lzma",),
}
LONGEST_MAGIC = 6
_OUTPUT_BYTES = 1 << 18  # the most that is decompressed at once and then copied: it stays in the processor's cache


class Reader:
    """The decompressed bytes of a descriptor; made by `open_reader`, and used by one thread at a time.

    Attributes
    ----------
    format : str
        "gzip", "zstd", "lz4", "bz2" or "xz"; "raw" if the data is passed through.
    """

    def __init__(self, name: str, format: str, engines: Generator[Engine, None, None]) -> None:
        self.format = format
        self._name = name
        self._engines = engines
        self._engine: Engine = lambda view: 0
        self._error: BaseException | None = None

    def readinto(self, view: memoryview) -> int:
        """Fill a view with what comes next; less only at the end of the data.

        Parameters
        ----------
        view : memoryview
            Writable and contiguous.

        Returns
        -------
        int
            Bytes written to the view; 0 only at the end, or for an empty view.

        Raises
        ------
        OSError
            The data is broken or cut off (EBADMSG), or cannot be read. It is raised again by later calls.
        ValueError
            The reader is closed.

        Notes
        -----
        Blocks while the descriptor gives nothing, also if it is non-blocking. The libraries release the GIL while they
        decompress.
        """
        if self._error:
            raise self._error
        view, done = view.cast("B"), 0
        try:
            while done < len(view):
                filled = self._engine(view[done:])
                done += filled
                if not filled:
                    engine = next(self._engines, None)
                    if engine is None:
                        break
                    self._engine = engine
        except BaseException as error:
            self._error = self._named(error)
            self.close()
            raise self._error from None
        return done

    def close(self) -> None:
        """End the threads of the reader; the descriptor stays open. A second call does nothing."""
        self._error = self._error or ValueError(f"the reader of {self._name} is closed")
        self._engines.close()

    def _named(self, error: BaseException) -> BaseException:
        """Return the error as one that names the source."""
        if isinstance(error, Broken):
            return OSError(errno.EBADMSG, f"Broken {self.format} data: {error}", self._name)
        if isinstance(error, OSError):
            return OSError(error.errno, error.strerror, self._name)
        return error


def check_decompress(value: Any) -> str | None:
    """Return the argument `decompress` of a stream if it is allowed.

    Raises
    ------
    ValueError
        It is not.
    ImportError
        The format needs a package that is missing; "auto" needs none until it meets such a format.
    """
    if value is None:
        return None
    if not isinstance(value, str) or value not in ("auto", *_LIBRARIES):
        allowed = ", ".join(map(repr, _LIBRARIES))
        raise ValueError(f"decompress must be None, 'auto' or one of {allowed}, not {value!r:.60}")
    if value != "auto":
        _library(value)
    return value


def open_reader(source: int | Engine, name: str, how: str, threads: int) -> Reader:
    r"""Return a reader of what a descriptor holds, compressed, from where it stands to its end.

    Parameters
    ----------
    source : int or callable
        The descriptor of a regular file, pipe or socket. It must stay open as long as the reader, which reads it, but
        never closes it. Or what fills a view with what comes next, and returns how many bytes that is, 0 at the end.
    name : str
        Used in errors.
    how : str
        A format, or "auto": the format by which the data begins; other data is passed through.
    threads : int
        The most threads that decompress. More than one are of use to bgzip, and to regular files of zstd frames; from
        the first frame of more than 255 blocks (32 MiB) on, and for all else, the caller decompresses.

    Returns
    -------
    Reader

    Raises
    ------
    OSError
        The descriptor cannot be read, or what it holds is not of the format (EBADMSG); no data is of no format.
    ImportError
        The format needs a package that is missing.

    Notes
    -----
    Waits for the first 6 bytes. A skippable frame may begin zstd or lz4 data; "auto" takes it for zstd.

    Members, frames and streams that follow each other are read as one. Anything else after them is treated as the tools
    treat it: after gzip and bz2 it is ignored, with a RuntimeWarning; after zstd, lz4 and xz it is an error. Zeros
    after gzip, and multiples of four zeros after xz, are padding. A file that is cut off between two members is a
    whole file in every format.

    Errors tell a compressed offset, counted from where the descriptor stood: what is wrong is there, or up to 128 KiB
    later, or, with several threads, in the block of bgzip or frame of zstd that begins there.

    In sequence a reader takes 1 MiB and what the library needs, which for zstd and xz is mostly the window that the
    data asks for (zstd refuses more than 128 MiB). Besides, threads take up to ``threads + 2`` times 2 MiB for bgzip
    and 66 MiB for zstd.

    Examples
    --------
    >>> import gzip, tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     size = file.write(gzip.compress(b"one ") + gzip.compress(b"file"))
    ...     position = file.seek(0)
    ...     reader = open_reader(file.fileno(), "file.gz", "auto", threads=1)
    ...     found = bytearray(100)
    ...     print(reader.format, found[: reader.readinto(memoryview(found))])
    ...     reader.close()
    gzip bytearray(b'one file')
    """
    raw = _Raw(functools.partial(_read, source) if isinstance(source, int) else source)
    try:
        head = raw.look(LONGEST_MAGIC)
        regular = not isinstance(source, int) or stat.S_ISREG(os.fstat(source).st_mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
    kind = recognised(head) if how == "auto" else how
    if kind not in (recognised(head), "raw") and not (kind == "lz4" and is_skippable(head)):
        raise OSError(errno.EBADMSG, f"No {kind} data: it begins with {head!r}", name)
    if kind == "zstd" and not regular:
        threads = 1  # whole frames would be awaited before the first byte
    file = io.BufferedReader(raw, INPUT_BYTES)
    library = None if kind == "raw" else _library(kind)
    return Reader(name, kind, _engines(file, kind, library, threads, name))


class _Raw(io.RawIOBase):
    """What an engine fills views with, as a file."""

    def __init__(self, read: Engine) -> None:
        self._read = read
        self._ahead = b""
        self._position = 0

    def look(self, size: int) -> bytes:
        """Return the first bytes without taking them; fewer only at the end."""
        room = bytearray(size)
        while len(self._ahead) < size and (read := self._read(memoryview(room))):
            self._ahead += room[:read]
            room = room[read:]
        return self._ahead

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._ahead:
            size = min(len(buffer), len(self._ahead))
            buffer[:size], self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            size = self._read(memoryview(buffer))
        self._position += size
        return size


def _read(fd: int, view: memoryview) -> int:
    """Fill a view with what a descriptor gives, waited for if it is non-blocking."""
    while True:
        try:
            return os.readv(fd, [view])
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(fd, select.POLLIN)
            waiting.poll()


class _Chunks:
    """An engine: copies chunks of bytes into views."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def __call__(self, view: memoryview) -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        size = min(len(view), len(self._left))
        view[:size], self._left = self._left[:size], self._left[size:]
        return size


class _Frames:
    """The frames of zstd as a file: each read returns the next piece."""

    def __init__(self, pieces: Iterator[Fragment]) -> None:
        self._pieces = pieces
        self.offset = 0  # of the last piece
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        piece = next(self._pieces, None)
        if piece is None:
            return b""
        self.offset, self._size = piece.offset, len(piece.data)
        return piece.data

    def tell(self) -> int:
        return self.offset + self._size


class _Zstandard:
    """An engine: python-zstandard, which decompresses into views."""

    def __init__(self, library: Any, frames: _Frames) -> None:
        self._frames = frames
        self._error = library.ZstdError
        self._stream = library.ZstdDecompressor().stream_reader(frames, read_across_frames=True)

    def __call__(self, view: memoryview) -> int:
        try:
            return self._stream.readinto(view)
        except self._error as error:
            raise Broken(str(error), self._frames.offset) from error


class _Inflate:
    """A decompressor of gzip with the interface of bz2's."""

    def __init__(self, library: Any) -> None:
        self._stream = library.decompressobj(31)
        self._full = False

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    @property
    def needs_input(self) -> bool:
        return not (self._full or self._stream.unconsumed_tail)

    def decompress(self, data: bytes, most: int) -> bytes:
        found = self._stream.decompress(self._stream.unconsumed_tail + data, most)
        self._full = len(found) == most  # then there may be more, as the manual of zlib says
        return found


class _Rules(NamedTuple):
    """What may follow a member of a format."""

    padding: int = 0  # zeros may, in multiples of this number
    magic: bytes = b""  # what does not begin with this is ignored, with a warning


_RULES = {"gzip": _Rules(1, _MAGIC["gzip"]), "bz2": _Rules(0, _MAGIC["bz2"]), "xz": _Rules(4)}
_DECOMPRESSORS: dict[str, Callable[[Any], Any]] = {  # of one member, with the interface of bz2's
    "gzip": _Inflate,
    "zstd": lambda library: library.ZstdDecompressor(),
    "lz4": lambda library: library.LZ4FrameDecompressor(),
    "bz2": lambda library: library.BZ2Decompressor(),
    "xz": lambda library: library.LZMADecompressor(library.FORMAT_XZ),
}


class _Sequence:
    """An engine: decompresses members one after the other.

    Parameters
    ----------
    tell, read
        What return the position of the input, and its next bytes, none at the end.
    kind, library, name
        The format and its library; the source in warnings.
    given : bytes
        What was read of the input before, and not decompressed.
    """

    def __init__(
        self, tell: Callable[[], int], read: Callable[[], bytes], kind: str, library: Any, name: str, given: bytes
    ) -> None:
        self._tell = tell
        self._read = read
        self._new = functools.partial(_DECOMPRESSORS[kind], library)
        self._rules = _RULES.get(kind, _Rules())
        self._name = name
        self._given = given
        self._offset = 0  # of what the member was given last
        self._member: Any = None

    def __call__(self, view: memoryview) -> int:
        while self._member or self._begin():
            if self._member.needs_input and not self._given:
                self._given = self._read()
                if not self._given:
                    raise Broken("The data is cut off", self._tell())
            given, self._given = self._given, b""
            if given:
                self._offset = self._tell() - len(given)
            with blaming(self._offset):
                data = self._member.decompress(given, min(len(view), _OUTPUT_BYTES))
            if self._member.eof:
                self._given = self._member.unused_data or b""
                self._member = None
            if data:
                view[: len(data)] = data
                return len(data)
        return 0

    def _begin(self) -> bool:
        """Go on to the next member; return False at the end of the data."""
        padding, magic = self._rules
        zeros = 0
        while True:
            if padding:
                kept = self._given.lstrip(b"\0")
                zeros += len(self._given) - len(kept)
                self._given = kept
            if len(self._given) >= max(len(magic), 1):
                break
            more = self._read()
            if not more:
                break
            self._given += more
        offset = self._tell() - len(self._given)
        if padding and zeros % padding:
            raise Broken(f"Padding of {zeros} zeros", offset)
        if not self._given:
            return False
        if not (self._given.startswith(magic) or magic.startswith(self._given)):
            text = f"{self._name}: what begins at compressed offset {offset} is not compressed, and ignored"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
            return False
        self._member = self._new()
        return True


def recognised(head: bytes) -> str:
    """Return the format of data by how it begins."""
    if is_zstd(head):
        return "zstd"
    return next((kind for kind, magic in _MAGIC.items() if head.startswith(magic)), "raw")


def _library(kind: str) -> Any:
    """Import the first of the libraries for a format that there is."""
    for module in _LIBRARIES[kind]:
        with suppress(ImportError):
            return importlib.import_module(module)
    package = {"zstd": "the package zstandard", "lz4": "the package lz4"}.get(kind)
    if package:
        raise ImportError(f"{kind} data needs {package}: pip install 'iobuf-nb[compression]'")
    raise ImportError(f"{kind} data needs the module {module}, which this Python was built without")


def _engines(
    file: io.BufferedReader[Any], kind: str, library: Any, threads: int, name: str
) -> Generator[Engine, None, None]:
    """Yield the engines for a file, each when the one before has come to its end."""
    if kind == "raw":
        yield file.readinto
        return
    tell = file.tell
    read: Callable[[], bytes] = functools.partial(file.read1, INPUT_BYTES)
    given = b""
    if kind == "gzip" and threads > 1:
        rest = bytearray()
        blocks = bgzip_blocks(file, rest)
        with closing(in_parallel(blocks, functools.partial(inflate, library), threads)) as chunks:
            yield _Chunks(chunks)
        given = bytes(rest)
    elif kind == "zstd":
        pieces = zstd_pieces(file)
        if threads > 1:
            taken: list[Fragment] = []
            frames = zstd_frames(pieces, taken)
            with closing(in_parallel(frames, functools.partial(unzstd, library), threads)) as chunks:
                yield _Chunks(chunks)
            pieces = chain(taken, pieces)
        source = _Frames(pieces)
        if hasattr(library, "ZstdDecompressionReader"):  # python-zstandard
            yield _Zstandard(library, source)
            return
        tell, read = source.tell, source.read
    yield _Sequence(tell, read, kind, library, name, given)
