"""Feeds: pieces of a source that is read by one thread, in Python, and not by the workers themselves.

So are compressed sources, pipes and sockets of which only a part is wanted, or pieces with their neighbours, and remote
objects, of which a window is read.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._pools.pool import BufferPool
from .._threads.outcomes import WouldBlock
from ..syscalls import poll_in
from .crew import LOOK_S
from .pieces import PAD, Plan
from .share import Window
from .source import Opened, printable
from .turns import BYTES
from .units import LineStart, Units

ReadInto = Callable[[memoryview], int]
MakeReader = Callable[[Callable[[], bool]], ReadInto]  # of what says whether the workers are to end

_CHUNK = 1 << 16
_NAP_S = 0.001


class Stopped(Exception):
    """The workers are to end."""


class Piece(NamedTuple):
    """A piece that lies in a buffer, behind its neighbours."""

    n: int
    position: int
    before: int
    after: int


def plain_reader(source: Opened, is_stopped: Callable[[], bool]) -> ReadInto:
    """Return what reads on from a pipe, socket or device until a view is full, or the source ends."""
    if source.packets != BYTES:
        raise ValueError(
            f"{source.name} is a socket that keeps messages apart: it cannot be read by blocks, nor with start, "
            "stop, skip or overlap"
        )
    ahead, ended = source.read_ahead()
    rest = memoryview(ahead)

    def readinto(view: memoryview) -> int:
        nonlocal rest, ended
        done = min(len(rest), len(view))
        view[:done], rest = rest[:done], rest[done:]
        while done < len(view) and not ended:
            if poll_in(source.fd, int(LOOK_S * 1000)) == 0:
                if is_stopped():
                    raise Stopped
                continue
            try:
                n = os.readv(source.fd, [view[done:]])
            except BlockingIOError:
                continue
            except OSError as error:
                if not (source.terminal and error.errno == errno.EIO):
                    raise OSError(error.errno, error.strerror, source.name) from None
                n = 0
            ended = n == 0
            done += n
        return done

    return readinto


class Feed:
    """Divides what `readinto` returns into pieces.

    Parameters
    ----------
    name, first
        The source in errors, and the offset at which its data begins.
    units, plan
        What its pieces are.
    readinto : callable
        Reads on from the beginning, or if there is a window, from where `span` says.
    window : Window, optional
        What is read; by default what `units` say.

    Attributes
    ----------
    position : int
        How many bytes of the source were handed out, or left out before.
    """

    def __init__(
        self, name: str, units: Units, plan: Plan, readinto: ReadInto, window: Window | None = None, first: int = 0
    ) -> None:
        self._name = printable(name)
        self._first = first
        self._units = units
        self._plan = plan
        self._readinto = readinto
        self._rest: NDArray[np.uint8] = np.empty(0, np.uint8)  # read, and not handed out, behind neighbours
        self._before = 0
        self._ended = False
        self.position = 0
        self._stop = self._last = units.stop  # pieces end here, and their neighbours
        if window is None:
            self._begin(LineStart(units.delimiter, units.start, units.skip), 0)
            return
        self._stop, self._last = window.high, window.last
        begin, *_ = span(window, plan)
        if units.delimiter and not window.known:
            self._begin(LineStart(units.delimiter, window.low, 0), begin)
        else:
            self.position, self._before = window.low, window.low - begin

    def _begin(self, line: LineStart, at: int) -> None:
        """Read on from position `at` up to where the first piece begins; that of lines is found by `line`."""
        units = self._units
        if not units.delimiter:
            left = self.position = units.start + units.skip * units.record
            chunk = np.empty(_CHUNK, np.uint8)
            while left:
                n = self._readinto(chunk[: min(left, _CHUNK)].data)
                if n == 0:
                    self._ended = True
                    self.position -= left
                    break
                left -= n
            self._require_whole(units.start, self.position if units.stop is None else min(self.position, units.stop))
            return
        kept = bytearray()
        chunk = np.empty(_CHUNK, np.uint8)
        while line.position is None:
            n = self._readinto(chunk.data)
            if n == 0:
                self._ended = True
                self.position = at
                return
            data = chunk[:n].tobytes()[max(line.first - at, 0) :]
            at += n
            kept += data
            line.feed(data)
            del kept[: max(len(kept) - _CHUNK - 2 * len(units.delimiter), 0)]
        self.position = line.position
        self._rest = np.frombuffer(bytes(kept[len(kept) - (at - line.position) :]), np.uint8) if at else self._rest

    def fill(self, memory: NDArray[np.uint8]) -> Piece | None:
        """Fill a buffer, which has room for a step and PAD, with the next piece; None at the end."""
        plan, stop, last = self._plan, self._stop, self._last
        if stop is not None and self.position >= stop:
            return None  # before a read that may wait
        have = min(len(self._rest), plan.step)
        memory[:have] = self._rest[:have]
        self._rest = self._rest[have:]
        most = plan.step
        if last is not None and not self._units.delimiter:
            most = max(min(most, self._before + last - self.position), have)
        while have < most and not self._ended and len(self._rest) == 0:
            n = self._readinto(memory[have:most].data)
            self._ended = n == 0
            have += n
        over = self._ended and len(self._rest) == 0
        if last is not None and not self._units.delimiter and self.position + have - self._before >= last:
            have, over = self._before + max(last - self.position, 0), True
        piece = self._lines(memory, have, over) if self._units.delimiter else self._records(have, over)
        end = piece.before + piece.n
        keep = min(plan.before, end)
        self._rest = np.concatenate((memory[end - keep : have], self._rest))
        self._before = keep
        self.position += piece.n
        memory[end + piece.after : end + piece.after + PAD] = 0
        return piece if piece.n else None

    def _records(self, have: int, over: bool) -> Piece:
        plan = self._plan
        there = have - self._before
        n = min(plan.length, there if over else (there - plan.after) // plan.record * plan.record)
        if self._stop is not None:
            n = min(n, self._stop - self.position)
        self._require_whole(self.position, self.position + n)
        return Piece(n, self.position, self._before, min(plan.after, there - n))

    def _require_whole(self, low: int, high: int) -> None:
        torn = max(high - low, 0) % self._plan.record
        if torn:
            where = f"at offset {high - torn} inside a record of {self._plan.record} bytes"
            raise ValueError(f"{self._name} ends {where}")

    def _lines(self, memory: NDArray[np.uint8], have: int, over: bool) -> Piece:
        plan, units, stop = self._plan, self._units, self._stop
        if stop is not None and self.position >= stop:
            return Piece(0, self.position, 0, 0)
        known = units.delimiter if self.position and plan.overlaps else b""  # stands before, and may overlap what comes
        text = known + memory[:have].tobytes()
        n = have
        if stop is not None and self.position + have >= stop:
            line = LineStart(units.delimiter, stop - self.position + len(known), 0)
            line.feed(text[line.first :])
            if line.position is not None:
                return Piece(line.position - len(known), self.position, 0, 0)
        if not over:
            n = units.last_cut(text) - len(known)
            if n == 0:
                if len(self._rest) or self._readinto(memoryview(bytearray(1))):
                    raise ValueError(
                        f"{self._name} has a line at offset {self._first + self.position} that is longer than a piece, "
                        f"{plan.step} bytes: tier, or the buffers of pool, must be larger"
                    )
                n, self._ended = have, True
        return Piece(n, self.position, 0, 0)


def span(window: Window, plan: Plan) -> tuple[int, int, int]:
    """Return where a feed begins to read a window, up to where it reads at least, and at most."""
    m = plan.delimiter_size
    if not m:
        end = min(window.last, window.high + plan.after)
        return window.low - min(plan.before, window.low - window.first), end, end
    begin = window.low if window.known else max(window.low - 2 * m + 1, 0)
    return begin, min(window.high + _CHUNK, window.size), window.size


def get_buffer(pool: BufferPool, is_stopped: Callable[[], bool], first: bool) -> int:
    """Return a free buffer of a pool, waiting for one; raise Stopped if the workers are to end.

    A pool that does not wait is waited for all the same, unless this is the `first` buffer: workers return theirs.
    """
    while not is_stopped():
        index = pool.try_get()  # much quicker than a wait, if there is one
        if index >= 0:
            return index
        try:
            return int(pool.get(timeout=LOOK_S))
        except WouldBlock:
            if pool.nonblocking:
                if first:
                    raise
                time.sleep(_NAP_S)
    raise Stopped
