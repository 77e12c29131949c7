"""How much the streams have to do in a full run, and in a quick one."""

from __future__ import annotations

from typing import NamedTuple

from ..table import Settings


class Sizes(NamedTuple):
    """Sizes in bytes, unless said otherwise, and how often each case runs."""

    file: int  # of float32, or of lines
    records: int  # to filter, or to search
    compressed: int  # before compression
    pipe: int
    files: int  # number of small files
    rows: int  # number of measurements
    calls: int  # number of calls of a sample
    runs: int


FULL = Sizes(1 << 31, 1 << 30, 1 << 28, 10**9, 20_000, 100_000_000, 500, 5)
QUICK = Sizes(1 << 28, 1 << 27, 1 << 25, 10**8, 2_000, 1_000_000, 100, 3)


def sizes(settings: Settings) -> Sizes:
    """Return the sizes of a run."""
    return QUICK if settings.quick else FULL
