"""The tables of docs/benchmarks.md, all machines side by side, and the README's few: ``python -m bench.report``.

``python -m bench.report FILE ...`` prints every table of these results instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from .result import Result, loads
from .table import Table, header, row, short
from .targets import Target, quartiles
from .workloads import WORKLOADS
from .workloads.workload import Workload

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"

#: What the README shows: a question, and the table and the comparison that answer it. Some of them we lose.
FIVE = {
    "A get and a put in a kernel, on one thread": ("W1 alone", "pool, unchecked / crossbeam ArrayQueue"),
    "The same on two threads at once": ("W2 together, 2 threads", "pool, unchecked / crossbeam ArrayQueue"),
    "A get and a put from Python": ("Python alone", "pool, checked / queue.SimpleQueue"),
    "Newlines of a file in the page cache, on two threads": ("Stream, newlines", "stream / best by hand"),
    "64 KiB to another process, from Python": ("Processes, 64 KiB one way", "Channel / multiprocessing.Queue"),
}


def committed() -> list[Result]:
    """Return the committed results, one for each machine."""
    return [loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def with_unit(bound: str, compared: object, workload: Workload) -> str:
    """Return a bound, with the unit if it is on a figure itself, which is compared with nothing."""
    return bound if compared else f"{bound} {workload.unit}"


def stated(target: Target, workload: Workload) -> str:
    """Return what a target compares, and its bound."""
    cases = ", ".join(f"`{case}`" for case in target.cases)
    bases = ", ".join(f"`{base}`" if isinstance(base, str) else base.name for base in target.bases)
    bound = with_unit(target.bound, bases, workload)
    return f"{cases}{bases and f' / {bases}'} {bound}{' x threads' * target.per_thread}"


def workloads() -> str:
    """Return the table of workloads, with a row for each target."""
    lines = header("workload", "what it does", "question", "target", "why")
    for workload in WORKLOADS.values():
        first = workload.name, workload.does, workload.question
        for target in workload.targets:
            lines.append(row(*first, stated(target, workload), target.why))
            first = "", "", ""
        if not workload.targets:
            lines.append(row(*first, "", ""))
    return "\n".join(lines)


def about(result: Result) -> list[str]:
    """Return the machine of a result, and what to know about its figures."""
    notes = [f"{table.label}: {note}" for table in result.tables for note in table.notes]
    notes += sorted({f"Not measured: {reason}" for table in result.tables for reason in table.missing})
    return [f"- {result}", *(f"  - {note}" for note in notes)]


Machine = dict[str, Table]  # of one machine, by label


def all_tables(machines: list[Machine]) -> list[Table]:
    """Return a table for each label that any machine has, in the order of the workloads."""
    tables = {label: table for machine in machines for label, table in machine.items()}
    order = list(WORKLOADS)
    return sorted(tables.values(), key=lambda table: (order.index(table.workload.name), table.threads or 0))


def median(table: Table | None, case: str) -> str:
    """Return the median of a case, or a dash if it was not measured."""
    return short(quartiles(table.samples[case])[1]) if table and case in table.samples else "-"


def medians(machines: list[Machine], tables: list[Table]) -> list[str]:
    """Return the medians of several workloads, a column each; a cell has the figures of all machines."""
    lines = header("ns", *(table.label for table in tables))
    everywhere = [machine[table.label] for table in tables for machine in machines if table.label in machine]
    for case in dict.fromkeys(case for table in everywhere for case in table.samples):
        cells = [" / ".join(median(machine.get(table.label), case) for machine in machines) for table in tables]
        lines.append(row(case, *("" if set(cell) <= set("- /") else cell for cell in cells)))
    return lines


def verdicts(machines: dict[str, Machine]) -> list[str]:
    """Return every ratio that has a target, with a column for each machine."""
    lines = header("workload", "ratio", "target", *machines)
    for table in all_tables(list(machines.values())):
        for comparison, bound in table.bounds:
            found = [machine.get(table.label) for machine in machines.values()]
            cells = (each.judged(comparison, bound) if each else "-" for each in found)
            shown = with_unit(bound, comparison.base, table.workload)
            lines.append(row(table.label, comparison, shown, *cells))
    return lines


def figures(results: list[Result]) -> str:
    """Return what all machines measured, side by side."""
    machines = {result.processor: {table.label: table for table in result.tables} for result in results}
    listed = list(machines.values())
    timed = [table for table in all_tables(listed) if table.workload.unit == "ns"]
    kernels = [table for table in timed if table.workload.group != "python"]
    python = [table for table in timed if table.workload.group == "python"]
    lines = [line for result in results for line in about(result)]
    lines += ["", f"In kernels, medians on {' / '.join(machines)}:", "", *medians(listed, kernels)]
    lines += ["", "From Python, likewise:", "", *medians(listed, python)]
    lines += ["", "Ratios, run by run: the median, the middle half, and whether it keeps the target:", ""]
    return "\n".join([*lines, *verdicts(machines)])


def figure(table: Table | None, comparison: str) -> str:
    """Return the median of our side, and the median and the middle half of a ratio."""
    chosen = next((each for each, _ in table.bounds if str(each) == comparison), None) if table else None
    if table is None or chosen is None or not (ratios := chosen.ratios(table.samples)):
        return "-"
    low, middle, high = map(short, quartiles(ratios))
    return f"{median(table, chosen.case)} {table.workload.unit}, {middle} times ({low} to {high})"


def five(results: list[Result]) -> str:
    """Return the figures that the README shows, with a column for each machine."""
    lines = header("what", "ours / theirs", *(result.processor for result in results))
    machines = [{table.label: table for table in result.tables} for result in results]
    for question, (label, comparison) in FIVE.items():
        lines.append(row(question, comparison, *(figure(machine.get(label), comparison) for machine in machines)))
    return "\n".join(lines)


#: The files that show figures: the name of each block there, and what writes it.
PLACES: dict[Path, dict[str, Callable[[], str]]] = {
    FOLDER.parent / "README.md": {"five figures": lambda: five(committed())},
    FOLDER.parent / "docs" / "benchmarks.md": {"workloads": workloads, "figures": lambda: figures(committed())},
}


def with_blocks(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """Return a text with blocks in their places."""
    for name, block in blocks.items():
        mark, end = f"<!-- {name}: written by python -m bench.report -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(mark)
        assert end in rest, f"there is no place for the {name}"
        text = f"{before}{mark}{block()}\n{rest[rest.index(end) :]}"
    return text


def main() -> None:
    """Write the blocks into their files, or print the tables of the results that are named."""
    for path in sys.argv[1:]:
        print(*loads(Path(path).read_text()).tables, sep="\n")
    if len(sys.argv) == 1:
        for place, blocks in PLACES.items():
            place.write_text(with_blocks(place.read_text(), blocks))


if __name__ == "__main__":
    main()
