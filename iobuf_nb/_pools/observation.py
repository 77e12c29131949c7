"""What is known of the buffers of a pool that is observed: how often they were got, where, and who misused them."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._free import observation as words
from .._free.free_list import OF_OBSERVED, is_observed, observation_of
from .._free.observation import FAILED, GETS, LONGEST_WAIT, MOST_OUT, OBSERVATION, PUTS, WAITS, word_of
from .._free.owners import FREE
from .._free.processes import IDENTITY
from .._free.queue import ELSEWHERE
from .._jit import places
from .._jit.faces import compiled_as
from .._jit.handle import Handle
from .._memory.aligned import aligned_mem
from .._threads.clock import now_ns
from .._threads.outcomes import EMPTY, OK, WouldBlock
from ..atomics import load
from .allocator import NOT_CHECKED_OUT
from .holders import thread_names

ANY_THREAD = "any thread"


class PoolStats(NamedTuple):
    """What has happened to the buffers of a pool that was made with ``stats=True``; `BufferPool.stats` returns it.

    Attributes
    ----------
    gets, puts : int
        Buffers that were checked out, and that were returned, since the pool was made.
    failed_gets : int
        Gets that ended without a buffer while the pool was open: -1 from `try_get`, or WouldBlock. A `get_many` is not
        counted, only what it got.
    waits : int
        Gets that found nothing at first and waited, whether they got a buffer in the end or not; but not those that
        Ctrl-C ended.
    longest_wait : float
        The longest of them that has ended, in seconds.
    most_in_use : int
        The most buffers that were checked out at once.
    """

    gets: int
    puts: int
    failed_gets: int
    waits: int
    longest_wait: float
    most_in_use: int


class Options(NamedTuple):
    """What is observed of a pool."""

    traces: bool
    poisons: bool
    strict: bool


def options(stats: Any, trace: Any, debug: Any, checked: bool, shared: bool) -> Options | None:
    """Return what the arguments of a pool ask to observe; None for nothing."""
    for name, given in ("stats", stats), ("trace", trace):
        if not isinstance(given, (bool, np.bool_)):
            raise TypeError(f"{name} must be a bool, not {given!r:.60}")
    if not isinstance(debug, (bool, np.bool_)) and not (isinstance(debug, str) and debug == ANY_THREAD):
        raise (ValueError if isinstance(debug, str) else TypeError)(
            f"debug must be True, False or {ANY_THREAD!r}, not {debug!r:.60}"
        )
    for name, given in ("stats", stats), ("trace", trace), ("debug", debug):
        if given and shared:
            raise ValueError(f"{name} must be False for a shared pool: what it would see is spread over processes")
        if given and not checked:
            raise ValueError(
                f"{name} must be False for a pool with checked=False: it is seen where owners are recorded"
            )
    if not (stats or trace or debug):
        return None
    return Options(bool(trace or debug), bool(debug), bool(debug) and debug != ANY_THREAD)


class Observation(Handle):
    """The words in which a pool's gets and puts are counted, and what its buffers went through."""

    __slots__ = ("_arena", "_buffer_size", "_poisons", "_strict", "_stride", "_traces", "_words")

    def __init__(self, chosen: Options, capacity: int, arena: int = 0, stride: int = 0, buffer_size: int = 0) -> None:
        for function in (*OF_OBSERVED, words.forget_poison):
            function.ready()
        self._traces, self._poisons, self._strict = map(int, chosen)
        self._arena, self._stride, self._buffer_size = arena, stride, buffer_size
        size = words.BUFFERS + (capacity * words.OF_BUFFER if chosen.traces else 0)
        self._words: NDArray[np.int64] = aligned_mem(8 * size, 128).view(np.int64)
        self._describe(OBSERVATION)

    def attach_to(self, local: NDArray[np.int64], queue_words: NDArray[np.int64]) -> None:
        """Have a new pool observed from now on."""
        local[IDENTITY] = -self._address
        queue_words[ELSEWHERE] = 1  # so that a get that finds nothing comes to where it is counted

    def stats(self) -> PoolStats:
        """Return the counts."""
        puts = load(self._words, PUTS)  # first: no put is counted before its get
        gets, failed, waits, longest, most = (
            load(self._words, i) for i in (GETS, FAILED, WAITS, LONGEST_WAIT, MOST_OUT)
        )
        return PoolStats(gets, puts, failed, waits, longest / 1e9, most)

    def got(self, index: int) -> None:
        """Count a get by a coroutine, of a buffer that was handed to it."""
        words.count_get(self._address, index)

    def failed(self, n: int) -> None:
        """Count gets that found nothing, or not, if `n` is negative."""
        words.count_failed(self._address, n)

    async def wait(self, waiting: Awaitable[int]) -> int:
        """Await a buffer, and count that as a wait."""
        self.failed(-1)
        begin, index = now_ns(), OK
        try:
            return await waiting
        except WouldBlock:
            index = EMPTY
            raise
        finally:
            words.count_wait(self._address, now_ns() - begin, index)

    def place(self, index: int) -> str:
        """Return where the get of a buffer stands, as text."""
        return places.name_of(load(self._words, word_of(index, words.PLACE), "relaxed"))

    def spoiled(self, index: int) -> int:
        """Return 1 + the position of a byte that was written after the put of a buffer that is free; 0 for none."""
        known = load(self._words, word_of(index, words.SPOILED), "relaxed")
        putter = load(self._words, word_of(index, words.PUTTER), "relaxed")
        if known or putter <= 0:
            return known
        found = 1 + int(words.first_change(self._arena + index * self._stride, self._buffer_size))
        still_free = load(self._words, word_of(index, words.PUTTER), "relaxed") == putter
        return found if still_free else 0

    def forget(self, index: int) -> None:
        """Forget what was written into a free buffer: what is in it then is expected at the next get."""
        self._words[word_of(index, words.SPOILED)] = self._words[word_of(index, words.PUTTER)] = 0


def _filled_in_kernel(pool):
    if is_observed(pool._core):
        words.forget_poison(observation_of(pool._core), pool.capacity)


@compiled_as(_filled_in_kernel)
def filled(pool: Any) -> None:
    """Say that all buffers of a pool are written while they are free, on purpose."""
    if pool._observation is not None:
        words.forget_poison(pool._observation._address, pool.capacity)


def thread_name(thread: int) -> str:
    """Return the name of a thread, for a sentence."""
    return f"thread {thread_names().get(thread, thread)!r}"


class WrittenAfterPut(RuntimeError):
    """Becomes a RuntimeError that names the buffer, the byte, and who had put it."""

    def __new__(cls, index: Any, byte: int = 0, putter: int = 0, place: int = 0) -> Any:
        if isinstance(index, BaseException):  # CPython calls the class again on an instance of another class
            return index
        return RuntimeError(
            f"buffer {index} was written to after it was put: its byte {byte} has changed while it was free; "
            f"{thread_name(putter)} put it, which had got it at {places.name_of(place)}"
        )


class NotYours(ValueError):
    """Becomes a ValueError that says who has a buffer."""

    def __new__(cls, index: Any, owner: int = 0, place: int = 0) -> Any:
        if isinstance(index, BaseException):
            return index
        if owner <= FREE:
            return ValueError(NOT_CHECKED_OUT.format(index))
        return ValueError(
            f"index must be that of a buffer of this thread; {thread_name(owner)} got {index} at "
            f"{places.name_of(place)}; where threads hand buffers on, make the pool with debug={ANY_THREAD!r}"
        )
