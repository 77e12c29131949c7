"""Shares: what one of several streams reads, if they divide the sources of a stream among them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Window(NamedTuple):
    """What is read of a source, in bytes from the beginning of its data, which is behind the header of a .npy file."""

    low: int  # pieces, or lines, that begin
    high: int  # within these are read
    known: int  # 1: a line begins at `low`, whatever stands before
    first: int  # neighbours are seen
    last: int  # within these
    size: int  # of the data


class Share(NamedTuple):
    """The sources that one stream reads, of those of several."""

    index: int  # type: ignore[assignment]  # of its first source among all of them
    base: int  # bytes of all sources before it
    windows: tuple[Window, ...] | None  # one for each of its sources; None: what the arguments of the stream say


WHOLE = Share(0, 0, None)


class SharedSource(NamedTuple):
    """The source of a stream that reads a share; see `stream_share`."""

    share: Share
    source: Any
