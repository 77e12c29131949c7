"""Objects: the remote sources of a stream, several of which are looked at while those before them are read.

Of each the first range is asked for at once, so that many small ones take the time of their bytes, not of their way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import NamedTuple

from .decompress import LONGEST_MAGIC, Engine, open_reader, recognised
from .feed import ReadInto, span
from .job import Job
from .pieces import Plan
from .ranges import AHEAD, Ranges
from .remote import LARGE_RANGE, Remote
from .share import Share, Window
from .source import Opened
from .units import Header, Units, origin_of


class Seen(NamedTuple):
    """An object that was looked at."""

    index: int  # type: ignore[assignment]  # among all sources
    remote: Remote
    window: Window | None  # None: it is compressed
    begin: int  # where to read from
    data: bytes | Ranges  # all that is needed of it, if that is one range, or else what reads it


class Objects:
    """The remote sources that are to be read next."""

    def __init__(self, plan: Plan, units: Units, header: Header | None, decompress: str | None, share: Share) -> None:
        self._plan = plan
        self._units = units
        self._header = header
        self._decompress = decompress
        self._share = share
        self._coming: deque[Future[Seen]] = deque()
        self._threads: ThreadPoolExecutor | None = None

    def add(self, url: str, index: int) -> None:
        """Look at an object, in another thread."""
        self._threads = self._threads or ThreadPoolExecutor(AHEAD, "iobuf_nb-remote")
        self._coming.append(self._threads.submit(self._look, url, index, self._threads))

    def take(self, left: int) -> Iterator[Seen]:
        """Yield objects, in the order in which they were added, until `left` are left."""
        while len(self._coming) > left:
            yield self._coming.popleft().result()

    def close(self) -> None:
        """Ask for nothing more, and wait for what is on its way."""
        if self._threads:
            self._threads.shutdown(cancel_futures=True)

    def _look(self, url: str, index: int, threads: Executor) -> Seen:
        remote = Remote(url)
        how = self._decompress
        if how is not None and (how != "auto" or recognised(remote.read(0, LONGEST_MAGIC)) != "raw"):
            self._share.window_of(index, url, remote.size)
            return Seen(index, remote, None, 0, Ranges(remote, 0, remote.size, remote.size, threads))
        if remote.size:
            remote.first = origin_of(url, self._header, remote.size, remote.read)
        window = self._share.window_of(index, url, remote.size)
        window = window or self._units.window(url, remote.size, remote.read)
        begin, likely, end = span(window, self._plan) if window.high > window.low else (0, 0, 0)
        if end - begin > LARGE_RANGE:
            return Seen(index, remote, window, begin, Ranges(remote, begin, likely, end, threads))
        begin = max(begin - 2 * self._plan.delimiter_size, 0)  # workers look that far back for lines
        data = remote.read(begin, end - begin)
        remote.require_unchanged()
        return Seen(index, remote, window, begin, data)


def run_compressed(
    job: Job, source: Opened | Remote, index: int, units: Units, how: str,
    data: Callable[[Callable[[], bool]], int | Engine],
) -> int:  # fmt: skip
    """Run a job over what a compressed source holds, and return the position at which that has ended.

    `data` returns the source for `open_reader`, given what says whether the workers are to end.
    """
    with ExitStack() as stack:

        def reader(is_stopped: Callable[[], bool]) -> ReadInto:
            made = stack.enter_context(closing(open_reader(data(is_stopped), source.name, how, len(job.states))))
            return made.readinto

        return job.run_fed(source, index, units, reader)
