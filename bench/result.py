"""A run of the benchmarks on one machine, and its file: few digits, one line a case."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .table import Table
from .workloads import WORKLOADS


def plain(name: str) -> str:
    """Return a processor's name without its trademark signs."""
    return re.sub(r"\((R|TM|C)\)", "", name, flags=re.IGNORECASE)


def slug(name: str) -> str:
    """Return a processor's name as the stem of a file: "Intel(R) Xeon(R) Processor" is intel-xeon-processor."""
    return re.sub(r"[^a-z0-9]+", "-", plain(name).lower()).strip("-")


@dataclass
class Result:
    """The tables that one run gave, and where and how it ran."""

    machine: dict[str, str]
    peers: dict[str, str]  # their versions
    quick: bool
    seed: int | None  # None: in an order that was not recorded
    seconds: int = 0
    tables: list[Table] = field(default_factory=list)

    @property
    def processor(self) -> str:
        """The short name of the machine."""
        return plain(self.machine["processor"])

    def __str__(self) -> str:
        facts = [f"{name} {value}" for name, value in self.machine.items() if name != "processor"]
        how = f"{'quick' if self.quick else 'full'} run, {'no seed' if self.seed is None else f'seed {self.seed}'}"
        peers = ", ".join(f"{name} {version}" for name, version in self.peers.items())
        return f"{self.processor}: {', '.join(facts)}; {how}; peers: {peers or 'none'}."


def dumps(result: Result) -> str:
    """Return a result as JSON: four digits of each figure, and each case with its samples on a line of its own."""
    facts = {name: value for name, value in vars(result).items() if name != "tables"}
    return opened(facts, "tables", "[", map(table_line, result.tables)) + "]}\n"


def table_line(table: Table) -> str:
    facts = {name: value for name, value in vars(table).items() if name != "samples"}
    cases = (
        f"{json.dumps(case)}: {json.dumps([float(f'{figure:.4g}') for figure in figures])}"
        for case, figures in table.samples.items()
    )
    return opened({**facts, "workload": table.workload.name}, "samples", "{", cases) + "}}"


def opened(facts: dict[str, Any], last: str, bracket: str, lines: Iterable[str]) -> str:
    """Return an object on one line, but for its last member, which has a line for each of its own."""
    return f'{json.dumps(facts)[:-1]}, "{last}": {bracket}\n' + ",\n".join(lines) + "\n"


def loads(text: str) -> Result:
    """Return the result that `dumps` wrote."""
    raw: dict[str, Any] = json.loads(text)
    tables = [Table(WORKLOADS[table.pop("workload")], **table) for table in raw.pop("tables")]
    return Result(**raw, tables=tables)


def save(result: Result, folder: Path) -> Path:
    """Write a result to the file of its processor, and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(result.machine['processor'])}.json"
    path.write_text(dumps(result))
    return path
