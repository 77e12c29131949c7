"""Inside kernels, against queues and pools in C and C++: one group of figures for each workload."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Protocol

from .measure import Sampled, Table, Timed
from .peers import PEERS
from .work import (
    CHECKED,
    CORES,
    HELD,
    MAGAZINE,
    MAGAZINE_256,
    MAGAZINE_CHECKED,
    POOL,
    RING,
    ROOM,
    SUBJECTS,
    VYUKOV,
    WAITING,
    floor,
)

MEMPOOL, STACK, RTE_RING = "rte_mempool", "stack, one thread", "rte_ring"
MPMC = [peer.name for peer in PEERS if peer.mpmc]
BEST, MEDIAN = "best of the C and C++ queues", "median of the C and C++ queues"


class Runs(Protocol):
    """A subject or a peer."""

    def run(self, workload: str, n: int, threads: int) -> float:
        """Return the nanoseconds for each round."""


def table(
    short: str,
    title: str,
    workload: str,
    quick: bool,
    ours: Mapping[str, Runs],
    threads: int = 1,
    extra: Mapping[str, Timed] = {},  # on one thread
    passes: bool = False,
) -> Table:
    """Measure `workload` on subjects of ours, on extra cases, and on the peers that can be built and do it."""
    made = Table(title, "ns", short)
    subjects = dict(ours)
    for peer in PEERS:
        if threads > peer.threads or (passes and not peer.passes):
            continue
        if peer.missing:
            made.missing.append(f"{peer.name}: {peer.missing}")
        else:
            subjects[peer.name] = peer
    seconds, runs, tries = (0.01, 5, 3) if quick else (0.02, 31, 5)
    cases = {name: Sampled(timed, seconds, 1, tries) for name, timed in extra.items()}
    for name, subject in subjects.items():
        timed = partial(subject.run, workload, threads=threads)
        cases[name] = Sampled(timed, seconds, threads, tries)
    made.measure(cases, runs)
    if disturbed := sum(case.disturbed for case in cases.values()):
        made.notes.append(f"In {disturbed} of {(runs + 1) * len(cases)} samples the threads did not run all the time.")
    return made


def of_subjects(*names: str) -> dict[str, Runs]:
    everybody = {**SUBJECTS, **WAITING}
    return {name: everybody[name] for name in names}


def alone(quick: bool) -> list[Table]:
    """W1: get and put, one thread."""
    ours, extra = of_subjects(*SUBJECTS, *WAITING), {"floor: two CAS": floor}
    made = table("W1 one thread", "Get+put in a kernel, one thread", "pairs", quick, ours, extra=extra)
    made.compare(RING, MPMC, "<= 1.0", BEST)
    made.compare(POOL, MPMC, "<= 1.0", BEST)
    made.compare(MAGAZINE, MEMPOOL, "<= 0.3")
    made.compare(MAGAZINE, STACK, "<= 1.3")
    made.compare(RING, VYUKOV, "<= 1.1")
    for suffix in "", ", get/put":
        made.compare(POOL + suffix, "floor: two CAS", "<= 1.6")
        made.compare(CHECKED + suffix, "floor: two CAS", "<= 2.5")
    return [made]


def together(quick: bool) -> list[Table]:
    """W2: get and put, two threads on one pool, and as many as there are processors."""
    tables = []
    for threads in sorted({2, CORES} - {1}):
        extra = {f"{MAGAZINE}, alone": partial(SUBJECTS[MAGAZINE].run, "pairs", threads=1)}
        title = f"Get+put in kernels, {threads} threads at once"
        made = table(f"W2 {threads} threads", title, "pairs", quick, SUBJECTS, threads, extra)
        made.compare(RING, MPMC, "<= 0.25", MEDIAN)
        made.compare(RING, VYUKOV, "< 1")
        made.compare(MAGAZINE, MEMPOOL, "<= 0.4")
        made.compare(f"{MAGAZINE}, alone", MAGAZINE, f">= {0.9 * threads}")
        tables.append(made)
    return tables


def transfer(quick: bool) -> list[Table]:
    """W3: from one thread to another."""
    ours = of_subjects(RING, f"{RING}, get/put", VYUKOV)
    title = f"Items through a queue of {ROOM}, thread to thread"
    made = table("W3 queue", title, "transfer", quick, ours, 2, passes=True)
    made.compare(RING, MPMC, "<= 1.0", BEST)
    made.compare(f"{RING}, get/put", MPMC, "<= 1.0", BEST)
    return [made]


def bulk(quick: bool) -> list[Table]:
    """W4: get 32, put 32."""
    ours = of_subjects(POOL, CHECKED, MAGAZINE, MAGAZINE_256, MAGAZINE_CHECKED)
    made = table("W4 bulk of 32", "Get+put in a kernel, 32 at a time, for each item", "bulk", quick, ours)
    made.compare(POOL, RTE_RING, "<= 1.5")
    for name in MAGAZINE, MAGAZINE_256:
        made.compare(name, MEMPOOL, "<= 1.0")
    return [made]


def empty(quick: bool) -> list[Table]:
    """W5: get where there is nothing."""
    made = table("W5 empty", "Get from an empty pool in a kernel", "empty", quick, SUBJECTS)
    made.compare(RING, MPMC, "<= 1.2", BEST)
    made.compare(POOL, MPMC, "<= 1.2", BEST)
    return [made]


def hold(quick: bool) -> list[Table]:
    """W6: get 48, then put them all."""
    tables = []
    for threads in 1, 2:
        title = f"Get {HELD}, then put them, in kernels, {threads} thread{'s' * (threads - 1)}, for each item"
        made = table(f"W6 hold, {threads} thread{'s' * (threads - 1)}", title, "hold", quick, SUBJECTS, threads)
        made.compare(POOL, MPMC, "<= 1.0", BEST)
        for name in MAGAZINE, MAGAZINE_256:
            made.compare(name, MEMPOOL, "<= 1.0")
        tables.append(made)
    return tables


def buffers(quick: bool) -> list[Table]:
    """W7: get a buffer, write 1 KiB, pass it on; the other thread reads it and puts it back."""
    ours = of_subjects(POOL, CHECKED, MAGAZINE, MAGAZINE_CHECKED)
    title = "Buffers of 1 KiB written by one thread, read by another"
    made = table("W7 buffers", title, "buffers", quick, ours, 2, passes=True)
    made.compare(POOL, MPMC, "<= 1.0", BEST)
    return [made]
