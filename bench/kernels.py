"""Inside kernels, against queues and pools in C, C++ and Rust: one group for each of the workloads W1 to W7."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

from .measure import Sampled, Timed
from .names import (
    CHECKED,
    FLOOR,
    MAGAZINE,
    MAGAZINE_256,
    MAGAZINE_ALONE,
    MAGAZINE_CHECKED,
    POOL,
    RING,
    VYUKOV,
    WAITING_RING,
)
from .peers import PEERS
from .table import Settings, Table
from .work import CORES, OBSERVED, SUBJECTS, WAITING, floor
from .workloads.kernels import ALONE, BUFFERS, BULK, EMPTY, HOLD, TOGETHER, TRANSFER


class Runs(Protocol):
    """A subject or a peer."""

    def run(self, workload: str, n: int, threads: int) -> float:
        """Return the nanoseconds for each round."""


def measured(
    table: Table,
    function: str,  # that runs the workload, on either side
    settings: Settings,
    ours: Mapping[str, Runs],
    threads: int = 1,
    extra: Mapping[str, Timed] = {},  # on one thread
    passes: bool = False,
) -> list[Table]:
    """Fill the table of a workload: subjects of ours, extra cases, and the peers that can be built and can run it."""
    subjects = dict(ours)
    for peer in PEERS:
        if threads > peer.threads or (passes and not peer.passes):
            continue
        if peer.missing:
            table.missing.append(f"{peer.name}: {peer.missing}")
        else:
            subjects[peer.name] = peer
    seconds, runs, tries = (0.01, 5, 3) if settings.quick else (0.02, 31, 5)
    cases = {name: Sampled(timed, seconds, 1, tries) for name, timed in extra.items()}
    for name, subject in subjects.items():
        timed = partial(subject.run, function, threads=threads)
        cases[name] = Sampled(timed, seconds, threads, tries)
    table.measure(cases, runs, settings.seed)
    if disturbed := sum(case.disturbed for case in cases.values()):
        samples = (runs + 1) * len(cases)
        table.notes.append(f"In {disturbed} of {samples} samples the threads ran for less than 90 % of the time.")
    return [table]


def of_subjects(*names: str) -> dict[str, Runs]:
    all_of_ours = {**SUBJECTS, **OBSERVED, **WAITING}
    return {name: all_of_ours[name] for name in names}


def alone(settings: Settings) -> list[Table]:
    """W1: get and put, one thread."""
    ours = of_subjects(*SUBJECTS, *OBSERVED, *WAITING)
    return measured(Table(ALONE), "pairs", settings, ours, extra={FLOOR: floor})


def together(settings: Settings) -> list[Table]:
    """W2: get and put, two threads on one pool, and as many as there are processors."""
    tables = []
    for threads in sorted({2, CORES} - {1}):
        extra = {MAGAZINE_ALONE: partial(SUBJECTS[MAGAZINE].run, "pairs", threads=1)}
        tables += measured(Table(TOGETHER, threads), "pairs", settings, SUBJECTS, threads, extra)
    return tables


def transfer(settings: Settings) -> list[Table]:
    """W3: from one thread to another."""
    return measured(Table(TRANSFER), "transfer", settings, of_subjects(RING, WAITING_RING, VYUKOV), 2, passes=True)


def bulk(settings: Settings) -> list[Table]:
    """W4: get 32, put 32."""
    ours = of_subjects(POOL, CHECKED, MAGAZINE, MAGAZINE_256, MAGAZINE_CHECKED)
    return measured(Table(BULK), "bulk", settings, ours)


def empty(settings: Settings) -> list[Table]:
    """W5: get from an empty pool."""
    return measured(Table(EMPTY), "empty", settings, SUBJECTS)


def hold(settings: Settings) -> list[Table]:
    """W6: get 48, then put them all."""
    tables = []
    for threads in 1, 2:
        tables += measured(Table(HOLD, threads), "hold", settings, SUBJECTS, threads)
    return tables


def buffers(settings: Settings) -> list[Table]:
    """W7: get a buffer, write 1 KiB, pass it on; the other thread reads it and puts it back."""
    ours = of_subjects(POOL, CHECKED, MAGAZINE, MAGAZINE_CHECKED)
    return measured(Table(BUFFERS), "buffers", settings, ours, 2, passes=True)
