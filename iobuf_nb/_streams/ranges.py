"""Ranges: the bytes of a remote object in a row, several ranges of them asked for before they are needed.

Up to eight ranges of 4 MiB are on their way, or wait to be taken, beside the one that is being taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait

from .crew import LOOK_S
from .feed import ReadInto, Stopped
from .remote import LARGE_RANGE, Remote

AHEAD = 8  # ranges
_SMALL_RANGE = 1 << 16


class Ranges:
    """Reads on from a position of an object; the first range is asked for at once.

    Parameters
    ----------
    remote : Remote
    begin, likely, end : int
        Where to begin, in bytes from the beginning of its data; up to where it will be read at least; and at most.
    threads : Executor
        What asks for ranges.
    """

    def __init__(self, remote: Remote, begin: int, likely: int, end: int, threads: Executor) -> None:
        self._remote = remote
        self._at, self._likely, self._end = begin, likely, end
        self._threads = threads
        self._next = _SMALL_RANGE  # bytes of the next range behind what is likely
        self._coming: deque[Future[bytes]] = deque()
        self._left = memoryview(b"")
        self._ask(1)

    def reader(self, is_stopped: Callable[[], bool]) -> ReadInto:
        """Return what fills a view, less only at the end; Stopped, while it waits, if the workers are to end."""

        def readinto(view: memoryview) -> int:
            done = 0
            while done < len(view):
                if not self._left:
                    self._ask(AHEAD)
                    if not self._coming:
                        break
                    while not wait(list(self._coming)[:1], LOOK_S).done:
                        if is_stopped():
                            raise Stopped
                    self._left = memoryview(self._coming.popleft().result())
                n = min(len(view) - done, len(self._left))
                view[done : done + n], self._left = self._left[:n], self._left[n:]
                done += n
            return done

        return readinto

    def _ask(self, most: int) -> None:
        """Ask for ranges until `most` are coming; for those that may not be needed one by one, the larger the later."""
        while len(self._coming) < most and self._at < self._end:
            if self._at < self._likely:
                n = min(LARGE_RANGE, self._likely - self._at)
            elif self._coming:
                break
            else:
                n = min(self._next, self._end - self._at)
                self._next = min(2 * self._next, LARGE_RANGE)
            self._coming.append(self._threads.submit(self._remote.read, self._at, n))
            self._at += n
