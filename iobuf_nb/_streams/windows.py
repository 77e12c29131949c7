"""Windows: what of each source is to be read, found by looking at all of them before the first is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import DTypeLike

from .decompress import LONGEST_MAGIC, check_decompress, recognised
from .share import Window
from .source import Source, read_file, sources_of
from .units import Header, Units, origin_of, seen_by_kernels


class Planned(NamedTuple):
    """A source that was looked at."""

    name: str  #: its path; another stream takes it as a source
    window: Window
    whole: bool = False  #: whether its window must not be divided, because it is compressed


def windows_of(
    source: Any,
    *,
    record: int | None = None,
    dtype: DTypeLike | None = None,
    delimiter: bytes | None = None,
    overlap: Sequence[int] = (0, 0),
    start: int = 0,
    stop: int | None = None,
    skip: int = 0,
    decompress: str | None = None,
) -> tuple[Units, list[Planned]]:
    r"""Look at all sources of a stream; return what their pieces are made of, and the window of each.

    A window may be divided at any position between `low` and `high`, of records at multiples of `units.record` from
    `low` on. The first of the parts is `known` if the whole is, the others are not. The whole window of a compressed
    source is in bytes of the compressed file.

    Parameters
    ----------
    source, record, dtype, delimiter, overlap, start, stop, skip, decompress
        As in `stream`; paths and patterns.

    Raises
    ------
    OSError
        A source cannot be opened or read.
    ValueError, TypeError
        An argument has the wrong type or is out of range; a source is not a regular file, or not whole records.
    ImportError
        The package for a compressed format is missing.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"a line\nand another\n")
    ...     file.flush()
    ...     units, (found,) = windows_of(file.name, delimiter=b"\n", skip=1)
    >>> found.window
    Window(low=7, high=19, known=1, first=7, last=19, size=19)
    """
    items, like, header = seen_by_kernels(sources_of(source), dtype)
    units = Units(like, record, delimiter, overlap, start, stop, skip)
    decompress = check_decompress(decompress)
    return units, [_planned(each, units, header, decompress) for each in items]


def _planned(source: Source, units: Units, header: Header | None, decompress: str | None) -> Planned:
    path = source.path
    if path is None:
        raise TypeError(f"source must be paths if several streams are to divide it, not {source.name:.60}")
    status = os.stat(path)
    size = status.st_size
    if not stat.S_ISREG(status.st_mode) or (size == 0 and read_file(path, 0, 1)):
        raise ValueError(f"source must be regular files if several streams are to divide it, which {path} is not")
    compressed = decompress not in (None, "auto")
    if decompress == "auto" and size:
        compressed = recognised(read_file(path, 0, LONGEST_MAGIC)) != "raw"
    if compressed:
        return Planned(path, Window(0, size, 1, 0, size, size), True)
    origin = origin_of(path, header) if size else 0
    return Planned(path, units.window(path, size - origin, lambda offset, n: read_file(path, origin + offset, n)))
