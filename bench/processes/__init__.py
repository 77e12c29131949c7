"""Pools and channels that processes share: a file for each kind of work, and parts to run one by one."""

from __future__ import annotations

from ..table import Settings, Table
from . import alone, attach, messages
from .ways import versions as versions

PARTS = {
    "alone": alone.pairs,
    "killed": alone.after_a_kill,
    "one_way": messages.large,
    "one_way_small": messages.small,
    "round_trip": messages.round_trips,
    "attach": attach.run,
}


def run(settings: Settings) -> list[Table]:
    """Measure all parts."""
    return [table for part in PARTS.values() for table in part(settings)]
