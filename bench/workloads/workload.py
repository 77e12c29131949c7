"""A row of the table of workloads."""

from __future__ import annotations

from dataclasses import dataclass

from ..targets import Target


@dataclass(frozen=True)
class Workload:
    """A row of the table; its group is the word that selects it on the command line."""

    group: str
    name: str
    does: str
    question: str
    unit: str
    targets: tuple[Target, ...] = ()
