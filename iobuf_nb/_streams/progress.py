"""How far a stream has come, and how fast it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Throughput:
    """What has moved some bytes in some seconds."""

    bytes: int
    seconds: float

    @property
    def gb_per_s(self) -> float:
        """Speed in 10**9 bytes a second."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0


@contextmanager
def reporter(progress: Any) -> Iterator[Callable[[int, int | None], None]]:
    """Give the function that tells how far things are: a callable as it is, a bar for True, nothing for False."""
    if callable(progress):
        yield progress
    elif progress is True:
        try:
            from tqdm import tqdm
        except ImportError:
            raise ImportError("progress=True needs tqdm: pip install 'iobuf-nb[progress]'") from None
        nobody_sees = getattr(sys.stderr, "closed", True)  # without standard error there is None
        with tqdm(unit="B", unit_scale=True, leave=False, disable=nobody_sees) as bar:

            def show(done: int, size: int | None) -> None:
                bar.total = size
                bar.update(done - bar.n)

            yield show
    elif progress is False:
        yield lambda done, size: None
    else:
        raise TypeError(f"progress must be True, False or a callable, not {progress!r:.60}")


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
