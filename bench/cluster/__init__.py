"""Streams on a Dask cluster of two processes against Dask's collections, and what tasks and new workers cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from ..table import Settings, Table
from ..workloads.cluster import CLUSTER_ARRAYS, CLUSTER_FIRST, CLUSTER_GROUPS, CLUSTER_LINES, CLUSTER_TASKS
from ..workloads.workload import Workload
from . import reading, tasks
from .workers import missing, two_workers
from .workers import versions as versions


def part(workload: Workload, measure: Callable[[Any, Settings], Table], settings: Settings) -> list[Table]:
    """Measure on two workers, if Dask is there."""
    if reasons := missing("distributed"):
        return [Table(workload, missing=reasons)]
    with two_workers() as client:
        return [measure(client, settings)]


PARTS = {
    "arrays": partial(part, CLUSTER_ARRAYS, reading.arrays),
    "lines": partial(part, CLUSTER_LINES, reading.lines),
    "groups": partial(part, CLUSTER_GROUPS, reading.groups),
    "tasks": partial(part, CLUSTER_TASKS, tasks.empty),
    "first": partial(part, CLUSTER_FIRST, tasks.first),
}


def run(settings: Settings) -> list[Table]:
    """Measure all parts, on the same two workers."""
    with nullcontext() if missing("distributed") else two_workers():
        return [table for each in PARTS.values() for table in each(settings)]
