"""The table of the files, and of the memory, that one crew reads piece by piece; its words are those of `files`."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import (
    BASE,
    CLAIMS,
    CLAIMS_END,
    DONE_BYTES,
    FD,
    FILE_WORDS,
    FIRST,
    HIGH,
    INDEX,
    INODE,
    KNOWN,
    LAST,
    LEFT,
    LENGTH,
    LOW,
    MAPPING,
    MEMORY,
    ORIGIN,
    PATH,
    SHORT,
    TOTAL,
    look_at,
)
from .mapping import MAPPED_AT, MAPPED_BYTES, SEARCHED_AT
from .pieces import SCRATCH_WORDS, UNKNOWN
from .share import Window
from .source import Opened, changed

_WINDOW = [LOW, HIGH, KNOWN, FIRST, LAST, TOTAL]  # in the order of `Window`
_COLUMNS = [
    FD, LEFT, CLAIMS_END, CLAIMS, LENGTH, MEMORY, ORIGIN, *_WINDOW, BASE, INODE, MAPPING,
    INDEX, SHORT, MAPPED_BYTES,
]  # fmt: skip

LARGE_BYTES = 1 << 26  # of files for which it is worth while to find out how to read them best
_TOGETHER = 16  # pieces of a large file at most: each worker then maps whole parts of the page table


class Table:
    """Sources whose bytes are read by their positions, and the numbers of their pieces.

    Parameters
    ----------
    length : int
        Bytes of a piece.
    claims : int
        How many claims are to be made of a file before several of its pieces are claimed at once.
    """

    def __init__(self, length: int, claims: int) -> None:
        self._length = length
        self._share = min(claims * length, UNKNOWN)  # bytes of a file for which claims are of one piece
        self._rows: list[tuple[int, ...]] = []
        self._paths: list[bytes] = []
        self._kept: list[Any] = []  # what the addresses in the table point to
        self.names: list[str] = []
        self.claims = 0
        self.bytes = 0  # to be read
        self.words: NDArray[np.int64] = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def add_path(
        self, name: str, path: str, inode: int, origin: int, index: int, base: int, window: Window, mapping: int
    ) -> None:
        """Add a file that workers open."""
        self._add(name, 0, 0, origin, _signed(inode), index, base, window, mapping)
        self._paths.append(os.fsencode(path))

    def add_opened(self, opened: Opened, index: int, base: int, window: Window) -> None:
        """Add an open file, which stays open."""
        self._add(opened.name, opened.fd + 1, 0, opened.first, 0, index, base, window, 0)

    def add_memory(
        self, name: str, memory: memoryview, index: int, base: int, window: Window, position: int = 0, origin: int = 0
    ) -> None:
        """Add what is in memory: the bytes from a position on of a source that begins at an origin."""
        array = np.frombuffer(memory, np.uint8)
        self._kept.append(array)
        self._add(name, 0, array.ctypes.data - position, origin, 0, index, base, window, 0)

    def _add(
        self, name: str, fd: int, memory: int, origin: int, inode: int, index: int, base: int, window: Window,
        mapping: int,
    ) -> None:  # fmt: skip
        low, high = window[:2]
        length = self._length * min(max((high - low) // self._share, 1), _TOGETHER)
        claims = -(-(high - low) // length)
        self.claims += claims
        self.bytes += high - low
        self.names.append(name)
        # In the order of _COLUMNS.
        self._rows.append(
            (
                fd,
                claims,
                self.claims,
                claims,
                length,
                memory,
                origin,
                *window,
                base,
                inode,
                mapping,
                index,
                UNKNOWN,
                origin + window.size,
            )
        )
        if fd or memory:
            self._paths.append(b"")

    def add_paths(
        self, paths: list[str], windows: Sequence[Window] | None, record: int, index: int, base: int,
        mapping: Callable[[int], int],
    ) -> int | None:  # fmt: skip
        """Fill an empty table with files at once; return the bytes that they have.

        None, and nothing is added, if one of them is not so simple. Without `windows` all of every file is read.
        """
        self._paths = os.fsencode("\0".join(paths)).split(b"\0")
        addresses = self._addresses(self._paths, len(paths))
        found = np.zeros((len(paths), 3), np.int64)
        if look_at(addresses, found, np.zeros(SCRATCH_WORDS, np.int64)) < 0:
            return None
        modes, inodes, sizes = found.T
        zeros = np.zeros_like(sizes)
        seen = np.array([zeros, sizes, zeros + 1, zeros, sizes, sizes]).T if windows is None else np.array(windows)
        read = seen[:, 1] - seen[:, 0]
        simple = (modes & 0o170000 == stat.S_IFREG) & (sizes > 0) & (sizes == seen[:, 5]) & (read % record == 0)
        if not simple.all():
            return None
        lengths = np.clip(read // self._share, 1, _TOGETHER) * self._length
        claims = -(-read // lengths)
        rows = np.zeros((len(paths), FILE_WORDS), np.int64)
        rows[:, LEFT] = rows[:, CLAIMS] = claims
        rows[:, CLAIMS_END] = np.cumsum(claims)
        rows[:, LENGTH] = lengths
        rows[:, _WINDOW] = seen
        rows[:, MAPPED_BYTES] = sizes
        rows[:, BASE] = base + np.cumsum(sizes) - sizes
        rows[:, INODE] = inodes
        rows[:, MAPPING] = mapping(0)
        for k in np.flatnonzero(read >= LARGE_BYTES).tolist():
            rows[k, MAPPING] = mapping(int(read[k]))
        rows[:, INDEX] = index + np.arange(len(paths))
        rows[:, SHORT] = UNKNOWN
        rows[:, PATH] = addresses
        self.words = rows.reshape(-1)
        self.names = paths
        self.claims, self.bytes = int(claims.sum()), int(read.sum())
        return int(sizes.sum())

    def finish(self) -> None:
        """Write all rows to `words`."""
        if len(self.words):
            return
        rows = np.zeros((max(len(self), 1), FILE_WORDS), np.int64)
        self.words = rows.reshape(-1)
        if not self._rows:
            return
        rows[:, _COLUMNS] = self._rows
        ours = (rows[:, FD] == 0) & (rows[:, MEMORY] == 0)
        rows[:, PATH] = np.where(ours, self._addresses(self._paths, len(self)), 0)

    def _addresses(self, paths: list[bytes], n: int) -> NDArray[np.int64]:
        """Return the addresses of `n` paths, which end with a zero byte each."""
        text = np.frombuffer(b"\0".join([*paths, b""]), np.uint8)
        self._kept.append(text)
        ends = np.flatnonzero(text == 0)
        starts = np.zeros(n, np.int64)
        starts[1:] = ends[: n - 1] + 1
        return text.ctypes.data + starts

    @property
    def may_map(self) -> bool:
        """Whether any of its files may be mapped."""
        return bool(self._row(slice(None))[..., MAPPING].any())

    @property
    def whole(self) -> int:
        """How many of its sources were read whole."""
        return int((self._row(slice(None))[..., LEFT] == 0).sum())

    def _row(self, k: Any) -> NDArray[np.int64]:
        return self.words.reshape(-1, FILE_WORDS)[k]

    def index_of(self, k: int) -> int:
        """Return the index of source `k` of this table among all of a stream."""
        return int(self._row(k)[INDEX])

    def name_of(self, k: int) -> str:
        """Return the name of a source."""
        return self.names[k]

    def first_of(self, k: int) -> int:
        """Return the offset at which a source begins."""
        return int(self._row(k)[ORIGIN])

    def size_of(self, k: int) -> int:
        """Return how many bytes were to be read of a source."""
        return int(self._row(k)[HIGH] - self._row(k)[LOW])

    def close(self) -> None:
        """Close what workers that failed have left open."""
        for row in self.words.reshape(-1, FILE_WORDS):
            for word in (MAPPED_AT, SEARCHED_AT):
                if row[word] > 0:
                    ctypes.CDLL(None).munmap(ctypes.c_void_p(int(row[word])), ctypes.c_size_t(int(row[MAPPED_BYTES])))
            if row[FD] and row[PATH]:
                fd = int(row[FD]) - 1
                with suppress(OSError):  # a close is not enough if a forked process has the descriptor, too
                    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
                os.close(fd)

    def require_unchanged(self, lines: bool) -> None:
        """Raise if a file was read to an end that is not its end any more."""
        rows = self.words.reshape(-1, FILE_WORDS)
        for k in np.flatnonzero(rows[:, SHORT] < UNKNOWN):
            row = rows[k].tolist()
            size = (os.stat(self._paths[k]) if row[PATH] else os.fstat(row[FD] - 1)).st_size
            whole = row[LOW] == 0 and row[HIGH] == row[TOTAL]
            torn = row[DONE_BYTES] != min(row[HIGH], row[SHORT]) - row[LOW] and (whole or not lines)
            if torn or size < row[ORIGIN] + row[TOTAL]:  # some file systems report sizes that mean nothing
                raise changed(self.names[k], row[DONE_BYTES], row[HIGH] - row[LOW])


def _signed(word: int) -> int:
    """Return 64 bits as a signed number, as they stand in a word."""
    return (word & 2**64 - 1 ^ 2**63) - 2**63
