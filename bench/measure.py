"""Take turns, repeat, report: how every benchmark here measures."""

from __future__ import annotations

import os
import platform
import random
import statistics
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import llvmlite
import numba
import numpy as np

import iobuf_nb


@dataclass
class Table:
    """Samples of several cases, taken in turn and in changing order.

    So a drift of the machine's speed meets all of them, and none always comes after the same other one.
    """

    title: str
    unit: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    ratios: list[tuple[str, str, str]] = field(default_factory=list)

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

    def compare(self, name: str, base: str, target: str) -> None:
        """Add a row with the ratio `name` / `base`, run by run, beside what it is meant to be."""
        self.ratios.append((name, base, target))

    def ratio(self, name: str, base: str) -> list[float]:
        """Return the ratio of each pair of runs."""
        return [a / b for a, b in zip(self.samples[name], self.samples[base], strict=True)]

    def __str__(self) -> str:
        lines = [f"## {self.title}", "", f"| case | median {self.unit} | min | max |", "|---|---|---|---|"]
        for name, values in self.samples.items():
            lines.append(f"| {name} | {statistics.median(values):.3g} | {min(values):.3g} | {max(values):.3g} |")
        if self.ratios:
            lines += ["", "| ratio | median | min | max | target |", "|---|---|---|---|---|"]
        for name, base, target in self.ratios:
            values = self.ratio(name, base)
            figures = f"{statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f}"
            lines.append(f"| {name} / {base} | {figures} | {target} |")
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, object]:
        """Return the raw data."""
        ratios = [{"case": n, "base": b, "target": t, "values": self.ratio(n, b)} for n, b, t in self.ratios]
        return {"title": self.title, "unit": self.unit, "samples": self.samples, "ratios": ratios}


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
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
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
