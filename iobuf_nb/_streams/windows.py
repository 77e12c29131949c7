"""Windows: what of each source is to be read, found by looking at all of them before the first is read."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from numpy.typing import DTypeLike

from .decompress import LONGEST_MAGIC, check_decompress, recognised
from .ranges import AHEAD
from .remote import Remote
from .share import Window
from .source import Source, read_file, sources_of
from .units import Header, Units, origin_of, seen_by_kernels


class Planned(NamedTuple):
    """A source that was looked at."""

    name: str  #: its path or URL; another stream takes it as a source
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
) -> tuple[Units, DTypeLike | None, list[Planned]]:
    r"""Look at all sources of a stream; return what their pieces are made of, and the window of each.

    Between them is the `dtype` that streams of some of the sources need: None if headers of .npy files say it.

    A window may be divided at any position between `low` and `high`, of records at multiples of `units.record` from
    `low` on. The first of the parts is `known` if the whole is, the others are not. The whole window of a compressed
    source is in bytes of the compressed file.

    Parameters
    ----------
    source, record, dtype, delimiter, overlap, start, stop, skip, decompress
        As in `stream`; paths, URLs and patterns.

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
    ...     units, dtype, (found,) = windows_of(file.name, delimiter=b"\n", skip=1)
    >>> found.window
    Window(low=7, high=19, known=1, first=7, last=19, size=19)
    """
    items, like, header = seen_by_kernels(sources_of(source), dtype)
    units = Units(like, record, delimiter, overlap, start, stop, skip)
    decompress = check_decompress(decompress)
    threads = ThreadPoolExecutor(AHEAD)  # for URLs: their servers are waited for together
    coming: list[Planned | Future[Planned]] = []
    try:
        for each in items:
            arguments = each, units, header, decompress
            coming.append(_planned(*arguments) if each.url is None else threads.submit(_planned, *arguments))
        found = [each if isinstance(each, Planned) else each.result() for each in coming]
        return units, (like.dtype, like.shape[1:]) if header is None else None, found
    finally:
        threads.shutdown(cancel_futures=True)


def _planned(source: Source, units: Units, header: Header | None, decompress: str | None) -> Planned:
    name = source.name
    read: Callable[[int, int], bytes]
    if source.url is not None:
        remote = Remote(source.url)
        size, read = remote.size, remote.read
    elif source.path is not None:
        size, read = _size_of(name), functools.partial(read_file, name)
    else:
        raise TypeError(f"source must be paths or URLs if several streams are to divide it, not {name:.60}")
    if decompress is not None and (decompress != "auto" or recognised(read(0, LONGEST_MAGIC)) != "raw"):
        return Planned(name, Window(0, size, 1, 0, size, size), True)
    origin = origin_of(name, header, size, read) if size else 0
    return Planned(name, units.window(name, size - origin, lambda offset, n: read(origin + offset, n)))


def _size_of(path: str) -> int:
    """Return the bytes of a regular file."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) or (status.st_size == 0 and read_file(path, 0, 1)):
        raise ValueError(f"source must be regular files if several streams are to divide it, which {path} is not")
    return status.st_size
