"""Progress and throughput of streams and copies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Throughput:
    """A result with bytes and seconds."""

    bytes: int
    seconds: float

    @property
    def gb_per_s(self) -> float:
        """Throughput in 10**9 bytes per second."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0


@contextmanager
def reporter(progress: Any) -> Iterator[Callable[[int, int | None], None]]:
    """Yield the function to report progress to: `progress` if callable, a tqdm bar for True, a no-op for False."""
    if callable(progress):
        yield progress
    elif progress is True:
        try:
            from tqdm import tqdm
        except ImportError:
            raise ImportError("progress=True needs tqdm: pip install 'iobuf-nb[progress]'") from None
        hidden = getattr(sys.stderr, "closed", True)  # sys.stderr is None if there is no standard error
        with tqdm(unit="B", unit_scale=True, leave=False, disable=hidden) as bar:

            def show(done: int, size: int | None) -> None:
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
