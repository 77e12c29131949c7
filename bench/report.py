"""From a raw result to Markdown, plots and the figures in the README: ``python -m bench.report [RESULT.json]``."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .measure import Table, row, spread, table_from
from .work import SUBJECTS

FOLDER = Path(__file__).parent
README = FOLDER.parent / "README.md"
RESULT = FOLDER / "results" / "result.json"
BLOCK = re.compile(
    r"(?<=<!-- figures: written by python -m bench.report -->\n).*(?=<!-- end of figures -->)", re.DOTALL
)

Result = dict[str, Any]  # what `bench.__main__` writes


def tables_of(result: Result) -> list[Table]:
    return [table_from(raw) for group in result["groups"].values() for raw in group]


def about(result: Result) -> str:
    """Return where it was measured, and beside what."""
    facts = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    kind = "Quick runs" if result["quick"] else "Full runs"
    peers = ", ".join(f"{name} {version}" for name, version in result["peers"].items())
    return f"{kind}; {facts}; peers: {peers}.\n"


def document(result: Result) -> str:
    """Return all of a result."""
    return "\n".join(["# Benchmarks\n", about(result), *map(str, tables_of(result))])


def matrix(tables: list[Table]) -> list[str]:
    """Return the medians of several tables as one, a column for each."""
    cases = dict.fromkeys(name for table in tables for name in table.samples)
    lines = [row("ns", *(table.short for table in tables)), "|---" * (len(tables) + 1) + "|"]
    for case in cases:
        found = (table.samples.get(case) for table in tables)
        lines.append(row(case, *(f"{statistics.median(values):.3g}" if values else "" for values in found)))
    return lines


def verdicts(tables: Iterable[Table]) -> list[str]:
    """Return every ratio that has a target, as one table."""
    lines = [row("workload", "ratio", "median", "spread", "target", "reached"), "|---" * 6 + "|"]
    for table in tables:
        for comparison in table.comparisons:
            if values := comparison.values(table.samples):
                reached = "yes" if comparison.reached(values) else "**no**"
                figures = f"{statistics.median(values):.2f}", spread(values), comparison.target, reached
                lines.append(row(table.short or table.title, comparison, *figures))
    return lines


def figures(result: Result) -> str:
    """Return what stands in the README between its two comments."""
    tables = tables_of(result)
    kernels = [table for table in tables if table.short.startswith("W")]
    python = [table for table in tables if table.short.startswith("Python")]
    notes = [f"{table.short}: {note}" for table in tables for note in table.notes]
    notes += sorted({f"Not measured: {reason}" for table in tables for reason in table.missing})
    parts = [about(result)]
    if kernels:
        parts += ["In kernels, medians:\n", *matrix(kernels), ""]
    if python:
        parts += ["From Python, medians:\n", *matrix(python), ""]
    parts += ["Ratios, run by run; the spread is the width of their middle half:\n", *verdicts(tables), ""]
    if notes:
        parts += [*(f"- {note}" for note in notes), ""]
    return "\n".join(parts)


def plot(result: Result, path: Path) -> None:
    """Draw a panel for each table in nanoseconds: medians, and lines from the least to the most."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rc("svg", hashsalt="bench", fonttype="none")  # the same figures give the same file, and a small one
    matplotlib.rc("font", **{"sans-serif": ["DejaVu Sans"]})
    from matplotlib import pyplot, ticker

    tables = [table for table in tables_of(result) if table.short]
    rows = -(-len(tables) // 2)
    figure, axes = pyplot.subplots(rows, 2, figsize=(11, 2.5 * rows), squeeze=False)
    for table, panel in zip(tables, axes.flat, strict=False):
        cases = sorted(table.samples, key=lambda case: min(table.samples[case]), reverse=True)
        found = [table.samples[case] for case in cases]
        colors = ["C0" if case.startswith(tuple(SUBJECTS)) else "0.5" for case in cases]
        panel.hlines(range(len(cases)), list(map(min, found)), list(map(max, found)), colors)
        panel.scatter(list(map(statistics.median, found)), range(len(cases)), c=colors, zorder=2)
        panel.set_yticks(range(len(cases)), cases)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(ticker.NullLocator())
        panel.set_title(f"{table.short}, ns", fontsize=10)
        panel.tick_params(labelsize=7)
        panel.grid(axis="x", alpha=0.3)
    for panel in axes.flat[len(tables) :]:
        panel.remove()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def save(result: Result, folder: Path) -> None:
    """Write the raw result, all tables, and plots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "result.md").write_text(document(result))
    try:
        plot(result, folder / "result.svg")
    except ImportError:
        print("no plots: matplotlib is not installed (pip install 'iobuf-nb[bench]')")


def main() -> None:
    """Write the figures of a result into the README."""
    result = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULT).read_text())
    README.write_text(BLOCK.sub(lambda _: figures(result), README.read_text()))


if __name__ == "__main__":
    main()
