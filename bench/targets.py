"""What a ratio should be, and the verdict on the ratios of many runs."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

RELATIONS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge}

Samples = Mapping[str, list[float]]  # of each case, a figure for each run


@dataclass(frozen=True)
class Choice:
    """One case out of several to compare with: in each run `choose` picks a figure from those that were measured."""

    name: str
    cases: tuple[str, ...]
    choose: Callable[[list[float]], float]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Comparison:
    """A case and its base: another case, a choice among several, or None to judge the case by its own figure."""

    case: str
    base: str | Choice | None

    def ratios(self, samples: Samples) -> list[float]:
        """Return the ratio of each run, or an empty list if either side was not measured."""
        if self.case not in samples:
            return []
        if self.base is None:
            return samples[self.case]
        choice = self.base if isinstance(self.base, Choice) else Choice(self.base, (self.base,), min)
        bases = [samples[name] for name in choice.cases if name in samples]
        if not bases:
            return []
        return [figure / choice.choose(others) for figure, *others in zip(samples[self.case], *bases, strict=True)]

    def __str__(self) -> str:
        return f"{self.case} / {self.base}" if self.base else self.case


@dataclass(frozen=True)
class Target:
    """A bound that every one of `cases` should keep in comparison with every one of `bases`, and the reason for it."""

    cases: tuple[str, ...]
    bases: tuple[str | Choice, ...]  # empty: the bound is on the figure itself
    bound: str  # a relation and a number, separated by a space
    why: str
    per_thread: bool = False  # the number is multiplied by the number of threads

    @property
    def comparisons(self) -> list[Comparison]:
        """Each case with each base."""
        return [Comparison(case, base) for case in self.cases for base in self.bases or (None,)]

    def bound_on(self, threads: int | None) -> str:
        """Return the bound where this number of threads is at work."""
        if not self.per_thread or threads is None:
            return self.bound
        relation, number = self.bound.split()
        return f"{relation} {float(number) * threads:g}"


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile; the middle half lies between the outer two."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def verdict(values: list[float], bound: str) -> str:
    """Return "yes" if the middle half keeps the bound, "no" if it breaks it, "unclear" if it straddles it.

    A single run has no middle half, so it is "unclear".
    """
    relation, number = bound.split()
    low, _, high = quartiles(values)
    kept = {RELATIONS[relation](quartile, float(number)) for quartile in (low, high)}
    if len(values) == 1 or len(kept) == 2:
        return "unclear"
    return "yes" if kept == {True} else "no"
