"""Units: what pieces are made of (items, records, lines), what of a source is read, and how much of it at a time."""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._jit import check
from .._memory.aligned import MAX_BUFFER_BYTES
from .._memory.dtype import element_type
from .._pools.pool import BufferPool
from .pieces import PAD, Plan
from .remote import Remote
from .share import Window
from .source import Source, printable, read_file

ALIGNMENT = 4096  # of addresses, offsets and lengths in direct I/O; no disk requires more
#: Default size of a buffer in direct I/O, because disks favour large reads, and for what one thread reads, in Python.
LARGE_PIECE = 1 << 20
SLACK = 3 * ALIGNMENT  # room of a buffer beside its piece, for aligned reads, equal addresses, and PAD
_MOST = 2**62
_HEADER_BYTES, _LONGEST_HEADER = 1 << 12, 1 << 16  # that are read of a .npy file at once, mostly enough; and at most
_LARGE = 1 << 16  # bytes of a given buffer, of which a page is spared for equal addresses
_LONGEST_DELIMITER = 64
_SEARCH_BYTES = 1 << 20


def like_of(name: str, dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of one item with the dtype and shape that kernels are to see."""
    try:
        element = np.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be one that numba knows, not {dtype!r:.60}") from None
    base, shape = (element, ()) if element.subdtype is None else element.subdtype
    element_type(base, name)
    if element.itemsize == 0:
        raise ValueError(f"{name} must be of items that have bytes, not {dtype!r:.60}")
    return np.zeros((1, *shape), base)


class Header(NamedTuple):
    """What the header of a .npy file says."""

    like: NDArray[Any]
    offset: int  # of the data


def header_of(name: str, size: int, read: Callable[[int, int], bytes]) -> Header:
    """Read the header of a .npy file of `size` bytes; `read(offset, n)` returns bytes of it."""
    try:
        head = read(0, _HEADER_BYTES)
        length = _length_of_header(head)
        if length > len(head):
            head = read(0, min(length, _LONGEST_HEADER))
        dtype, shape, in_fortran_order = _parsed(head[:length])
        there, need = size - length, dtype.itemsize * math.prod(shape)
        if there < need:
            raise ValueError(f"it should have {need} bytes of data, and has {there}")
    except ValueError as error:
        raise ValueError(f"{printable(name)} must be an array of plain memory: {error}") from None
    if in_fortran_order and need and sum(n > 1 for n in shape) > 1:
        raise ValueError(f"{printable(name)} must be C-contiguous, but is in Fortran order")
    return Header(like_of("dtype", (dtype, shape[1:])), length)


def _length_of_header(head: bytes) -> int:
    """Return where the data begins behind a header; see the documentation of `numpy.lib.format`."""
    version = np.lib.format.read_magic(io.BytesIO(head))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"its format is of version {version}")
    behind = 10 if version == (1, 0) else 12
    if len(head) < behind:
        raise ValueError("its header is cut off")
    return behind + int.from_bytes(head[8:behind], "little")


@functools.lru_cache(64)
def _parsed(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Return what a header says: the dtype, the shape, and whether the array is in Fortran order."""
    if head[6] == 1:
        shape, in_fortran_order, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(head[8:]))
    else:
        text = head[12:].decode("latin1" if head[6] == 2 else "utf8").encode("ascii", "backslashreplace")
        whole = len(text).to_bytes(4, "little") + text
        shape, in_fortran_order, dtype = np.lib.format.read_array_header_2_0(io.BytesIO(whole))
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return dtype, shape, in_fortran_order


def origin_of(name: str, first: Header | None, size: int, read: Callable[[int, int], bytes]) -> int:
    """Return where the data of a file begins: behind a header, which must say what that of the first source says."""
    if first is None:
        return 0
    header = header_of(name, size, read)
    if header.like.dtype != first.like.dtype or header.like.shape != first.like.shape:
        raise ValueError(
            f"{printable(name)} must hold {first.like.dtype} of shape {first.like.shape[1:]}, as the first source "
            f"does, not {header.like.dtype} of {header.like.shape[1:]}"
        )
    return header.offset


def _header_of_source(source: Source) -> Header:
    """Read the header of a .npy file or object."""
    if source.url is not None:
        remote = Remote(source.url)
        return header_of(remote.name, remote.size, remote.read)
    path = source.name
    return header_of(path, os.stat(path).st_size, lambda offset, n: read_file(path, offset, n))


def seen_by_kernels(
    sources: Iterator[Source], dtype: DTypeLike | None
) -> tuple[Iterator[Source], NDArray[Any], Header | None]:
    """Return all sources, an array like what kernels see of them, and the header of the first if it is a .npy file."""
    first = next(sources, None)
    if first is not None:
        sources = chain([first], sources)
        if dtype is None and (first.path or first.url or "").endswith(".npy"):
            header = _header_of_source(first)
            return sources, header.like, header
        if dtype is None and first.like is not None:
            return sources, like_of("dtype", (first.like.dtype, first.like.shape[1:])), None
    return sources, like_of("dtype", np.uint8 if dtype is None else dtype), None


class Units:
    """What pieces are made of, and which part of each source is read: the checked arguments that say so."""

    def __init__(
        self, like: NDArray[Any], record: Any, delimiter: Any, overlap: Any, start: Any, stop: Any, skip: Any
    ) -> None:
        self.like = like
        self.item = like.nbytes
        self.record = self.item if record is None else check.integer("record", record, 1, MAX_BUFFER_BYTES)
        if self.record % self.item:
            kind = f"{like.dtype}" if like.ndim == 1 else f"rows of {like.shape[1:]} {like.dtype}"
            raise ValueError(f"record must be a multiple of the {self.item} bytes of {kind}, not {self.record}")
        self.delimiter = b""
        if delimiter is not None:
            if not isinstance(delimiter, bytes) or not 1 <= len(delimiter) <= _LONGEST_DELIMITER:
                raise ValueError(f"delimiter must be 1 to 64 bytes, such as b'\\n', not {delimiter!r:.60}")
            if self.record != 1:
                raise ValueError(f"delimiter={delimiter!r} needs lines of bytes: leave out record and dtype")
            self.delimiter = delimiter
        self.before, self.after = _overlap(overlap, self.item)
        if self.delimiter and (self.before or self.after):
            raise ValueError("overlap needs records, not lines: leave out delimiter")
        self.start = check.integer("start", start, 0, _MOST)
        self.stop = None if stop is None else check.integer("stop", stop, 0, _MOST)
        self.skip = check.integer("skip", skip, 0, _MOST)
        self._kept = np.frombuffer(self.delimiter + b"\0", np.uint8)

    @property
    def whole(self) -> bool:
        """Whether all of every source is read, and pieces have no neighbours."""
        return self.start == 0 and self.stop is None and self.skip == 0 and not (self.before or self.after)

    def ring_bytes(self, size: int, direct: bool) -> int:
        """Return the bytes of the buffers that a ring fills, at most `size`: whole records, and whole blocks."""
        unit = math.lcm(self.record, ALIGNMENT if direct else 1)
        if direct and size < unit:
            raise ValueError(
                f"tier must make buffers that hold whole records of {self.record} bytes in whole blocks of "
                f"{ALIGNMENT}, {unit} bytes at least, for engine='uring' with direct=True, not buffers of {size} bytes"
            )
        return size // unit * unit or size

    def last_cut(self, text: bytes) -> int:
        """Return the last cut of a text (see `lines`), or 0."""
        m = len(self.delimiter)
        found = text.rfind(self.delimiter)
        while found >= 0:
            if not any(text.startswith(self.delimiter, k) for k in range(max(found - m + 1, 0), found)):
                return found + m
            found = text.rfind(self.delimiter, 0, found + m - 1)
        return 0

    def plan(self, pool: BufferPool, direct: bool, kind: Literal["own", "given", "ring"]) -> Plan:
        """Return what is the same for all sources; its own pools have SLACK beside what was asked for."""
        own = kind == "own"
        align = ALIGNMENT if direct else 1
        if direct and (pool.arena % align or pool.stride % align):
            raise ValueError(f"direct=True needs buffers at multiples of {align} bytes, not {pool.stride} apart")
        room = pool.buffer_size - SLACK if own else min(pool.buffer_size, pool.stride - PAD)
        congruent = own or direct
        if kind == "ring":
            room, congruent = pool.buffer_size, False
        elif direct and not own:
            room -= 2 * align
        elif not own and room >= _LARGE:
            room, congruent = room - ALIGNMENT, True
        m = len(self.delimiter)
        if m:
            step, length = room, room - max(room // 8, 2 * m)
            length = length // ALIGNMENT * ALIGNMENT or length
            needed = f"lines that end with {m} bytes, and some of them"
        else:
            unit = math.lcm(self.record, align)
            length = (room - self.before - self.after) // self.record * self.record
            length = length // unit * unit or length
            step = length + self.before + self.after
            if kind == "ring" and (step != room or step % align):
                raise ValueError(
                    f"engine='uring' fills whole buffers: they must have {step} bytes, the size of a piece"
                )
            needed = f"a record of {self.record} bytes"
            if self.before or self.after:
                needed += f" and overlap of {self.before + self.after} bytes"
        if length <= 0 or step <= 0:
            more = "" if own else f" and {pool.buffer_size - room} bytes around it"
            raise ValueError(
                f"tier must make buffers that hold {needed}{more}, not buffers of {room if own else pool.buffer_size} "
                "bytes"
            )
        return Plan(
            length=length,
            mapped_length=length,
            step=step,
            flags=os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (getattr(os, "O_DIRECT", 0) if direct else 0),
            align=align,
            congruent=int(congruent),
            record=self.record,
            item=self.item,
            before=self.before,
            after=self.after,
            delimiter=self._kept.ctypes.data,
            delimiter_size=m,
            overlaps=int(any(self.delimiter[k:] == self.delimiter[: m - k] for k in range(1, m))),
        )

    def window(self, name: str, size: int, read: Callable[[int, int], bytes]) -> Window:
        """Return what is to be read of a source of `size` bytes; `read(offset, n)` returns bytes of it."""
        low = min(self.start, size)
        high = size if self.stop is None else min(max(self.stop, low), size)
        if self.delimiter:
            known = int(low == 0 or self.skip > 0)
            if self.skip:
                low = min(self._behind_skipped(low, size, read), high)
            return Window(low, high, known, low, high, size)
        if (high - low) % self.record:
            raise ValueError(
                f"{printable(name)} must be whole records of {self.record} bytes, as set by record or dtype, but has "
                f"{high - low}"
            )
        low = min(low + self.skip * self.record, high)
        return Window(low, high, 1, low, high, size)

    def _behind_skipped(self, low: int, size: int, read: Callable[[int, int], bytes]) -> int:
        """Return where the line begins that comes after those that are skipped."""
        line = LineStart(self.delimiter, low, self.skip)
        at = line.first
        while at < size and line.position is None:
            data = read(at, min(_SEARCH_BYTES, size - at))
            if not data:
                break
            line.feed(data)
            at += len(data)
        return size if line.position is None else line.position


class LineStart:
    """Finds where to begin in a text that comes in parts: at the first line from `start` on, less `skip` lines.

    Attributes
    ----------
    first : int
        The position of the first byte to feed.
    position : int or None
        Where to begin, once it is known.
    """

    def __init__(self, delimiter: bytes, start: int, skip: int) -> None:
        self._delimiter = delimiter
        self._start = start
        self._skip = skip
        self._found = start == 0
        self.first = max(start - 2 * len(delimiter) + 1, 0)
        self._text, self._at, self._next = b"", self.first, start
        self.position: int | None = None
        self.feed(b"")

    def feed(self, data: bytes) -> None:
        """Take the bytes that follow."""
        m = len(self._delimiter)
        self._text += data
        while self.position is None:
            if self._found and self._skip == 0:
                self.position = self._next
                return
            found = self._text.find(self._delimiter, max(self._next - self._at - (0 if self._found else m), 0))
            if found < 0:
                break
            if self._found:
                self._skip -= 1
                self._next = self._at + found + m
            elif any(self._text.startswith(self._delimiter, k) for k in range(max(found - m + 1, 0), found)):
                self._next = self._at + found + 1 + m  # no cut: see `lines`
            else:
                self._found, self._next = True, self._at + found + m
        drop = max(len(self._text) - 2 * m, 0)
        self._text, self._at = self._text[drop:], self._at + drop
        self._next = max(self._next, self._at)


def _overlap(overlap: Any, item: int) -> tuple[int, int]:
    if not isinstance(overlap, Sequence) or len(overlap) != 2:
        raise TypeError(f"overlap must be a pair of integers, the items before and after a piece, not {overlap!r:.60}")
    most = MAX_BUFFER_BYTES // item
    before, after = (check.integer(f"overlap[{k}]", each, 0, most) for k, each in enumerate(overlap))
    return before * item, after * item
