"""Streams against what one would write without them: a file for each kind of work, and parts to run one by one."""

from __future__ import annotations

from ..table import Settings, Table
from . import compressed, many, output, reading, rows
from .timing import versions as versions

PARTS = {
    "warm": reading.warm,
    "cold": reading.cold,
    "lines": reading.lines,
    "rows": rows.run,
    "files": many.files,
    "pipe": many.pipe,
    "call": many.call,
    "filter": output.filtering,
    "collect": output.collecting,
    "compressed": compressed.run,
}


def run(settings: Settings) -> list[Table]:
    """Measure all parts."""
    return [table for part in PARTS.values() for table in part(settings)]
