"""Progress, time and throughput of streams and copies."""

from __future__ import annotations

import os
import reprlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any

import numpy as np

from .._pools.repr import as_table


class Throughput:
    """A result with bytes and seconds."""

    bytes: int
    seconds: float
    compile_seconds: float

    @property
    def gb_per_s(self) -> float:
        """Throughput in 10**9 bytes per second."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    def _repr_html_(self) -> str:
        shown = {"bytes": self.bytes, "GB/s": self.gb_per_s}
        shown |= {"seconds": self.seconds, "compile_seconds": self.compile_seconds}
        for name, value in vars(self).items():
            if type(value) is list and len(value) <= _MOST_ROWS:  # of states, one for each worker or source
                shown |= {f"{name}[{k}]": each for k, each in enumerate(value)}
            elif name not in shown and value is not None and (name not in _SHOWN_IF_ANY or value):
                shown[name] = value
        return as_table(type(self).__name__, {name: _in_short(value) for name, value in shown.items()})


_SHOWN_IF_ANY = "names", "written", "mapped"
_MOST_ROWS = 16
_short = reprlib.Repr()  # which bears a repr that raises
_short.maxtuple, _short.maxstring, _short.maxother = 8, 100, 100


def _in_short(value: Any) -> str:
    """Return a value as a cell of a table: an array of many by its shape, others in some 100 characters."""
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"{value.dtype} array of shape {value.shape}"
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else _short.repr(value)
    )


class Stopwatch:
    """Measures the time from the first read to the last, and apart from it that in which kernels are compiled.

    Any thread may start it; all else is done by the thread that made it.

    Attributes
    ----------
    seconds : float
        From the first `start` to the last `stop`, without the time in `compiling`; 0 before.
    compile_seconds : float
        The time in `compiling`.
    """

    def __init__(self) -> None:
        self.seconds = self.compile_seconds = 0.0
        self._starts: dict[str, float] = {}
        self._compiling_since_start = 0.0

    def start(self) -> None:
        """Start it; later calls change nothing."""
        self._starts.setdefault("first", perf_counter())  # one step, should several threads come at once

    def stop(self) -> None:
        """Set `seconds`; a later call sets it again."""
        if self._starts:
            self.seconds = perf_counter() - self._starts["first"] - self._compiling_since_start

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Count the time of a ``with`` block, in which kernels are compiled or loaded, as `compile_seconds`."""
        before = perf_counter()
        yield
        seconds = perf_counter() - before
        self.compile_seconds += seconds
        if self._starts:
            self._compiling_since_start += seconds


@contextmanager
def reporter(progress: Any, label: str, unit: str = "B") -> Iterator[Callable[[int, int | None], None]]:
    """Yield the function to report to: `progress` if callable, a tqdm bar with a label for True, a no-op for False."""
    if callable(progress):
        yield progress
    elif progress is True:
        try:
            from tqdm import tqdm
        except ImportError:
            raise ImportError("progress=True needs tqdm: pip install 'iobuf-nb[progress]'") from None
        hidden = getattr(sys.stderr, "closed", True)  # sys.stderr is None if there is no standard error
        bar: Any = None
        with ExitStack() as stack:

            def show(done: int, size: int | None) -> None:
                nonlocal bar
                if bar is None:  # made now, so that its rate does not count the time before the first read
                    options = {"desc": label, "total": size, "unit": unit, "unit_scale": unit == "B", "leave": False}
                    bar = stack.enter_context(tqdm(**options, disable=hidden))
                bar.total = size
                bar.update(done - bar.n)

            yield show
    elif progress is False:
        yield lambda done, size: None
    else:
        raise TypeError(f"progress must be True, False or a callable, not {progress!r:.60}")


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
