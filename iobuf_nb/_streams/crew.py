"""A crew: threads that share one job and all stop at the first error of any of them."""

from __future__ import annotations

import _thread
import functools
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import BuiltinFunctionType
from typing import Any

import numpy as np

from .._jit.compile import compile_for, kernel
from .._pools.bounded_queue import BoundedQueue
from .._pools.pool import BufferPool
from .._threads.clock import nap
from .._threads.gil import LOOK_NS
from ..atomics import fetch_add, load

LOOK_S = LOOK_NS / 1e9


def require_threads() -> None:
    """Raise if Python is shutting down and starts no more threads."""
    if sys.is_finalizing():
        raise RuntimeError("no threads can be started while Python is shutting down")


def require_real_threads(what: str) -> None:
    """Raise if threads are greenlets, which all stand still while one of them waits for another."""
    if not isinstance(_thread.start_new_thread, BuiltinFunctionType):
        raise ValueError(f"{what} needs threads, which gevent or eventlet has replaced by greenlets")


@functools.cache
def compile_methods(may_wait: bool = False) -> None:
    """Call the methods of pools that workers call, so that none of them is compiled while workers read."""
    pool = BufferPool(1, 1, checked=False)  # unchecked: Ctrl-C between the two calls leaves nothing to warn of
    pool.put(pool.try_get())
    if may_wait:
        pool.put(pool.get())


def put_back(ready: BoundedQueue, pool: BufferPool) -> None:
    """Return the buffers to a pool whose indices are left in a queue."""
    while (index := ready.try_get()) >= 0:
        pool.put(index)


@kernel
def _outlast(at_work):
    """Wait until no thread is at work, ignoring signals."""
    # Y2 acquires from Y1: what the threads did is done, and seen. Mutants: "a crew waits by relaxed loads",
    # "a crew does not wait for those at work"
    while load(at_work, 0, "seq_cst"):
        nap(1_000_000)


class Crew:
    """Starts threads, keeps their first error, and waits for their end. Used once, by the thread that made it.

    Parameters
    ----------
    stop : callable
        Makes all threads end soon; called after each error, in the thread that raised it.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        # Not a semaphore: Ctrl-C at the wrong moment would leave its lock locked.
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._errors: list[BaseException] = []
        self._over = False
        self._at_work = np.zeros(1, np.int64)
        # Compiled now: neither while handling Ctrl-C, nor while other workers read.
        compile_for(_outlast, self._at_work)
        fetch_add(self._at_work, 0, 0, "seq_cst")  # Y1 releases to Y2, below

    def run(
        self,
        work: Callable[[Any], None],
        inputs: Iterable[Any],
        meanwhile: Callable[[], None],
        first: Callable[[], None] | None = None,
    ) -> None:
        """Call `work` on each input, in a thread of its own; return when all have ended, or raise the first error.

        Meanwhile this thread calls `first` once, then `meanwhile` repeatedly; their errors count too, KeyboardInterrupt
        included. No thread is at work when this returns or raises; only a second Ctrl-C at the same moment may leave
        some running a little longer.
        """
        started = 0
        try:
            try:
                for item in inputs:
                    # Not threading.Thread: Ctrl-C inside its start or join would leave locks held forever.
                    _thread.start_new_thread(self._guard, (work, item))
                    started += 1
                if first is not None:
                    first()
                for _ in range(started):
                    while not self._has_ended():
                        meanwhile()
            except BaseException as error:
                self.fail(error)
        finally:
            self._over = True
            if self._at_work[0]:
                self._stop()
                _outlast(self._at_work)
        if self._errors:
            raise self._errors[0]

    @property
    def is_at_work(self) -> bool:
        """Whether some of the threads have not ended."""
        return bool(self._at_work[0])

    def fail(self, error: BaseException) -> None:
        """Record an error and stop all threads."""
        self._errors.append(error)
        self._stop()

    def _has_ended(self) -> bool:
        """Wait briefly for one of the threads to end."""
        with suppress(queue.Empty):
            self._ended.get(timeout=LOOK_S)
            return True
        return False

    def _guard(self, work: Callable[[Any], None], item: Any) -> None:
        sys.settrace(threading.gettrace())  # as threading does, for debuggers and coverage
        # Y1 releases to Y2. The GIL orders it with `_over`: a thread sees that, or is seen. Mutants:
        # "a thread is counted after it has looked whether it is too late", "a thread that is too late works",
        # "a crew looks who is at work before it says that it is over"
        fetch_add(self._at_work, 0, 1, "seq_cst")
        try:
            if not self._over:  # else it started too late for `run` to wait for it
                work(item)
        except BaseException as error:
            self.fail(error)
        finally:
            # Y1 releases to Y2. Mutant: "a thread is counted out by a relaxed access"
            fetch_add(self._at_work, 0, -1, "seq_cst")
            self._ended.put(None)


@contextmanager
def nothing_lost(pool: BufferPool, crew: Crew) -> Iterator[None]:
    """Return, after an error in a ``with`` block, what this thread still has of a pool since it began.

    Ctrl-C may come after a get and before the next line. An unchecked pool does not tell what was lost.
    """
    before = pool.holders() if pool.checked else {}
    try:
        yield
    except BaseException:
        if pool.checked and not crew.is_at_work:
            for index, owner in pool.holders().items():
                if owner == threading.get_ident() and index not in before:
                    pool.put(index)
        raise
