"""Shares: what one of several streams reads, if they divide the sources of a stream among them."""

from __future__ import annotations

import errno
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

    def window_of(self, index: int, name: str, size: int) -> Window | None:
        """Return the window of a source, if there are any; raise if it was planned for another size."""
        if self.windows is None:
            return None
        window = self.windows[index - self.index]
        if window.size != size:
            what = f"Changed since the stream was planned: it had {window.size} bytes, and has {size}"
            raise OSError(errno.EIO, what, name)
        return window

    def end_of(self, index: int, position: int) -> int:
        """Return where a source ends for those behind it: at the position that was found, or as it was planned."""
        return position if self.windows is None else self.windows[index - self.index].size


WHOLE = Share(0, 0, None)


class SharedSource(NamedTuple):
    """The source of a stream that reads a share; see `stream_share`."""

    share: Share
    source: Any
