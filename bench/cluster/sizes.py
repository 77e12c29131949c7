"""How much a cluster has to do in a full run, and in a quick one."""

from __future__ import annotations

from typing import NamedTuple

from ..table import Settings


class Sizes(NamedTuple):
    """Bytes of all files of a part, unless said otherwise."""

    values: int  # of float32, in VALUE_FILES files
    text: int  # in TEXT_FILES files
    tasks: int  # number of empty tasks
    starts: int  # number of new workers


VALUE_FILES, TEXT_FILES = 64, 16
FULL = Sizes(1 << 32, 1 << 31, 1000, 11)
QUICK = Sizes(1 << 28, 1 << 26, 200, 3)


def sizes(settings: Settings) -> Sizes:
    """Return the sizes of a run."""
    return QUICK if settings.quick else FULL
