"""Take turns, repeat, report: how every benchmark here measures."""

from __future__ import annotations

import operator
import os
import platform
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np

import iobuf_nb

COMPARED = {"<=": operator.le, "<": operator.lt, ">=": operator.ge}
Timed = Callable[[int], float]  # of a number of rounds: nanoseconds for each

RUNNING = 0.9  # of the time that its threads could have run, in a sample that counts at once
WHOLE = 960  # rounds come in multiples of it, so that batches are whole
CHOSEN: dict[str, Callable[[list[float]], float]] = {"best": min, "median": statistics.median}


@dataclass
class Comparison:
    """A case, what it is measured by, run by run, and what the median of that is meant to be.

    By nothing: its own figure; by one other case: the ratio to it; by several: to the one that `choice` tells in its
    first word, as "best of the queues" does, of those that were measured.
    """

    case: str
    bases: list[str]
    target: str
    choice: str = "best"

    def values(self, samples: Mapping[str, list[float]]) -> list[float]:
        """Return the ratio of each run; none if a side was not measured."""
        bases = [samples[name] for name in self.bases if name in samples]
        if self.case not in samples or (self.bases and not bases):
            return []
        if not bases:
            return samples[self.case]
        return [
            figure / CHOSEN[self.choice.split()[0]](others)
            for figure, *others in zip(samples[self.case], *bases, strict=True)
        ]

    def reached(self, values: list[float]) -> bool:
        """Return whether the median is what it is meant to be."""
        relation, limit = self.target.split()
        return COMPARED[relation](statistics.median(values), float(limit))

    def __str__(self) -> str:
        return " / ".join([self.case, *([self.choice] if len(self.bases) > 1 else self.bases)])


def spread(values: list[float]) -> str:
    """Return the middle half's width, in percent of the median."""
    if len(values) < 2:
        return "-"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{100 * (high - low) / middle:.0f} %"


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


@dataclass
class Table:
    """Samples of several cases, taken in turn and in changing order.

    So a drift of the machine's speed meets all of them, and none always comes after the same other one.
    """

    title: str
    unit: str
    short: str = ""  # its name beside others
    samples: dict[str, list[float]] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def measure(self, cases: Mapping[str, Callable[[], float]], runs: int) -> None:
        """Run every case once to warm up, then `runs` times in turn; a case returns its figure."""
        for name, case in cases.items():
            case()
            self.samples[name] = []
        order = list(cases)
        for _ in range(runs):
            random.shuffle(order)
            for name in order:
                self.samples[name].append(cases[name]())

    def compare(self, case: str, bases: str | list[str], target: str, choice: str = "best") -> None:
        """Add a row with the ratio of `case` to one other case, or to one chosen in each run, and its target."""
        self.comparisons.append(Comparison(case, [bases] if isinstance(bases, str) else bases, target, choice))

    def expect(self, case: str, target: str) -> None:
        """Add a row with what the figure of `case` itself is meant to be."""
        self.comparisons.append(Comparison(case, [], target))

    def __str__(self) -> str:
        runs = max(map(len, self.samples.values()))
        header = row("case", f"median of {runs}, {self.unit}", "min", "max", "spread")
        lines = [f"## {self.title}", "", header, "|---" * 5 + "|"]
        for name, values in self.samples.items():
            figures = (f"{figure:.3g}" for figure in (statistics.median(values), min(values), max(values)))
            lines.append(row(name, *figures, spread(values)))
        if self.comparisons:
            lines += ["", row("ratio", "median", "min", "max", "spread", "target", "reached"), "|---" * 7 + "|"]
        for comparison in self.comparisons:
            values = comparison.values(self.samples)
            if values:
                figures = (f"{figure:.2f}" for figure in (statistics.median(values), min(values), max(values)))
                reached = "yes" if comparison.reached(values) else "**no**"
                lines.append(row(comparison, *figures, spread(values), comparison.target, reached))
            else:
                lines.append(row(comparison, *"----", comparison.target, "not measured"))
        if self.missing:
            lines += ["", "Not measured:", "", *(f"- {reason}" for reason in self.missing)]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"


def table_from(raw: Mapping[str, Any]) -> Table:
    """Return the table that `dataclasses.asdict` took apart."""
    return Table(**{**raw, "comparisons": [Comparison(**part) for part in raw["comparisons"]]})


@dataclass
class Sampled:
    """A case for a `Table`: some milliseconds of `timed` on `threads` threads.

    A sample during which they did not run nearly all the time, because other programs had the processors, is taken
    anew, up to `tries` times; then the one in which they ran most counts.
    """

    timed: Timed
    seconds: float
    threads: int = 1
    tries: int = 1
    last: float = 0.0
    disturbed: int = 0

    def __call__(self) -> float:
        """Return nanoseconds a round; the first call finds out how many rounds to take, and compiles."""
        if not self.last:
            self.timed(WHOLE)
            self.last = self.timed(10 * WHOLE)
        taken: list[tuple[float, float]] = []
        while len(taken) < self.tries and (not taken or taken[-1][0] < RUNNING):
            n = int(self.seconds * 1e9 / self.last / self.threads)
            start, used = time.perf_counter(), time.process_time()
            self.last = self.timed(max(n - n % WHOLE, 10 * WHOLE))
            share = (time.process_time() - used) / (time.perf_counter() - start) / self.threads
            taken.append((share, self.last))
        share, figure = max(taken)
        self.disturbed += share < RUNNING
        return figure


def resident() -> int:
    """Return this process's resident memory in bytes, without pages of mapped files."""
    with open("/proc/self/statm") as file:
        fields = file.read().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def growth(function: Callable[[], object]) -> float:
    """Return by how many MiB memory grew at most while a function ran."""
    done = threading.Event()
    before = resident()
    peak = [before]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident())

    thread = threading.Thread(target=watch)
    thread.start()
    function()
    done.set()
    thread.join()
    return (peak[0] - before) / 2**20


def machine() -> dict[str, str]:
    """Return what a figure depends on: processor, system, versions, commit."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    model = platform.processor()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "numpy": np.__version__,
        "iobuf_nb": f"{iobuf_nb.__version__} ({commit or 'no commit'})",
    }
