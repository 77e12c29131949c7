"""How a side is timed: its result must equal that of all others, outside of the time it takes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ..names import DUCKDB, POLARS, PYARROW, ZSTANDARD
from ..table import Settings, Table
from ..workloads.workload import Workload
from .sizes import sizes

Case = Callable[[], Any]

FIGURES: dict[str, Callable[[float, int], float]] = {  # of seconds and bytes, for each unit
    "GB/s": lambda seconds, size: size / seconds / 1e9,
    "s": lambda seconds, size: seconds,
    "ms": lambda seconds, size: seconds * 1e3,
}


@contextmanager
def new_file() -> Iterator[str]:
    """Yield the path of a file to be made. Once it is closed, streams may map it; one that is open for writing not."""
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, "data")


def agree(expected: np.ndarray, result: np.ndarray | None) -> None:
    """Refuse a result other than the expected one; None is that of a case that does nothing but read."""
    if result is not None:
        same = partial(np.allclose, rtol=1e-9, atol=0) if np.issubdtype(expected.dtype, np.floating) else np.array_equal
        assert np.shape(result) == np.shape(expected) and same(result, expected), f"{result} is not {expected}"


def nothing() -> None:
    """Need no preparation."""


def seconds(case: Case, check: Callable[[Any], None], before: Callable[[], None] = nothing) -> float:
    """Return the seconds that a case takes, without `before` it and the check of its result."""
    before()
    start = time.perf_counter()
    result = case()
    taken = time.perf_counter() - start
    check(result)
    return taken


def measured(
    workload: Workload,
    cases: Mapping[str, Case],
    check: Callable[[Any], None],
    settings: Settings,
    size: int = 0,
    before: Callable[[], None] = nothing,
    missing: Iterable[str] = (),
    warm_up: bool = True,
) -> Table:
    """Return the table of a workload over `size` bytes."""
    table = Table(workload, missing=list(missing))
    figure = FIGURES[workload.unit]

    def sample(case: Case) -> float:
        return figure(seconds(case, check, before), size)

    os.sync()  # so that nothing is still to be written to the disk
    samples = {name: partial(sample, case) for name, case in cases.items()}
    table.measure(samples, sizes(settings).runs, settings.seed, warm_up=warm_up)
    return table


def absent(*packages: str) -> dict[str, str]:
    """Return which of these packages are not installed, each with the reason why its cases are not measured."""
    reason = "not installed (pip install 'iobuf-nb[bench]')"
    return {name: f"{name}: {reason}" for name in packages if importlib.util.find_spec(name) is None}


def versions() -> dict[str, str]:
    """Return the versions of the installed packages."""
    packages = PYARROW, POLARS, DUCKDB, ZSTANDARD
    return {name: importlib.metadata.version(name) for name in packages if not absent(name)}
