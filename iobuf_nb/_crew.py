"""A crew: threads that work on one thing together, and all stop at the first error of any of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

LOOK_S = 0.05  # who waits for others looks around this often


class Crew:
    """Threads, the first error, and the wait for their end. Made by the thread that runs it, used once.

    Parameters
    ----------
    stop : callable
        Makes every thread come to its end soon; called after each error, from the thread that had it.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._ended = threading.Semaphore(0)
        self._errors: list[BaseException] = []

    def run(
        self,
        work: Callable[[Any], None],
        inputs: Iterable[Any],
        meanwhile: Callable[[], None],
        first: Callable[[], None] | None = None,
    ) -> None:
        """Call `work` on each input, in a thread of its own; return when all have ended, or raise the first error.

        In this thread `first` is called once, beside them, and then `meanwhile` every now and then; their errors count
        too, Ctrl-C among them.
        """
        started = []
        try:
            for item in inputs:
                thread = threading.Thread(target=self._guard, args=(work, item), name="iobuf_nb-worker")
                thread.start()
                started.append(thread)
            if first is not None:
                first()
            # Not by joining: Python 3.11 takes a thread for ended if Ctrl-C interrupts that.
            for _ in started:
                while not self._ended.acquire(timeout=LOOK_S):
                    meanwhile()
        except BaseException as error:
            self.fail(error)
        for thread in started:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def fail(self, error: BaseException) -> None:
        """Note an error and stop everybody."""
        self._errors.append(error)
        self._stop()

    def _guard(self, work: Callable[[Any], None], item: Any) -> None:
        try:
            work(item)
        except BaseException as error:
            self.fail(error)
        finally:
            self._ended.release()
