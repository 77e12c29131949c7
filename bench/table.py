"""The figures of one workload on one machine: taken in turn, in a seeded order, and shown with their verdicts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .targets import Comparison, quartiles, verdict
from .workloads.workload import Workload


class Settings(NamedTuple):
    """How a run of the benchmarks was asked for."""

    quick: bool
    seed: int


def in_turn(names: Iterable[str], runs: int, seed: int, label: str) -> Iterator[str]:
    """Yield all names `runs` times, in an order that changes from run to run and depends on `seed` and `label` only."""
    order, generator = list(names), random.Random(f"{seed} {label}")
    for _ in range(runs):
        generator.shuffle(order)
        yield from order


def short(figure: float) -> str:
    """Return a figure in three significant digits."""
    return f"{float(f'{figure:.3g}'):.9g}"


def spread(values: list[float]) -> str:
    """Return the width of the middle half in percent of the median."""
    low, median, high = quartiles(values)
    return f"{100 * (high - low) / median:.0f} %" if len(values) > 1 and median else "-"


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def header(*cells: object) -> list[str]:
    """Return the first two rows of a Markdown table."""
    return [row(*cells), "|---" * len(cells) + "|"]


@dataclass
class Table:
    """Samples of several cases, taken in turn and in changing order.

    So a drift of the machine's speed affects all cases alike, and no case always follows the same other one.
    """

    workload: Workload
    threads: int | None = None  # where a workload runs on different numbers of threads
    samples: dict[str, list[float]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The name that tells this table from the others of a run."""
        if self.threads is None:
            return self.workload.name
        return f"{self.workload.name}, {self.threads} thread{'s' * (self.threads > 1)}"

    def measure(self, cases: Mapping[str, Callable[[], float]], runs: int, seed: int, *, warm_up: bool = True) -> None:
        """Run every case `runs` times in turn, after once to warm up; a case returns its figure."""
        for name, case in cases.items():
            if warm_up:
                case()
            self.samples[name] = []
        for name in in_turn(cases, runs, seed, self.label):
            self.samples[name].append(cases[name]())

    @property
    def bounds(self) -> list[tuple[Comparison, str]]:
        """What the workload's targets compare, each with its bound."""
        targets = self.workload.targets
        return [(each, target.bound_on(self.threads)) for target in targets for each in target.comparisons]

    def judged(self, comparison: Comparison, bound: str) -> str:
        """Return the median of a ratio, its middle half and the verdict, or a dash if it was not measured."""
        if not (ratios := comparison.ratios(self.samples)):
            return "-"
        low, median, high = map(short, quartiles(ratios))
        reached = verdict(ratios, bound)
        return f"{median} ({low} to {high}) {'**no**' if reached == 'no' else reached}"

    def __str__(self) -> str:
        runs = max(map(len, self.samples.values()), default=0)
        lines = [f"## {self.label}", "", self.workload.does, ""]
        lines += header("case", f"median of {runs}, {self.workload.unit}", "min", "max", "spread")
        for name, values in self.samples.items():
            figures = quartiles(values)[1], min(values), max(values)
            lines.append(row(name, *map(short, figures), spread(values)))
        if self.bounds:
            lines += ["", *header("ratio", "target", "median (middle half) reached")]
        lines += [row(comparison, bound, self.judged(comparison, bound)) for comparison, bound in self.bounds]
        if self.missing:
            lines += ["", "Not measured:", "", *(f"- {reason}" for reason in self.missing)]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"
