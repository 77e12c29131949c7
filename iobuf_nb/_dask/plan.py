"""The plan of a stream on a cluster: which task reads what, so that tasks are alike, and large beside their cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .._streams.share import Share, Window
from .._streams.windows import Planned

#: Bytes of a task. For each, the scheduler takes about 0.7 ms and the worker 2 ms of a processor: at 1 GB/s that is 2 %
#: of the time of such a task, and the scheduler keeps up with 180 GB/s.
USUAL_BYTES = 1 << 27
_LEAST_BYTES = 1 << 23
_TASKS_EACH = 4  # for each thread of the cluster at least, so that none is idle for long at the end
_FILE_COST = 1 << 16  # bytes that could be read while a file is opened


class Task(NamedTuple):
    """A share, and its sources."""

    share: Share
    sources: list[str]

    @property
    def place(self) -> tuple[str, int]:
        """The first source, and the offset in it."""
        windows = self.share.windows
        return self.sources[0], windows[0].low if windows else 0


def piece_size(total: int, threads: int) -> int:
    """Return how many bytes a task is to read, of so many in total, on a cluster that runs so many tasks at once."""
    return min(max(total // (threads * _TASKS_EACH), _LEAST_BYTES), USUAL_BYTES)


def tasks_of(sources: Sequence[Planned], piece: int, record: int) -> list[Task]:
    """Divide sources into tasks of about `piece` bytes: several small ones together, large ones by windows.

    Borders lie between records; between lines they may lie anywhere.
    """
    found: list[Task] = []
    some: list[Planned] = []  # those of the task that is being filled
    base, room = 0, piece
    for k, source in enumerate(sources):
        window = source.window
        size = window.high - window.low
        large = size > piece + piece // 2 and not source.whole
        if some and (large or (size + _FILE_COST) // 2 > room):  # rather a little more than much less
            found.append(_together(some, k, base))
            some, room = [], piece
        if large:
            found += [Task(Share(k, base, (part,)), [source.name]) for part in _divided(window, piece, record)]
        else:
            some.append(source)
            room -= size + _FILE_COST
        base += window.size
    if some or not sources:
        found.append(_together(some, len(sources), base))
    return found


def _together(sources: list[Planned], end: int, base: int) -> Task:
    """Return the task of sources that end before number `end` and byte `base` of the stream."""
    windows = tuple(each.window for each in sources)
    share = Share(end - len(sources), base - sum(each.size for each in windows), windows)
    return Task(share, [each.name for each in sources])


def _divided(window: Window, piece: int, record: int) -> Iterator[Window]:
    """Yield windows of about the same size, which make up a large one."""
    low, high = window.low, window.high
    step = -(-(high - low) // round((high - low) / piece))
    step += -step % record
    for begin in range(low, high, step):
        yield window._replace(low=begin, high=min(begin + step, high), known=window.known if begin == low else 0)
