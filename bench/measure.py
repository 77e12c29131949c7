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
    disturbed: int = 0

    def measure(self, cases: Mapping[str, Callable[[], float]], runs: int, tries: int = 1, threads: int = 1) -> None:
        """Run every case once to warm up, then `runs` times in turn; a case returns its figure.

        A sample during which its `threads` threads were not all running most of the time, because other programs had
        the processors, is taken anew, up to `tries` times; then the one they ran most in counts.
        """
        for name, case in cases.items():
            case()
            self.samples[name] = []
        order = list(cases)
        for _ in range(runs):
            random.shuffle(order)
            for name in order:
                taken: list[tuple[float, float]] = []
                while len(taken) < tries and (not taken or taken[-1][0] < RUNNING):
                    start, used = time.perf_counter(), time.process_time()
                    figure = cases[name]()
                    share = (time.process_time() - used) / (time.perf_counter() - start) / threads
                    taken.append((share, figure))
                share, figure = max(taken)
                self.samples[name].append(figure)
                self.disturbed += tries > 1 and share < RUNNING

    def compare(self, case: str, bases: str | list[str], target: str, choice: str = "best") -> None:
        """Add a row with the ratio of `case` to one other case, or to one chosen in each run, and its target."""
        self.comparisons.append(Comparison(case, [bases] if isinstance(bases, str) else bases, target, choice))

    def expect(self, case: str, target: str) -> None:
        """Add a row with what the figure of `case` itself is meant to be."""
        self.comparisons.append(Comparison(case, [], target))

    def __str__(self) -> str:
        lines = [f"## {self.title}", "", row("case", f"median {self.unit}", "min", "max", "spread"), "|---" * 5 + "|"]
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
        if self.disturbed:
            total = sum(map(len, self.samples.values()))
            lines += ["", f"In {self.disturbed} of {total} samples threads did not run all the time."]
        if self.missing:
            lines += ["", "Not measured:", "", *(f"- {reason}" for reason in self.missing)]
        return "\n".join(lines) + "\n"


def table_from(raw: Mapping[str, Any]) -> Table:
    """Return the table that `dataclasses.asdict` took apart."""
    return Table(**{**raw, "comparisons": [Comparison(**part) for part in raw["comparisons"]]})


def sampled(timed: Timed, seconds: float, threads: int = 1) -> Callable[[], float]:
    """Return a case for a `Table`: as many rounds on each thread as would have taken `seconds` at the last speed."""
    last = 0.0

    def sample() -> float:
        nonlocal last
        if not last:
            timed(WHOLE)  # kernels are compiled here
            last = timed(10 * WHOLE)
        n = int(seconds * 1e9 / last / threads)
        last = timed(max(n - n % WHOLE, 10 * WHOLE))
        return last

    return sample


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
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "numpy": np.__version__,
        "iobuf_nb": f"{iobuf_nb.__version__} ({commit or 'no commit'})",
    }
